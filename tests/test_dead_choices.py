"""Sums over supports where some choices are not live: under a mask or in a branch not taken, they count once."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from scipy import stats

import tracegrad as tg

coin = tg.gen(lambda p: tg.sample("b", tg.dist.Bernoulli(p)).astype(float))
die = tg.gen(lambda p: tg.sample("c", tg.dist.Categorical(probs=jnp.array([0.2, 0.3, 0.5]))).astype(float))


@tg.gen
def masked(flag, p):
    b = tg.sample("coin", coin.mask()(flag, p))
    tg.sample("y", tg.dist.Normal(jnp.where(flag, b, 0.0), 1.0))


@tg.gen
def branched(p):
    which = tg.sample("which", tg.dist.Bernoulli(0.4))
    value = tg.sample("branch", tg.cond(which == 1, coin, die)(p))
    tg.sample("y", tg.dist.Normal(value, 1.0))


@tg.gen
def plate(p):
    b = tg.sample("coins", coin.mask().vmap(in_axes=(0, None))(jnp.array([True, False, True]), p))
    tg.sample("y", tg.dist.Normal(b[0] + b[2], 1.0))


def mixture(weights, means):
    return np.log(np.dot(weights, stats.norm.pdf(0.5, means, 1.0)))


CASES = {
    "masked": (lambda p: (masked, (False, p)), lambda p: mixture([1.0], [0.0])),
    "not masked": (lambda p: (masked, (True, p)), lambda p: mixture([1 - p, p], [0.0, 1.0])),
    "branches": (
        lambda p: (branched, (p,)),
        lambda p: mixture([0.4 * (1 - p), 0.4 * p, 0.12, 0.18, 0.3], [0.0, 1.0, 0.0, 1.0, 2.0]),
    ),
    "a plate": (lambda p: (plate, (p,)), lambda p: mixture([(1 - p) ** 2, 2 * p * (1 - p), p**2], [0.0, 1.0, 2.0])),
}


@pytest.mark.parametrize("name", CASES)
def test_the_exact_density_counts_dead_choices_once(name):
    program, expected = CASES[name]

    def logp(p):
        function, args = program(p)
        return tg.marginal(function, "y", tg.exact()).assess({"y": 0.5}, *args)[0]

    value, slope = jax.jit(jax.value_and_grad(logp))(0.3)
    assert float(value) == pytest.approx(expected(0.3), rel=1e-5)
    assert float(slope) == pytest.approx((expected(0.3001) - expected(0.2999)) / 2e-4, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_draws_of_the_exact_posterior_weigh_as_the_program_says(name):
    """gamma over the density of a draw is Z, whatever was drawn; so it is for a draw of the program's own."""
    program, expected = CASES[name]
    function, args = program(0.3)
    posterior = tg.normalize(tg.Target(function, args, {"y": 0.5}), tg.exact())
    for seed in range(4):
        trace = posterior.simulate(jax.random.key(seed))
        gamma = function.assess({**trace.choices, "y": 0.5}, *args)[0]
        assert float(gamma - trace.logp) == pytest.approx(expected(0.3), rel=1e-5)
        drawn = function.simulate(jax.random.key(seed), *args).choices
        kept = tg.marginal(function, "y", tg.exact())
        made = kept.simulate(jax.random.key(seed), *args)
        assert float(made.logp) == pytest.approx(float(kept.assess(made.choices, *args)[0]), rel=1e-5)
        assert sorted(drawn) == sorted({**trace.choices, "y": 0.5})


def test_a_filter_with_masked_steps():
    """A hidden chain whose second step is idle: the state stays, and its choice counts once."""
    flip = tg.gen(lambda state: tg.sample("z", tg.dist.Bernoulli(jnp.where(state == 1, 0.8, 0.3))))

    @tg.gen
    def step(state, live):
        z = tg.sample("hidden", flip.mask()(live, state))
        z = jnp.where(live, z, 0)
        tg.sample("y", tg.dist.Normal(z.astype(float), 1.0))
        return z, None

    live, y = np.array([True, False, True]), np.array([0.5, -0.2, 1.0])
    chain = tg.marginal(step.scan(), "y", tg.forward_filter())
    found = float(chain.assess({"y": jnp.asarray(y)}, 1, jnp.asarray(live))[0])
    total = 0.0
    for first in (0, 1):
        for last in (0, 1):
            states = np.array([first, 0, last])
            p = (0.8 if first else 0.2) * (0.3 if last else 0.7)
            total += p * np.prod(stats.norm.pdf(y, states, 1.0))
    assert found == pytest.approx(np.log(total), rel=1e-5)
