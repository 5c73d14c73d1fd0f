"""How much the coefficients of a fork's alternatives move with the parameters of the site's distribution.

It is known where the site draws, before any alternative is run: what a choice of a few alternatives goes by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from jaxtyping import Array, Float

from .._distribution import batch_shape, elementwise
from .._pytree import is_inexact, size

DIRECTIONS = 8
"""In how many directions a parameter of several numbers (logits of many categories) is moved at most: with as many
numbers or fewer the sizes are exact, with more they are an estimate, which a proposal may be."""


def coefficient_sizes(
    coefficients_of: Callable[[list], Float[Array, " m *elements"]], arrays: list, distribution: Any
) -> Float[Array, " m *elements"]:
    """The root of the sum of squares of each coefficient's derivatives in the parameters of its own element.

    Elements move together, each by itself: that a coefficient of one is moved by the parameters of another is left out
    of account. Never zero, so that zero stands for alternatives of what is not run.

    Args:
        coefficients_of: from the arrays of the distribution to the coefficients.
        arrays: those of the distribution, in one lane.
        distribution: restored from them.
    """
    arrays = [jax.lax.stop_gradient(x) for x in arrays]
    elements = len(batch_shape(elementwise(distribution)))
    squares = [
        jnp.sum(jax.vmap(lambda along, i=i: _moved(coefficients_of, arrays, i, along))(ways) ** 2, axis=0)
        for i, ways in _ways(arrays, elements)
    ]
    if not squares:
        return jnp.ones(jax.eval_shape(coefficients_of, arrays).shape)
    found = jnp.sqrt(sum(squares[1:], squares[0]))
    least = jnp.finfo(found.dtype).tiny
    return jnp.where(jnp.isfinite(found), jnp.maximum(found, least), least)


def _moved(coefficients_of, arrays, i, along):
    """The derivative of the coefficients along a direction of one array."""

    def at(x):
        return coefficients_of([*arrays[:i], x, *arrays[i + 1 :]])

    return jax.jvp(at, (arrays[i],), (along,))[1]


def _ways(arrays: list, elements: int) -> Iterator[tuple[int, jax.Array]]:
    """For each array of real numbers the directions to move it in: in each the same for all elements."""
    for i, x in enumerate(arrays):
        if is_inexact(x):
            inner = x.shape[elements:]
            ways = _axes_or_signs(size(inner)).reshape(-1, *(1 for _ in x.shape[:elements]), *inner)
            yield i, jnp.broadcast_to(ways, (len(ways), *x.shape)).astype(x.dtype)


def _axes_or_signs(n: int) -> np.ndarray:
    """The axes of n dimensions; where they are many, a few fixed directions of random signs, of the same squares."""
    if n <= DIRECTIONS:
        return np.eye(n)
    return np.random.default_rng(n).choice([-1.0, 1.0], (DIRECTIONS, n)) / np.sqrt(DIRECTIONS)
