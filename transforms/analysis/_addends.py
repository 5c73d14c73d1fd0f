"""The terms that a function adds up to the first of its results, each with what it depends on, by one trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from .._jax import Literal, evaluate_with, segment, trace
from ._dependence import results_of
from ._sources import bits, mask_of


class Addends(NamedTuple):
    """A traced function whose first result, a scalar, is split into terms.

    Attributes:
        run: a function of the arguments' leaves that gives the terms, then the leaves of the other results.
        number: how many terms there are.
        depends: for each of what `run` gives, the numbers of the leaves that it depends on, more where unsure.
        same: for each of what `run` gives, the number of the leaf that it is, unchanged; else None.
    """

    run: Callable
    number: int
    depends: list[set[int]]
    same: list[int | None]


def addends(fun: Callable, *args: Any) -> Addends:
    """Trace `fun(*args)`, which returns a scalar and a pytree, and split the scalar where the last thing is a sum."""
    leaves, tree = jax.tree.flatten(args)
    traced = trace(lambda *leaves: jax.tree.leaves(fun(*jax.tree.unflatten(tree, leaves))), *leaves)
    constants, jaxpr = list(traced.jaxpr.constvars), traced.jaxpr
    total, *others = jaxpr.outvars
    terms = _split(total, {v: eqn for eqn in jaxpr.eqns for v in eqn.outvars})
    invars, outvars = [*constants, *jaxpr.invars], [*terms, *others]
    parted = segment(jaxpr, jaxpr.eqns, invars, outvars)
    depends = [_numbers(mask_of(d), len(constants)) for d in results_of(parted)]
    number = {v: i - len(constants) for i, v in enumerate(invars) if i >= len(constants)}
    same = [None if isinstance(v, Literal) else number.get(v) for v in outvars]
    return Addends(lambda *leaves: evaluate_with(parted, [*traced.consts, *leaves]), len(terms), depends, same)


def _numbers(mask, constants):
    return {i - constants for i in bits(mask) if i >= constants}


def _split(atom, made):
    """The scalars that are added up to a value."""
    eqn = None if isinstance(atom, Literal) else made.get(atom)
    if eqn is None or eqn.primitive.name != "add" or any(x.aval.shape for x in eqn.invars):
        return [atom]
    return [term for operand in eqn.invars for term in _split(operand, made)]
