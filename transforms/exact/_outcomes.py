"""What one draw can come to: its value as a function of standard noise, and the nodes of quadratures."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp

from .._distribution import batch_shape, elementwise, support
from .._errors import EstimatorError
from .._pytree import size
from .._standard_noise import standard_noise
from ..estimators._finite_support import finite
from ..program._site import value_struct

LAWS = ("finite", "normal", "uniform", "exponential")


class Nodes(NamedTuple):
    """The points of a quadrature and their weights, which sum to one."""

    points: np.ndarray
    weights: np.ndarray


def _gauss(diagonal: np.ndarray, beside: np.ndarray) -> Nodes:
    """Gauss quadrature from the recurrence of orthonormal polynomials q, as the matrix of multiplication by x.

    The nodes are its eigenvalues, the weights 1 / sum_j q_j(x)^2 (Golub and Welsch, 1969).
    """
    points = np.linalg.eigvalsh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
    before, now, total = np.zeros_like(points), np.ones_like(points), np.ones_like(points)
    with np.errstate(over="ignore", invalid="ignore"):  # nodes so far out that their weight is nothing
        for j, (a, b) in enumerate(zip(diagonal[:-1], beside, strict=True)):
            before, now = now, ((points - a) * now - (beside[j - 1] if j else 0.0) * before) / b
            total = total + now**2
        weights = np.nan_to_num(1.0 / total)
    return Nodes(points, weights / weights.sum())


def make_nodes(n: int) -> dict[str, Nodes]:
    """`n` nodes for each law of continuous noise."""
    k = np.arange(1.0, n)
    return {
        "normal": _gauss(np.zeros(n), np.sqrt(k)),
        "uniform": _gauss(np.full(n, 0.5), 0.5 * k / np.sqrt(4.0 * k**2 - 1.0)),
        "exponential": _gauss(2.0 * np.arange(n) + 1.0, k),
    }


class Draw(NamedTuple):
    """A draw in one lane: the law of its noise, how many noise variables it takes, and its value at given noise.

    Beside the value is what a mode wants to know: the cuts of the noise, the probability of the value.
    """

    law: int
    elements: int
    at: Callable[[jax.Array], tuple[Any, jax.Array]]


def draw_from_noise(distribution: Any) -> Draw:
    """A draw as a function of standard noise, and where it jumps: the cuts of each variable, shape (elements, cuts).

    Draws of finite support are functions of uniform noise by the inverse of their distribution function.
    """
    flat = elementwise(distribution)
    if support(flat) is not None:
        return Draw(0, size(batch_shape(flat)), functools.partial(_finite, finite(distribution), value_struct(flat)))
    pushed = standard_noise(distribution)
    if pushed is None:
        raise EstimatorError(
            f"exact_expectation: the draw of a {type(distribution).__name__} cannot be enumerated: its support is not "
            "finite, and it is not known as a function of standard noise. Test such a site by statistics, or register "
            "the function with `standard_noise.register`."
        )
    n = size(pushed.shape)
    return Draw(
        LAWS.index(pushed.law), n, lambda noise: (pushed.push(jnp.reshape(noise, pushed.shape)), jnp.zeros((n, 0)))
    )


def _finite(found, struct, noise):
    """The values at uniform noise, and where they change."""
    cuts = jnp.cumsum(found.fixed, axis=0)[:-1]
    index = jnp.sum(jnp.reshape(noise, found.batch)[None] > cuts, axis=0)
    return found.values[index].astype(struct.dtype), jnp.moveaxis(
        cuts.reshape(len(cuts), math.prod(cuts.shape[1:])), 0, 1
    )
