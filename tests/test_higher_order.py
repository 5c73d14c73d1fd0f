"""Second derivatives: exact where the estimator has them, refused where it has not."""

import jax
import numpyro.distributions as dist
import pytest
from jax import numpy as jnp

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


@pytest.mark.parametrize("estimator", FORKS, ids=repr)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("around", AROUND)
def test_a_fork_refuses_second_derivatives(estimator, order, around):
    """Also inside loops, where JAX drops the rules of `custom_jvp`: there they were zero in silence."""

    @tg.expectation
    def g(key, p):
        return sample(key, dist.Bernoulli(p), estimator=estimator).astype(float) * p

    with pytest.raises(tg.HigherOrderError, match="mvd, local_expectation"):
        ORDERS[order](lambda p: AROUND[around](lambda key: g(key, p)))(jnp.array(0.5))
