"""Which draws a value depends on: what the analysis of a jaxpr claims, against the derivatives of the operation.

Where it says that entries at i along an axis depend only on entries at i of the input, every other derivative must be
zero; and for operations that treat a lane by itself it must say so.
"""

import jax
import numpy as np
import pytest
from jax import lax
from jax import numpy as jnp

from tracegrad.transforms._jax import open_jaxpr
from tracegrad.transforms.analysis import _dependence as dep
from tracegrad.transforms.analysis._sources import reshaped, source
from tracegrad.transforms.estimate._scores import Scores

N = 3
INDICES = jnp.arange(N)
X = jnp.linspace(0.3, 1.7, N * 4 * 2).reshape(N, 4, 2)
KERNEL = jnp.linspace(-1.0, 1.0, 2 * 3 * 2).reshape(2, 3, 2)


def lane_by_lane(function):
    return jax.vmap(function)


def at_index(x, i):
    return x.at[i].set(x[i] * x[0], mode="drop")


def loop(x):
    return lax.scan(lambda c, y: (c * y, c + y), jnp.ones(x.shape[1:]), x)


KEPT = {
    "elementwise": lambda x: jnp.sin(x) * x,
    "sum over the rest": lambda x: x.sum((1, 2)),
    "maximum of the rest": lambda x: x.max(1),
    "product of matrices": lambda x: x @ jnp.ones((2, 5)),
    "batched product": lambda x: jnp.einsum("nij,nkj->nik", x, x),
    "stack": lambda x: jnp.stack([x[:, 0], x[:, 1] * x[:, 0]], axis=1),
    "stack in front": lambda x: lax.transpose(jnp.stack([x, x]), (1, 0, 2, 3)),
    "split": lambda x: jnp.split(x, 2, axis=1)[1],
    "sort": lambda x: jnp.sort(x, axis=1),
    "cumulative sum": lambda x: jnp.cumsum(x, axis=1),
    "concatenate": lambda x: jnp.concatenate([x, 2.0 * x], axis=2),
    "pad": lambda x: jnp.pad(x, ((0, 0), (1, 0), (0, 2))),
    "reverse": lambda x: x[:, ::-1],
    "gather of an entry": lane_by_lane(lambda x: x[jnp.argmax(x[:, 0]) % 2]),
    "gather of whole lanes": lambda x: x[:, jnp.array([2, 0])],
    "dynamic slice": lambda x: lax.dynamic_slice(x, (0, jnp.asarray(1), 0), (N, 2, 2)),
    "dynamic update": lambda x: lax.dynamic_update_slice(x, x[:, :1] * 2.0, (0, jnp.asarray(1), 0)),
    "scatter": lambda x: jax.vmap(at_index)(x, INDICES % 2),
    "scatter of whole lanes": lambda x: x.at[:, 1].set(x[:, 0] ** 2),
    "scatter and add": lambda x: jax.vmap(lambda x, i: x.at[i].add(x[0]))(x, INDICES),
    "convolution": lambda x: lax.conv_general_dilated(x, KERNEL, (1,), "SAME", dimension_numbers=("NWC", "IWO", "NWC")),
    "loop over the rest": lane_by_lane(loop),
    "branch": lambda x: lax.cond(jnp.asarray(1) > 0, lambda x: x * x[:, :1], lambda x: -x, x),
    "reshape": lambda x: x.reshape(N, 8)[:, :, None],
    "map over lanes": lambda x: lax.map(lambda y: y * y.sum(), x),
    "map over the rest": lambda x: lax.map(lambda y: y * y.sum(1, keepdims=True), jnp.moveaxis(x, 1, 0)),
    "map in a map": lambda x: lax.map(lambda y: lax.map(lambda z: z * y.sum(), y), x),
    "log of a sum": lane_by_lane(lambda x: jax.nn.logsumexp(x, axis=0)),
}
MIXED = {
    "sum over lanes": lambda x: x.sum(0),
    "sort of lanes": lambda x: jnp.sort(x, axis=0),
    "cumulative sum over lanes": lambda x: jnp.cumsum(x, axis=0),
    "reversed lanes": lambda x: x[::-1],
    "rolled lanes": lambda x: jnp.roll(x, 1, axis=0),
    "gathered lanes": lambda x: x[jnp.array([2, 0, 1])],
    "scattered lanes": lambda x: x.at[jnp.array([2, 0, 1])].set(x * 2.0),
    "scatter of one lane": lambda x: jnp.ones_like(x).at[jnp.asarray(1)].set(x[0]),
    "updated lanes": lambda x: lax.dynamic_update_slice(x, x[:1], (jnp.asarray(1), 0, 0)),
    "split of lanes": lambda x: jnp.concatenate(jnp.split(x, N)[::-1]),
    "stack of lanes": lambda x: jnp.stack([x[1], x[0], x[2]]),
    "attention": lambda x: jnp.einsum("nij,mij->nm", x, x),
    "loop over lanes": loop,
    "branch on a lane": lambda x: lax.cond(x[0, 0, 0] > 0, lambda x: x * x[:1], lambda x: -x, x),
    "convolution over lanes": lambda x: lax.conv_general_dilated(
        x.transpose(1, 0, 2), KERNEL, (1,), "SAME", dimension_numbers=("NWC", "IWO", "NWC")
    ).transpose(1, 0, 2),
    "merged with the rest": lambda x: x.reshape(4, N, 2).transpose(1, 0, 2),
}


def claims(function):
    """The axis of each output along which it depends on the first axis of the input index by index, or None."""
    jaxpr = open_jaxpr(jax.make_jaxpr(function)(X))
    outs = dep.through(jaxpr, [source(0, (N,), (0,))])
    return [next((axes[0] for _, axes in d), None) for d in outs]


@pytest.mark.table
@pytest.mark.parametrize("name", [*KEPT, *MIXED])
def test_claims_hold_in_the_derivatives(name):
    function = {**KEPT, **MIXED}[name]
    outs = jax.tree.leaves(jax.jacrev(function)(X))
    for axis, jacobian in zip(claims(function), outs, strict=True):
        if axis is None:
            continue
        moved = np.moveaxis(np.asarray(jacobian), (axis, jacobian.ndim - X.ndim), (0, 1))
        apart = ~np.eye(N, dtype=bool)
        assert np.any(moved)
        assert not np.any(moved[apart])


@pytest.mark.parametrize("name", list(KEPT))
def test_lanes_that_are_apart_are_seen_to_be(name):
    assert None not in claims(KEPT[name])


@pytest.mark.parametrize("name", list(MIXED))
def test_lanes_that_meet_are_seen_to_meet(name):
    assert set(claims(MIXED[name])) == {None}


# ---- axes that are parts of others ----------------------------------------------------------------------------------

SHAPES = [(24,), (4, 6), (2, 12), (2, 3, 4), (4, 3, 2), (6, 1, 4), (8, 3)]


def slope_of_box(score, shape, depends):
    """The derivative of a box is the sum of the scores in it."""
    return jax.jvp(lambda t: Scores([t * score]).box(jnp.ones(shape), depends), (1.0,), (1.0,))[1]


def test_boxes_of_what_was_reshaped_are_those_of_its_entries():
    """Scores laid along a value that was reshaped are those that its entries had, whatever axes were kept apart."""
    random, kept = np.random.default_rng(0), 0
    for _ in range(12):
        shape = now = SHAPES[random.integers(len(SHAPES))]
        depends = source(0, shape, tuple(a if random.random() < 0.8 else None for a in range(len(shape))))
        for _ in range(random.integers(1, 4)):
            before, now = now, SHAPES[random.integers(len(SHAPES))]
            depends = reshaped(depends, before, now)
        score = random.normal(size=shape)
        ((_, axes),) = depends
        mixed = tuple(i for i, a in enumerate(axes) if a is None)
        wanted = jnp.broadcast_to(score.sum(mixed, keepdims=True), shape).reshape(now)
        np.testing.assert_allclose(slope_of_box(score, now, depends), wanted, atol=1e-5)
        kept += sum(a is not None for a in axes)
    assert kept >= 5


def test_a_reshape_and_back_keeps_lanes_apart():
    depends = source(0, (4, 6))
    flat = reshaped(depends, (4, 6), (24,))
    assert reshaped(flat, (24,), (4, 6)) == depends
    assert [a for (_, axes) in reshaped(flat, (24,), (5, 0)) for a in axes] == [None, None]
