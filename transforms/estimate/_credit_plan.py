"""Causal credit: a score term multiplies only the part of the output that depends on its draw.

The outputs of an objective are mostly sums. Walking back from them through linear operations leads to the frontier:
the non-linear nodes that they are sums of. Each frontier node is multiplied by the magic box of just the scores that it
depends on (`_dependence`), index by index along the axes that lanes and elements still have there; the linear tail then
runs on the boxed nodes. Boxing an output whole is the special case of an empty tail.

In a scan the same is done inside the body, whose sources are three: what the loop's operands depend on, the scores of
earlier steps, and those of the step itself. A branch or a checkpoint is one node with one score, which multiplies
what depends on a draw inside; a while loop is one node, and all that comes out of it depends on all that goes in.

Source: the stochastic computation graphs of Schulman et al., 2015, here read off the jaxpr.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .._estimator import Direct
from .._jax import Literal, closed_consts, is_inexact_aval, open_jaxpr
from ..analysis import _dependence as dep
from ..analysis._dependence import NOTHING, Dependence
from ..program._flow import settle
from ..program._plan import Inlined, Plan, Step, gather, inline
from ..program._site_terms import score_shape
from ..program.control import is_loop, loop_of
from ._linear_tail import Splitting

OPAQUE = {"site_log_density", "site_draw"}
"""The names under which densities and draws are traced: looked into only where they sum over elements."""

NODES = {
    "cond": lambda params, inputs: (params["branches"], inputs[1:], dep.mixed(inputs[0])),
    **dict.fromkeys(["checkpoint", "remat", "remat2"], lambda params, inputs: ([params["jaxpr"]], inputs, NOTHING)),
}
"""The jaxprs of a branch or a checkpoint, their operands, and what the choice of a branch depends on."""

Shape = tuple[int, ...]


@dataclass
class CreditPlan(Plan):
    """A plan with a linear tail that runs again on boxed values.

    Attributes:
        tail: the linear operations from the frontier to the boxed outputs.
        frontier: for each value that the tail reads its dependence, or None where it comes boxed already.
        boxed: which outputs the tail gives.
        sources: how many score terms the plan's own draws have.
        scans: for each scan step with samples, by its identity, how its body is credited.
    """

    tail: Plan = field(default_factory=lambda: Plan([], []))
    frontier: list[Dependence | None] = field(default_factory=list)
    boxed: list[bool] = field(default_factory=list)
    sources: int = 0
    scans: dict[int, ScanCredit] = field(default_factory=dict)


@dataclass
class ScanCredit:
    """How the body of a scan step is credited.

    Attributes:
        body: the plan of the body.
        outer: for each source that the body has from outside, what it is the sum of.
        inits: the dependence of each initial carry.
        shapes: the shapes of the body's own sources, without steps.
    """

    body: CreditPlan
    outer: list[Dependence]
    inits: list[Dependence]
    shapes: list[Shape]

    @property
    def carries(self) -> list[int]:
        """The carries that are boxed inside."""
        return [i for i in range(len(self.inits)) if self.body.boxed[i]]


class Analysis:
    """One jaxpr, its calls inlined: what each variable depends on, and where the frontier is."""

    def __init__(self, jaxpr: Any, inputs: Sequence[Dependence], given: Sequence[Shape]):
        self.flat: Inlined = inline(jaxpr, opaque=OPAQUE)
        if any(_has_elements(item) for item in self.flat.items):
            self.flat = inline(jaxpr, opaque=set())
        self.shapes = list(given)
        self.given = len(given)
        self.env: dict[Any, Dependence] = dict(zip(self.flat.inputs, inputs, strict=True))
        self.made: dict[Any, Any] = {}
        self.scans: dict[int, _Body] = {}
        for item in self.flat.items:
            reads, writes = (item.reads, item.writes) if isinstance(item, Step) else (item.invars, item.outvars)
            inputs = dep.look(self.env, reads)
            outs = self._step(item, inputs) if isinstance(item, Step) else dep.after(item, inputs)
            for v, d in zip(writes, outs, strict=True):
                self.env[v] = d
                self.made[v] = item

    def dependences(self, atoms: Sequence[Any]) -> list[Dependence]:
        """What variables depend on."""
        return dep.look(self.env, atoms)

    # ---- forward: dependence ----

    def _new(self, shape: Shape) -> int:
        self.shapes.append(shape)
        return len(self.shapes) - 1

    def _step(self, step, inputs):
        if step.name == "sample":
            return self._sample(step, inputs)
        if is_loop(step.eqn):
            body = self.scans[id(step)] = _Body(step, inputs)
            return body.outputs([self._new((body.scan.length, *shape)) for shape in body.shapes])
        if step.name in NODES:
            return self._node(step, *NODES[step.name](step.eqn.params, inputs))
        whole = dep.union([dep.mixed(dep.union(inputs)), dep.source(self._new(()), ())])
        return [whole] * len(step.writes)

    def _node(self, step, jaxprs, inputs, choice):
        """A branch or a checkpoint: one source for all its draws, on which only what depends on a draw depends."""
        given, number = len(self.shapes), self._new(())
        outs = [[choice] for _ in step.writes]
        for jaxpr in jaxprs:
            inner = Analysis(open_jaxpr(jaxpr), [*[NOTHING] * len(closed_consts(jaxpr)), *inputs], self.shapes[:given])
            for parts, d in zip(outs, inner.dependences(inner.flat.outputs), strict=True):
                parts.append({key: mask & (1 << given) - 1 for key, mask in d.items()})
                if dep.mask_of(d) >> given:
                    parts.append(dep.source(number, ()))
        return [dep.union({key: mask for key, mask in d.items() if mask} for d in parts) for parts in outs]

    def _sample(self, step, inputs):
        lanes, parts = step.eqn.params["lanes"], dep.after(step.eqn, inputs)[:1]
        shape = score_of(step)
        if shape is not None:
            ranks = [len(v.aval.shape) for v in step.writes if v.aval.shape[: len(shape)] == shape]
            lanes_only = len(lanes) if len(ranks) < len(step.writes) else len(shape)
            axes = tuple(a if a < lanes_only else None for a in range(len(shape)))
            parts.append(dep.source(self._new(shape), shape, axes))
        return [dep.union(parts)] * len(step.writes)

    # ---- backward: the frontier ----

    def plan(self, boxed: Sequence[bool], carries: Sequence[Any] = ()) -> CreditPlan:
        """Cut before the linear tail to the outputs that are to be boxed.

        `carries` are the inputs that come boxed if the outputs of the same place are boxed: those of a loop's body.
        """
        outputs, split = self.flat.outputs, Splitting(self.env, self.made, self.scans, carries)
        promising = {v for v in carries if split(v)}
        linked = {v for v, b in zip(carries, boxed, strict=False) if b}
        targets = [v for v, b in zip(outputs, boxed, strict=True) if b]
        tail: set[int] = set()
        frontier: dict[Any, Dependence | None] = {}
        inside: dict[int, set] = {}
        queue = [v for v in targets if not isinstance(v, Literal)]
        done: set = set()
        while queue:
            v = queue.pop()
            if v in done:
                continue
            done.add(v)
            item = self.made.get(v)
            if v in linked:
                frontier[v] = None
            elif item is None or not split(v):
                frontier[v] = self.env.get(v, NOTHING)
            elif isinstance(item, Step):
                frontier[v] = None
                inside.setdefault(id(item), set()).add(v)
                # A boxed loop starts from boxed carries: take those that can be had.
                body, n = self.scans[id(item)], self.scans[id(item)].scan.num_consts
                starts = [item.reads[n + i] for i in body.credit(inside[id(item)]).carries]
                starts = [u for u in starts if not isinstance(u, Literal)]
                queue.extend(u for u in starts if u in promising or isinstance(self.made.get(u), Step) and split(u))
            else:
                tail.add(id(item))
                queue.extend(a for a in item.invars if not isinstance(a, Literal))
        scans = {key: body.credit(inside.get(key, set())) for key, body in self.scans.items()}
        # In order of what they depend on: a sum of scores is built on that of the value before.
        reads = sorted(frontier, key=lambda v: dep.mask_of(frontier[v] or NOTHING).bit_count())
        eqns = [item for item in self.flat.items if id(item) in tail]
        return CreditPlan(
            self.flat.inputs,
            outputs,
            gather(self.flat.jaxpr, self.flat.items, [*outputs, *reads]),
            self.flat.constants,
            tail=Plan(reads, targets, gather(self.flat.jaxpr, eqns, targets)),
            frontier=[frontier[v] for v in reads],
            boxed=list(boxed),
            sources=len(self.shapes) - self.given,
            scans=scans,
        )


class _Body:
    """The body of a scan with samples: its dependences, settled over the steps.

    Its sources are numbered: those from outside, the body's own at earlier steps, the body's own at this step.
    """

    def __init__(self, step: Step, inputs: Sequence[Dependence]):
        self.scan = loop_of(step.eqn)
        self.writes = step.writes
        body, n, m = self.scan.body, self.scan.num_consts, self.scan.num_carry
        free = [NOTHING] * (len(body.constvars) + len(body.invars))
        self.shapes = Analysis(body, free, ()).shapes
        self.outer: list[Dependence] = []
        self.inits = list(inputs[n : n + m])
        numbers: dict = {}
        operands = [self._from_outside(d, numbers) for d in inputs]
        self.k, self.j = len(self.outer), len(self.shapes)
        given = [shape for d in self.outer for shape, _ in d] + self.shapes
        consts = [NOTHING] * len(body.constvars)
        xs = [dep.move(d, lambda a: a - 1 if a else None) for d in operands[n + m :]]

        def step_of(carry):
            self.analysis = Analysis(body, [*consts, *operands[:n], *carry, *xs], given)
            return self.analysis.dependences(self.analysis.flat.outputs)

        self.carry, self.outs = settle(step_of, operands[n : n + m], lambda c, o: dep.union([c, self._earlier(o)]))

    def _from_outside(self, dependence, numbers):
        """Name what an operand depends on as sources of the body: one for each group that varies in one way."""
        parts = []
        for (shape, axes), mask in dependence.items():
            if (shape, mask) not in numbers:
                numbers[shape, mask] = len(self.outer)
                self.outer.append({(shape, (None,) * len(shape)): mask})
            parts.append({(shape, axes): 1 << numbers[shape, mask]})
        return dep.union(parts)

    def _earlier(self, dependence):
        """What a step depends on, seen from the next one: its own scores are earlier ones."""
        given = self.k + self.j
        low = (1 << given) - 1
        return dep.union([{key: (mask & low) | (mask >> given) << self.k} for key, mask in dependence.items()])

    def outputs(self, mine: list[int]) -> list[Dependence]:
        """The dependences of the scan's outputs; `mine` numbers its own sources outside, steps stacked in front."""
        m = self.scan.num_carry
        final = [dep.union([c, self._earlier(o)]) for c, o in zip(self.carry, self.outs[:m], strict=True)]
        return [
            *[self._to_outside(d, mine, stacked=False) for d in final],
            *[self._to_outside(d, mine, stacked=True) for d in self.outs[m:]],
        ]

    def _to_outside(self, dependence, mine, *, stacked):
        parts = []
        for (shape, axes), mask in dependence.items():
            shifted = tuple(None if a is None else a + stacked for a in axes)
            for b in dep.bits(mask):
                if b < self.k:
                    ((key, real),) = self.outer[b].items()
                    parts.append({(key[0], shifted): real})
                else:
                    now = b >= self.k + self.j
                    number, steps = mine[b - self.k - self.j * now], 0 if stacked and now else None
                    parts.append({((self.scan.length, *shape), (steps, *shifted)): 1 << number})
        return dep.union(parts)

    def credit(self, wanted: set) -> ScanCredit:
        """The plan of the body, boxing what is wanted of it and the carries that this takes."""
        n, m = self.scan.num_consts, self.scan.num_carry
        first = len(self.analysis.flat.inputs) - len(self.scan.body.invars) + n
        carries = self.analysis.flat.inputs[first : first + m]
        boxed = [v in wanted for v in self.writes]
        while True:
            plan = self.analysis.plan(boxed, carries)
            more = [b or (i < m and carries[i] in plan.tail.inputs) for i, b in enumerate(boxed)]
            more = [b and is_inexact_aval(v.aval) for b, v in zip(more, self.analysis.flat.outputs, strict=True)]
            if more == boxed:
                return ScanCredit(plan, self.outer, self.inits, self.shapes)
            boxed = more


def score_of(step: Step) -> Shape | None:
    """The shape of the score of a draw, with its lanes; None where it has none."""
    params = step.eqn.params
    kind = params["site"].prototype()
    if not isinstance(kind, Direct) or kind.pathwise:
        return None
    return score_shape(params["site"], [v.aval for v in step.eqn.invars], params["lanes"])


def _has_elements(item: Any) -> bool:
    """Whether a draw has scores for elements of its value, besides those of its lanes."""
    if not isinstance(item, Step):
        return False
    if is_loop(item.eqn):
        return any(map(_has_elements, inline(loop_of(item.eqn).body, opaque=OPAQUE).items))
    return item.name == "sample" and len(score_of(item) or ()) > len(item.eqn.params["lanes"])


def credit_plan(jaxpr: Any, objectives: int) -> CreditPlan | None:
    """The credited plan of a program whose first outputs are objectives; None where no draw has a score."""
    analysis = Analysis(jaxpr, [NOTHING] * (len(jaxpr.constvars) + len(jaxpr.invars)), ())
    if not analysis.shapes:
        return None
    return analysis.plan([i < objectives for i in range(len(jaxpr.outvars))])
