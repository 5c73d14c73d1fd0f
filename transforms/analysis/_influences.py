"""Which inputs of a function each of its results depends on, found by tracing it once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from .._jax import trace
from ._dependence import results_of
from ._sources import bits, mask_of


def influences(fun: Callable, *args: Any) -> list[set[int]]:
    """For each leaf of what a function returns, the numbers of the leaves of its arguments that it depends on.

    More than there is where the analysis is unsure, never less.
    """
    leaves, tree = jax.tree.flatten(args)
    traced = trace(lambda *leaves: fun(*jax.tree.unflatten(tree, leaves)), *leaves)
    constants = len(traced.consts)
    numbers = [bits(mask_of(depends)) for depends in results_of(traced.jaxpr)]
    return [{i - constants for i in each if i >= constants} for each in numbers]
