"""What each value of a program depends on, of its inputs and of the scores of the draws in it: once for each jaxpr.

Inputs are sources of their own (`analysis._dependence`), and the scores are numbered after them as they are met. So a
body is analysed once, wherever it stands and however often a loop around it is settled:

    def body(c, key):               # c is source 0 and key is source 1
        z = flip(key, 0.3)          # on 1 and on its own score, source 2
        return z, (c + z, z ** 2)   # what is carried on 1 and 2; what is stacked on 0, 1 and 2, and on 1 and 2

    last, (sums, squares) = lax.scan(body, 0.0, keys)

    Around the loop the scores of all steps are one source, with a leading axis. A step's own z depends on it at `STEP`,
    and so the squares index by index; c, which is of an earlier step, on all of it, and so do the sums and the last z.

A construct that is no loop of known length is one node with one score, on which depends what depends on a draw inside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from .._estimator import Direct
from .._jax import open_jaxpr, param, segment
from .._per_jaxpr import once_per_jaxpr
from .._samples_in import samples
from ..analysis import _dependence as dep
from ..analysis._sources import NOTHING, STEP, Dependence, Shape, mixed, restricted, source, substitute, union
from ..program._plan import Step, inline
from ..program._site_terms import score_shape
from ..program.control import Loop, control_of, loop_in

OPAQUE = {"site_log_density", "site_draw"}
"""The names under which densities and draws are traced: looked into only where they sum over elements."""

Outward = Callable[[Dependence], Dependence]
"""What a program's own sources are in the program around it."""


class Looped(NamedTuple):
    """A loop with draws inside.

    Attributes:
        loop: its parts.
        first: the number of the first of its sources, among those of the program around.
        carried: what its carries depend on at any step.
    """

    loop: Loop
    first: int
    carried: list[Dependence]


class Summary:
    """A jaxpr, its calls inlined, and what each of its variables depends on.

    Attributes:
        flat: its equations; it does not hold the jaxpr, so that it can be kept as long as that is.
        made: the equation that makes each variable.
        shapes: the shapes of its own sources.
        loops: its loops with draws inside, by the identity of their equations.
        elements: whether a draw has scores for elements of its value, besides those of its lanes.
    """

    def __init__(self, jaxpr: Any, inputs: Sequence[Dependence]):
        flat = inline(jaxpr, opaque=OPAQUE)
        self.elements = any(_has_elements(item.eqn) for item in flat.items if isinstance(item, Step))
        if self.elements:
            flat = inline(jaxpr, opaque=set())
        self.flat = replace(flat, jaxpr=segment(jaxpr, (), (), ()))
        scores = _Scores(len(inputs), {id(item.eqn) for item in flat.items if isinstance(item, Step)})
        self._env = scores.follow(dict(zip(flat.inputs, inputs, strict=True)), flat.eqns)
        self._given = len(inputs)
        self.shapes, self.loops = scores.shapes, scores.loops
        self.made = {v: eqn for eqn in flat.eqns for v in eqn.outvars}

    def on(self, atom: Any) -> Dependence:
        """What a variable depends on: inputs, and after them its own sources."""
        return dep.DEPENDENCES.look(self._env, [atom])[0]

    def placed(self, dependence: Dependence, inputs: Sequence[Dependence], outward: Outward) -> Dependence:
        """The same where the inputs depend on these; `outward` says what own sources, from number zero, are there."""
        own = {key: mask >> self._given for key, mask in dependence.items() if mask >> self._given}
        theirs = substitute(restricted(dependence, (1 << self._given) - 1), inputs)
        return union([theirs, outward(own)]) if own else theirs


@once_per_jaxpr
def summary_of(jaxpr: Any) -> Summary:
    """The summary of an open jaxpr, whatever its inputs depend on."""
    return Summary(jaxpr, dep.own_inputs(jaxpr))


class _Scores(dep.Dependences):
    """Dependence in a program with draws, in the equations `drawing`: every score is a source."""

    def __init__(self, given: int, drawing: set[int]):
        self.given, self.drawing = given, drawing
        self.shapes: list[Shape] = []
        self.loops: dict[int, Looped] = {}

    def after(self, eqn, states):
        """Draws bring a source, and so do constructs with draws inside."""
        if id(eqn) not in self.drawing:
            return dep.after(eqn, states)
        if eqn.primitive.name == "sample":
            return self._sample(eqn, states)
        control = control_of(eqn)
        if control is None:
            return [union([mixed(union(states)), self._new(())])] * len(eqn.outvars)
        loop = control.loop(eqn)
        if loop is None:
            return control.flow(eqn, states, _Inside(self._as_one()))
        first = len(self.shapes)
        outs = control.flow(eqn, states, _Inside(self._step_by_step(loop)))
        self.loops[id(eqn)] = Looped(loop, first, loop.results(outs)[0])
        return outs

    def _new(self, shape, axes=None):
        self.shapes.append(shape)
        return source(self.given + len(self.shapes) - 1, shape, axes)

    def _sample(self, eqn, states):
        """On its operands and on its score: by lanes, and by elements where the value has them."""
        parts, shape = dep.after(eqn, states)[:1], score_of(eqn)
        if shape is not None:
            whole = all(v.aval.shape[: len(shape)] == shape for v in eqn.outvars)
            kept = len(shape) if whole else len(param(eqn, "lanes"))
            parts.append(self._new(shape, tuple(a if a < kept else None for a in range(len(shape)))))
        return [union(parts)] * len(eqn.outvars)

    def _as_one(self):
        """All draws inside are one source."""
        one = self._new(())
        return lambda own: one if own else NOTHING

    def _step_by_step(self, loop):
        """A draw inside is a source with the steps in front."""
        first, n = self.given + len(self.shapes), loop.length
        self.shapes += [(n, *shape) for shape in summary_of(loop.body).shapes]
        return lambda own: {((n, *shape), (STEP, *axes)): mask << first for (shape, axes), mask in own.items()}


class _Inside(dep.Dependences):
    """Dependence through the programs inside a construct; `outward` says what their sources are outside."""

    def __init__(self, outward: Outward):
        self.outward = outward

    def through(self, jaxpr, states):
        """By the summary of the program, where draws are in it."""
        jaxpr = open_jaxpr(jaxpr)
        if not samples(jaxpr):
            return super().through(jaxpr, states)
        summary, given = summary_of(jaxpr), [*[NOTHING] * len(jaxpr.constvars), *states]
        return [summary.placed(summary.on(v), given, self.outward) for v in summary.flat.outputs]


def score_of(eqn: Any) -> Shape | None:
    """The shape of the score of a draw, with its lanes; None where it has none."""
    site = param(eqn, "site")
    kind = site.prototype()
    if not isinstance(kind, Direct) or kind.pathwise:
        return None
    return score_shape(site, [v.aval for v in eqn.invars], param(eqn, "lanes"))


def _has_elements(eqn: Any) -> bool:
    """Whether a draw, or one in the body of a loop, has scores for elements of its value."""
    if eqn.primitive.name == "sample":
        return len(score_of(eqn) or ()) > len(param(eqn, "lanes"))
    loop = loop_in(eqn)
    return loop is not None and summary_of(loop.body).elements
