"""The loop that runs a plan.

What a draw means is up to a `Mode`: estimate with gradients, replay for values, choose other estimators, enumerate the
noise. How a mode passes through loops, branches and rematerialisation is said by each construct (`control`). A mode may
give back a record of each draw (score terms, fork coefficients); a scan stacks the records of its steps, a branch pads
them.

A `cursor` numbers the alternatives of forking sites: at each site it is the number of the alternative to put in
place, counted from this site's first; sites, lanes and loop steps further on subtract what they are past.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import jax
from jax import lax

from .._errors import EstimatorError, name_of
from .._estimator import Enumerate
from ._plan import Assign, Plan, Segment, Step, plan_of, read
from ._width import width, width_of
from .control import control_of, no_rule


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

    def sample(self, step: Step, operands: list, cursor: Any) -> tuple[list, Any]:
        """The values of a draw, an equation, and a record of it."""
        params = step.eqn.params
        return self.draw(params["site"], operands, params["lanes"], cursor)

    def control(self, step: Step, operands: list, cursor: Any) -> tuple[list, Any]:
        """The values of a step with draws inside, and the record of them."""
        construct = control_of(step.eqn)
        if construct is None:
            raise no_rule(f"`{step.name}`", step.name)
        return construct.run(step, operands, self, cursor)

    def inner(self, jaxpr: Any, operands: list, cursor: Any) -> tuple[list, Any]:
        """Run the program of a body or a branch."""
        plan = plan_of(jaxpr, nested=self.nested)
        return walk(plan, dict(zip(plan.inputs, operands, strict=True)), self, 0, cursor, top=False)

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
        values, record = _run(step, operands, mode, cursor)
        env.update(zip(step.writes, values, strict=True))
        records.append(record)
        if cursor is not None and forks:
            cursor = mode.advance(cursor, step)
    return mode.complete(plan, env), mode.join(records)


def _run(step, operands, mode, cursor):
    if step.name == "sample":
        return mode.sample(step, operands, cursor)
    if step.name == "expectation":
        return mode.expectation(step, operands), mode.zero()
    return mode.control(step, operands, cursor)


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
