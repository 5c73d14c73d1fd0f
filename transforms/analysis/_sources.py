"""Sources, and what it means to depend on them.

A source is an array of numbers of which values are made: the score terms of a draw, one per lane or element, or an
input of a program. The dependence of a value says for each source whether the value depends on it and, axis by axis of
the source, along which axis of the value it does so index by index: an entry of the value at i along that axis depends
only on the source's entries at i along its own. None in place of an axis means that every entry may depend on every
entry along it. In the body of a loop an axis may also be that of the loop's steps, `STEP`: what is made in a step
depends only on the source's entries of that step. Where a reshape makes one axis of several (chunks and their lanes
become lanes), those of the source are each a `Part` of it.

More dependence than there is costs variance, never bias; so where two ways to a value differ in an axis, it is None.

Sources of one shape that a value depends on in one way are kept together, as the bits of an integer, so that long
programs cost little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from operator import or_
from typing import NamedTuple

from .._pytree import size


class Part(NamedTuple):
    """An axis of a source inside an axis of a value: the entry at i is that at `i // stride % size` of the source."""

    axis: int
    stride: int
    size: int


Shape = tuple[int, ...]
Axis = int | Part | None
Axes = tuple[Axis, ...]
Dependence = dict[tuple[Shape, Axes], int]
NOTHING: Dependence = {}

STEP = -1
"""The axis of a loop's steps, seen from its body: the axis before the first, where results are stacked."""


def source(number: int, shape: Shape, axes: Axes | None = None) -> Dependence:
    """Dependence on one source, by default index by index along the leading axes."""
    return {(shape, tuple(range(len(shape))) if axes is None else axes): 1 << number}


def inputs(ranks: Iterable[int]) -> list[Dependence]:
    """The dependences of the inputs of a program of these ranks: each on itself, a source whose shape is not told."""
    return [{((), tuple(range(rank))): 1 << i} for i, rank in enumerate(ranks)]


def union(parts: Iterable[Dependence]) -> Dependence:
    """Dependence on whatever any of the parts depends on; axes on which they differ are given up."""
    out: Dependence = {}
    for part in parts:
        if not out:
            out = part
            continue
        for key, mask in part.items():
            if out.get(key, 0) & mask != mask:
                out = _add(dict(out), key, mask)
    return out


def _add(out, key, mask):
    shape, axes = key
    for other_key, other in list(out.items()):
        both = other & mask
        if not both or other_key == key:
            continue
        out[other_key] = other & ~both
        if not out[other_key]:
            del out[other_key]
        met = (shape, tuple(a if a == b else None for a, b in zip(axes, other_key[1], strict=True)))
        out[met] = out.get(met, 0) | both
        mask &= ~both
    if mask:
        out[key] = out.get(key, 0) | mask
    return out


def move(dependence: Dependence, axis_of: Callable[[int], Axis]) -> Dependence:
    """Dependence of a result whose axis `axis_of(a)` is the operand's axis a (None: gone or mixed)."""
    return _placed(dependence, lambda axis: _moved(axis, axis_of))


def _placed(dependence, place):
    out: Dependence = {}
    for (shape, axes), mask in dependence.items():
        key = (shape, tuple(None if axis is None else place(axis) for axis in axes))
        out[key] = out.get(key, 0) | mask
    return out


def _moved(axis, axis_of):
    if not isinstance(axis, Part):
        return axis_of(axis)
    to = axis_of(axis.axis)
    if isinstance(to, Part):
        return Part(to.axis, to.stride * axis.stride, axis.size)
    return None if to is None else axis._replace(axis=to)


def reshaped(dependence: Dependence, before: Shape, now: Shape) -> Dependence:
    """Dependence of an array of one shape that is read in another, row by row.

    An axis of the source is there as `flat // stride % length`, flat the number of an entry in the whole array; so it
    is along whatever axis now has all of that.
    """

    def place(axis):
        a, stride, length = axis if isinstance(axis, Part) else (axis, 1, before[axis])
        step = stride * size(before[a + 1 :])
        for b in range(len(now)) if length > 1 and size(now) else ():
            inner, left = divmod(step, size(now[b + 1 :]))
            if not left and inner and now[b] % (inner * length) == 0:
                return b if now[b] == length else Part(b, inner, length)
        return None

    return _placed(dependence, place)


def mixed(dependence: Dependence) -> Dependence:
    """Dependence of something that mixes all axes."""
    return move(dependence, lambda a: None)


def substitute(dependence: Dependence, given: Sequence[Dependence]) -> Dependence:
    """Dependence on what the sources themselves depend on: source i is an array that depends on `given[i]`."""
    live = sum(1 << i for i, d in enumerate(given) if d)
    parts = []
    for (_, axes), mask in dependence.items():
        parts += [move(given[i], _axis_in(axes)) for i in bits(mask & live)]
    return union(parts)


def _axis_in(axes: Axes) -> Callable[[int], Axis]:
    return lambda a: STEP if a == STEP else axes[a]


def mask_of(dependence: Dependence) -> int:
    """The numbers of all sources depended on, as bits."""
    return reduce(or_, dependence.values(), 0)


def bits(mask: int) -> list[int]:
    """The numbers in a mask."""
    out = []
    while mask:
        low = mask & -mask
        out.append(low.bit_length() - 1)
        mask ^= low
    return out


def restricted(dependence: Dependence, mask: int) -> Dependence:
    """The part of a dependence that is on the sources of a mask."""
    return {key: own & mask for key, own in dependence.items() if own & mask}


def blocks(dependences: Iterable[Dependence]) -> list[int]:
    """The fewest masks, disjoint and each of sources of one shape, of which all masks of the dependences are unions."""
    found: list[int] = []
    for mask in dict.fromkeys(mask for d in dependences for mask in d.values()):
        parts = [part for block in found for part in (block & mask, block & ~mask)]
        found = [part for part in (*parts, mask & ~reduce(or_, found, 0)) if part]
    return found


def apart(dependence: Dependence) -> int:
    """How many axes of sources are kept apart, counting sources."""
    return sum(mask.bit_count() * sum(a is not None for a in axes) for (_, axes), mask in dependence.items())
