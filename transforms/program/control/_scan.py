"""`lax.scan`, and so `lax.map` and `fori_loop` of known length: a loop with a carry and stacked values."""

from __future__ import annotations

from typing import Any

import jax
from jax import numpy as jnp

from ..._jax import Literal, closed_consts, evaluate, evaluate_with, open_jaxpr, param, params_of, trace
from ..._per_jaxpr import once_per_jaxpr
from ._base import Control, Turn, body, control_of
from ._checkpoint import Checkpoint, options_of
from ._loop import Loop


def is_loop(eqn: Any) -> bool:
    """Whether an equation is such a loop."""
    return isinstance(control_of(eqn), Scan)


def loop_of(eqn: Any) -> Loop:
    """The parts of an equation that is a loop.

    Of a loop whose step is one checkpoint and nothing else they are those of the loop of what is in the checkpoint,
    which runs its steps again: so draws inside are seen, and credited, as in any loop.
    """
    step, length = param(eqn, "jaxpr"), param(eqn, "length")
    found = None if closed_consts(step) else _checkpointed(open_jaxpr(step))
    step, checkpoint = found or (step, None)
    shared, carried = _counts(eqn)
    return Loop(step, length, param(eqn, "reverse"), param(eqn, "unroll"), shared, carried, checkpoint)


@once_per_jaxpr
def _checkpointed(jaxpr):
    """What is in the checkpoint that a step is, and the options of that; None where it is none."""
    if len(jaxpr.eqns) != 1 or not isinstance(control_of(jaxpr.eqns[0]), Checkpoint):
        return None
    (eqn,) = jaxpr.eqns

    def step(*xs):
        env = dict(zip(jaxpr.invars, xs, strict=True))
        env.update(zip(eqn.outvars, evaluate(open_jaxpr(param(eqn, "jaxpr")), *_read(env, eqn.invars)), strict=True))
        return _read(env, jaxpr.outvars)

    traced = trace(step, *[v.aval for v in jaxpr.invars])
    return None if traced.consts else (traced.jaxpr, options_of(eqn))


def _read(env, atoms):
    return [a.val if isinstance(a, Literal) else env[a] for a in atoms]


def _counts(eqn):
    """How many operands all steps share, and how many are carried; newer JAX keeps the operands in groups."""
    if "num_consts" in params_of(eqn):
        return param(eqn, "num_consts"), param(eqn, "num_carry")
    shared, carry, _ = param(eqn, "ft_in").update(range(len(eqn.invars))).unpack()
    return len(list(shared)), len(list(carry))


class Scan(Control):
    """A loop of known length."""

    names = ("scan",)
    functions = ("scan", "map", "fori_loop")
    lanewise = True

    def bodies(self, eqn):
        """The step."""
        loop = loop_of(eqn)
        return [body(loop.jaxpr, f"scan {loop.length}", loop.length)]

    def loop(self, eqn):
        """Its parts."""
        return loop_of(eqn)

    def turn(self, eqn, states):
        """A step."""
        loop = loop_of(eqn)
        return Turn(loop.jaxpr, *loop.split(states), loop.length, f"a loop of {loop.length} steps")

    def run(self, step, operands, mode, alternative):
        """The same loop; step t is past the alternatives of t earlier ones."""
        loop = loop_of(step.eqn)
        consts, init, xs = loop.split(operands)

        def one(carry, x):
            x, t = x
            at = alternative and alternative.turn(t, loop.body)
            outs, record = mode.inner(loop.body, [*loop.closed, *consts, *carry, *x], at)
            carry, ys = loop.results(outs)
            return carry, (ys, record)

        carry, (ys, record) = mode.scan(loop, one, init, (xs, jnp.arange(loop.length)))
        return [*carry, *ys], mode.records.stack(record)

    def flow(self, eqn, states, domain):
        """Settled over the steps."""
        loop = loop_of(eqn)
        consts, carry, xs = loop.split(states)
        xs = [domain.one_step(x) for x in xs]

        def step(carry):
            carry, ys = loop.results(domain.through(loop.jaxpr, [*consts, *carry, *xs]))
            return [*map(domain.next_step, carry), *ys]

        carry, outs = domain.settle(step, carry)
        return [*carry, *map(domain.all_steps, loop.results(outs)[1])]

    def inside(self, eqn, states, outs, domain):
        """The step at the settled carry."""
        loop = loop_of(eqn)
        consts, _, xs = loop.split(states)
        return [(loop.body, [*consts, *loop.results(outs)[0], *map(domain.one_step, xs)])]

    def enter(self, eqn, operands, is_bad):
        """The first step that goes wrong."""
        loop = loop_of(eqn)
        consts, carry, xs = loop.split(operands)
        step = jax.jit(lambda *inputs: evaluate_with(loop.body, inputs))
        for t in reversed(range(loop.length)) if loop.reverse else range(loop.length):
            inputs = [*loop.closed, *consts, *carry, *(x[t] for x in xs)]
            outs = step(*inputs)
            if any(map(is_bad, outs)):
                return loop.body, inputs
            carry = loop.results(outs)[0]
        return None
