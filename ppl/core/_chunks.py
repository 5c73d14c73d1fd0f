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


def again_for_derivative(fn: Callable) -> Callable:
    """The same function, which is run again for its derivative; for the step of a loop."""
    return jax.checkpoint(fn, prevent_cse=False)


def lanes_by_chunks(lane: Callable, in_axes: tuple, operands: tuple, n: int, chunk: int) -> tuple[Any, Any]:
    """`jax.vmap(lane, in_axes)(*operands)` of n lanes, so many at a time, in two parts.

    Returns:
        The results of whole chunks, stacked to (chunks, lanes of one, ...), and those of the lanes that are left, or
        None where none are.
    """
    leaves, tree = jax.tree.flatten(operands)
    axes = _axis_of_each(in_axes, operands)
    mapped = [jnp.moveaxis(x, axis, 0) for x, axis in zip(leaves, axes, strict=True) if axis is not None]

    def one(*own):
        own = iter(own)
        return lane(*tree.unflatten([x if axis is None else next(own) for x, axis in zip(leaves, axes, strict=True)]))

    run = again_for_derivative(jax.vmap(one))
    chunks, left = divmod(n, chunk)
    whole = lax.scan(lambda _, xs: (None, run(*xs)), None, blocks(mapped, chunks, chunk), chunks)[1]
    return whole, run(*(x[n - left :] for x in mapped)) if left else None


def _axis_of_each(in_axes, operands):
    """The axis along which each leaf is mapped."""
    found: list[int | None] = []

    def note(axis, part):
        found.extend([axis] * len(jax.tree.leaves(part)))

    jax.tree.map(note, in_axes, operands, is_leaf=lambda axis: axis is None)
    return found


def steps_by_blocks(
    body: Callable, init: Any, xs: Any, n: int, size: int, *, reverse: bool, unroll: int
) -> tuple[Any, Any, Any]:
    """`lax.scan(body, init, xs)` of n steps, of which so many are run again together for the derivative.

    Returns:
        The last carry, and the outputs in two parts: those of whole blocks, stacked to (blocks, steps of one, ...), and
        of the steps that are left, which are the last ones of xs, or None where none are.
    """

    def some(carry, xs):
        return lax.scan(body, carry, xs, reverse=reverse, unroll=unroll)

    def rest(carry):
        return again_for_derivative(some)(carry, jax.tree.map(lambda x: x[n - left :], xs)) if left else (carry, None)

    size = min(size, n)
    count, left = divmod(n, size)
    carry, last = rest(init) if reverse else (init, None)
    carry, whole = lax.scan(again_for_derivative(some), carry, blocks(xs, count, size), count, reverse=reverse)
    carry, last = (carry, last) if reverse else rest(carry)
    return carry, whole, last


def blocks(xs: Any, n: int, size: int) -> Any:
    """The first n * size entries of arrays, in n blocks."""
    return jax.tree.map(lambda x: x[: n * size].reshape(n, size, *x.shape[1:]), xs)


def joined(whole: Any, left: Any) -> Any:
    """Results in blocks, and what is left, as those of all entries."""
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), whole)
    return flat if left is None else jax.tree.map(lambda x, y: jnp.concatenate([x, y]), flat, left)
