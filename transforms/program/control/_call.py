"""`jit` and its kin: calls. With a draw inside they are inlined when a plan is made, so that they never run here."""

from __future__ import annotations

from typing import Any

from jax import lax
from jax.sharding import AxisType, NamedSharding, Sharding

from ..._jax import evaluate_with, param, trace
from ._base import Body, Control, body, control_of, no_rule


class Call(Control):
    """A call."""

    names = ("jit", "closed_call")
    functions = ("jit",)
    plain = True

    def bodies(self, eqn):
        """What is called."""
        return [body(_jaxpr(eqn))]

    def run(self, step, operands, mode, alternative):
        """Not reached: plans hold no calls."""
        raise no_rule("a call", step.name)

    def flow(self, eqn, states, domain):
        """Through what is called."""
        return domain.through(_jaxpr(eqn), states)


def is_call(eqn: Any) -> bool:
    """Whether an equation is a call."""
    return isinstance(control_of(eqn), Call)


def called(eqn: Any) -> Body:
    """What stands in the place of a call: what it calls, and the shardings that `jit` was given for it.

    Layouts, donations and compiler options change no value, and are XLA's to choose again.
    """
    inside = body(_jaxpr(eqn))
    before, after = _shardings(eqn)
    if not any(map(_is_kept, (*before, *after))):
        return inside

    def run(*xs):
        outs = evaluate_with(inside.jaxpr, [*inside.consts, *map(_placed, xs, before)])
        return list(map(_placed, outs, after))

    traced = trace(run, *[v.aval for v in eqn.invars])
    return Body(traced.jaxpr, traced.consts)


def _shardings(eqn):
    """Those of the operands and of the results, of which any may be unspecified."""
    if eqn.primitive.name == "jit":
        return param(eqn, "in_shardings"), param(eqn, "out_shardings")
    return (), ()


def _is_kept(sharding):
    """Whether it says more than types do: where axes of a mesh are explicit, shardings are parts of types."""
    if not isinstance(sharding, Sharding):
        return False
    return not (isinstance(sharding, NamedSharding) and AxisType.Explicit in sharding.mesh.axis_types)


def _placed(x, sharding):
    return lax.with_sharding_constraint(x, sharding) if _is_kept(sharding) else x


def _jaxpr(eqn):
    return param(eqn, "jaxpr") if eqn.primitive.name == "jit" else param(eqn, "call_jaxpr")
