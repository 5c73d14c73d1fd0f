"""The score function estimator, with or without a baseline."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Array, Key

from .._arguments import real
from .._distribution import elementwise, held, log_density, moving_support
from .._errors import EstimatorError
from .._estimator import Direct, Drawn
from .._pytree import stop_gradient
from ..program._site import noise


class Reinforce(Direct):
    """See `reinforce`."""

    baseline: Any = None

    def refuses(self, distribution: Any) -> str | None:
        """Refuse supports that move with the parameters."""
        if not moving_support(distribution):
            return None
        return (
            f"the support of {type(elementwise(distribution)).__name__} moves with its parameters, and a score "
            "function misses what happens at its edge, so the gradient would be biased. Write `reparam()` or `mvd()` "
            "where the distribution can; bounds that are not trained can be Python numbers or NumPy arrays."
        )

    def draw(self, key: Key[Array, ""], distribution: Any) -> Drawn:
        """Draw without derivative, and give back the log density as the score term, one per element."""
        value = stop_gradient(noise(key, held(distribution)))
        return Drawn(value, log_density(elementwise(distribution), value, inside=True), self.baseline)


def reinforce(baseline: Any = None) -> Reinforce:
    """Score function gradient: d/dtheta E f = E[(f - baseline) d log p(value; theta) + df].

    For every distribution with a log density whose support does not move with its parameters; right to every order, by
    the factor exp(log p - stop_gradient(log p)).

    A value is counted where it is drawn. At a probability of exactly 0 or 1 that a parameter moves (`Bernoulli(p)` at
    p = 0), the other value never is, and its part of the derivative is missing, here and in every estimator that
    weighs draws: `arm`, `disarm`, `relax`, `rebar`, `unordered_set`. There write `enum()`, `local_expectation()`,
    `sum_and_sample()` or `mvd()`, which take probabilities as they are; or logits, which have no such place.

    Args:
        baseline: a number or array that does not depend on the value drawn here; it is subtracted from the objective
            and leaves the gradient unbiased. A float array broadcastable to the site's batch shape.

    Raises:
        EstimatorError: the support moves with parameters that are arrays (the bounds of a uniform, say); the baseline
            is no number.

    Source: Williams, 1992 (REINFORCE); Foerster et al., DiCE: The Infinitely Differentiable Monte Carlo Estimator,
    2018.

    Examples:
        >>> import jax, numpyro.distributions as dist
        >>> from tracegrad.transforms import expectation, reinforce, sample
        >>> f = expectation(lambda key, p: 2.0 * sample(key, dist.Bernoulli(p), estimator=reinforce(baseline=1.0)))
        >>> jax.grad(f, argnums=1)(jax.random.key(0), 0.5).shape
        ()
    """
    if baseline is not None:
        baseline = real(
            "reinforce", "baseline", baseline, EstimatorError, "a number or an array", np.isfinite, scalar=False
        )
    return Reinforce(baseline)
