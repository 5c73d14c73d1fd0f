"""The noise of many equal draws of a program, made in one go before it runs.

A generator at every site makes a program of many sites slow to compile: XLA's time grows with more than the number of
them. What a draw takes from its key alone is known as soon as its key is, and keys mostly come from that of the run by
splitting and folding. So where many draws are of one kind, their keys are made first, their early halves (`_halves`)
are one call of the generator, and each draw is handed its own. Bits do not change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .._estimator import Enumerate
from .._jax import DropVar, Literal, fresh, is_key, is_typed_by_mesh
from ._bulk_noise import is_known
from ._given_noise import kind_of, lanes_of_key, variables
from ._halves import early_noise
from ._plan import Assign, Const, Plan, Segment, Step, gather, read
from ._site import again

Noise = dict[int, Sequence[Any]]
"""The early halves of draws, by the identities of their steps."""

LEAST = 10
"""So many draws of a kind, or more, are made in one go: of fewer XLA is no faster to compile what becomes of them."""


def noise_first(jaxpr: Any, plan: Plan, operands: Sequence[Any]) -> Noise:
    """The noise of the draws of a plan of which there are many of a kind, from what the program starts with."""
    noise: Noise = {}
    groups = _groups(plan)
    # The halves of a draw were traced once, for arrays whose types know no mesh.
    if not groups or any(is_typed_by_mesh(v.aval) for v in plan.inputs):
        return noise
    keys, env = _Keys(plan), dict(zip(plan.inputs, operands, strict=True)) | plan.constants
    for steps in groups:
        steps = [step for step in steps if id(step) in keys.found]
        if len(steps) >= LEAST:
            parents, numbers = keys.values(jaxpr, env, steps)
            kind: Any = kind_of(steps[0])
            made = early_noise(parents, kind, lanes_of_key(steps[0]), numbers, first=steps[0].site.label)
            noise.update(zip(map(id, steps), made, strict=True))
    return noise


def _groups(plan):
    """The draws of a program by what they draw, in how many lanes."""
    alike: dict[Any, list[Step]] = {}
    for step in plan.draws:
        if step.name == "sample" and not isinstance(step.site.prototype(), Enumerate):
            avals = tuple((v.aval.shape, v.aval.dtype) for v in step.eqn.invars[: step.site.distribution.count + 1])
            lanes = tuple((lane.size, lane.mapped[: len(avals)]) for lane in step.lanes)
            alike.setdefault((step.site.distribution, avals, lanes), []).append(step)
    return [steps for steps in alike.values() if len(steps) >= LEAST and kind_of(steps[0]) is not None]


class _Keys:
    """The keys of draws that are known before a program runs, and the operations that lead to them.

    A jaxpr that is called twice is inlined twice with the same variables, so that what is known of a variable is what
    was assigned last; here each operation has variables of its own.
    """

    def __init__(self, plan: Plan):
        self.eqns: list[Any] = []
        self.found: dict[int, Any] = {}
        self.folds: dict[Any, tuple[Any, int]] = {}
        self.inputs = [v for v in (*plan.inputs, *plan.constants) if is_known(v.aval)]
        self.names = {v: v for v in self.inputs}
        for step in plan.steps:
            if isinstance(step, Segment):
                for eqn in step.jaxpr.eqns:
                    self._operation(eqn)
                continue
            pairs: list = list(zip(step.reads, step.writes, strict=True)) if isinstance(step, Assign) else []
            if isinstance(step, Step) and self._is_known(step.reads[0]):
                self.found[id(step)] = self.names[step.reads[0]]
            self._assign(step.writes, {w: self.names[r] for r, w in pairs if self._is_known(r)})

    def _is_known(self, atom):
        return not isinstance(atom, Literal | Const) and atom in self.names

    def _assign(self, writes, names):
        for v in writes:
            self.names.pop(v, None)
        self.names.update(names)

    def _operation(self, eqn):
        reads = variables(eqn.invars)
        if eqn.effects or not all(map(self._is_known, reads)):
            self._assign(eqn.outvars, {})
            return
        writes = [v if isinstance(v, DropVar) else fresh(v.aval) for v in eqn.outvars]
        invars = [v if isinstance(v, Literal) else self.names[v] for v in eqn.invars]
        self.eqns.append(eqn.replace(invars=invars, outvars=writes))
        if eqn.primitive.name == "random_fold_in" and isinstance(invars[1], Literal) and not np.ndim(invars[1].val):
            self.folds[writes[0]] = invars[0], int(invars[1].val)
        self._assign(eqn.outvars, dict(zip(eqn.outvars, writes, strict=True)))

    def values(self, jaxpr: Any, env: dict, steps: Sequence[Step]) -> tuple[list, tuple[int, ...]]:
        """The keys of draws, from the values of what the program starts with.

        Returns:
            The keys, and no numbers; or, where each is folded from another key (an address is folded into the key of
            the call that it is in), these other keys and the numbers that are folded in.
        """
        wanted = [self.found[id(step)] for step in steps]
        folds = [self.folds[v] for v in wanted if v in self.folds]
        parents, numbers = zip(*folds, strict=True) if len(folds) == len(wanted) else (wanted, ())
        env = {v: again(env[v]) if is_key(env[v]) else env[v] for v in self.inputs}
        for segment in gather(jaxpr, self.eqns, list(parents)):
            segment.run(env)
        return [*map(again, read(env, list(parents)))], numbers
