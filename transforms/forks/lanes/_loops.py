"""Loops in which lanes meet: the body is run for all its versions, step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jax import numpy as jnp

from ...program.control import loop_of
from ._value import APART, Value, pair, same, widened
from ._ways import all_steps, one_step, ways_after


def run_loop(eqn: Any, operands: Sequence[Value], lanes: int, run: Callable) -> list[Value]:
    """The versions of what a loop gives.

    Args:
        eqn: the loop.
        operands: the versions of what it takes.
        lanes: how many there are.
        run: `run(jaxpr, inputs, lanes)`, the versions of the outputs of a jaxpr.
    """
    loop = loop_of(eqn)
    consts, init, xs = loop.split(operands)
    carried, out_hows = loop.results(ways_after(eqn, [x.how for x in operands]))
    # Steps that are the lanes vary freely: each version has all of them.
    xs = [widened(x, APART, lanes) if x.how == 0 else x for x in xs]
    inside = [*carried, *map(one_step, out_hows)]

    def body(carry, x):
        carry = [Value(how, *of) for how, of in zip(carried, carry, strict=True)]
        x = [Value(one_step(x.how), *of) for x, of in zip(xs, x, strict=True)]
        outs = run(loop.body, [*map(same, loop.closed), *consts, *carry, *x], lanes)
        carry, ys = loop.results([pair(widened(y, how, lanes)) for y, how in zip(outs, inside, strict=True)])
        return carry, ys

    start = [pair(widened(x, how, lanes)) for x, how in zip(init, carried, strict=True)]
    carry, ys = loop.scan(body, start, [_steps_first(x) for x in xs])
    late = [_versions_first(Value(all_steps(how), *y)) for how, y in zip(inside[len(carried) :], ys, strict=True)]
    return [*(Value(how, *of) for how, of in zip(carried, carry, strict=True)), *late]


def _steps_first(x):
    """What the steps get one by one: the axis of steps in front of that of versions."""
    return x.base, jnp.moveaxis(x.varied, 1, 0) if x.how == APART else x.varied


def _versions_first(y):
    """What the steps gave: the axis of versions in front of that of steps."""
    return y._replace(varied=jnp.moveaxis(y.varied, 0, 1)) if y.how == APART else y
