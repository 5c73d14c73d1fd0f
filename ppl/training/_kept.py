"""Compiled programs that are kept from one call to the next, as long as all that they were made of is the same.

They are kept for as long as the objective is there, and hold it weakly.
"""

from __future__ import annotations

import types
import weakref
from collections.abc import Callable
from typing import Any

import jax

from ._sight import sight

MOST = 2
"""Programs of one objective that are kept: each keeps the arrays that the objective closes over."""

_kept: dict[tuple[int, int], list[tuple[list, Callable]]] = {}


def weakly(function: Callable) -> Callable[[], Any]:
    """What gives a function back as long as someone else has it; always, where it cannot be held weakly."""
    try:
        return weakref.WeakMethod(function) if isinstance(function, types.MethodType) else weakref.ref(function)
    except TypeError:
        return lambda: function


def compiled(program: Callable, objective: Callable) -> Callable:
    """A program under `jax.jit`: the one of an earlier call with this objective, if it sees the same.

    Args:
        program: a function of arrays that holds the objective weakly.
        objective: whose life is that of the compiled program.
    """
    seen = sight(program)
    owner, what = _parts_of(objective)
    if seen is None or not isinstance(weakly(objective), weakref.ref):
        return jax.jit(program)
    name = (id(owner), id(what))
    if name not in _kept:
        _kept[name] = []
        weakref.finalize(owner, _kept.pop, name, None).atexit = False
    programs = _kept[name]
    found = next((earlier for was, earlier in programs if was == seen), None)
    programs[:] = [(was, earlier) for was, earlier in programs if earlier is not found][: MOST - 1]
    programs.insert(0, (seen, jax.jit(program) if found is None else found))
    return programs[0][1]


def _parts_of(objective: Callable) -> tuple[Any, Any]:
    """The object and the function of a bound method, which itself is another at each look; else the function twice."""
    if isinstance(objective, types.MethodType):
        return objective.__self__, objective.__func__
    return objective, objective
