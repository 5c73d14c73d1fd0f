"""Causal credit: a score term multiplies only the part of the output that depends on its draw.

The outputs of an objective are mostly sums. Walking back from them through linear operations leads to the frontier:
the non-linear nodes that they are sums of. Each frontier node is multiplied by the magic box of just the scores that it
depends on (`_credit_summary`), index by index along the axes that lanes and elements still have there; the linear tail
then runs on the boxed nodes (`_frontier`). Boxing an output whole is the special case of an empty tail.

In a loop the same is done inside the body, whose sources are three: what the loop's operands depend on, the scores of
earlier steps, and those of the step itself. Any other construct is one node with one score.

Source: the stochastic computation graphs of Schulman et al., 2015, here read off the jaxpr.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .._per_jaxpr import once_per_jaxpr
from ..analysis._sources import NOTHING, Dependence, Shape, mask_of
from ..program._plan import Plan, gather
from ..program.control import Loop
from ._credit_summary import Summary
from ._frontier import Body, Cut, Place


@dataclass
class CreditPlan(Plan):
    """A plan with a linear tail that runs again on boxed values.

    Attributes:
        tail: the linear operations from the frontier to the boxed outputs.
        frontier: for each value that the tail reads its dependence, or None where it comes boxed already.
        boxed: which outputs the tail gives.
        loops: for each loop with samples, by the identity of its equation, how its body is credited.
    """

    tail: Plan = field(default_factory=lambda: Plan([], []))
    frontier: list[Dependence | None] = field(default_factory=list)
    boxed: tuple[bool, ...] = ()
    loops: dict[int, LoopCredit] = field(default_factory=dict)


@dataclass
class LoopCredit:
    """How the body of a loop is credited.

    Attributes:
        loop: the parts of the loop.
        body: the plan of the body.
        carries: those of its inputs that are carried.
        outer: for each source that the body has from outside, of which it is the sum, as a mask.
        inits: what each initial carry depends on.
        shapes: the shapes of the body's own sources, without steps.
    """

    loop: Loop
    body: CreditPlan
    carries: list
    outer: list[int]
    inits: list[Dependence]
    shapes: list[Shape]

    @property
    def boxed(self) -> list[int]:
        """The carries that are boxed inside."""
        return [i for i in range(len(self.inits)) if self.body.boxed[i]]


def _plan(place: Place, cut: Cut) -> CreditPlan:
    """The plan of a program that is cut so."""
    flat = place.summary.flat
    # In order of what they depend on: a sum of scores is built on that of the value before.
    reads = sorted(cut.frontier, key=lambda v: mask_of(cut.frontier[v] or NOTHING).bit_count())
    targets = [v for v, b in zip(flat.outputs, cut.boxed, strict=True) if b]
    tail = [eqn for eqn in flat.eqns if id(eqn) in cut.tail]
    return CreditPlan(
        flat.inputs,
        flat.outputs,
        gather(flat.jaxpr, flat.items, [*flat.outputs, *reads]),
        flat.constants,
        tail=Plan(reads, targets, gather(flat.jaxpr, tail, targets)),
        frontier=[cut.frontier[v] for v in reads],
        boxed=cut.boxed,
        loops={key: _loop(place.bodies[key], inside) for key, inside in cut.inside.items()},
    )


def _loop(body: Body, cut: Cut) -> LoopCredit:
    return LoopCredit(body.loop, _plan(body, cut), list(body.carries), body.blocks, body.inits, body.summary.shapes)


@once_per_jaxpr
def credit_plan(jaxpr: Any, objectives: int) -> CreditPlan | None:
    """The credited plan of a program whose first outputs are objectives; None where no draw has a score."""
    nothing = [NOTHING] * (len(jaxpr.constvars) + len(jaxpr.invars))
    summary = Summary(jaxpr, nothing)
    if not summary.shapes:
        return None
    place = Place(summary, nothing, 0)
    return _plan(place, place.cut(tuple(i < objectives for i in range(len(jaxpr.outvars)))))
