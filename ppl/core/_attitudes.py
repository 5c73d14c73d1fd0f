"""Generative functions visited with another attitude: what operations are told about the values that they meet."""

from __future__ import annotations

from typing import Any

import equinox as eqx

from ._arguments import generative
from ._by_address import ByAddress
from ._docstrings import shows_wrapped
from ._generative import Around, GenerativeFunction
from ._guide_supports import Supports
from ._interface import P
from ._scales import OfTerms
from ._trace import R


@shows_wrapped
class Attentive(Around[P, R]):
    """A generative function whose every visit has some of its attitude changed; see `Attitude`."""

    attitude: tuple[tuple[str, Any], ...] = eqx.field(static=True)

    def visit(self, operation, key, given, path, args, kwargs):
        """Visit by the operation of another attitude."""
        return self.function.visit(operation.but(**dict(self.attitude)), key, given, path, args, kwargs)


@shows_wrapped
class Weighed(Around[P, R]):
    """A guide whose log density is weighed by address, what it draws too: its part of the terms of a bound."""

    scale: ByAddress

    def visit(self, operation, key, given, path, args, kwargs):
        """Visit with the scale in force; the model, which has all of the addresses, says which are unknown."""
        scales = (*operation.attitude.scales, OfTerms("scale_both", self.scale, path))
        return self.function.visit(operation.but(scales=scales), key, given, path, args, kwargs)


def compared(guide: GenerativeFunction, model: GenerativeFunction) -> tuple[GenerativeFunction, GenerativeFunction]:
    """A guide and a model; the model warns of a value that the guide drew from a larger support than its own."""
    supports = Supports()
    return Attentive(guide, (("drawn", supports),)), Attentive(model, (("weighed", supports),))


def validated(function: GenerativeFunction[P, R]) -> GenerativeFunction[P, R]:
    """The same program, in which the values given to it are checked against their supports while it runs.

    Values that are known before a program runs are checked without asking. Those that are traced, by `jit`, `vmap`,
    `grad` or an `expectation`, have a log density of -inf outside the support, and here raise an error instead: wrap a
    model while you look for where an objective becomes -inf, and take it off again, since the check costs time.

    Args:
        function: a generative function.

    Returns:
        A generative function of the same arguments.

    Raises:
        ArgumentError: no generative function is given.
        RuntimeError: while the compiled program runs, with the address in its text.

    Source: `equinox.error_if`.

    Examples:
        >>> import jax, tracegrad as tg
        >>> wait = tg.gen(lambda: tg.sample("t", tg.dist.Exponential(1.0)))
        >>> logp = jax.jit(lambda t: tg.validated(wait).assess({"t": t})[0])
        >>> float(logp(2.0))
        -2.0
    """
    return Attentive(generative("validated", function), (("validate", True),))
