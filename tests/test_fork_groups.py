"""Forking steps that are run again in groups: what it costs, and that it changes nothing else.

With more than four forking steps a group has several, so the programs here have six and more: in a row, around and in
loops, branches and plates, and before and after enumerated sites.
"""

import itertools

import jax
import numpy as np
import pytest
from jax import lax
from jax import numpy as jnp
from unbiased_programs import precisely

import tracegrad as tg
from tracegrad import dist
from tracegrad.transforms import exact_expectation, expectation, sample
from tracegrad.transforms._internal import outcome_sum
from tracegrad.transforms.forks._groups import cut
from tracegrad.transforms.forks._one_by_one import one_by_one

W = 0.4


def flip(key, p, estimator=None):
    return sample(key, dist.Bernoulli(probs=p), estimator=estimator or tg.mvd()).astype(float)


def chain(key, w, z, sites):
    """Sites each of which depends on all before it, on that two before most."""
    total = z
    for i, k in enumerate(jax.random.split(key, sites)):
        a = flip(k, jax.nn.sigmoid(w * total - 0.2 * i))
        total, z = total * 0.5 + a + z * a, total
    return total


def row(key, w):
    return chain(key, w, w, 6) ** 2


def around_a_loop(key, w):
    first, steps, last = jax.random.split(key, 3)

    def step(z, key):
        a = flip(key, jax.nn.sigmoid(w * z - 0.3))
        return 0.5 * z + a, a * z

    z, ys = lax.scan(step, chain(first, w, w, 2), jax.random.split(steps, 3))
    return chain(last, w, z, 2) * (1.0 + ys.sum())


def around_a_branch(key, w):
    first, inside, last = jax.random.split(key, 3)
    z = chain(first, w, w, 2)
    one, other = jax.random.split(inside)
    z = z + lax.cond(z > 0.6, lambda: chain(one, w, z, 2), lambda: flip(other, jax.nn.sigmoid(w)) * w)
    return chain(last, w, z, 3) ** 2


def around_an_enumerated_site(key, w):
    first, middle, last = jax.random.split(key, 3)
    z = chain(first, w, w, 5)
    z = z + flip(middle, jax.nn.sigmoid(w * z), tg.enum()) * w
    return chain(last, w, z, 3)


def an_enumerated_site_first(key, w):
    first, last = jax.random.split(key)
    return chain(last, w, flip(first, jax.nn.sigmoid(w), tg.enum()), 6) * w


def scored_between(key, w):
    first, middle, last = jax.random.split(key, 3)
    z = chain(first, w, w, 3)
    return chain(last, w, z + flip(middle, jax.nn.sigmoid(w * z), tg.reinforce(baseline=0.3)), 3) ** 2


def around_a_plate(key, w):
    first, inside, last = jax.random.split(key, 3)
    z = chain(first, w, w, 2)
    a = jax.vmap(lambda k, c: flip(k, jax.nn.sigmoid(w * z + c)) * c)(jax.random.split(inside, 3), jnp.arange(3.0))
    return chain(last, w, jax.nn.logsumexp(a), 3)


def several_values(key, w):
    """Three alternatives to each of its sites, and six sites."""
    z = w
    for i, k in enumerate(jax.random.split(key, 6)):
        logits = jnp.array([0.0, w, z - 0.1 * i])
        z = 0.5 * z + sample(k, dist.Categorical(logits=logits), estimator=tg.local_expectation()).astype(float) * w
    return z**2


PROGRAMS = [
    row,
    around_a_loop,
    around_a_branch,
    around_an_enumerated_site,
    an_enumerated_site_first,
    scored_between,
    around_a_plate,
    several_values,
]


def gradients(program, **options):
    g = expectation(lambda key, w: program(key, w), **options)
    keys = jax.random.split(jax.random.key(1), 40)
    return np.asarray(jax.jit(jax.vmap(jax.grad(g, argnums=1), (0, None)))(keys, jnp.asarray(W)))


@pytest.mark.table
@pytest.mark.parametrize("chunk_size", [None, 2])
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda f: f.__name__)
def test_groups_give_the_estimates_of_every_alternative_by_itself(program, chunk_size):
    with precisely():
        together = gradients(program, chunk_size=chunk_size)
        with one_by_one():
            alone = gradients(program)
    assert np.std(alone) > 0.01
    np.testing.assert_allclose(together, alone, rtol=1e-9, atol=1e-9)


@pytest.mark.table
@pytest.mark.parametrize("options", [{}, {"forks": 3}], ids=["all", "some"])
def test_the_mean_of_the_gradient_is_that_of_the_sum_over_all_values(options):
    with precisely():
        key, w = jax.random.key(0), jnp.asarray(W)
        truth = jax.grad(lambda w: outcome_sum(row)(key, w)[0])(w)
        found = jax.grad(exact_expectation(expectation(row, **options)), argnums=1)(key, w)
    assert abs(truth) > 0.01
    np.testing.assert_allclose(found, truth, rtol=1e-9)


# ---- where groups begin ---------------------------------------------------------------------------------------------


def work(runs, rest, firsts):
    bounds = [*firsts, len(runs)]
    return sum(sum(runs[a:b]) * rest[a] for a, b in itertools.pairwise(bounds))


@pytest.mark.parametrize("seed", range(5))
def test_groups_begin_where_the_work_is_least(seed):
    rng = np.random.default_rng(seed)
    n, parts = int(rng.integers(4, 9)), int(rng.integers(1, 5))
    runs, rest = rng.integers(1, 9, n), np.cumsum(rng.exponential(size=n) ** 2)[::-1]
    found = cut(runs, rest, parts)
    ways = [(0, *others) for others in itertools.combinations(range(1, n), parts - 1)]
    assert len(found) == parts
    assert work(runs, rest, found) == pytest.approx(min(work(runs, rest, way) for way in ways))


def test_parts_of_equal_steps_are_of_one_length():
    assert cut([1.0] * 12, np.arange(12.0, 0.0, -1.0), 4) == [0, 3, 6, 9]


def test_the_heavy_part_is_run_for_what_is_before_it_alone():
    """Nine steps, of which the third is a thousand times the others: no step after it is run from before it."""
    rest = np.cumsum([1.0, 1.0, 1000.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0][::-1])[::-1]
    assert 3 in cut([1.0] * 9, rest, 4)
