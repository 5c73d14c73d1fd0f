"""A function traced once, of which only some results are computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from ._jax import evaluate_with, trace


def partial_run(fun: Callable, pick: Callable, *args: Any) -> tuple[Any, Any]:
    """The shapes of all that `fun(*args)` returns, and the values of the part that `pick` takes of it.

    What that part does not need is neither compiled nor run.
    """
    traced = trace(fun, *args)
    tree = jax.tree.structure(traced.out)

    @jax.jit
    def part(*leaves):
        return pick(jax.tree.unflatten(tree, evaluate_with(traced.jaxpr, [*traced.consts, *leaves])))

    return traced.out, part(*jax.tree.leaves(args))
