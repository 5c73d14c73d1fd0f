"""Lanes and steps some at a time: loops over chunks of a plate, and over blocks of the steps of a loop.

What a chunk or a block computes on its way is not kept for the derivative but computed again (`jax.checkpoint`), so
that memory grows with the size of one, and beyond that with what is put in and what comes out alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax import numpy as jnp

from ..transforms._internal import blocks, dividing, scan_by_blocks


def again_for_derivative(fn: Callable) -> Callable:
    """The same function, which is run again for its derivative; for the step of a loop."""
    return jax.checkpoint(fn, prevent_cse=False)


def lanes_by_chunks(lane: Callable, in_axes: tuple, operands: tuple, n: int, chunk: int) -> tuple[Any, Any]:
    """`jax.vmap(lane, in_axes)(*operands)` of n lanes, at most so many at a time, in two parts.

    Returns:
        The results of whole chunks, stacked to (chunks, lanes of one, ...), and those of the lanes that are left, or
        None where none are.
    """
    tree: Any
    leaves, tree = jax.tree.flatten(operands)
    axes = _axis_of_each(in_axes, operands)
    mapped = [jnp.moveaxis(x, axis, 0) for x, axis in zip(leaves, axes, strict=True) if axis is not None]

    def one(*own):
        given = iter(own)
        return lane(*tree.unflatten([x if axis is None else next(given) for x, axis in zip(leaves, axes, strict=True)]))

    run = again_for_derivative(jax.vmap(one))
    size = dividing(n, chunk)
    chunks, left = divmod(n, size)
    whole = lax.scan(lambda _, xs: (None, run(*xs)), None, blocks(mapped, chunks, size), chunks)[1]
    return whole, run(*(x[n - left :] for x in mapped)) if left else None


def _axis_of_each(in_axes, operands):
    """The axis along which each leaf is mapped."""
    found: list[int | None] = []

    def note(axis, part):
        found.extend([axis] * len(jax.tree.leaves(part)))

    jax.tree.map(note, in_axes, operands, is_leaf=lambda axis: axis is None)
    return found


def steps_by_blocks(
    body: Callable, init: Any, xs: Any, n: int, most: int, *, reverse: bool, unroll: int
) -> tuple[Any, Any, Any]:
    """`lax.scan(body, init, xs)` of n steps, of which at most so many are run again together for the derivative.

    Returns:
        The last carry, and the outputs in two parts (see `scan_by_blocks`).
    """

    def some(carry, xs):
        return lax.scan(body, carry, xs, reverse=reverse, unroll=unroll)

    return scan_by_blocks(again_for_derivative(some), init, xs, n, most, reverse=reverse)
