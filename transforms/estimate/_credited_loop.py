"""A loop that is credited inside: its body has a linear tail of its own, and carries boxed values from turn to turn."""

from __future__ import annotations

from typing import Any

from jax import numpy as jnp

from .._jax import Literal, vary, varying_axes
from ..program._interpreter import walk
from ..program._plan import Step, read
from ._credit_plan import CreditPlan, LoopCredit
from ._scores import Scores


def run_tail(plan: CreditPlan, env: dict, scores: Scores) -> list:
    """Run the linear tail of a plan on boxed values."""
    inner = {
        v: scores.boxed[v] if d is None else scores.box(env[v], d)
        for v, d in zip(plan.tail.inputs, plan.frontier, strict=True)
    }
    for step in plan.tail.steps:
        step.run(inner)
    return read(inner, plan.tail.outputs)


def run_loop(mode: Any, credit: LoopCredit, step: Step, operands: list) -> tuple[list, Any]:
    """The values of a loop and the record of its draws; their scores, and its boxed results, are left in the mode."""
    loop, scores, body, linked = credit.loop, mode.scores, credit.body, credit.boxed
    n, m = loop.num_consts, loop.num_carry
    consts, init, xs = loop.split(operands)
    outer = [scores.of(mask) for mask in credit.outer]
    start = [_boxed_start(scores, step.reads[n + i], init[i], credit.inits[i]) for i in linked]
    past = [jnp.zeros(shape, float) for shape in credit.shapes]
    axes = varying_axes(operands, outer, start)

    def run(carry, xs):
        raw, past, boxed = carry
        given = dict(zip([credit.carries[i] for i in linked], boxed, strict=True))
        inside = mode.inside(credit=body, scores=Scores([*outer, *past], given))
        env = dict(zip(body.inputs, [*loop.closed, *consts, *raw, *xs], strict=True))
        outs, record = walk(body, env, inside, top=False)
        tail = run_tail(body, env, inside.scores)
        now = inside.scores.sources[len(outer) + len(past) :]
        late = len(linked)
        past = [p + s for p, s in zip(past, now, strict=True)]
        return (outs[:m], *vary((past, tail[:late]), axes)), (outs[m:], tail[late:], now, record)

    state, (ys, tail_ys, now, record) = mode.scan(loop, run, (init, *vary((past, start), axes)), xs)
    scores.sources.extend(now)
    boxed = iter([*state[2], *tail_ys])
    scores.boxed.update((v, next(boxed)) for v, b in zip(step.writes, body.boxed, strict=True) if b)
    return [*state[0], *ys], mode.records.stack(record)


def _boxed_start(scores, variable, value, dependence):
    """The boxed initial carry of a loop."""
    known = not isinstance(variable, Literal) and variable in scores.boxed
    return scores.boxed[variable] if known else scores.box(jnp.asarray(value), dependence)
