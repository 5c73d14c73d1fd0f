"""Where the outputs of a program are cut: the linear tail that gives them, and the nodes that it starts from.

A program stands at a place: its summary, with what its inputs depend on there. Walking its equations backwards from the
outputs that are to be boxed, what is linear and splits credit (`_linear_tail`) belongs to the tail, and what the tail
reads beyond that is the frontier. A loop gives some of its outputs boxed; which of its carries are boxed for that is
settled on cuts of its body. No jaxpr is analysed again for any of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import zip_longest
from typing import Any, NamedTuple

from .._jax import Literal, is_inexact_aval
from ..analysis._dependence import DEPENDENCES
from ..analysis._sources import NOTHING, Dependence, blocks, restricted, union
from ._credit_summary import Looped, Summary, summary_of
from ._linear_tail import Splitting


class Cut(NamedTuple):
    """Where a program is cut; equations are named by their identity.

    Attributes:
        boxed: which outputs the tail gives.
        frontier: for each variable that the tail reads what it depends on, or None where it comes boxed already.
        tail: the equations of the tail.
        inside: the cuts of the bodies of loops.
    """

    boxed: tuple[bool, ...]
    frontier: dict[Any, Dependence | None]
    tail: set[int]
    inside: dict[int, Cut]


class Place:
    """A program where it stands: what its variables depend on there.

    `inputs` says it of its inputs; `outside` is how many sources come from outside, after which its own are numbered.
    `carries` are the inputs that come boxed where the outputs of the same place are boxed: those of a loop's body.
    """

    def __init__(self, summary: Summary, inputs: Sequence[Dependence], outside: int, carries: Sequence[Any] = ()):
        self.summary, self.outside, self.carries = summary, outside, carries
        self._inputs = inputs
        self._known: dict[Any, Dependence] = {}

    def on(self, atom: Any) -> Dependence:
        """What a variable depends on."""
        if isinstance(atom, Literal):
            return NOTHING
        if atom not in self._known:
            self._known[atom] = self.placed(self.summary.on(atom))
        return self._known[atom]

    def placed(self, dependence: Dependence) -> Dependence:
        """A dependence on inputs and own sources, by the numbers that they have here."""
        return self.summary.placed(
            dependence, self._inputs, lambda own: {key: mask << self.outside for key, mask in own.items()}
        )

    @cached_property
    def bodies(self) -> dict[int, Body]:
        """The bodies of its loops."""
        loops = self.summary.loops
        return {id(eqn): Body(loops[id(eqn)], eqn, self) for eqn in self.summary.flat.eqns if id(eqn) in loops}

    @cached_property
    def splits(self) -> Splitting:
        """Whether pushing the box of a variable back splits its credit."""
        scored = {key for key, body in self.bodies.items() if body.summary.shapes}
        return Splitting(self.on, self.summary.made, scored, self.carries)

    def cut(self, boxed: tuple[bool, ...]) -> Cut:
        """Cut before the linear tail to the outputs that are to be boxed."""
        flat, cut = self.summary.flat, Cut(boxed, {}, set(), {})
        needed = _variables(v for v, b in zip(flat.outputs, boxed, strict=True) if b)
        for eqn in reversed(flat.eqns):
            reached = [v for v in eqn.outvars if v in needed]
            split = [v for v in reached if self.splits(v)]
            cut.frontier.update({v: self.on(v) for v in reached if v not in split})
            if id(eqn) in self.bodies:
                cut.frontier.update(dict.fromkeys(split))
                cut.inside[id(eqn)] = inside = self.bodies[id(eqn)].settled(tuple(v in split for v in eqn.outvars))
                needed.update(self._boxed_starts(self.bodies[id(eqn)], inside))
            elif split:
                cut.tail.add(id(eqn))
                needed.update(_variables(eqn.invars))
        linked = {v for v, b in zip(self.carries, boxed, strict=False) if b}
        inputs = [v for v in needed if v not in self.summary.made]
        cut.frontier.update({v: None if v in linked else self.on(v) for v in inputs})
        return cut

    def _boxed_starts(self, body, inside):
        """What a loop takes boxed at the start: those of its boxed carries that can be had so."""
        read = _variables(v for v, b in zip(body.starts, inside.boxed, strict=False) if b)
        return {v: None for v in read if self.splits(v) and (v in self.carries or self._from_a_loop(v))}

    def _from_a_loop(self, v):
        return id(self.summary.made.get(v)) in self.bodies


class Body(Place):
    """The body of a loop where it stands.

    Its sources are those from outside, in blocks that come together, its own at earlier steps, its own at this step.

    Attributes:
        loop: the parts of the loop.
        starts: what it carries at first, in variables of the program around.
        inits: what these depend on.
        blocks: for each source from outside the sources around, of one shape, of which it is the sum.
    """

    def __init__(self, looped: Looped, eqn: Any, around: Place):
        self.loop, summary = looped.loop, summary_of(looped.loop.body)
        consts, self.starts, xs = self.loop.split(eqn.invars)
        self.inits = [around.on(a) for a in self.starts]
        carried = map(around.placed, looped.carried)
        given = [*map(around.on, consts), *carried, *(_of_any_step(around.on(x)) for x in xs)]

        own = range(around.outside + looped.first, around.outside + looped.first + len(summary.shapes))
        self.blocks, known = _from_inside(given, own)
        closed = len(summary.flat.inputs) - len(given)
        carries = self.loop.split(summary.flat.inputs[closed:])[1]
        super().__init__(summary, [*[NOTHING] * closed, *known], len(self.blocks) + len(own), carries)
        self._settled: dict[tuple[bool, ...], Cut] = {}

    def settled(self, boxed: tuple[bool, ...]) -> Cut:
        """The cut that gives these outputs boxed, and the carries that this takes."""
        if boxed not in self._settled:
            cut = self.cut(boxed)
            more = self._with_carries(cut)
            self._settled[boxed] = cut if more == boxed else self.settled(more)
        return self._settled[boxed]

    def _with_carries(self, cut):
        """The outputs of a cut, and the carries that it reads, as far as they can be boxed."""
        read = [v in cut.frontier for v in self.carries]
        either = [a or b for a, b in zip_longest(cut.boxed, read, fillvalue=False)]
        return tuple(b and is_inexact_aval(v.aval) for b, v in zip(either, self.summary.flat.outputs, strict=True))


def _of_any_step(dependence):
    """What is known in a body of what its steps get one by one, whichever step it is."""
    return DEPENDENCES.next_step(DEPENDENCES.one_step(dependence))


def _from_inside(given: list[Dependence], own: range) -> tuple[list[int], list[Dependence]]:
    """What a loop's inputs depend on, seen from its body; `own` numbers its own sources around it, steps in front.

    Returns:
        The blocks in which the other sources come, and the dependences: on blocks, then on the sums of its own sources
        over earlier steps.
    """
    past = sum(1 << i for i in own)
    met = blocks(restricted(d, ~past) for d in given)

    def one(dependence):
        parts = [{key: sum(1 << b for b, block in enumerate(met) if block & mask)} for key, mask in dependence.items()]
        for (shape, axes), mask in restricted(dependence, past).items():
            parts.append({(shape[1:], axes[1:]): mask >> own.start << len(met)})
        return union(restricted(part, -1) for part in parts)

    return met, list(map(one, given))


def _variables(atoms: Iterable[Any]) -> dict[Any, None]:
    """The variables among them, once each and in order."""
    return dict.fromkeys(a for a in atoms if not isinstance(a, Literal))
