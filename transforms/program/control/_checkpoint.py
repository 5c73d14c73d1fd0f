"""`jax.checkpoint`: a call that is run again for its derivative."""

from __future__ import annotations

import jax

from ._base import Control, body


class Checkpoint(Control):
    """Rematerialisation."""

    names = ("checkpoint", "remat", "remat2")
    lanewise = True
    plain = True

    def bodies(self, eqn):
        """The one program."""
        return [body(eqn.params["jaxpr"], "checkpoint")]

    def run(self, step, operands, mode, alternative):
        """The same checkpoint of what the mode makes of the program."""
        (inside,), params = self.bodies(step.eqn), step.eqn.params

        def run(*args):
            return mode.inner(inside.jaxpr, [*inside.consts, *args], alternative)

        return jax.checkpoint(run, prevent_cse=params["prevent_cse"], policy=params["policy"])(*operands)

    def flow(self, eqn, states, domain):
        """As through any call."""
        return domain.through(eqn.params["jaxpr"], states)
