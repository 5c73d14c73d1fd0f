"""A loop in blocks of its steps: what is made for all steps of a block at once is there for one block at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax import numpy as jnp


def scan_by_blocks(some: Callable, init: Any, xs: Any, n: int, most: int, *, reverse: bool) -> tuple[Any, Any, Any]:
    """A loop of n steps as one over blocks of at most so many.

    Args:
        some: `some(carry, xs)`, the last carry and the stacked outputs of a block of steps, in the order of the loop.
        init: the initial carry.
        xs: what the steps get one by one.
        n: the number of steps.
        most: the most steps of a block.
        reverse: whether the last block runs first.

    Returns:
        The last carry, and the outputs in two parts: those of whole blocks, stacked to (blocks, steps of one, ...), and
        of the steps that are left, which are the last ones of xs, or None where none are.
    """
    size = dividing(n, most)
    count, left = divmod(n, size)

    def rest(carry):
        return some(carry, jax.tree.map(lambda x: x[n - left :], xs)) if left else (carry, None)

    carry, last = rest(init) if reverse else (init, None)
    carry, whole = lax.scan(some, carry, blocks(xs, count, size), count, reverse=reverse)
    carry, last = (carry, last) if reverse else rest(carry)
    return carry, whole, last


def dividing(n: int, most: int) -> int:
    """The size of a block of n entries: at most so many, and where there is one from half of that on, a divisor of n.

    What is left over is copied, compiled as a program of its own, and its scores are credited together.
    """
    most = min(n, most)
    return next((size for size in range(most, most // 2, -1) if n % size == 0), most)


def blocks(xs: Any, n: int, size: int) -> Any:
    """The first n * size entries of arrays, in n blocks."""
    return jax.tree.map(lambda x: x[: n * size].reshape(n, size, *x.shape[1:]), xs)


def joined(whole: Any, left: Any) -> Any:
    """Results in blocks, and what is left, as those of all entries."""
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), whole)
    return flat if left is None else jax.tree.map(lambda x, y: jnp.concatenate([x, y]), flat, left)
