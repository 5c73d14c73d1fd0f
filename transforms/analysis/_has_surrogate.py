"""Whether an objective states its own gradient, so that no other estimators can be put in its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .._jax import inner_jaxprs, param
from ..program._trace_call import trace_call


def states_gradient(fun: Callable, *args: Any) -> bool:
    """Whether a function states its own gradient: some of its draws are spent, or it has a surrogate."""
    return _states(trace_call(fun, args, {}).jaxpr)


def _states(jaxpr):
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        if name == "fork_sum" or name == "sample" and param(eqn, "site").estimator is None:
            return True
        if any(map(_states, inner_jaxprs(eqn))):
            return True
    return False
