"""A discontinuity that a path derivative misses, and what is said about it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple

from .._errors import DiscontinuityWarning, name_of
from .._estimator import Path


class Jump(NamedTuple):
    """A discontinuity that a reparameterised draw reaches: the draw's label, the operation, and its source line.

    `estimator` is that of the draw, its arrays left out.
    """

    label: Any
    operation: str
    line: str
    estimator: Any = None

    def __str__(self):
        return f"{self.operation} at {self.line}" if self.line else self.operation


def relaxes(kind: Path) -> bool:
    """Whether an estimator takes the path of a function of its own, not that of what follows the drawn value."""
    return type(kind).relaxation is not Path.relaxation


_registry: dict = {}


def _text(jump: Jump) -> str:
    if relaxes(jump.estimator):
        return (
            f"The control variate at {name_of(jump.label)} has a discontinuity: {jump}. Its path derivative misses "
            "jumps, so the gradient may be biased. Write one that is continuous in the relaxed draw, or "
            f"`{jump.estimator.vouch()}` if you know that this one is."
        )
    return (
        f"The reparameterised sample at {name_of(jump.label)} reaches a discontinuity: {jump}. A path derivative "
        "misses jumps, so the gradient may be biased. Write `estimator=reinforce()` at that site, or "
        f"`{jump.estimator.vouch()}` if you know that the objective is continuous in its value."
    )


def warn(jumps: Iterable[Jump]) -> None:
    """Warn of each site whose path derivative misses a jump; at the line of the jump, once under default filters."""
    seen = set()
    for jump in jumps:
        if jump.label in seen:
            continue
        seen.add(jump.label)
        file, _, rest = jump.line.partition(":")
        number = rest.partition(":")[0]
        warnings.warn_explicit(
            _text(jump),
            DiscontinuityWarning,
            file or "tracegrad",
            int(number) if number.isdigit() else 1,
            registry=_registry,
        )
