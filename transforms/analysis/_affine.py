"""Which results of a function are affine in some of its inputs: a sum of constants times them, and a constant.

Read off the jaxpr, equation by equation: so that the derivative at any point, by JAX, is the matrix. What is not known
to be affine counts as not, and so does what has a derivative of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
from jax import numpy as jnp

from .._jax import param, trace
from ..program._flow import Domain

CONSTANT, AFFINE, NEITHER = 0, 1, 2

LINEAR = set(
    "add add_any sub neg reshape broadcast_in_dim transpose squeeze slice concatenate pad rev reduce_sum cumsum copy "
    "stack split unstack".split()
)
"""Operations that are linear in all of their operands."""

PRODUCTS = {"mul", "dot_general", "conv_general_dilated"}
FIRST_ONLY = {"div", "gather", "dynamic_slice"}
"""Operations that are linear in their first operand, the others being constant."""


class _Affinity(Domain[int]):
    """Constant, affine, or not known to be."""

    nothing = CONSTANT

    def join(self, a, b):
        """The worse of the two."""
        return max(a, b)

    def choose(self, which: int, ways: Iterable[int], axes: int = 0) -> int:
        """The worst of the ways, where the choice is constant."""
        return max(ways, default=CONSTANT) if which == CONSTANT else NEITHER

    def after(self, eqn, states):
        """What depends on nothing is not looked into; a derivative of its own need not be that of the values."""
        if not any(states):
            return [CONSTANT] * len(eqn.outvars)
        if eqn.primitive.name.startswith("custom_"):
            return [NEITHER] * len(eqn.outvars)
        return super().after(eqn, states)

    def operation(self, eqn: Any, states: Sequence[int]) -> list[int]:
        """By what the operation is."""
        return [_operation(eqn, states)] * len(eqn.outvars)


def _operation(eqn, states):
    name, (first, *others) = eqn.primitive.name, states
    if name == "convert_element_type":
        return first if jnp.issubdtype(param(eqn, "new_dtype"), jnp.floating) else NEITHER
    if name in LINEAR:
        return max(states)
    if name in PRODUCTS:
        return max(states) if sum(s > CONSTANT for s in states) == 1 else NEITHER
    if name in FIRST_ONLY:
        return first if not any(others) else NEITHER
    if name == "select_n":
        return max(others) if first == CONSTANT else NEITHER
    if name == "triangular_solve":
        return max(others) if first == CONSTANT else NEITHER
    return NEITHER


def affine(fun: Callable, variables: set[int], *args: Any) -> list[bool]:
    """For each leaf that a function returns, whether it is affine in the leaves of its arguments of these numbers."""
    leaves, tree = jax.tree.flatten(args)
    traced = trace(lambda *leaves: fun(*jax.tree.unflatten(tree, leaves)), *leaves)
    states = [AFFINE if i in variables else CONSTANT for i in range(len(leaves))]
    return [s < NEITHER for s in _Affinity().through(traced.jaxpr, states)]
