"""Objectives that state their own gradient inside another `expectation`: a bound plus a penalty, or refused."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

import tracegrad as tg
from tracegrad import dist
from tracegrad.transforms import exact_expectation, expectation, leave_one_out, sample

KEY, LOGIT = jax.random.key(0), 0.0
model = tg.gen(lambda: tg.sample("x", dist.Normal(2.0 * tg.sample("z", dist.Bernoulli(0.25)).astype(float), 1.0)))
guide = tg.gen(lambda w: tg.sample("z", dist.Bernoulli(logits=w)))
X = {"x": 1.5}


def cost(z, w):
    return (2.0 * z + w) ** 2


def log_weight(z, w):
    """By hand."""
    prior = np.log(0.25 if z else 0.75) - 0.5 * (1.5 - 2.0 * z) ** 2 - 0.5 * np.log(2.0 * np.pi)
    return prior - np.log(chance(z, w))


def chance(z, w):
    q = 1.0 / (1.0 + np.exp(-w))
    return q if z else 1.0 - q


def mean(f, w):
    return sum(chance(z, w) * f(z) for z in (0, 1))


def elbo(w):
    return mean(lambda z: log_weight(z, w), w)


def iwelbo(w):
    def bound(z, u):
        return np.log(0.5 * (np.exp(log_weight(z, w)) + np.exp(log_weight(u, w))))

    return mean(lambda z: mean(lambda u: bound(z, u), w), w)


def penalty(key, w):
    return 3.0 * w * sample(key, dist.Bernoulli(logits=w), estimator=tg.reinforce()).astype(float) + w


def penalty_mean(w):
    return 3.0 * w * chance(1, w) + w


def flip(key, w):
    return cost(sample(key, dist.Bernoulli(logits=w), estimator=tg.reinforce()).astype(float), w)


PARTS = {
    "vimco": (lambda key, w: tg.vimco(model, guide, X, n=2)(key, (), (w,)), iwelbo),
    "vargrad": (lambda key, w: tg.vargrad(model, guide, X, n=2)(key, (), (w,)), elbo),
    "leave_one_out": (leave_one_out(flip, 2), lambda w: mean(lambda z: cost(z, w), w)),
}


def two(part):
    def f(key, w):
        first, second = jax.random.split(key)
        return part(first, w), penalty(second, w)

    return f


def sums(part):
    return lambda key, w: jnp.subtract(*two(part)(key, w)) / 2.0


def plates(part):
    def f(key, w):
        first, second = jax.random.split(key)
        return 2.0 * jax.vmap(lambda k: part(k, w))(jax.random.split(first, 1)).mean() - penalty(second, w)

    return f


def products(part):
    return lambda key, w: jnp.multiply(*two(part)(key, w))


OUTER = {
    "a bound and a penalty": (sums, lambda part, penalty: (part - penalty) / 2.0),
    "a mean over lanes": (plates, lambda part, penalty: 2.0 * part - penalty),
    "scaled by another draw": (products, lambda part, penalty: part * penalty),
}


@pytest.mark.table
@pytest.mark.parametrize("credit", [True, False])
@pytest.mark.parametrize("outer", OUTER)
@pytest.mark.parametrize("name", PARTS)
def test_value_and_gradient_are_those_of_the_enumeration(name, outer, credit):
    (part, part_mean), (make, combine) = PARTS[name], OUTER[outer]

    def truth(w):
        return combine(part_mean(w), penalty_mean(w))

    with jax.enable_x64(True):
        g = exact_expectation(expectation(make(part), credit=credit))
        value, slope = jax.value_and_grad(g, argnums=1)(KEY, LOGIT)
    np.testing.assert_allclose(value, truth(LOGIT), rtol=1e-9)
    np.testing.assert_allclose(slope, (truth(LOGIT + 1e-5) - truth(LOGIT - 1e-5)) / 2e-5, rtol=1e-7)


def in_a_loop(part):
    return lambda key, w: jax.lax.map(lambda k: part(k, w), jax.random.split(key, 2)).sum()


def as_a_parameter(part):
    def f(key, w):
        first, second = jax.random.split(key)
        return sample(second, dist.Normal(part(first, w), 1.0)) ** 2

    return f


REFUSED = {
    "squared": lambda part: lambda key, w: part(key, w) ** 2,
    "its exponential": lambda part: lambda key, w: jnp.exp(part(key, w)),
    "a product of itself": lambda part: lambda key, w: jnp.multiply(*(part(k, w) for k in jax.random.split(key))),
    "its maximum": lambda part: lambda key, w: jnp.maximum(part(key, w), 0.0),
    "without its derivative": lambda part: lambda key, w: jax.lax.stop_gradient(part(key, w)) * w,
    "a parameter of a draw": as_a_parameter,
    "in a loop": in_a_loop,
}


@pytest.mark.table
@pytest.mark.parametrize("how", REFUSED)
@pytest.mark.parametrize("name", PARTS)
def test_what_is_not_linear_is_refused_and_says_why(name, how):
    g = expectation(REFUSED[how](PARTS[name][0]))
    assert np.isfinite(g(KEY, 0.3))
    with pytest.raises(tg.ObjectiveError, match=r"the outer objective is not linear in it.*`elbo` or `iwelbo`"):
        jax.grad(g, argnums=1)(KEY, 0.3)


@pytest.mark.slow
def test_an_auxiliary_output_may_be_anything():
    @expectation(has_aux=True)
    def g(key, w):
        bound = PARTS["vimco"][0](key, w)
        return bound, jnp.exp(bound)

    slope, aux = jax.grad(lambda w: g(KEY, w), has_aux=True)(0.3)
    np.testing.assert_allclose(slope, jax.grad(PARTS["vimco"][0], argnums=1)(KEY, 0.3), rtol=1e-5)
    assert aux > 0.0
