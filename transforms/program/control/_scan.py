"""`lax.scan`, and so `lax.map` and `fori_loop` of known length: a loop with a carry and stacked values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax import lax
from jax import numpy as jnp

from ..._jax import closed_consts, evaluate_with, open_jaxpr
from ._base import Control, body, control_of


class Loop(NamedTuple):
    """The parts of a loop.

    Attributes:
        jaxpr: the body `(constants, carry, one step of xs) -> (carry, one step of ys)`, closed.
        length: the number of steps.
        reverse: whether the last step runs first.
        unroll: how many steps XLA sees at once.
        num_consts: how many operands all steps share.
        num_carry: how many are carried.
    """

    jaxpr: Any
    length: int
    reverse: bool
    unroll: Any
    num_consts: int
    num_carry: int

    @property
    def body(self) -> Any:
        """The body, opened."""
        return open_jaxpr(self.jaxpr)

    @property
    def closed(self) -> list:
        """The constants that came with the body."""
        return closed_consts(self.jaxpr)

    def split(self, operands: Sequence[Any]) -> tuple[list, list, list]:
        """What belongs to the shared operands, to the carry, and to what the steps get one by one."""
        n, m = self.num_consts, self.num_carry
        return list(operands[:n]), list(operands[n : n + m]), list(operands[n + m :])

    def results(self, outs: Sequence[Any]) -> tuple[list, list]:
        """What belongs to the carry, and to what the steps give one by one."""
        return list(outs[: self.num_carry]), list(outs[self.num_carry :])

    def scan(self, step: Callable, init: Any, xs: Any) -> Any:
        """`lax.scan` of another step, in the same order."""
        return lax.scan(step, init, xs, self.length, reverse=self.reverse, unroll=self.unroll)


def is_loop(eqn: Any) -> bool:
    """Whether an equation is such a loop."""
    return isinstance(control_of(eqn), Scan)


def loop_of(eqn: Any) -> Loop:
    """The parts of an equation that is a loop."""
    p = eqn.params
    if "num_consts" in p:
        num_consts, num_carry = p["num_consts"], p["num_carry"]
    else:
        # Newer JAX keeps the operands in groups.
        groups = p["ft_in"].update(range(len(eqn.invars))).unpack()
        num_consts, num_carry, _ = (len(list(group)) for group in groups)
    return Loop(p["jaxpr"], p["length"], p["reverse"], p["unroll"], num_consts, num_carry)


class Scan(Control):
    """A loop of known length."""

    names = ("scan",)
    lanewise = True

    def bodies(self, eqn):
        """The step."""
        loop = loop_of(eqn)
        return [body(loop.jaxpr, f"scan {loop.length}", loop.length)]

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

        carry, (ys, record) = loop.scan(one, init, (xs, jnp.arange(loop.length)))
        return [*carry, *ys], mode.records.stack(record)

    def flow(self, eqn, states, domain):
        """Settled over the steps."""
        loop = loop_of(eqn)
        consts, carry, xs = loop.split(states)
        xs = [domain.one_step(x) for x in xs]

        def step(carry):
            return domain.through(loop.jaxpr, [*consts, *carry, *xs])

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
