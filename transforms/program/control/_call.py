"""`jit` and its kin: calls. With a draw inside they are inlined when a plan is made, so that they never run here."""

from __future__ import annotations

from typing import Any

from ._base import Body, Control, body, control_of, no_rule


class Call(Control):
    """A call."""

    names = ("jit", "pjit", "closed_call", "core_call")
    plain = True

    def bodies(self, eqn):
        """What is called."""
        return [called(eqn)]

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
    """What an equation calls."""
    return body(_jaxpr(eqn))


def _jaxpr(eqn):
    params = eqn.params
    return params["jaxpr"] if "jaxpr" in params else params["call_jaxpr"]
