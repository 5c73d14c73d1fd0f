"""Alternatives of forking sites in many lanes at a time: the same estimates, draw by draw, as one alternative alone.

The estimate itself is tested against exact answers elsewhere; here that trying alternatives together changes nothing
but the cost.
"""

import jax
import numpy as np
import pytest
from jax import lax
from jax import numpy as jnp
from unbiased_programs import precisely

import tracegrad as tg
from tracegrad import dist
from tracegrad.transforms import expectation, sample
from tracegrad.transforms.forks._one_by_one import one_by_one

W = np.array([-0.4, 0.7, 0.2])


def flip(key, p, estimator):
    return sample(key, dist.Bernoulli(probs=p), estimator=estimator).astype(float)


def two_draws(key, w, estimator):
    k1, k2 = jax.random.split(key)
    a = flip(k1, jax.nn.sigmoid(w), estimator)
    b = flip(k2, jax.nn.sigmoid(w * a + 0.3), estimator)
    return jnp.sin(a * w) + b * a * w


def steps(key, w, estimator, sites=2):
    def step(x, key):
        a = flip(key, jax.nn.sigmoid(w + x), estimator)
        return 0.5 * x + a, jnp.sin(a * w + x)

    x, cost = lax.scan(step, 0.0 * w, jax.random.split(key, sites))
    return x + cost.prod()


def long(key, w, estimator):
    z = 0.0 * w
    for i, k in enumerate(jax.random.split(key, 6)):
        z = flip(k, jax.nn.sigmoid(z * w - 0.1 * i), estimator)
    return z * w


def plate(one):
    return lambda key, w, estimator: jax.vmap(lambda k, w: one(k, w, estimator))(jax.random.split(key, len(w)), w)


def loop_of_lanes(key, w, estimator):
    """Lanes that stay apart in one carry, meet in another one, and meet after all in a product of both."""

    def step(carry, key):
        x, total = carry
        a = plate(lambda k, wx, e: flip(k, jax.nn.sigmoid(wx.sum()), e))(key, jnp.stack([w, x], 1), estimator)
        cost = jnp.sin(a * w + x)
        return (0.5 * x + a, total + cost.sum()), cost.prod()

    (x, total), products = lax.scan(step, (0.0 * w, jnp.zeros(())), jax.random.split(key, 2))
    return total + (products * total).sum() + x.prod()


def plate_of_plates(key, w, estimator):
    def outer(key, w):
        k0, key = jax.random.split(key)
        a = flip(k0, jax.nn.sigmoid(w), estimator)
        inner = plate(lambda k, c, e: flip(k, jax.nn.sigmoid(w * c + a), e) * w + a)
        return inner(key, jnp.arange(4.0), estimator).prod() + a

    return jax.nn.logsumexp(jax.vmap(outer)(jax.random.split(key, len(w)), w))


def branch(key, w, estimator):
    k1, k2 = jax.random.split(key)
    total = plate(two_draws)(k1, w, estimator).sum()
    return lax.cond(
        total > 0.0, lambda: plate(two_draws)(k2, w, estimator).prod() * total, lambda: flip(k2, 0.3, estimator) * total
    )


def rows_of_matrices(key, w, estimator):
    """Lanes pass through gathers, sorts and products before they meet."""

    def one(key, w, estimator):
        table = jnp.outer(jnp.arange(1.0, 4.0), jnp.array([w, 1.0]))
        i = sample(key, dist.Categorical(logits=table[:, 0]), estimator=estimator)
        row = table[i]
        return jnp.sort(jnp.stack([row, row @ table.T @ table])).max() + table.at[i].set(row**2).sum()

    return jax.nn.logsumexp(plate(one)(key, w, estimator))


def counted(key, w, estimator):
    """A loop in lanes whose counter is the same in all of them."""

    def step(carry, key):
        i, x = carry
        return (i + 1, x + plate(two_draws)(key, w + x, estimator) / (1.0 + i)), None

    a = plate(two_draws)(key, w, estimator)
    (i, x), _ = lax.scan(step, (jnp.zeros(()), a), jax.random.split(key, 2))
    return jax.nn.logsumexp(x * jnp.sqrt(i + 2.0))


PROGRAMS = {
    "counter": counted,
    "sum over lanes": lambda *args: plate(two_draws)(*args).sum(),
    "lanes that meet": lambda *args: jax.nn.logsumexp(plate(two_draws)(*args)),
    "many sites": lambda key, w, e: plate(long)(key, w, e).prod() + plate(long)(jax.random.fold_in(key, 1), w, e).sum(),
    "lanes of a loop": lambda *args: jax.nn.logsumexp(plate(steps)(*args)),
    "loop of lanes": loop_of_lanes,
    "plate of plates": plate_of_plates,
    "branch": branch,
    "rows": rows_of_matrices,
    "checkpoint": lambda key, w, e: jax.checkpoint(lambda w: jax.nn.logsumexp(plate(two_draws)(key, w, e)))(w),
    "rematerialised lanes": lambda key, w, e: plate(jax.checkpoint(two_draws, static_argnums=2))(key, w, e).prod(),
    "enumerated first": lambda key, w, e: (
        flip(key, jax.nn.sigmoid(w[0]), tg.enum())
        * jax.nn.logsumexp(plate(two_draws)(jax.random.fold_in(key, 1), w, e))
    ),
    "several outputs": lambda key, w, e: {
        "a": plate(two_draws)(key, w, e),
        "b": plate(two_draws)(jax.random.fold_in(key, 1), w, e).max(),
    },
}


def gradients(program, estimator, chunk_size=None):
    g = expectation(lambda key, w: program(key, w, estimator), chunk_size=chunk_size)
    with precisely():
        keys = jax.random.split(jax.random.key(1), 40)
        return jax.jit(jax.vmap(jax.jacrev(g, argnums=1), (0, None)))(keys, jnp.asarray(W))


CHUNKED = {"many sites", "loop of lanes", "several outputs"}


@pytest.mark.table
@pytest.mark.parametrize(
    ("name", "chunk_size"),
    [(name, None) for name in PROGRAMS]
    + [pytest.param(n, 4, marks=[] if n in CHUNKED else [pytest.mark.slow]) for n in PROGRAMS],
)
def test_alternatives_together_equal_alternatives_alone(name, chunk_size):
    together = gradients(PROGRAMS[name], tg.mvd(), chunk_size)
    with one_by_one():
        alone = gradients(PROGRAMS[name], tg.mvd())
    for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
        assert np.std(np.asarray(b)) > 0.0
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


# ---- what it costs --------------------------------------------------------------------------------------------------

MATRIX = jnp.full((64, 64), 0.01)


def heavy(key, w, estimator, sites):
    z = jnp.full(64, w)
    for k in jax.random.split(key, sites):
        a = flip(k, jax.nn.sigmoid(z.mean()), estimator)
        z = jnp.tanh(MATRIX @ z + a)
    return z.sum()


def heavy_loop(key, w, estimator, sites):
    def step(z, key):
        a = flip(key, jax.nn.sigmoid(z.mean()), estimator)
        return jnp.tanh(MATRIX @ z + a), None

    return lax.scan(step, jnp.full(64, w), jax.random.split(key, sites))[0].sum()


def flops(one, estimator, lanes, sites):
    def objective(key, w):
        return jax.nn.logsumexp(plate(lambda k, w, e: one(k, w, e, sites))(key, w, estimator))

    run = jax.jit(jax.grad(expectation(objective), argnums=1))
    return run.lower(jax.random.key(0), jnp.linspace(-0.4, 0.7, lanes)).compile().cost_analysis()["flops"]


@pytest.mark.table
@pytest.mark.parametrize(("one", "sites"), [(heavy, 2), (heavy, 6), (heavy_loop, 6)])
def test_the_cost_of_lanes_that_meet_at_the_end_is_linear_in_their_number(one, sites):
    four, sixteen = (flops(one, tg.mvd(), lanes, sites) for lanes in (4, 16))
    # Four times the lanes, and 16 x 16 in place of 4 x 4 numbers under the logsumexp, which are few.
    assert sixteen < 4.6 * four


@pytest.mark.slow
def test_the_base_is_run_once_however_many_alternatives_each_lane_has():
    """Six sites, in groups of 1, 1, 2 and 2: their runs of the rest. The base is the run of the estimate itself."""
    once = 2 * 64 * 64
    assert flops(heavy, tg.mvd(), 4, 6) < 1.05 * 4 * once * (6 + 6 + 5 + 2 * 4 + 2 * 2)


@pytest.mark.slow
def test_the_last_of_a_few_sites_is_tried_without_what_comes_before():
    """Two forks before the heavy part cost two runs of it; a fork after it costs none."""

    def objective(key, w, estimator):
        k1, k2, k3 = jax.random.split(key, 3)
        a, b = flip(k1, jax.nn.sigmoid(w), tg.mvd()), flip(k2, jax.nn.sigmoid(-w), tg.mvd())
        z = jnp.full(64, a + b)
        for _ in range(10):
            z = jnp.tanh(MATRIX @ z)
        return z.sum() * flip(k3, jax.nn.sigmoid(z.sum()), estimator)

    def cost(estimator):
        run = jax.jit(jax.grad(expectation(lambda key, w: objective(key, w, estimator)), argnums=1))
        return run.lower(jax.random.key(0), 0.3).compile().cost_analysis()["flops"]

    assert cost(tg.mvd()) < 1.1 * cost(tg.reinforce())  # one run more of the heavy part would be 1.3 times
