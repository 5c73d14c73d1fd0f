"""What one outcome adds to a mean: its probability times its value, and nothing where it cannot happen.

A primitive of its own, so that enumerated sites inside each other cost one equation each: a `where` would be batched
once more for every site around it.
"""

from __future__ import annotations

import jax
from jax import lax
from jax import numpy as jnp

from .._jax import make_primitive


def share(p: jax.Array, y: jax.Array) -> jax.Array:
    """What an outcome y of probability p, a scalar, adds to a mean: p y, and nothing where p is zero, whatever y is.

    There the derivative is y dp; where y is not finite it is infinite, as that of the square root is, or none if the
    probability stays zero.
    """
    return _bind(p.astype(y.dtype), y)[0]


def _share(p, y):
    never = p == 0.0
    lost = never & ~jnp.isfinite(y)
    steep = jnp.sqrt(jnp.where(lost, p, 1.0)) * jnp.where(y < 0.0, -1.0, 1.0).astype(y.dtype)
    return jnp.where(lost, steep, p * jnp.where(lost, 0.0, jnp.where(never, lax.stop_gradient(y), y)))


def _along_lanes(x, i, lanes):
    """Operand i with an axis for every lane, of length one where it is not mapped."""
    lengths = [lane.size if lane.mapped[i] else 1 for lane in reversed(lanes)]
    return jnp.reshape(x, (*lengths, *x.shape[sum(lane.mapped[i] for lane in lanes) :]))


def _run(p, y, *, lanes):
    p, y = _along_lanes(p, 0, lanes), _along_lanes(y, 1, lanes)
    return [_share(jnp.reshape(p, (*p.shape, *(1 for _ in range(y.ndim - p.ndim)))), y)]


def _shapes(avals, lanes):
    p, y = avals
    inside = y.shape[sum(lane.mapped[1] for lane in lanes) :]
    return [((*(lane.size for lane in reversed(lanes)), *inside), y.dtype)]


def _jvp(primals, tangents, at, *, lanes):
    return jax.jvp(lambda *xs: _run(*at(*xs), lanes=lanes), tuple(primals), tuple(tangents))


def _any_lane(mapped):
    """Any operand may be mapped."""


_bind = make_primitive("share", run=_run, shapes=_shapes, jvp=_jvp, check_lane=_any_lane)
