"""Second derivatives: exact where the estimator has them, refused where it has not."""

import re

import jax
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import numpy as jnp
from unbiased_programs import precisely

import tracegrad as tg
from tracegrad.transforms import sample

KEY = jax.random.key(0)

FORKS = [tg.mvd(), tg.local_expectation()]

ORDERS = {
    "forward over reverse": lambda f: jax.jacfwd(jax.grad(f)),
    "reverse over reverse": lambda f: jax.grad(jax.grad(f)),
    "reverse over forward": lambda f: jax.grad(jax.jacfwd(f)),
    "forward over forward": lambda f: jax.jacfwd(jax.jacfwd(f)),
}

AROUND = {
    "plain": lambda g: g(KEY),
    "jit": lambda g: jax.jit(g)(KEY),
    "vmap": lambda g: jax.vmap(g)(jax.random.split(KEY, 2)).sum(),
    "map": lambda g: jax.lax.map(g, jax.random.split(KEY, 2)).sum(),
    "scan": lambda g: jax.lax.scan(lambda c, k: (c + g(k), None), 0.0, jax.random.split(KEY, 2))[0],
    "checkpoint": lambda g: jax.checkpoint(g)(KEY),
    "cond": lambda g: jax.lax.cond(jax.random.bernoulli(KEY, 1.0), g, lambda k: 0.0, KEY),
}


def bernoulli(estimator):
    """p times a coin: the estimator's part of the second derivative is 2."""

    @tg.expectation
    def g(key, p):
        return sample(key, dist.Bernoulli(p), estimator=estimator).astype(float) * p

    return g


def refuse(order, around, estimator):
    g = bernoulli(estimator)
    with pytest.raises(tg.HigherOrderError, match=rf"through {re.escape(repr(estimator))} at an unnamed site, which"):
        ORDERS[order](lambda p: AROUND[around](lambda key: g(key, p)))(jnp.array(0.5))


@pytest.mark.parametrize("estimator", FORKS, ids=repr)
@pytest.mark.parametrize("order", ORDERS)
def test_a_fork_refuses_second_derivatives(estimator, order):
    refuse(order, "plain", estimator)


@pytest.mark.parametrize("order", ["reverse over reverse", "forward over reverse"])
@pytest.mark.parametrize("around", AROUND)
def test_a_fork_refuses_second_derivatives_inside_whatever_is_around(order, around):
    """Also inside loops, where JAX drops the rules of `custom_jvp`: there they were zero in silence."""
    refuse(order, around, tg.mvd())


def test_the_refusal_names_the_sites_and_their_estimators():
    @tg.gen
    def step(state, p):
        return state + tg.sample("b", dist.Bernoulli(p), estimator=tg.mvd()).astype(float), None

    @tg.gen
    def program(p):
        total, _ = tg.sample("steps", step.scan()(0.0, p * jnp.ones(2)))
        last = tg.sample("c", dist.Bernoulli(p), estimator=tg.unordered_set(2)).astype(float)
        return total * last * tg.sample("d", dist.Bernoulli(p), estimator=tg.reinforce()).astype(float)

    f = tg.expectation(lambda key, p: program.simulate(key, p).retval)
    with pytest.raises(
        tg.HigherOrderError,
        match=r"through mvd\(\) at 'steps/b', unordered_set\(2\) at 'c', which .* choose `reinforce\(\)`",
    ):
        jax.hessian(f, argnums=1)(KEY, 0.5)
    many = tg.gen(lambda p: [tg.sample(f"b{i}", dist.Bernoulli(p), estimator=tg.mvd()) for i in range(6)][-1])
    g = tg.expectation(lambda key, p: many.simulate(key, p).retval.astype(float))
    with pytest.raises(tg.HigherOrderError, match="at 'b3' and 2 more, which"):
        jax.hessian(g, argnums=1)(KEY, 0.5)


def test_a_surrogate_says_what_it_is():
    guide = tg.gen(lambda m: tg.sample("z", dist.Normal(m, 1.0)))
    bound = tg.dreg(guide, guide, {}, n=2)
    with pytest.raises(tg.HigherOrderError, match="states its own gradient .dreg.*`elbo` or `iwelbo`"):
        jax.hessian(lambda m: bound(KEY, (0.0,), (m,)))(0.5)


@pytest.mark.parametrize("inside", [False, True], ids=["outside jit", "inside jit"])
@pytest.mark.parametrize("estimator", FORKS, ids=repr)
def test_a_fork_refuses_mixed_second_derivatives(estimator, inside):
    """d/da is E[z] and needs no fork; d/db of it does, and has none left."""

    @tg.expectation
    def g(key, a, b):
        return a * sample(key, dist.Bernoulli(b), estimator=estimator).astype(float)

    for first, second in ((1, 2), (2, 1)):
        mixed = jax.grad(jax.grad(g, argnums=first), argnums=second)
        with pytest.raises(tg.HigherOrderError):
            (jax.jit(mixed) if inside else mixed)(KEY, jnp.array(2.0), jnp.array(0.5))


def test_first_derivatives_of_a_fork_are_as_before_under_a_mapped_coefficient():
    """`vmap` over the parameter of the derivative alone, over the key alone, and over both.

    Of p z with z drawn it is z + p (1 - 0) in closed form, whatever was drawn.
    """
    g = bernoulli(tg.mvd())
    keys, ps = jax.random.split(KEY, 8), jnp.array([0.25, 0.5] * 4)
    values, both = jax.vmap(jax.value_and_grad(g, argnums=1))(keys, ps)
    drawn = np.asarray(values / ps)
    assert set(drawn) == {0.0, 1.0}
    np.testing.assert_array_equal(both, drawn + ps)
    values, by_key = jax.vmap(jax.value_and_grad(g, argnums=1), in_axes=(0, None))(keys, 0.25)
    np.testing.assert_array_equal(by_key, values / 0.25 + 0.25)
    value, tangents = jax.vmap(lambda t: jax.jvp(lambda p: g(KEY, p), (ps[0],), (t,)))(jnp.array([1.0, 2.0]))
    np.testing.assert_array_equal(tangents, (value / 0.25 + 0.25) * np.array([1.0, 2.0]))


@pytest.mark.table
@pytest.mark.parametrize("estimator", [tg.reinforce(), tg.reinforce(baseline=0.3), tg.enum()], ids=repr)
@pytest.mark.parametrize("order", ORDERS)
def test_scores_and_sums_are_right_to_third_order(estimator, order):
    """E[z p^2] = p^3: derivatives 3 p^2, 6 p and 6, in every order of the two modes."""
    with precisely():

        @tg.expectation
        def g(key, p):
            return sample(key, dist.Bernoulli(p), estimator=estimator).astype(float) * p**2

        mean = tg.exact_expectation(g)
        second = ORDERS[order](lambda p: mean(KEY, p))
        p = jnp.array(0.25)
        assert float(second(p)) == pytest.approx(1.5, rel=1e-12)
        assert float(jax.jacfwd(second)(p)) == pytest.approx(6.0, rel=1e-12)
