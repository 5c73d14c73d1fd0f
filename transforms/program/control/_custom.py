"""Functions with a derivative of their own: data flows through them, and a draw inside is refused."""

from __future__ import annotations

from ..._jax import param
from ._base import Control, body, no_rule


class Custom(Control):
    """`jax.custom_jvp` and `jax.custom_vjp`."""

    names = ("custom_jvp_call", "custom_vjp_call")
    plain = True

    def bodies(self, eqn):
        """The function itself, not its rules."""
        return [body(param(eqn, "call_jaxpr"))]

    def run(self, step, operands, mode, alternative):
        """Refuse: the rule of the function knows nothing of its draws."""
        raise no_rule("a function with a custom derivative", step.name)

    def flow(self, eqn, states, domain):
        """Through the function."""
        return domain.through(param(eqn, "call_jaxpr"), states)
