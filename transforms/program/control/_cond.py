"""`lax.cond` and `lax.switch`: one of several programs, by an index."""

from __future__ import annotations

import numpy as np

from ..._jax import param, vary, varying_axes
from ._base import Control, body


class Cond(Control):
    """A choice of one branch."""

    names = ("cond",)
    functions = ("cond", "switch")
    exclusive = True

    def bodies(self, eqn):
        """The branches."""
        return [body(branch, f"branch {i}") for i, branch in enumerate(param(eqn, "branches"))]

    def run(self, step, operands, mode, alternative):
        """The same choice; the records of the branches are padded to one shape."""
        wide, axes = step.width, varying_axes(operands)

        def make(branch):
            def run(*args):
                outs, record = mode.inner(branch.jaxpr, [*branch.consts, *args], alternative)
                return outs, vary(mode.records.pad(record, wide), axes)

            return run

        return mode.branch(operands[0], [make(b) for b in self.bodies(step.eqn)], operands[1:])

    def flow(self, eqn, states, domain):
        """What any branch gives, and what the choice brings."""
        ways = [domain.through(branch, states[1:]) for branch in param(eqn, "branches")]
        return [domain.choose(states[0], outs) for outs in zip(*ways, strict=True)]

    def inside(self, eqn, states, outs, domain):
        """The branches, without the index."""
        return [(branch.jaxpr, list(states[1:])) for branch in self.bodies(eqn)]

    def width(self, eqn, width_of):
        """As many as the widest branch."""
        return max(width_of(b.jaxpr) for b in self.bodies(eqn))

    def enter(self, eqn, operands, is_bad):
        """The branch that was taken."""
        branches = self.bodies(eqn)
        taken = branches[int(np.clip(operands[0], 0, len(branches) - 1))]
        return taken.jaxpr, [*taken.consts, *operands[1:]]
