"""The loop that runs a plan.

What a draw means is up to a `Mode`: estimate with gradients, replay for values, put other draws in place, run at one
outcome of the noise. Four things are kept apart:

- the drawing, which is the mode;
- what draws record (score terms, keys, probabilities), and how the records of parts make one: `Mode.records`;
- which alternative of a forking site is put in place, if any: the `Alternative` that is handed from step to step;
- whether an `expectation` inside the program stays one: `Mode.nested`.

How a mode passes through loops, branches and rematerialisation is said by each construct (`control`).
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax

from .._errors import EstimatorError, name_of
from .._estimator import Enumerate
from ._alternative import Alternative
from ._plan import Assign, Plan, Segment, Step, plan_of, read
from ._records import Records
from ._width import width
from .control import control_of, no_rule


class Mode(abc.ABC):
    """What an interpreter does at a draw."""

    records: Records = Records()
    """How what draws record is gathered."""

    nested: Callable[[Step, list], list] | None = None
    """What gives the values of an `expectation` inside the program; None where its draws are a part of this one's."""

    @abc.abstractmethod
    def draw(self, step: Step, operands: list, alternative: Alternative | None) -> tuple[list, Any]:
        """The values of a draw, and a record of it."""

    def enumerates(self, site: Any) -> bool:
        """Whether this mode sums over the site's support."""
        return isinstance(site.prototype(), Enumerate)

    def enumerate(self, step: Step, operands: list, resume: Callable) -> list:
        """The outputs of the program from an enumerated draw on; `resume(value)` runs the rest of it."""
        raise NotImplementedError

    def finish(self, plan: Plan, env: dict, start: int, alternative: Alternative | None) -> list:
        """Run the rest of a program after an enumerated site, at one value of it."""
        return walk(plan, env, self, start, alternative)[0]

    def control(self, step: Step, operands: list, alternative: Alternative | None) -> tuple[list, Any]:
        """The values of a step with draws inside, and the record of them."""
        construct = control_of(step.eqn)
        if construct is None:
            raise no_rule(f"`{step.name}`", step.name)
        return construct.run(step, operands, self, alternative and alternative.inside(construct))

    def inner(self, jaxpr: Any, operands: list, alternative: Alternative | None) -> tuple[list, Any]:
        """Run the program of a body or a branch."""
        plan = plan_of(jaxpr, nested=self.nested is not None)
        return walk(plan, dict(zip(plan.inputs, operands, strict=True)), self, 0, alternative, top=False)

    def among(self, loop: Any, going: jax.Array) -> Mode:
        """The mode inside a `while_loop` in lanes, of which only those that `going` says go on."""
        return self

    def scan(self, loop: Any, step: Callable, init: Any, xs: Any) -> Any:
        """Run a loop of known length."""
        return loop.scan(step, init, xs)

    def branch(self, index: jax.Array, branches: list[Callable], operands: list) -> tuple:
        """Choose a branch."""
        return lax.switch(index, branches, *operands)

    def before_fork(self, plan: Plan, env: dict, index: int) -> None:  # noqa: B027  (nothing to do by default)
        """Called before each forking step of a program."""

    def complete(self, plan: Plan, env: dict) -> list:
        """The outputs of a program whose steps are done."""
        return read(env, plan.outputs)


def walk(
    plan: Plan, env: dict, mode: Mode, start: int = 0, alternative: Alternative | None = None, *, top: bool = True
) -> tuple[list, Any]:
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
        if step.name == "sample" and mode.enumerates(step.site):
            _check_enumerable(step, top=top)

            def resume(value, env=env, step=step, index=index, alternative=alternative):
                inner = dict(env)
                inner.update(zip(step.writes, value, strict=True))
                return mode.finish(plan, inner, index + 1, alternative)

            return mode.enumerate(step, operands, resume), mode.records.join(records)
        values, record = _run(step, operands, mode, alternative)
        env.update(zip(step.writes, values, strict=True))
        records.append(record)
        if alternative is not None and forks:
            alternative = alternative.past(step)
    return mode.complete(plan, env) if top else read(env, plan.outputs), mode.records.join(records)


def run(plan: Plan, operands: Sequence, mode: Mode) -> tuple[list, Any]:
    """Run a whole plan: its outputs, and the record of its draws."""
    return walk(plan, dict(zip(plan.inputs, operands, strict=True)), mode)


def _run(step, operands, mode, alternative):
    if step.name == "sample":
        return mode.draw(step, operands, alternative)
    if step.name == "expectation":
        return mode.nested(step, operands), mode.records.zero()
    return mode.control(step, operands, alternative)


def _check_enumerable(step, *, top):
    if top and not step.lanes:
        return
    where = "under `vmap`" if step.lanes else "inside a loop, a branch or a checkpoint"
    raise EstimatorError(
        f"enum() at {name_of(step.site.label)} is {where}, where its joint support is a power of one site's. Two ways "
        "out: `estimator=local_expectation()`, which sums each site exactly with the others as drawn, or marginalise "
        "the site inside the model (`logsumexp` over its values, or forward filtering for a chain)."
    )
