"""The loop that runs a plan, and one rule for each control-flow primitive.

What a draw means is up to a `Mode` (`_estimate.py`): estimate with gradients, replay for values, choose other
estimators, enumerate the noise. The rules here say only how a mode passes through scans, branches, loops and
rematerialisation. A mode may give back a record of each draw (score terms, fork coefficients); a scan stacks the
records of its steps, a branch pads them.

A `cursor` numbers the alternatives of forking sites: at each site it is the number of the alternative to put in
place, counted from this site's first; sites, lanes and loop steps further on subtract what they are past.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax import numpy as jnp

from .._errors import EstimatorError, NoRuleError, name_of
from .._estimator import Enumerate, Fork
from .._jax import closed_consts, make_forward_only, open_jaxpr, scan_parts, vary, varying_axes
from .._pytree import is_inexact
from ._plan import Assign, Plan, Segment, Step, plan_of, read, samples
from ._site_terms import fork_shape


class Mode(abc.ABC):
    """What an interpreter does at a draw, and how it gathers what draws record."""

    @abc.abstractmethod
    def draw(self, site: Any, operands: list, lanes: Any, cursor: Any) -> tuple[list, Any]:
        """The values of a draw, and a record of it."""

    nested: bool = False
    """Whether an `expectation` inside the program stays one, or becomes a part of this one."""

    def expectation(self, step: Step, operands: list) -> list:
        """The values of an `expectation` equation that stays one."""
        raise NotImplementedError

    def enumerate(self, site: Any, operands: list, resume: Callable) -> list:
        """The outputs of the program from an enumerated site on; `resume(value)` runs the rest of it."""
        raise NotImplementedError

    def finish(self, plan: Plan, env: dict, start: int, cursor: Any) -> list:
        """Run the rest of a program after an enumerated site, at one value of it."""
        return walk(plan, env, self, start, cursor)[0]

    def enumerates(self, site: Any) -> bool:
        """Whether this mode sums over the site's support."""
        return isinstance(site.prototype(), Enumerate)

    def rule(self, name: str) -> Callable:
        """The rule for a primitive."""
        return RULES.get(name, _no_rule)

    def complete(self, plan: Plan, env: dict) -> Any:
        """The outputs of a plan whose steps are done."""
        return read(env, plan.outputs)

    def among(self, loop: Any, going: jax.Array) -> Mode:
        """The mode inside a `while_loop` in lanes, of which only those that `going` says go on."""
        return self

    def before_fork(self, plan: Plan, env: dict, index: int) -> None:  # noqa: B027  (nothing to do by default)
        """Called before each forking step of a program."""

    def width(self, step: Step) -> int:
        """By how much a step moves the cursor."""
        return width(step)

    def width_of(self, jaxpr: Any) -> int:
        """By how much a body moves the cursor."""
        return width_of(jaxpr)

    def advance(self, cursor: Any, step: Step) -> Any:
        """The cursor after a forking step."""
        return cursor - self.width(step)

    def zero(self) -> Any:
        """The record of nothing."""
        return None

    def join(self, records: list) -> Any:
        """One record of several, in order."""
        return None

    def stack(self, record: Any) -> Any:
        """The record of a loop from the records of its steps, stacked along a leading axis."""
        return record

    def pad(self, record: Any, width: int) -> Any:
        """The record of one branch, as wide as that of the widest."""
        return record

    def branch(self, index: jax.Array, branches: list[Callable], operands: list) -> tuple:
        """Choose a branch."""
        return lax.switch(index, branches, *operands)


def walk(plan: Plan, env: dict, mode: Mode, start: int = 0, cursor: Any = None, *, top: bool = True):
    """Run a plan from a step on, and return its outputs and the record of its draws.

    `top` says that what follows the plan is nothing, so that the rest of it may run many times.
    """
    records: list = []
    env.update(plan.constants)
    for index in range(start, len(plan.steps)):
        step = plan.steps[index]
        if isinstance(step, Segment | Assign):
            step.run(env)
            continue
        operands = read(env, step.reads)
        forks = width(step) > 0
        if forks and top:
            mode.before_fork(plan, env, index)
        if step.name == "sample" and mode.enumerates(step.eqn.params["site"]):
            site = _check_enumerable(step, top=top)

            def resume(value, env=env, step=step, index=index, cursor=cursor):
                inner = dict(env)
                inner.update(zip(step.writes, value, strict=True))
                return mode.finish(plan, inner, index + 1, cursor)

            return mode.enumerate(site, operands, resume), mode.join(records)
        values, record = mode.rule(step.name)(step, operands, mode, cursor)
        env.update(zip(step.writes, values, strict=True))
        records.append(record)
        if cursor is not None and forks:
            cursor = mode.advance(cursor, step)
    return mode.complete(plan, env), mode.join(records)


def inner(jaxpr: Any, operands: list, mode: Mode, cursor: Any):
    """Run the jaxpr of a body or a branch."""
    plan = plan_of(open_jaxpr(jaxpr), nested=mode.nested)
    operands = [*closed_consts(jaxpr), *operands]
    return walk(plan, dict(zip(plan.inputs, operands, strict=True)), mode, 0, cursor, top=False)


def _check_enumerable(step, *, top):
    site, lanes = step.eqn.params["site"], step.eqn.params["lanes"]
    if top and not lanes:
        return site
    where = "under `vmap`" if lanes else "inside a loop, a branch or a checkpoint"
    raise EstimatorError(
        f"enum() at {name_of(site.label)} is {where}, where its joint support is a power of one site's. Two ways out: "
        "`estimator=local_expectation()`, which sums each site exactly with the others as drawn, or marginalise the "
        "site inside the model (`logsumexp` over its values, or forward filtering for a chain)."
    )


# ---- how many alternatives a step names -----------------------------------------------------------------------------


def width(step: Step) -> int:
    """How many alternatives the forking sites of a step name, over all lanes and loop steps."""
    if step.width is None:
        step.width = WIDTHS.get(step.name, lambda _: 0)(step)
    return step.width


def width_of(jaxpr: Any) -> int:
    """How many alternatives a jaxpr names."""
    jaxpr = open_jaxpr(jaxpr)
    if not samples(jaxpr):
        return 0
    return sum(width(step) for step in plan_of(jaxpr).steps if isinstance(step, Step))


def _sample_width(step):
    params = step.eqn.params
    if not isinstance(params["site"].prototype(), Fork):
        return 0
    return fork_shape(params["site"], [v.aval for v in step.eqn.invars], params["lanes"]).size


def _scan_width(step):
    scan = scan_parts(step.eqn)
    return scan.length * width_of(scan.body)


WIDTHS = {
    "sample": _sample_width,
    "scan": _scan_width,
    "cond": lambda step: max(width_of(b) for b in step.eqn.params["branches"]),
    "while": lambda step: width_of(step.eqn.params["body_jaxpr"]) + width_of(step.eqn.params["cond_jaxpr"]),
    "checkpoint": lambda step: width_of(step.eqn.params["jaxpr"]),
    "remat2": lambda step: width_of(step.eqn.params["jaxpr"]),
    "remat": lambda step: width_of(step.eqn.params["jaxpr"]),
}


# ---- rules ----------------------------------------------------------------------------------------------------------


def _sample(step, operands, mode, cursor):
    params = step.eqn.params
    return mode.draw(params["site"], operands, params["lanes"], cursor)


def _expectation(step, operands, mode, cursor):
    return mode.expectation(step, operands), mode.zero()


def _scan(step, operands, mode, cursor):
    scan = scan_parts(step.eqn)
    consts, init = operands[: scan.num_consts], operands[scan.num_consts :][: scan.num_carry]
    xs = operands[scan.num_consts + scan.num_carry :]
    wide = 0 if cursor is None else mode.width_of(scan.body)

    def body(carry, x):
        xs, t = x
        at = None if cursor is None else cursor - t * wide
        outs, record = inner(scan.body, [*consts, *carry, *xs], mode, at)
        return outs[: scan.num_carry], (outs[scan.num_carry :], record)

    carry, (ys, record) = lax.scan(
        body, init, (xs, jnp.arange(scan.length)), scan.length, reverse=scan.reverse, unroll=scan.unroll
    )
    return [*carry, *ys], mode.stack(record)


def _cond(step, operands, mode, cursor):
    branches = step.eqn.params["branches"]
    wide, axes = width(step), varying_axes(operands)

    def make(branch):
        def run(*args):
            outs, record = inner(branch, list(args), mode, cursor)
            return outs, vary(mode.pad(record, wide), axes)

        return run

    return mode.branch(operands[0], [make(b) for b in branches], operands[1:])


def _checkpoint(step, operands, mode, cursor):
    params = step.eqn.params

    def run(*args):
        return inner(params["jaxpr"], list(args), mode, cursor)

    return jax.checkpoint(run, prevent_cse=params["prevent_cse"], policy=params["policy"])(*operands)


def _while(step, operands, mode, cursor):
    params = step.eqn.params
    if width(step):
        raise EstimatorError(
            "A forking estimator (mvd, local_expectation) is inside a `while_loop`, whose number of steps, and so of "
            "alternatives, is not known. Use `lax.scan` or `fori_loop` with a fixed number of steps, or `reinforce()`."
        )
    if samples(open_jaxpr(params["cond_jaxpr"])):
        raise NoRuleError("A sample in the condition of a `while_loop` has no rule. Draw it in the body, and carry it.")
    n, m = params["cond_nconsts"], params["body_nconsts"]
    cond_consts, body_consts, init = operands[:n], operands[n : n + m], operands[n + m :]

    axes = varying_axes(operands)

    def going(state):
        return inner(params["cond_jaxpr"], [*cond_consts, *state], mode, None)[0][0]

    def body(state):
        old, before = state
        on = going(old) if lanes else None
        at = mode.among(step.eqn, on) if lanes else mode
        outs, record = inner(params["body_jaxpr"], [*body_consts, *old], at, None)
        outs = [_where(on, x, y) for x, y in zip(outs, old, strict=True)] if lanes else outs
        return outs, vary(mode.join([before, record]), axes)

    # Under a `vmap` each lane has a condition of its own.
    lanes = open_jaxpr(params["cond_jaxpr"]).outvars[0].aval.shape
    outs, record = lax.while_loop(lambda s: jnp.any(going(s[0])), body, (init, vary(mode.zero(), axes)))
    return jax.tree.map(lambda x: _forward_only(x) if is_inexact(x) else x, (outs, record))


def _where(lanes, new, old):
    """The new state in lanes that go on, which are its leading axes."""
    return jnp.where(jnp.reshape(lanes, lanes.shape + (1,) * (new.ndim - lanes.ndim)), new, old)


_forward_only = make_forward_only(
    "forward_only",
    lambda: NoRuleError(
        "Reverse-mode differentiation through a `while_loop` with samples inside: JAX keeps no record of a loop of "
        "unknown length. Use the bounded loop: `lax.scan` or `lax.fori_loop` with a fixed number of steps, and mask "
        "the steps past the end; or forward mode (`jax.jvp`, `jax.jacfwd`)."
    ),
)


def _no_rule(step, operands, mode, cursor):
    what = "a function with a custom derivative" if step.name.startswith("custom_") else f"`{step.name}`"
    raise NoRuleError(
        f"A sample inside {what} (JAX primitive '{step.name}') has no rule under `expectation`. Draw the value outside "
        f"it and pass it in; rules exist for: {', '.join(sorted({*RULES, 'jit', 'vmap'}))}."
    )


RULES: dict[str, Callable] = {
    "sample": _sample,
    "expectation": _expectation,
    "scan": _scan,
    "cond": _cond,
    "while": _while,
    "checkpoint": _checkpoint,
    "remat2": _checkpoint,
    "remat": _checkpoint,
}
