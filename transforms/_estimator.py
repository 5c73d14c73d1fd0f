"""The three kinds of gradient estimator. A new estimator is a class of one of them with one method.

An estimator sees one lane: the distribution without the `vmap`s around its site. The transformation adds the lanes,
the loop steps and the branches. Estimators are Equinox modules, so arrays among their fields (a baseline, say) are
traced and differentiated like any other.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax

from ._distribution import WeakDerivative


class Estimator(eqx.Module):
    """What a site does when the expectation around it is differentiated."""

    pathwise: ClassVar[bool] = False
    """Whether the derivative of the plain draw is already the right one."""

    def refuses(self, distribution: Any) -> str | None:
        """Why this estimator cannot serve this distribution, and what to write instead; None where it can."""
        return None

    def __repr__(self):
        given = ", ".join(f"{k}={v!r}" for k, v in vars(self).items() if v is not None)
        return f"{type(self).__name__.lower()}({given})"


class Path(Estimator):
    """An estimator that takes derivatives along a path, whole or in part: jumps on the way are missed."""

    continuous: bool = eqx.field(static=True, default=False, kw_only=True)
    """Whether the user vouches that there are none."""

    def relaxation(self, distribution: Any) -> tuple[Callable, jax.ShapeDtypeStruct] | None:
        """The function whose path is taken, and what it takes; None where it is what follows the drawn value."""
        return None

    def vouch(self) -> str:
        """What to write where there are none."""
        return f"{type(self).__name__.lower()}(..., continuous=True)"


class Drawn(NamedTuple):
    """What a direct estimator gives back.

    `score` (any shape, summed) is a log density term whose derivative multiplies what depends on the value;
    `baseline`, broadcastable to it, is subtracted from the objective there and must not depend on the value.
    `control` (any shape, summed) is a control variate: its derivative is added to that of the objective, its value is
    not, and the derivative must have expectation zero.
    """

    value: Any
    score: jax.Array | None = None
    baseline: jax.Array | None = None
    control: jax.Array | None = None


class Direct(Estimator):
    """Draws once, and gives back the value and a score term."""

    @abc.abstractmethod
    def draw(self, key: jax.Array, distribution: Any) -> Drawn:
        """Draw through `noise(key, ...)` and return the value with its score term."""


class Fork(Estimator):
    """Draws once, and names alternatives to its value, whose objectives are then compared with the drawn one's."""

    @abc.abstractmethod
    def fork(self, key: jax.Array, distribution: Any, value: Any) -> WeakDerivative:
        """Alternatives to the drawn value, and their coefficients; `key` is for the estimator's own randomness."""


class Enumerate(Estimator):
    """Runs the rest of the program at every value of a finite support, and sums."""

    @abc.abstractmethod
    def enumerate(self, distribution: Any) -> tuple[Any, jax.Array]:
        """All values, along a leading axis, and their probabilities (not their logarithms), shape (k,)."""
