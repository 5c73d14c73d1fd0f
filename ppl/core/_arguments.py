"""What the constructors of the language check when they are called: programs, observations, counts."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from .._errors import AddressError, DensityError
from ..transforms import ArgumentError, TracegradError
from ..transforms._internal import instead_of_objective, whole
from ._addresses import Choices, as_arrays
from ._function import Function, Method
from ._generative import Around, Call, GenerativeFunction


@instead_of_objective.register(GenerativeFunction)
@instead_of_objective.register(Call)
def _(value) -> str:
    return (
        "A generative function has no value of its own: run one of its operations, "
        "`lambda key, *args: f.simulate(key, *args).retval`, or write an objective, `elbo(model, f, observed)`."
    )


def generative(
    what: str, value: Any, *, role: str = "", error: type[TracegradError] = ArgumentError
) -> GenerativeFunction:
    """A generative function, not one that is called already, and no plain function."""
    if isinstance(value, GenerativeFunction):
        return value
    hint = "Pass `f`, not `f(args)`." if isinstance(value, Call) else "Write `gen(f)`."
    raise error(f"{what} takes a generative function{role}, and got {type(value).__name__}. {hint}")


def generatives(what: str, values: Any, *, role: str) -> tuple[GenerativeFunction, ...]:
    """A list of generative functions."""
    return tuple(generative(what, value, role=role) for value in listed(what, values, role))


def listed(what: str, values: Any, role: str) -> Sequence:
    """A list or a tuple."""
    if not isinstance(values, list | tuple):
        raise ArgumentError(f"{what} takes a list{role}, and got {type(values).__name__}.")
    return values


def mapping(what: str, name: str, value: Any, example: str, error: type[TracegradError] = ArgumentError) -> Mapping:
    """A dict."""
    if not isinstance(value, Mapping):
        raise error(f"{what}: `{name}` is a dict {example}, and got {type(value).__name__}.")
    return value


def positional(args: Any, function: GenerativeFunction | None = None, *, told: int = 0) -> tuple:
    """Arguments that are given as a tuple, or as they are where there is one only: all of them, as a tuple.

    A tuple is Python's own. One of a class of its own (a NamedTuple, an optimiser's state) is the caller's, and so it
    is one argument. A plain tuple that is meant as one argument is refused where the program shows it: it takes one.

    Args:
        args: what was given.
        function: what is called with them.
        told: how many arguments stand in front of them.
    """
    if type(args) is not tuple:
        return (args,)
    n = len(args)
    if n > 1 and function is not None and _takes(function, told + 1) and not _takes(function, told + n):
        raise ArgumentError(
            f"{function.name} takes one argument{' more' if told else ''}, and got a tuple of {n}, which are {n} "
            "arguments. Write `(args,)` for a tuple that is itself the argument."
        )
    return args


def _takes(function: GenerativeFunction, n: int) -> bool:
    """Whether a program can be called with n arguments by place, as far as its signature is known."""
    while isinstance(function, Around):
        function, n = function.function, n + isinstance(function, Method)
    if not isinstance(function, Function):
        return True
    try:
        inspect.signature(function.function).bind(*range(n))
    except ValueError:  # A builtin, which has none.
        return True
    except TypeError:
        return False
    return True


def observations(what: str, observed: Any) -> Choices:
    """Observed choices, a dict from addresses to values."""
    return as_arrays(mapping(what, "observed", observed, "from addresses to values, like {'x': value}", AddressError))


def posterior(what: str, model: Any, guide: Any, observed: Any) -> Choices:
    """What an objective is built of: a model, a guide and what is observed; the observations, as arrays."""
    generative(what, model, role=" as its model")
    generative(what, guide, role=" as its guide")
    return observations(what, observed)


def count(what: str, name: str, value: Any, least: int = 1) -> int:
    """A number of things."""
    return whole(what, name, value, DensityError, least=least)


def particles(what: str, n: Any, least: int = 1) -> int:
    """A number of particles."""
    return count(what, "n, the number of particles,", n, least)


def chunk(what: str, chunk_size: Any) -> int | None:
    """How many particles to run at a time, or None for all."""
    return None if chunk_size is None else count(what, "chunk_size", chunk_size)
