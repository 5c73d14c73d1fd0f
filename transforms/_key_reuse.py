"""One key, one draw: keys that two sites share are found before anything runs.

Draws with one key have one noise, and no estimator is right about draws that it takes for independent. So values are
numbered along the jaxpr: what is surely equal has one number, however it was derived (`split` twice, `fold_in` of an
equal number, an entry of an array of keys), and two sites whose keys have one number are refused. In a loop, or in
lanes, a key that is the same in all of them is refused too. The branches of a `cond` may share a key: only one of them
draws. Where the analysis cannot tell, it allows.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ._errors import RandomKeyError, name_of
from ._jax import Literal, inner_jaxprs, open_jaxpr, scan_parts, source_line
from ._plan import CALLS, samples, samples_in
from ._pytree import size

UNCHANGED = {"squeeze", "reshape", "copy", "random_clone", "convert_element_type", "random_unwrap", "random_wrap"}
"""Operations that leave the words of keys, and integers, as they are."""

GENERATORS = {"random_bits", "random_gamma"}
"""Operations that make random numbers of a key."""


class Fact(NamedTuple):
    """What is known of a value: a number, one for equal values, and the loops (as bits) in which it may change."""

    number: int
    loops: int = 0


class Draw(NamedTuple):
    """Who draws: its label (None for random numbers without a site), the lines it comes from, the branches it is in."""

    label: Any
    lines: tuple[str, ...]
    branches: tuple[tuple[int, int], ...]

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


class _Walk:
    """Walks a program, into its calls, loops and branches, each equation once."""

    def __init__(self):
        self.forms: list[tuple] = []
        self.numbers: dict[tuple, int] = {}
        self.loops: list[str] = []
        self.around = 0
        self.callers: list[Any] = []
        self.branches: tuple[tuple[int, int], ...] = ()
        self.singles: dict[Any, dict[int, list[Draw]]] = {}
        self.ranges: dict[Any, list[tuple[int, int, Draw]]] = {}

    # ---- numbers ----

    def fresh(self, loops: int = 0) -> Fact:
        """A value that is known to be equal to no other."""
        self.forms.append(("value",))
        return Fact(len(self.forms) - 1, loops)

    def known(self, form: tuple, loops: int = 0) -> Fact:
        """The value of this form: an operation, the numbers of its operands, and its parameters."""
        if form not in self.numbers:
            self.numbers[form] = len(self.forms)
            self.forms.append(form)
        return Fact(self.numbers[form], loops)

    def each(self, array: Fact, loop: int) -> Fact:
        """The entry of an array in a lane or a step."""
        match self.forms[array.number]:
            case ("broadcast_in_dim", one, ("broadcast_dimensions", ()), *_):
                return Fact(one, array.loops)
        return self.known(("each", array.number), array.loops | loop)

    def origins(self, number: int) -> Iterator[tuple[Any, int, int]]:
        """The keys that a value stands for: numbers start to stop of the family of an origin."""
        match self.forms[number]:
            case ("child", parent, i):
                yield ("child", parent), i, i + 1
            case ("each", array):
                yield from self._entries(array)
            case _:
                yield number, 0, 1

    def _entries(self, array):
        match self.forms[array]:
            case ("children", parent, start, stop):
                yield ("child", parent), start, stop
            case ("stack", *parts, ("axis", 0)):
                for part in parts:
                    yield from self.origins(part)
            case ("concatenate", *parts, ("dimension", 0)):
                for part in parts:
                    yield from self._entries(part)
            case _:
                yield ("each", array), 0, 1

    # ---- equations ----

    def run(self, jaxpr: Any, inputs: Sequence[Fact]) -> list[Fact]:
        """The facts of the outputs from those of the inputs; the first ones may be left out."""
        jaxpr = open_jaxpr(jaxpr)
        env = dict(zip(reversed([*jaxpr.constvars, *jaxpr.invars]), reversed(inputs), strict=False))
        for eqn in jaxpr.eqns:
            facts = [self._read(env, atom) for atom in eqn.invars]
            env.update(zip(eqn.outvars, self._after(eqn, facts), strict=True))
        return [self._read(env, atom) for atom in jaxpr.outvars]

    def _read(self, env, atom):
        if isinstance(atom, Literal):
            whole = np.ndim(atom.val) == 0 and _numbered(atom)
            return self.known(("literal", int(atom.val))) if whole else self.fresh()
        if atom not in env:
            env[atom] = self.fresh()
        return env[atom]

    def _after(self, eqn, facts) -> list[Fact]:
        name, loops = eqn.primitive.name, _union(facts)
        if name in RULES and (samples_in(eqn) or any(map(_is_key, eqn.invars))):
            return RULES[name](self, eqn, facts)
        if name in GENERATORS:
            self._draw(eqn, facts[0], None)
        form = self._form(eqn, [f.number for f in facts]) if any(map(_numbered, eqn.outvars)) else None
        if form is None:
            return [self.fresh(loops) for _ in eqn.outvars]
        if isinstance(form, int):
            return [Fact(form, loops)]
        return [self.known((*form, i) if i else form, loops) for i in range(len(eqn.outvars))]

    def _form(self, eqn, numbers) -> tuple | int | None:
        """What keys or integers are made of, or what they are equal to; None where that cannot be compared."""
        name, params = eqn.primitive.name, eqn.params
        if _unchanged(eqn):
            return numbers[0]
        if name == "random_fold_in" and self.forms[numbers[1]][0] == "literal":
            return ("child", numbers[0], self.forms[numbers[1]][1])
        if name == "random_split" and _counts(eqn):
            return ("children", numbers[0], 0, *params["shape"])
        if name == "slice" and self.forms[numbers[0]][0] == "children" and params["strides"] in (None, (1,)):
            _, parent, start, _ = self.forms[numbers[0]]
            first, last = start + params["start_indices"][0], start + params["limit_indices"][0]
            return ("child", parent, first) if last == first + 1 else ("children", parent, first, last)
        form = (name, *numbers, *sorted(params.items()))
        return form if _hashable(form) else None

    # ---- draws ----

    def _draw(self, eqn, key, label):
        """Note a draw, and refuse it where its key is drawn with already, or is the same in all steps of a loop."""
        lines = tuple(filter(None, map(source_line, (eqn, *reversed(self.callers)))))
        draw = Draw(label, lines, self.branches)
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
        site, key, before = eqn.params["site"], facts[0], self.around
        for lane in reversed(eqn.params["lanes"]):
            key = self.each(key, self._enter(lane.size, f"{lane.size} lanes")) if lane.mapped[0] else key
        self._draw(eqn, key, None if site.estimator is None else site.label)
        self.around = before
        return [self.fresh(_union(facts)) for _ in eqn.outvars]

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

    def _call(self, eqn, facts):
        return self._inside(eqn, next(inner_jaxprs(eqn)), facts)

    def _expectation(self, eqn, facts):
        before = self.around
        for lane in reversed(eqn.params["lanes"]):
            bit = self._enter(lane.size, f"{lane.size} lanes")
            facts = [self.each(f, bit) if m else f for f, m in zip(facts, lane.mapped, strict=True)]
        outs = self._inside(eqn, eqn.params["program"].jaxpr, facts)
        self.around = before
        return [self.fresh(f.loops) for f in outs]

    def _scan(self, eqn, facts):
        scan, before = scan_parts(eqn), self.around
        bit = self._enter(scan.length, f"a loop of {scan.length} steps")
        n, m = scan.num_consts, scan.num_consts + scan.num_carry
        carry = self._carried(scan.body, n, facts[n:m], _union(facts) | bit)
        self._inside(eqn, scan.body, [*facts[:n], *carry, *(self.each(f, bit) for f in facts[m:])])
        self.around = before
        return [self.fresh(_union(facts)) for _ in eqn.outvars]

    def _while(self, eqn, facts):
        params, before = eqn.params, self.around
        bit = self._enter(None, "a while loop")
        n, m = params["cond_nconsts"], params["body_nconsts"]
        carry = self._carried(params["body_jaxpr"], m, facts[n + m :], _union(facts) | bit)
        self._inside(eqn, params["body_jaxpr"], [*facts[n : n + m], *carry])
        self.around = before
        return [self.fresh(_union(facts)) for _ in eqn.outvars]

    def _carried(self, body, first, inits, loops):
        """The carry of a loop in its steps: one that is handed on as it is, one that counts, or any value."""
        body = open_jaxpr(body)
        made = {v: eqn for eqn in body.eqns for v in eqn.outvars}

        def one(before, init, after):
            if after is before:
                return init
            eqn = made.get(after)
            counts = eqn is not None and eqn.primitive.name == "add" and eqn.invars[0] is before and _numbered(before)
            if not (counts and isinstance(eqn.invars[1], Literal)):
                return self.fresh(loops)
            return self.known(("counter", init.number, int(eqn.invars[1].val)), loops)

        return [one(v, f, w) for v, f, w in zip(body.invars[first:], inits, body.outvars, strict=False)]

    def _cond(self, eqn, facts):
        index, before, ways = facts[0], (self.branches, self.around), []
        self.around &= ~index.loops  # a branch may be taken in one step only
        for i, branch in enumerate(eqn.params["branches"]):
            self.branches = (*before[0], (index.number, i))
            ways.append(self._inside(eqn, branch, facts[1:]))
        self.branches, self.around = before
        return [self._met(outs, index.loops) for outs in zip(*ways, strict=True)]

    def _met(self, outs, loops):
        """One of several values."""
        same = len({f.number for f in outs}) == 1
        return Fact(outs[0].number, _union(outs)) if same else self.fresh(_union(outs) | loops)


RULES = {
    **dict.fromkeys([*CALLS, "checkpoint", "remat", "remat2"], _Walk._call),
    "sample": _Walk._sample,
    "expectation": _Walk._expectation,
    "scan": _Walk._scan,
    "while": _Walk._while,
    "cond": _Walk._cond,
}


# ---- what is asked of values ----------------------------------------------------------------------------------------


def _union(facts) -> int:
    return functools.reduce(operator.or_, (f.loops for f in facts), 0)


def _is_key(atom) -> bool:
    return jax.dtypes.issubdtype(getattr(atom.aval, "dtype", np.dtype(float)), jax.dtypes.prng_key)


def _numbered(atom) -> bool:
    """Whether a value is a key, or what keys are made of."""
    dtype = getattr(atom.aval, "dtype", np.dtype(float))
    return jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key) or dtype.kind in "iub"


def _unchanged(eqn) -> bool:
    """Whether an operation leaves the words of keys, or integers, as they are."""
    if eqn.primitive.name == "broadcast_in_dim":
        return size(eqn.invars[0].aval.shape) == size(eqn.outvars[0].aval.shape)
    return eqn.primitive.name in UNCHANGED and _numbered(eqn.invars[0])


def _counts(eqn) -> bool:
    """Whether a split gives what `fold_in` of 0, 1, 2, ... gives: one family of keys, however many are split off."""
    (key,), shape = eqn.invars, eqn.params["shape"]
    return len(shape) == 1 and str(key.aval.dtype) == "key<fry>" and bool(jax.config.jax_threefry_partitionable)


def _hashable(form) -> bool:
    try:
        hash(form)
    except TypeError:
        return False
    return True


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
