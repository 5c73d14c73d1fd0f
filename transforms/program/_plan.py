"""A jaxpr cut at its sample sites: what an interpreter runs.

A `Plan` is a list of steps. Equations without samples are gathered into segments, which JAX evaluates itself;
what is left are draws, control flow with samples inside, and assignments that stand for inlined calls. Plans are
made once per jaxpr, in one pass, so a program of n sites has O(n) steps.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import Any

from .._jax import (
    DropVar,
    Literal,
    evaluate,
    evaluate_with,
    fresh,
    in_scopes_of,
    name_of_call,
    param,
    segment,
    trace,
    vmapped,
)
from .._samples_in import samples_in
from .control import called, is_call


@dataclass(frozen=True)
class Const:
    """A constant that came with an inlined jaxpr, read like a variable."""

    value: Any


@dataclass
class Segment:
    """Equations without samples, as one jaxpr."""

    jaxpr: Any
    reads: list
    writes: list

    def run(self, env: dict) -> None:
        """Evaluate the equations in an environment."""
        env.update(zip(self.writes, evaluate(self.jaxpr, *read(env, self.reads)), strict=True))


@dataclass
class Assign:
    """The inputs or outputs of an inlined call."""

    reads: list
    writes: list

    def run(self, env: dict) -> None:
        """Copy the values."""
        env.update(zip(self.writes, read(env, self.reads), strict=True))


@dataclass
class Step:
    """An equation that an interpreter must look at: a draw, or control flow with draws inside.

    Attributes:
        eqn: the equation.
        reads: what it reads.
        writes: what it writes.
        width: how many alternatives it names, known (`_width`) before it is run.
        numbering: which of them can be tried at once, once known.
    """

    eqn: Any
    reads: list
    writes: list
    width: int | None = None
    numbering: dict | None = None

    @property
    def name(self) -> str:
        """The name of the primitive."""
        return self.eqn.primitive.name

    @property
    def site(self) -> Any:
        """What is static about a draw."""
        return param(self.eqn, "site")

    @property
    def lanes(self) -> tuple:
        """The `vmap`s around a draw."""
        return param(self.eqn, "lanes")


@dataclass
class Plan:
    """The steps of a jaxpr, its inputs (constants first) and its outputs; `groups` as they are asked for."""

    inputs: list
    outputs: list
    steps: list = field(default_factory=list)
    constants: dict = field(default_factory=dict)
    groups: dict[int, list] | None = None

    @property
    def draws(self) -> list[Step]:
        """The steps that an interpreter must look at."""
        return [step for step in self.steps if isinstance(step, Step)]

    def reads_from(self, start: int) -> set:
        """The variables that the steps from `start` on, and the outputs, take from before."""
        live = {v for v in self.outputs if not isinstance(v, Literal | Const)}
        for step in reversed(self.steps[start:]):
            live.difference_update(step.writes)
            live.update(v for v in step.reads if not isinstance(v, Literal | Const))
        return live


def read(env: dict, atoms: list) -> list:
    """The values of variables, literals and constants."""
    return [a.val if isinstance(a, Literal) else a.value if isinstance(a, Const) else env[a] for a in atoms]


_plans: dict[bool, weakref.WeakKeyDictionary] = {False: weakref.WeakKeyDictionary(), True: weakref.WeakKeyDictionary()}


def plan_of(jaxpr: Any, *, nested: bool = False) -> Plan:
    """Cut a jaxpr at its samples.

    `nested` says what becomes of an `expectation` inside: a step of its own, or (as inside another expectation, of
    which its draws are then a part) inlined like any call.
    """
    plans = _plans[nested]
    if jaxpr not in plans:
        plan = Plan([*jaxpr.constvars, *jaxpr.invars], list(jaxpr.outvars))
        plan.steps = gather(jaxpr, list(_flatten(jaxpr, nested)), plan.outputs)
        plans[jaxpr] = plan
    return plans[jaxpr]


def plan_of_draws(jaxpr: Any) -> Plan:
    """The plan of a jaxpr for its draws alone: without outputs, and without what no draw reads."""
    return Plan([*jaxpr.constvars, *jaxpr.invars], [], gather(jaxpr, list(_flatten(jaxpr, nested=False)), []))


def _flatten(jaxpr, nested, calls=()):
    """The equations in order, calls with samples inlined."""
    for eqn in jaxpr.eqns:
        for call in calls:
            eqn = in_scopes_of(call, eqn)
        if not samples_in(eqn):
            yield eqn
            continue
        called, consts = _called(eqn, nested)
        if called is None:
            yield Step(eqn, list(eqn.invars), list(eqn.outvars))
        else:
            yield Assign([*map(Const, consts), *eqn.invars], [*called.constvars, *called.invars])
            yield from _flatten(called, nested, (eqn,))
            yield Assign(list(called.outvars), list(eqn.outvars))


def _called(eqn, nested):
    """The jaxpr that an equation calls, and its constants; (None, ()) where it is not a call."""
    if is_call(eqn):
        inside = called(eqn)
        return inside.jaxpr, inside.consts
    if eqn.primitive.name == "expectation" and not nested:
        program, lanes = param(eqn, "program"), param(eqn, "lanes")
        if not lanes:
            return program.jaxpr, ()
        run = vmapped(lambda *xs: evaluate_with(program.jaxpr, xs), lanes)
        traced = trace(run, *[v.aval for v in eqn.invars])
        return traced.jaxpr, traced.consts
    return None, ()


def gather(jaxpr: Any, items: list, outputs: list) -> list:
    """Gather runs of plain equations into segments that write only what is read later; drop what nothing reads."""
    steps: list = []
    run: list = []
    live = {v for v in outputs if not isinstance(v, Literal)}  # read after the run
    needed = set(live)  # read after the run or in it

    def flush():
        if not run:
            return
        eqns = run[::-1]
        run.clear()
        written = [v for eqn in eqns for v in eqn.outvars if not isinstance(v, DropVar)]
        writes = [v for v in written if v in live]
        needed.difference_update(written)
        inputs = (v for eqn in eqns for v in eqn.invars if not isinstance(v, Literal))
        reads = [v for v in dict.fromkeys(inputs) if v in needed]
        live.clear()
        live.update(needed)
        steps.append(Segment(segment(jaxpr, eqns, reads, writes), reads, writes))

    for item in reversed(items):
        if not isinstance(item, Assign | Step):
            if item.effects or not needed.isdisjoint(item.outvars):
                run.append(item)
                needed.update(v for v in item.invars if not isinstance(v, Literal))
            continue
        flush()
        live.difference_update(item.writes)
        live.update(v for v in item.reads if not isinstance(v, Literal | Const))
        needed = set(live)
        steps.append(item)
    flush()
    return steps[::-1]


# ---- with every call inlined ----------------------------------------------------------------------------------------


@dataclass
class Inlined:
    """The equations of a jaxpr with those of its calls in their places, every variable assigned once.

    `items` are equations and, where samples are inside, steps; `constants` came with inlined jaxprs. `callers` are the
    inlined calls around an equation, innermost first, by its identity.
    """

    jaxpr: Any
    inputs: list
    outputs: list
    items: list
    constants: dict
    callers: dict[int, tuple]

    @property
    def eqns(self) -> list:
        """The equations, those of steps among them."""
        return [item.eqn if isinstance(item, Step) else item for item in self.items]


def inline(jaxpr: Any, *, opaque: set[str]) -> Inlined:
    """Inline the calls of a jaxpr, except those of functions with an opaque name and no sample inside."""
    items: list = []
    constants: dict = {}
    callers: dict[int, tuple] = {}

    def run(inner, names, around):
        for eqn in inner.eqns:
            reads = [a if isinstance(a, Literal) else names.get(a, a) for a in eqn.invars]
            called, consts, draws = None, (), samples_in(eqn)
            if draws or name_of_call(eqn) not in opaque:
                called, consts = _called(eqn, nested=False)
            if called is not None:
                # The operands of an `expectation` include what it closed over, and then there are no constants.
                inputs = [*called.constvars, *called.invars]
                holders = [fresh(v.aval) for v in inputs[: len(consts)]]
                constants.update(zip(holders, consts, strict=True))
                below = dict(zip(inputs, [*holders, *reads], strict=True))
                names.update(zip(eqn.outvars, run(called, below, (eqn, *around)), strict=True))
                continue
            writes = list(eqn.outvars)
            if inner is not jaxpr:
                writes = [v if isinstance(v, DropVar) else fresh(v.aval) for v in writes]
                names.update(zip(eqn.outvars, writes, strict=True))
            eqn = eqn.replace(invars=reads, outvars=writes)
            callers[id(eqn)] = around
            items.append(Step(eqn, reads, writes) if draws else eqn)
        return [a if isinstance(a, Literal) else names.get(a, a) for a in inner.outvars]

    outputs = run(jaxpr, {}, ())
    return Inlined(jaxpr, [*jaxpr.constvars, *jaxpr.invars], outputs, items, constants, callers)
