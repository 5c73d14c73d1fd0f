"""What a program computes twice, computed once.

A program that draws and then asks for the density of what it drew runs its networks twice. XLA sees that the values
are the same, but not that derivatives could be summed before they go back through the network. So operations of one
kind with the same operands are made one before a program is differentiated. Draws, and operations on keys, stay as
they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .._jax import DropVar, Literal, is_key_aval, params_of, segment
from .._per_jaxpr import once_per_jaxpr
from .._samples_in import samples_in


def once(jaxpr: Any) -> Any:
    """The same program without operations that are there already; the jaxpr itself where there are none."""
    return _merged(jaxpr) or jaxpr


@once_per_jaxpr
def _merged(jaxpr):
    """None where nothing is there twice."""
    names: dict[Any, Any] = {}
    made: dict[Any, list] = {}
    eqns: list[Any] = []
    for eqn in jaxpr.eqns:
        reads = [a if isinstance(a, Literal) else names.get(a, a) for a in eqn.invars]
        key = _key(eqn, reads) if _is_plain(eqn) else None
        if key in made:
            names.update(zip(eqn.outvars, made[key], strict=True))
            continue
        eqns.append(eqn.replace(invars=reads))
        if key is not None:
            made[key] = eqn.outvars
    outputs = [a if isinstance(a, Literal) else names.get(a, a) for a in jaxpr.outvars]
    if len(eqns) == len(jaxpr.eqns):
        return None
    return segment(jaxpr, eqns, [*jaxpr.constvars, *jaxpr.invars], outputs)


def _is_plain(eqn):
    """Whether an equation may be left out for one like it: no effect, no draw, no key, nothing dropped."""
    atoms = (*eqn.invars, *eqn.outvars)
    return not (
        eqn.effects
        or samples_in(eqn)
        or any(is_key_aval(a.aval) for a in atoms)
        or any(isinstance(a, DropVar) for a in eqn.outvars)
    )


def _key(eqn, reads):
    """What two equations have in common that compute the same."""
    params = tuple((name, type(value), _hashable(value)) for name, value in sorted(params_of(eqn).items()))
    return eqn.primitive, params, tuple(map(_atom, reads))


def _hashable(value):
    """A parameter, or which one it is where it has no hash: the equation keeps it."""
    try:
        hash(value)
    except TypeError:
        return id(value)
    return value


def _atom(a):
    return (a.aval, np.asarray(a.val).tobytes()) if isinstance(a, Literal) else a
