"""Tracing a call: the arrays among its arguments are operands, all else about them is static."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ._jax import trace
from ._pytree import partition


class TracedCall(NamedTuple):
    """A traced call.

    Attributes:
        jaxpr: the program.
        operands: what it reads: the arrays that the function closed over, then those among the arguments, in order.
        closed: how many are of the first kind.
        out: the shapes of what it returns.
    """

    jaxpr: Any
    operands: list
    closed: int
    out: Any


def trace_call(fun: Callable, args: tuple, kwargs: dict) -> TracedCall:
    """Trace `fun(*args, **kwargs)`."""
    arrays, spec = partition((args, kwargs))

    def flat(*arrays):
        args, kwargs = spec.combine(arrays)
        return fun(*args, **kwargs)

    traced = trace(flat, *arrays)
    return TracedCall(traced.jaxpr, [*traced.consts, *arrays], len(traced.consts), traced.out)
