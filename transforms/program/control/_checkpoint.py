"""`jax.checkpoint`: a call that is run again for its derivative."""

from __future__ import annotations

import jax

from ..._jax import param
from ._base import Control, body


class Checkpoint(Control):
    """Rematerialisation."""

    names = ("remat2",)
    functions = ("checkpoint",)
    lanewise = True
    plain = True

    def bodies(self, eqn):
        """The one program."""
        return [body(param(eqn, "jaxpr"), "checkpoint")]

    def run(self, step, operands, mode, alternative):
        """The same checkpoint of what the mode makes of the program."""
        (inside,) = self.bodies(step.eqn)
        how = {"prevent_cse": param(step.eqn, "prevent_cse"), "policy": param(step.eqn, "policy")}

        def run(*args):
            return mode.inner(inside.jaxpr, [*inside.consts, *args], alternative)

        return jax.checkpoint(run, **how)(*operands)

    def flow(self, eqn, states, domain):
        """As through any call."""
        return domain.through(param(eqn, "jaxpr"), states)
