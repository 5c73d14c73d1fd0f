"""Checks of arguments, one for each kind: the text says whose argument it is, what it must be, and what came.

A check gives the value back, as the plain kind that the rest of the library expects: a NumPy integer is an int from
then on. What is traced has no value to check, and passes where an array may stand.
"""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from jax import numpy as jnp

from ._errors import ObjectiveError, TracegradError
from ._jax import Tracer
from ._pytree import is_array

Kind = type[TracegradError]


def whole(what: str, name: str, value: Any, error: Kind, *, least: int | None = 1, most: int | None = None) -> int:
    """An integer from `least` to `most`: Python's, NumPy's, or an array of one; no bool and no float."""
    number = None if isinstance(value, bool | Tracer) else _index(value)
    if number is not None and (least is None or least <= number) and (most is None or number <= most):
        return number
    expected = "an int" if least is None else "a positive int" if least == 1 else f"an int of at least {least}"
    if most is not None:
        expected = f"an int from {least} to {most}"
    raise error(f"{what}: {name} must be {expected}, and is {value!r}.")


def _index(value):
    try:
        return operator.index(value)
    except TypeError:
        return None


def real(what: str, name: str, value: Any, error: Kind, expected: str, holds: Callable, *, scalar: bool = True) -> Any:
    """A number, or where it need not be a scalar an array of them, of which `holds` is true; traced ones pass.

    `expected` says in words what holds.
    """
    if is_numeric(value) and not (scalar and np.ndim(value)):
        if isinstance(value, Tracer) or np.all(holds(np.asarray(value))):
            return value
    raise error(f"{what}: {name} must be {expected}, and is {value!r}.")


def is_numeric(value: Any) -> bool:
    """Whether a value is a real number or an array of them; no bool."""
    if not is_array(value):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return jnp.issubdtype(value.dtype, jnp.integer) or jnp.issubdtype(value.dtype, jnp.floating)


def is_boolean(value: Any) -> bool:
    """Whether a value is a bool or an array of them."""
    return value.dtype == np.bool_ if is_array(value) else isinstance(value, bool)


def positive(what: str, name: str, value: Any, error: Kind) -> Any:
    """A scale, temperature or bandwidth: above zero and finite."""
    return real(what, name, value, error, "a positive number", lambda x: (x > 0) & np.isfinite(x))


def finite_real(what: str, name: str, value: Any, error: Kind, *, scalar: bool = True) -> Any:
    """A finite number, or where it need not be a scalar an array of them."""
    return real(what, name, value, error, "a finite number", np.isfinite, scalar=scalar)


def one_of(what: str, name: str, value: Any, options: Collection, error: Kind) -> Any:
    """One of several names."""
    if not isinstance(value, str) or value not in options:
        raise error(f"{what}: {name} is {' or '.join(map(repr, options))}, and got {value!r}.")
    return value


def flag(what: str, name: str, value: Any, error: Kind) -> bool:
    """True or False, and nothing that merely counts as one of them: `reverse="no"` is not false."""
    if not isinstance(value, bool | np.bool_):
        raise error(f"{what}: {name} must be True or False, and is {value!r}.")
    return bool(value)


# ---- functions ------------------------------------------------------------------------------------------------------


@functools.singledispatch
def instead_of_objective(value: Any) -> str | None:
    """What to write where this object is given for an objective though it is none; None where it may be one."""
    return None


def objective_function(what: str, value: Any) -> Callable:
    """A function `f(key, *args)` that can be run to the end."""
    hint = instead_of_objective(value)
    if hint is not None:
        raise ObjectiveError(f"{what} takes a function f(key, *args), and got {_kind(value)}. {hint}")
    return function(what, "a function f(key, *args)", value, ObjectiveError)


def function(what: str, signature: str, value: Any, error: Kind) -> Callable:
    """A function that runs to its end when it is called: no class, no generator, no coroutine."""
    if isinstance(value, type) or not callable(value):
        raise error(f"{what} takes {signature}, and got {_kind(value)}.")
    for runs in (value, vars(type(value)).get("__call__")):  # An object's call may be a generator, too.
        if inspect.isgeneratorfunction(runs) or inspect.isasyncgenfunction(runs):
            raise error(
                f"{what} takes a function that returns, and got the generator function {_name(value)}. "
                "Nothing in it would run: write `return` in place of `yield`."
            )
        if inspect.iscoroutinefunction(runs):
            raise error(
                f"{what} takes a function that returns, and got the async function {_name(value)}. "
                "Nothing in it would run: write `def` in place of `async def`."
            )
    return value


def suspended(value: Any) -> str | None:
    """The word for what a call returned without having run, a generator or a coroutine; None for all else."""
    if inspect.isgenerator(value) or inspect.isasyncgen(value):
        return "a generator"
    return "a coroutine" if inspect.iscoroutine(value) else None


def _kind(value) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def _name(value) -> str:
    return getattr(value, "__name__", repr(value))
