"""One key, one draw: keys that two sites share are found before anything runs.

Draws with one key have one noise, and no estimator is right about draws that it takes for independent. So values are
numbered along the jaxpr: what is surely equal has one number, however it was derived (`split` twice, `fold_in` of an
equal number, an entry of an array of keys), and two sites whose keys have one number are refused. In a loop, or in
lanes, a key that is the same in all of them is refused too. The branches of a `cond` may share a key: only one of them
draws. Where the analysis cannot tell, it allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from .._errors import RandomKeyError, name_of
from .._jax import Literal, open_jaxpr, param, source_line
from .._samples_in import samples, samples_in
from ..program.control import control_of
from ._key_numbers import Fact, Numbers, is_key, numbered, union

GENERATORS = {"random_bits", "random_gamma"}
"""Operations that make random numbers of a key."""


class Draw(NamedTuple):
    """Who draws: its label (None for random numbers without a site), its equation and those around it, its branches."""

    label: Any
    eqns: tuple
    branches: tuple[tuple[int, int], ...]

    @property
    def lines(self) -> list[str]:
        """The lines that it comes from, its own first."""
        return [line for line in map(source_line, self.eqns) if line]

    def excludes(self, other: Draw) -> bool:
        """Whether the two are in different branches of one choice."""
        mine = dict(self.branches)
        return any(mine.get(choice, branch) != branch for choice, branch in other.branches)

    def at(self, line: str) -> str:
        """The draw in words, with a line that it comes from."""
        what = "random numbers made" if self.label is None else f"the sample at {name_of(self.label)}"
        return f"{what} ({line})" if line else what


def refuse_reuse(jaxpr: Any) -> None:
    """Refuse a program in which two sites, or the steps of a loop, draw with one key.

    Raises:
        RandomKeyError: they do; both are named, with their lines.
    """
    if samples(jaxpr):
        _Walk().run(jaxpr, [])


class _Walk(Numbers):
    """Walks a program, into its calls, loops and branches, each equation once."""

    def __init__(self):
        super().__init__()
        self.loops: list[str] = []
        self.around = 0
        self.callers: list[Any] = []
        self.branches: tuple[tuple[int, int], ...] = ()
        self.singles: dict[Any, dict[int, list[Draw]]] = {}
        self.ranges: dict[Any, list[tuple[int, int, Draw]]] = {}

    # ---- equations ----

    def run(self, jaxpr: Any, inputs: Sequence[Fact]) -> list[Fact]:
        """The facts of the outputs from those of the inputs; the first ones may be left out."""
        jaxpr = open_jaxpr(jaxpr)
        env = dict(zip(reversed([*jaxpr.constvars, *jaxpr.invars]), reversed(inputs), strict=False))
        for eqn in jaxpr.eqns:
            facts = [self.read(env, atom) for atom in eqn.invars]
            env.update(zip(eqn.outvars, self._after(eqn, facts), strict=True))
        return [self.read(env, atom) for atom in jaxpr.outvars]

    def _after(self, eqn, facts) -> list[Fact]:
        name, control, loops = eqn.primitive.name, control_of(eqn), union(facts)
        if name == "sample":
            return self._sample(eqn, facts)
        if name == "expectation":
            return self._expectation(eqn, facts)
        if control is not None and (samples_in(eqn) or any(map(is_key, eqn.invars))):
            return self._control(control, eqn, facts)
        if name in GENERATORS:
            self._draw(eqn, facts[0], None)
        form = self.form(eqn, [f.number for f in facts]) if any(map(numbered, eqn.outvars)) else None
        if form is None:
            return [self.fresh(loops) for _ in eqn.outvars]
        if isinstance(form, int):
            return [Fact(form, loops)]
        return [self.known((*form, i) if i else form, loops) for i in range(len(eqn.outvars))]

    # ---- draws ----

    def _draw(self, eqn, key, label):
        """Note a draw, and refuse it where its key is drawn with already, or is the same in all steps of a loop."""
        draw = Draw(label, (eqn, *reversed(self.callers)), self.branches)
        for origin, start, stop in self.origins(key.number):
            single, wide = self.singles.setdefault(origin, {}), self.ranges.setdefault(origin, [])
            one = stop == start + 1
            near = single.get(start, []) if one else [d for i in single if start <= i < stop for d in single[i]]
            for other in (*near, *(d for first, last, d in wide if first < stop and start < last)):
                if not (draw.label is None is other.label or draw.excludes(other)):
                    raise RandomKeyError(_twice(other, draw))
            if one:
                single.setdefault(start, []).append(draw)
            else:
                wide.append((start, stop, draw))
        same = 0 if label is None else self.around & ~key.loops
        if same:
            raise RandomKeyError(_in_all(draw, self.loops[same.bit_length() - 1]))

    def _sample(self, eqn, facts):
        site, key, before = param(eqn, "site"), facts[0], self.around
        for lane in reversed(param(eqn, "lanes")):
            key = self.each(key, self._enter(lane.size, f"{lane.size} lanes")) if lane.mapped[0] else key
        self._draw(eqn, key, None if site.estimator is None else site.label)
        self.around = before
        return [self.fresh(union(facts)) for _ in eqn.outvars]

    # ---- calls, loops and branches ----

    def _inside(self, eqn, jaxpr, facts):
        self.callers.append(eqn)
        outs = self.run(jaxpr, facts)
        self.callers.pop()
        return outs

    def _enter(self, times, kind) -> int:
        """Go into a loop; its bit, or none where it has no second step."""
        if times in (0, 1):
            return 0
        self.loops.append(kind)
        bit = 1 << (len(self.loops) - 1)
        self.around |= bit
        return bit

    def _control(self, control, eqn, facts):
        """A construct: one of several programs, turns of one, or a call."""
        turn, bodies = control.turn(eqn, facts), control.bodies(eqn)
        if turn is not None:
            return self._loop(eqn, turn, facts)
        return self._choice(eqn, bodies, facts) if control.exclusive else self._inside(eqn, bodies[0].jaxpr, facts)

    def _expectation(self, eqn, facts):
        before = self.around
        for lane in reversed(param(eqn, "lanes")):
            bit = self._enter(lane.size, f"{lane.size} lanes")
            facts = [self.each(f, bit) if m else f for f, m in zip(facts, lane.mapped, strict=True)]
        outs = self._inside(eqn, param(eqn, "program").jaxpr, facts)
        self.around = before
        return [self.fresh(f.loops) for f in outs]

    def _loop(self, eqn, turn, facts):
        before, bit = self.around, self._enter(turn.times, turn.what)
        carry = self._carried(turn, union(facts) | bit)
        self._inside(eqn, turn.jaxpr, [*turn.shared, *carry, *(self.each(f, bit) for f in turn.each)])
        self.around = before
        return [self.fresh(union(facts)) for _ in eqn.outvars]

    def _carried(self, turn, loops):
        """The carry of a loop in its steps: one that is handed on as it is, one that counts, or any value."""
        body = open_jaxpr(turn.jaxpr)
        made = {v: eqn for eqn in body.eqns for v in eqn.outvars}

        def one(before, init, after):
            if after is before:
                return init
            eqn: Any = None if isinstance(after, Literal) else made.get(after)
            sums = eqn is not None and eqn.primitive.name == "add" and eqn.invars[0] is before
            counts = sums and numbered(before) and isinstance(eqn.invars[1], Literal)
            if not counts:
                return self.fresh(loops)
            return self.known(("counter", init.number, self.read({}, eqn.invars[1]).number), loops)

        carried = body.invars[len(turn.shared) :]
        return [one(v, f, w) for v, f, w in zip(carried, turn.carry, body.outvars, strict=False)]

    def _choice(self, eqn, bodies, facts):
        index, before, ways = facts[0], (self.branches, self.around), []
        self.around &= ~index.loops  # a branch may be taken in one step only
        for i, branch in enumerate(bodies):
            self.branches = (*before[0], (index.number, i))
            ways.append(self._inside(eqn, branch.jaxpr, facts[1:]))
        self.branches, self.around = before
        return [self._met(outs, index.loops) for outs in zip(*ways, strict=True)]

    def _met(self, outs, loops):
        """One of several values."""
        same = len({f.number for f in outs}) == 1
        return Fact(outs[0].number, union(outs)) if same else self.fresh(union(outs) | loops)


# ---- what is said ---------------------------------------------------------------------------------------------------

CURE = (
    "Give each draw a key of its own: `one, two = jax.random.split(key)`, or `jax.random.fold_in(key, i)` with another "
    "number for each."
)


def _twice(first, second) -> str:
    lines = next((pair for pair in zip(first.lines, second.lines, strict=False) if pair[0] != pair[1]), None)
    one, two = lines or [next(iter(d.lines), "") for d in (first, second)]
    return (
        f"One key is drawn with twice, by {first.at(one)} and by {second.at(two)}, so both have the same noise. {CURE}"
    )


def _in_all(draw, loop) -> str:
    who = draw.at(next(iter(draw.lines), ""))
    return (
        f"One key is drawn with many times: {who} is in {loop}, and its key is the same throughout, so every draw has "
        "the same noise. Loop over `jax.random.split(key, n)`, or split the key that is carried, or use "
        "`jax.random.fold_in(key, i)` with the number of the step."
    )
