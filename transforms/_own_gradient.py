"""Whether an objective states its own gradient, so that no other estimators can be put in its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ._jax import inner_jaxprs, trace
from ._pytree import partition


def states_gradient(fun: Callable, *args: Any) -> bool:
    """Whether a function states its own gradient: some of its draws are spent, or it has a surrogate."""
    arrays, spec = partition(args)
    return _states(trace(lambda *xs: fun(*spec.combine(xs)), *arrays).jaxpr)


def _states(jaxpr):
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        if name == "fork_sum" or name == "sample" and eqn.params["site"].estimator is None:
            return True
        inside = [eqn.params["program"].jaxpr] if name == "expectation" else inner_jaxprs(eqn)
        if any(map(_states, inside)):
            return True
    return False
