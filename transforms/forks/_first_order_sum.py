"""What forks add to an objective: zero in value, and a derivative that has itself no derivative.

Both functions are primitives of their own, not `jax.custom_jvp`s: a partial evaluation (in the reverse mode of a
`scan`, a `checkpoint`) drops custom rules from what it has evaluated, and a second derivative would then be zero in
silence.
"""

from __future__ import annotations

import jax
from jax import numpy as jnp

from .._errors import HigherOrderError
from .._jax import lane_shape, make_primitive, vmapped, without_lanes
from .._pytree import weighted_sum


def fork_sum(changes: jax.Array, coefficients: jax.Array, witness: list, who: str) -> jax.Array:
    """Zero in value; its derivative is sum_j changes_j d coefficients_j, and has itself no derivative.

    `witness` holds every input that a second derivative could be taken in; `who` says whose derivative it is.
    """
    return _sum(changes, coefficients, *witness, who=who)[0]


def _any_lane(mapped, *, who):
    """Any operand may be mapped."""


def _run_once(*operands, lanes, who):
    return vmapped(lambda x, *witness: [x], lanes)(*operands)


def _once_shapes(avals, lanes, *, who):
    x = without_lanes(avals, lanes)[0]
    return [((*lane_shape(lanes), *x.shape), x.dtype)]


def _refuse(primals, tangents, at, *, lanes, who):
    raise HigherOrderError(f"A second derivative was taken through {who}")


_once = make_primitive("once", run=_run_once, shapes=_once_shapes, jvp=_refuse, check_lane=_any_lane)


def _run_sum(*operands, lanes, who):
    return vmapped(lambda changes, *rest: [jnp.zeros_like(changes[0])], lanes)(*operands)


def _sum_shapes(avals, lanes, *, who):
    changes = without_lanes(avals, lanes)[0]
    return [((*lane_shape(lanes), *changes.shape[1:]), changes.dtype)]


def _sum_jvp(primals, tangents, at, *, lanes, who):
    """Changes are held fixed here, and refuse a derivative from here on."""
    changes = vmapped(lambda changes, _, *witness: _once(changes, *witness, who=who), lanes)(*at(*primals))[0]

    def linear(*operands):
        return weighted_sum(operands[1], operands[-1])

    with_changes = [lane._replace(mapped=(*lane.mapped, True)) for lane in lanes]
    _, tangent = jax.jvp(lambda *xs: vmapped(linear, with_changes)(*at(*xs), changes), tuple(primals), tuple(tangents))
    return _run_sum(*at(*primals), lanes=lanes, who=who), [tangent]


_sum = make_primitive("fork_sum", run=_run_sum, shapes=_sum_shapes, jvp=_sum_jvp, check_lane=_any_lane)
