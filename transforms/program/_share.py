"""What one outcome adds to a mean: its probability times its value, and nothing where it cannot happen.

A primitive of its own, so that enumerated sites inside each other cost one equation each: a `where` would be batched
once more for every site around it.
"""

from __future__ import annotations

import jax
from jax import numpy as jnp

from .._jax import make_primitive


def share(p: jax.Array, y: jax.Array) -> jax.Array:
    """What an outcome y of probability p, a scalar, adds to a mean: p y, and nothing where p is zero, whatever y is.

    There the derivative is y dp: infinite where y is.
    """
    return _bind(p.astype(y.dtype), y)[0]


def _along(x, i, rank, lanes):
    """Operand i of a rank inside its lanes, with an axis for every lane: of length one where it is not mapped."""
    lengths = [lane.size if lane.mapped[i] else 1 for lane in reversed(lanes)]
    inside = x.shape[sum(lane.mapped[i] for lane in lanes) :]
    return jnp.reshape(x, (*lengths, *(1 for _ in range(rank - len(inside))), *inside))


def _parts(operands, lanes):
    """The operands along all lanes, and where a value that is not finite has no probability."""
    rank = operands[1].ndim - sum(lane.mapped[1] for lane in lanes)
    p, y = (_along(x, i, rank, lanes) for i, x in enumerate(operands))
    return p, y, (p == 0.0) & ~jnp.isfinite(y), rank


def _run(*operands, lanes):
    p, y, lost, _ = _parts(operands, lanes)
    return [p * jnp.where(lost, 0.0, y)]


def _shapes(avals, lanes):
    inside = avals[1].shape[sum(lane.mapped[1] for lane in lanes) :]
    return [((*(lane.size for lane in reversed(lanes)), *inside), avals[1].dtype)]


def _jvp(primals, tangents, at, *, lanes):
    operands, given = at(*primals), iter(tangents)
    p, y, lost, rank = _parts(operands, lanes)
    varied = [x is None for x in at(*[None] * len(primals))]
    dp, dy = (_along(next(given), i, rank, lanes) if v else None for i, v in enumerate(varied))
    parts = [] if dp is None else [dp * y]
    parts += [] if dy is None else [p * jnp.where(lost, 0.0, dy)]
    return _bind(*operands, lanes=lanes), [sum(parts[1:], parts[0])]


def _any_lane(mapped):
    """Any operand may be mapped."""


_bind = make_primitive("share", run=_run, shapes=_shapes, jvp=_jvp, check_lane=_any_lane)
