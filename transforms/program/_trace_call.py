"""Tracing a call: the arrays among its arguments are operands, all else about them is static."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from .._arguments import suspended
from .._errors import ObjectiveError
from .._jax import trace
from .._pytree import partition


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
    """Trace `fun(*args, **kwargs)`.

    Raises:
        ObjectiveError: it returns what is no array.
    """
    arrays, spec = partition((args, kwargs))

    def flat(*arrays):
        args, kwargs = spec.combine(arrays)
        return _returned(fun, fun(*args, **kwargs))

    traced = trace(flat, *arrays)
    return TracedCall(traced.jaxpr, [*traced.consts, *arrays], len(traced.consts), traced.out)


def _returned(fun, out):
    name = getattr(fun, "__name__", repr(fun))
    word = suspended(out)
    if word:
        raise ObjectiveError(f"The objective {name} returned {word}, so nothing in it has run. Write `return`.")
    for leaf in jax.tree.leaves(out):
        if not (hasattr(leaf, "dtype") or isinstance(leaf, int | float | complex)):
            raise ObjectiveError(f"The objective {name} must return arrays, and returned {leaf!r}.")
    return out
