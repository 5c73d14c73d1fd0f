"""`jax.checkpoint`: a call that is run again for its derivative."""

from __future__ import annotations

from typing import Any

import jax

from ..._jax import param
from ._base import Control, body


def options_of(eqn: Any) -> dict[str, Any]:
    """How it runs again, as options of `jax.checkpoint`."""
    return {"prevent_cse": param(eqn, "prevent_cse"), "policy": param(eqn, "policy")}


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

        def run(*args):
            return mode.inner(inside.jaxpr, [*inside.consts, *args], alternative)

        return jax.checkpoint(run, **options_of(step.eqn))(*operands)

    def flow(self, eqn, states, domain):
        """As through any call."""
        return domain.through(param(eqn, "jaxpr"), states)
