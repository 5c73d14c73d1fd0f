"""Losses whose draws are from another program than the guide: value and gradient by enumeration."""

import jax
import numpy as np
import pytest
from exactly import exact_key
from jax import numpy as jnp

import tracegrad as tg
from tracegrad import dist

X = {"x": 1.0}
PRIOR, LOC = np.array([0.5, 0.2, 0.3]), np.array([0.0, 1.5, 2.0])
JOINT = np.log(PRIOR) - 0.5 * (1.0 - LOC) ** 2 - 0.5 * np.log(2.0 * np.pi)
"""Log p(z, x) at the three values of z."""


@tg.gen
def model():
    z = tg.sample("z", dist.Categorical(jnp.asarray(PRIOR)))
    tg.sample("x", dist.Normal(jnp.asarray(LOC)[z], 1.0))


@tg.gen
def guide(w):
    tg.sample("z", dist.Categorical(logits=jnp.stack([jnp.zeros_like(w), w, -0.5 * w])))


@tg.gen
def tempered(w):
    tg.sample("z", dist.Categorical(logits=0.3 * jnp.stack([jnp.zeros_like(w), w, -0.5 * w])))


@tg.gen
def greedy(w):
    """One time in five anything."""
    p = jax.nn.softmax(jnp.stack([jnp.zeros_like(w), w, -0.5 * w]))
    tg.sample("z", dist.Categorical(0.8 * p + 0.2 / 3.0))


class Replay:
    """One of earlier draws."""

    def __init__(self, buffer):
        self.buffer = buffer

    def sample(self, key, sample_shape=()):
        return self.buffer[jax.random.randint(key, sample_shape, 0, len(self.buffer))]

    def log_prob(self, value):
        return jnp.log(jnp.mean(self.buffer == value))


def log_q(w):
    return jax.nn.log_softmax(jnp.stack([jnp.zeros_like(w), w, -0.5 * w]))


BEHAVIOURS = {
    "tempered": (tempered, lambda w: jax.nn.softmax(0.3 * jnp.stack([jnp.zeros_like(w), w, -0.5 * w]))),
    "greedy": (greedy, lambda w: 0.8 * jnp.exp(log_q(w)) + 0.2 / 3.0),
    "the guide": (guide, lambda w: jnp.exp(log_q(w))),
}


def balance(w, at, r):
    return 0.5 * jnp.sum(r(at) * (0.2 + log_q(w) - jnp.asarray(JOINT)) ** 2)


def spread(w, at, r):
    gap = log_q(w) - jnp.asarray(JOINT)
    return 0.5 * (jnp.sum(r(at) * gap**2) - jnp.sum(r(at) * gap) ** 2)


@pytest.mark.parametrize("name", BEHAVIOURS)
@pytest.mark.parametrize("loss", ["trajectory_balance", "log_variance"])
def test_the_expectation_is_under_what_draws(name, loss):
    program, r = BEHAVIOURS[name]
    made = getattr(tg, loss)(model, guide, X, n=2, proposal=program)
    more, by_hand = ((0.2,), balance) if loss == "trajectory_balance" else ((), spread)
    with jax.enable_x64(True):
        mean = tg.exact_expectation(lambda key, w: made(key, (), (w,), *more))
        value, slope = jax.value_and_grad(mean, argnums=1)(exact_key(), 0.4)
        expected = jax.value_and_grad(by_hand)(0.4, 0.4, r)
        np.testing.assert_allclose((value, slope), expected, rtol=2e-7)


@pytest.mark.parametrize("loss", ["trajectory_balance", "log_variance"])
def test_the_loss_is_zero_at_the_posterior_whatever_draws(loss):
    posterior = tg.gen(lambda w: tg.sample("z", dist.Categorical(logits=jnp.asarray(JOINT) + 0.0 * w)))
    replay = tg.gen(lambda w: tg.sample("z", Replay(jnp.array([0, 2, 2, 1]))))
    more = (float(jax.nn.logsumexp(JOINT)),) if loss == "trajectory_balance" else ()
    for program in (tempered, greedy, replay):
        made = getattr(tg, loss)(model, posterior, X, n=4, proposal=program)
        value, slope = jax.value_and_grad(lambda w, made=made: made(jax.random.key(0), (), (w,), *more))(0.4)
        assert abs(float(value)) < 1e-10
        assert abs(float(slope)) < 1e-5


@tg.gen
def wider(w):
    tg.sample("u", dist.Normal(w, 1.0))
    tg.sample("z", dist.Categorical(jnp.ones(3) / 3.0))


def test_misuse_is_named():
    with pytest.raises(tg.ArgumentError, match="log_variance takes a generative function as its `proposal`"):
        tg.log_variance(model, guide, X, proposal=tempered(0.3))
    other = tg.gen(lambda w: tg.sample("y", dist.Categorical(jnp.ones(3) / 3.0)))
    with pytest.raises(tg.AddressError, match="samples at 'y'.*latents of the target are 'z'"):
        tg.trajectory_balance(model, guide, X, proposal=other)(jax.random.key(0), (), (0.3,))
    with pytest.raises(tg.AddressError, match=r"marginal\(wider, latents, importance\(n\)\)"):
        tg.elbo(model, wider, X)(jax.random.key(0), (), (0.3,))
