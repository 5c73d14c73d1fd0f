"""The supports that a guide draws from, written down for the model that is weighed at its draws."""

from __future__ import annotations

import warnings
from typing import Any

from .._errors import SupportWarning
from ..distributions._supports import drawn_from, exceeds
from ._addresses import Path, show

_registry: dict = {}


class Supports:
    """The supports that the values of a guide are drawn from, by path, for the model that is weighed at them."""

    def __init__(self):
        self.drawn: dict[Path, Any] = {}

    def note(self, path: Path, distribution: Any) -> None:
        """Write down what a value is drawn from."""
        self.drawn[path] = drawn_from(distribution)

    def compare(self, path: Path, distribution: Any) -> None:
        """Warn, once under default filters, where a distribution is weighed at what it could not have made."""
        one, other = self.drawn.get(path), drawn_from(distribution)
        if exceeds(one, other):
            warnings.warn_explicit(
                f"The guide draws at {show(path)} from {one}, and the model's density is zero outside {other}: the log "
                "weight of such a draw is -inf. Draw from a distribution on the model's support (as `LogNormal` is on "
                "the positive numbers), or take a guide of `auto`.",
                SupportWarning,
                "tracegrad",
                1,
                registry=_registry,
            )
