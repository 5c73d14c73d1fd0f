"""Lanes that are said not to touch each other, seen by changing one: all else must stay the same, bit for bit.

A derivative says nothing of comparisons, of the place of a maximum, of indices, of integers; a changed lane does. Held
so are the claims of the analysis, and the versions of a program that differ in one lane, which rest on them.
"""

import jax
import numpy as np
import pytest
from jax import lax
from jax import numpy as jnp
from test_dependence import KEPT, MIXED, N, X, claims

from tracegrad.transforms.forks.lanes import versions

KEY = jax.random.key(7)
TABLE = jnp.linspace(-2.0, 2.0, 5)
CHANGES = {"other": lambda x: 0.7 - 1.3 * x, "far": lambda x: 1e6 * x, "nan": lambda x: x * jnp.nan}


def whole(x):
    return jnp.where(jnp.isfinite(x), 3.0 * x, 0.0).astype(int)


def counted(x):
    """A loop of as many steps as the lane says."""
    steps = 1 + whole(x[0, 0]) % 4
    return lax.while_loop(lambda s: s[0] < steps, lambda s: (s[0] + 1, s[1] * x.sum()), (jnp.zeros((), int), 1.0))[1]


def meeting(x):
    """A loop in which lanes stay apart in one carry, meet in another, and some steps' results are of either kind."""

    def step(carry, t):
        y, total = carry
        y = jnp.sin(y) + t
        return (y, total + y.sum()), (y[:, 0] > 0.5, total * y.max())

    return lax.scan(step, (x, jnp.zeros(())), jnp.arange(3.0))


def lanes_as_steps(x):
    """A loop over the lanes, with a carry in which they meet in order."""
    return lax.scan(lambda c, y: (c + y * c, jnp.argmax(y[:, 0] + c[:, 0])), jnp.ones(x.shape[1:]), x)


SHARP = {
    "comparison": lambda x: x > x[:, :1],
    "selection": lambda x: jnp.where(x > 1.0, x, -x),
    "rounding": lambda x: jnp.floor(3.0 * x),
    "place of the maximum": lambda x: jnp.argmax(x, axis=1),
    "order": lambda x: jnp.argsort(-x, axis=1),
    "own index into a shared table": lambda x: TABLE[whole(x[:, 0, 0]) % 5],
    "own index into itself": jax.vmap(lambda x: x[whole(x[0, 0]) % 4]),
    "own place in the scattered": jax.vmap(lambda x: jnp.zeros(4).at[whole(x[0, 1]) % 4].add(x[0, 0])),
    "own slice": jax.vmap(lambda x: lax.dynamic_slice(x, (whole(x[0, 0]) % 3, 0), (2, 2))),
    "own branch": jax.vmap(lambda x: lax.cond(x[0, 0] > 1.0, lambda: x.sum(0), lambda: -x[1])),
    "own number of steps": jax.vmap(counted),
    "own key": jax.vmap(lambda x: jax.random.uniform(jax.random.fold_in(KEY, whole(x[0, 0])), (2,))),
    "counts": lambda x: (x > 1.0).sum((1, 2)),
}
MEETING = {
    "search": jax.vmap(lambda x: jnp.searchsorted(TABLE, x[:, 0])),  # in jax 0.12 an operation that has no rule
    "place of the maximum of all": lambda x: jnp.argmax(x[:, 0, 0]),
    "selected by another lane": lambda x: jnp.where(x[1, 0, 0] > 1.0, x, -x),
    "index from another lane": lambda x: x[:, whole(x[0, 0, 0]) % 4],
    "order of lanes": lambda x: jnp.argsort(x[:, 0, 0]),
    "rank among lanes": lambda x: (x[:, None, 0, 0] > x[None, :, 0, 0]).sum(1),
    "largest lane": lambda x: x[jnp.argmax(x[:, 0, 0])],
    "how many of all": lambda x: (x > 1.0).sum(),
    "loop in which lanes meet": meeting,
    "loop over lanes in order": lanes_as_steps,
    "sum with infinities": lambda x: jnp.where(x > 1.5, jnp.inf, x).sum(),
    "what no lane changes": lambda x: jnp.arange(x.shape[0]) + x.shape[1],
}
ALL = {**KEPT, **MIXED, **SHARP, **MEETING}


def with_lane(x, j, change):
    return x.at[j].set(change(x[j]))


def same_bits(a, b):
    return np.asarray(a).tobytes() == np.asarray(b).tobytes()


# ---- what the analysis claims ---------------------------------------------------------------------------------------


@pytest.mark.table
@pytest.mark.parametrize("name", ALL)
def test_a_changed_lane_changes_no_other(name):
    run = jax.jit(lambda x: jax.tree.leaves(ALL[name](x)))
    before, kept = run(X), [(k, axis) for k, axis in enumerate(claims(ALL[name])) if axis is not None]
    for j in range(N) if kept else ():
        for what, change in CHANGES.items():
            after = run(with_lane(X, j, change))
            for k, axis in kept:
                others = (np.delete(np.asarray(y), j, axis) for y in (before[k], after[k]))
                assert same_bits(*others), (what, j, k)


@pytest.mark.parametrize("name", SHARP)
def test_lanes_that_are_apart_are_seen_to_be(name):
    assert None not in claims(SHARP[name])


@pytest.mark.parametrize("name", ["place of the maximum of all", "selected by another lane", "order of lanes"])
def test_a_lane_that_others_read_is_seen_by_a_change_though_no_derivative_says_so(name):
    run = jax.jit(MEETING[name])
    before, *after = (np.asarray(run(x)) for x in (X, *(with_lane(X, 1, change) for change in CHANGES.values())))
    others = [np.delete(y, 1, 0) if y.ndim else y for y in (before, *after)]
    assert not all(same_bits(others[0], y) for y in others[1:])


# ---- versions -------------------------------------------------------------------------------------------------------

Y = 0.7 - 1.3 * X[::-1]


def in_versions(name, run):
    """The versions of a function of `x`, another `y` in one lane, and of what becomes of its results."""

    def program(x):
        outs = jax.tree.leaves(ALL[name](x))
        return outs + [jnp.sum(jnp.tanh(out.astype(float))) for out in outs]

    return jax.jit(lambda x, y: run(program, x, y))


def one_by_one(program, x, y):
    return jax.vmap(lambda j: program(x.at[j].set(y[j])))(jnp.arange(N))


@pytest.mark.table
@pytest.mark.parametrize("name", ALL)
def test_versions_are_those_of_every_version_by_itself(name):
    found, expected = in_versions(name, versions)(X, Y), in_versions(name, one_by_one)(X, Y)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.table
@pytest.mark.parametrize("name", ALL)
def test_what_one_version_has_in_its_lane_is_seen_by_no_other(name):
    run = in_versions(name, versions)
    before = run(X, Y)
    for j in range(N):
        for what, change in CHANGES.items():
            after = run(X, with_lane(Y, j, change))
            for k, (a, b) in enumerate(zip(before, after, strict=True)):
                assert same_bits(np.delete(a, j, 0), np.delete(b, j, 0)), (what, j, k)
