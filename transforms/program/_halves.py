"""A draw in two halves: what comes from its key alone, and what its parameters make of that.

A normal draw is `location + scale * noise`: the noise is a function of the key, known before the program has run up to
the draw, and the rest is a sum and a product. So noise can be made early, in bulk: that of all steps of a loop in one
go. A draw keeps its bits: both halves are cut from the sampler's own jaxpr.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp

from .. import _distribution as _d
from .._errors import name_of
from .._jax import Literal, evaluate_with, is_key_aval, make_primitive, segment, trace, vmapped, without_lanes
from .._jax import lane_shape as shape_of_lanes
from .._pytree import KINDS, Spec, size
from ._plan import inline


class Halves(NamedTuple):
    """A draw in one lane, in two jaxprs: `early(key)`, and `late(*early, *arrays)`, which is the value."""

    early: Any
    late: Any


def halves(distribution: Spec, key: Any, arrays: Sequence[Any]) -> Halves | None:
    """The halves of a draw from avals in one lane; None where parameters say which keys are used, as in rejection."""
    shapes = tuple((a.shape, a.dtype) for a in arrays)
    return _halves_at(distribution, key.dtype, shapes, jax.dtypes.canonicalize_dtype(int))


@functools.lru_cache(maxsize=KINDS)
def _halves_at(distribution, key_dtype, shapes, precision):
    structs = [jax.ShapeDtypeStruct((), key_dtype), *(jax.ShapeDtypeStruct(s, d) for s, d in shapes)]
    traced = trace(lambda key, *xs: jax.tree.leaves(_d.drawer(distribution)(key, *xs)), *structs)
    flat = inline(traced.jaxpr, opaque=set())
    if flat.constants or traced.consts:  # arrays that the sampler closed over: rare, and left as they are
        return None
    key, *arrays = flat.inputs
    known = {key}
    early: list = []
    late: list = []
    for eqn in flat.eqns:
        alone = known.issuperset(v for v in eqn.invars if not isinstance(v, Literal))
        known.update(eqn.outvars if alone else ())
        (early if alone else late).append(eqn)
    read = {v for eqn in late for v in eqn.invars if not isinstance(v, Literal)}
    read.update(v for v in flat.outputs if not isinstance(v, Literal))
    between = [v for eqn in early for v in eqn.outvars if v in read]
    if not between or key in read or any(is_key_aval(v.aval) for v in between):
        return None
    return Halves(
        segment(traced.jaxpr, early, [key], between),
        segment(traced.jaxpr, late, [*between, *arrays], flat.outputs),
    )


def finish(distribution: Spec, key: Any, arrays: Sequence[Any], early: Sequence[Any]) -> list:
    """The leaves of a value, from its early half."""
    return evaluate_with(_both(distribution, key, arrays).late, [*early, *arrays])


def _both(distribution, key, arrays) -> Any:
    """The halves of what is known to have them."""
    return halves(distribution, key, arrays)


# ---- the early half as one operation ---------------------------------------------------------------------------------


class Kind(NamedTuple):
    """What is drawn: a distribution without its arrays, and the avals of those in one lane."""

    distribution: Spec
    arrays: tuple

    def early(self, key: Any) -> Any:
        """The jaxpr of the early half."""
        return _both(self.distribution, key, self.arrays).early


def _run(*keys, kind: Kind, numbers, first, lanes):
    _hint(len(keys), first)

    def of(number):
        return lambda key: evaluate_with(kind.early(key), [key if number is None else jax.random.fold_in(key, number)])

    of_each = [tuple(lane._replace(mapped=(lane.mapped[i],)) for lane in lanes) for i in range(len(keys))]
    if len(set(of_each)) > 1 or _is_much(keys, kind, lanes):
        parts = zip(keys, numbers or [None] * len(keys), of_each, strict=True)
        return [y for key, number, own in parts for y in vmapped(of(number), own)(key)]
    folded = jnp.array(numbers, jnp.uint32) if numbers else None
    found = jax.vmap(lambda key, number: vmapped(of(number), of_each[0])(key))(jnp.stack(keys), folded)
    return [ys[i] for i in range(len(keys)) for ys in found]


MANY = 200
"""Of so many sites of one kind, or more, a word is said.

For a chain of 50 normal sites XLA took 3.5 times as long as for the same in a `scan`, for one of 200 thirty times."""

_registry: dict = {}


def _hint(n, first):
    """Say, once for each such program under default filters, what a long compilation comes from; as it begins."""
    if n < MANY:
        return
    warnings.warn_explicit(
        f"{n} sites of one kind, {name_of(first)} the first, are written out one by one, and XLA's time to compile "
        "them grows faster than their number. A plate (`vmap`) or a loop (`scan`) has one site for all of them, and "
        "compiles in a second or two.",
        UserWarning,
        "tracegrad",
        1,
        registry=_registry,
    )


def _is_much(keys, kind, lanes):
    """Whether it is better made where it is used, key by key."""
    return len(keys) == 1 or sum(size(shape) for shape, _ in _shapes(keys, lanes, kind=kind)) > AT_ONCE


def _shapes(avals, lanes, *, kind: Kind, **_):
    key = without_lanes(avals, lanes)[0]
    return [((*shape_of_lanes(lanes), *v.aval.shape), v.aval.dtype) for v in kind.early(key).outvars] * len(avals)


AT_ONCE = 1 << 17
"""The noise of several keys is of so many numbers at most: more do not stay in a cache, and are slower than none kept.

Of 16 draws in 10,000 lanes (160,000 numbers) both ways took the same time, in 100,000 lanes 1.4 times as long."""

EARLY_NOISE = "early_noise"

_bind = make_primitive(
    EARLY_NOISE, run=_run, shapes=_shapes, jvp=lambda *_, **__: None, check_lane=lambda *_, **__: None
)


def early_noise(
    keys: Sequence[Any], kind: Kind, lanes: tuple, numbers: tuple[int, ...] = (), *, first: Any = None
) -> list[list]:
    """The early half of a draw with each key, in lanes, as one operation until it is lowered.

    Where there are `numbers`, one is folded into each key first. One call of the generator makes them all, with the
    keys in front: lanes that are put around it later do not come between the draws. `first` is the label of the first.
    """
    lanes = tuple(lane._replace(mapped=(True,) * len(keys)) for lane in lanes)
    found = _bind(*keys, kind=kind, numbers=numbers, first=first, lanes=lanes)
    n = len(found) // len(keys)
    return [found[i : i + n] for i in range(0, len(found), n)]
