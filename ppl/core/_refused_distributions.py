"""Where in a program a distribution was refused: numpyro checks parameters when it is built, before any address."""

from __future__ import annotations

import ast
import linecache
import traceback
from typing import Any

import jax
from jax import numpy as jnp

from .._errors import DistributionError
from ._addresses import Path, show


def check_parameters(distribution: Any, path: Path) -> None:
    """Refuse parameters that numpyro's own checks let pass and that no density is for: lists, complex numbers."""
    base = getattr(distribution, "base_dist", None)
    if base is not None:
        check_parameters(base, path)
    for name in getattr(distribution, "arg_constraints", ()):
        value = vars(distribution).get(name, 0.0)
        if isinstance(value, list | complex) or jnp.issubdtype(getattr(value, "dtype", float), jnp.complexfloating):
            raise DistributionError(
                f"The parameter {name} of the {type(distribution).__name__} at {show(path)} is a real number or an "
                f"array of them, and got {value!r}."
            )


def refused_distribution(error: Exception, name: str, path: Path, choices: dict) -> DistributionError | None:
    """The library's error for one that a constructor of numpyro raised in the body of a generative function.

    Args:
        error: what came out of the body.
        name: the generative function.
        path: where it was visited.
        choices: what it had sampled by then.

    Returns:
        An error that names the place, or None where the error is not of that kind.
    """
    if not isinstance(error, ValueError | TypeError | AssertionError) or isinstance(error, jax.errors.JAXTypeError):
        return None
    line = _line_that_built(error)
    if line is None:
        return None
    address = _address_at(line)
    site = show((*path, address)) if address else _after(path, choices)
    return DistributionError(
        f"numpyro refuses the distribution at {site} in {name}: {error} It was built at {line.filename}:{line.lineno}: "
        f"`{line.line}`."
    )


def _after(path: Path, choices: dict) -> str:
    """A site whose address is not known, by the one before it."""
    return f"the sample after {show((*path, list(choices)[-1]))}" if choices else "the first sample"


def _line_that_built(error: Exception) -> traceback.FrameSummary | None:
    """The line that called numpyro's constructor; None where the error came from elsewhere."""
    frames = list(traceback.walk_tb(error.__traceback__))
    modules = [frame.f_globals.get("__name__", "") for frame, _ in frames]
    at = next((i for i, module in enumerate(modules) if module.startswith("numpyro.distributions")), 0)
    if at == 0 or modules[at - 1].split(".")[0] == __name__.split(".")[0]:
        return None
    return traceback.extract_tb(error.__traceback__)[at - 1]


def _address_at(line: traceback.FrameSummary) -> str | None:
    """The address of the innermost call of `sample` around an expression, as it is written."""
    try:
        tree = ast.parse("".join(linecache.getlines(line.filename)))
    except SyntaxError:
        return None
    here = (line.lineno, line.colno or 0)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args and _samples(node)]
    around = [node for node in calls if _span(node)[0] <= here < _span(node)[1]]
    if not around:
        return None
    address = max(around, key=_span).args[0]
    return str(address.value) if isinstance(address, ast.Constant) else ast.unparse(address)


def _samples(call: ast.Call) -> bool:
    """Whether a call is one of `sample`, under any module's name."""
    return ast.unparse(call.func).split(".")[-1] == "sample"


def _span(call: ast.Call) -> tuple[tuple[int, int], tuple[int, int]]:
    """Where a call begins and ends: lines and columns."""
    return (call.lineno, call.col_offset), (call.end_lineno or call.lineno, call.end_col_offset or 0)
