"""The parts of a loop of known length: what its steps share, what they carry, what they get and give one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax import lax

from ..._jax import closed_consts, open_jaxpr


class Loop(NamedTuple):
    """The parts of a loop.

    Attributes:
        jaxpr: the body `(constants, carry, one step of xs) -> (carry, one step of ys)`, closed.
        length: the number of steps.
        reverse: whether the last step runs first.
        unroll: how many steps XLA sees at once.
        num_consts: how many operands all steps share.
        num_carry: how many are carried.
        checkpoint: how a step is run again for the derivative, as options of `jax.checkpoint`; None where it is not.
    """

    jaxpr: Any
    length: int
    reverse: bool
    unroll: Any
    num_consts: int
    num_carry: int
    checkpoint: dict | None = None

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
        """`lax.scan` of another step, in the same order, run again for the derivative as the step itself is."""
        step = step if self.checkpoint is None else jax.checkpoint(step, **self.checkpoint)
        return lax.scan(step, init, xs, self.length, reverse=self.reverse, unroll=self.unroll)
