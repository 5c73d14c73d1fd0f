"""Measure-valued derivatives: the derivative of a distribution as a difference of two distributions."""

from __future__ import annotations

from typing import Any

from jaxtyping import Array, Key

from .._distribution import WeakDerivative, elementwise, weak_derivative
from .._errors import EstimatorError
from .._estimator import Fork


class Mvd(Fork):
    """See `mvd`."""

    def refuses(self, distribution: Any) -> str | None:
        """Refuse families without a weak derivative."""
        flat = elementwise(distribution)
        if weak_derivative.dispatch(type(flat)) is not weak_derivative.dispatch(object):
            return None
        return (
            f"{type(flat).__name__} has no measure-valued derivative here. Write `reinforce()`, or `reparam()` where "
            "the distribution can, or register one with `weak_derivative.register`."
        )

    def fork(self, key: Key[Array, ""], distribution: Any, value: Any) -> WeakDerivative:
        """The family's weak derivative, element by element."""
        found = weak_derivative(elementwise(distribution), key, value)
        if found is None:
            raise EstimatorError(str(self.refuses(distribution)))
        return found


def mvd() -> Mvd:
    """Measure-valued (weak) derivative: d/dtheta E f = c (E f(x+) - E f(x-)), element by element.

    The objective is run again at each alternative with the same downstream noise, so what the alternative does not
    touch cancels exactly. Works in loops, branches and plates. First order only: a second derivative is refused.

    Raises:
        EstimatorError: the family has no weak derivative here.
        HigherOrderError: a second derivative was asked for.

    Source: Mohamed, Rosca, Figurnov and Mnih, Monte Carlo Gradient Estimation in Machine Learning, JMLR 2020.

    Examples:
        >>> import jax, numpyro.distributions as dist
        >>> from tracegrad.transforms import expectation, mvd, sample
        >>> f = expectation(lambda key, p: 4.0 * sample(key, dist.Bernoulli(p), estimator=mvd()))
        >>> float(jax.grad(f, argnums=1)(jax.random.key(0), 0.25))
        4.0
    """
    return Mvd()
