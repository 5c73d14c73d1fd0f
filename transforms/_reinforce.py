"""The score function estimator, with or without a baseline."""

from __future__ import annotations

from typing import Any

import jax

from ._distribution import elementwise, held, log_density, moving_support
from ._kinds import Direct, Drawn
from ._primitive import noise
from ._pytree import stop_gradient


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

    def draw(self, key: jax.Array, distribution: Any) -> Drawn:
        """Draw without derivative, and give back the log density as the score term, one per element."""
        value = stop_gradient(noise(key, held(distribution)))
        return Drawn(value, log_density(elementwise(distribution), value), self.baseline)


def reinforce(baseline: Any = None) -> Reinforce:
    """Score function gradient: d/dtheta E f = E[(f - baseline) d log p(value; theta) + df].

    For every distribution with a log density whose support does not move with its parameters; right to every order, by
    the factor exp(log p - stop_gradient(log p)).

    Args:
        baseline: a number or array that does not depend on the value drawn here; it is subtracted from the objective
            and leaves the gradient unbiased. A float array broadcastable to the site's batch shape.

    Raises:
        EstimatorError: the support moves with parameters that are arrays (the bounds of a uniform, say).

    Source: Williams, 1992 (REINFORCE); Foerster et al., DiCE: The Infinitely Differentiable Monte Carlo Estimator,
    2018.

    Example:
        >>> import jax, numpyro.distributions as dist
        >>> from tracegrad.transforms import expectation, reinforce, sample
        >>> f = expectation(lambda key, p: 2.0 * sample(key, dist.Bernoulli(p), estimator=reinforce(baseline=1.0)))
        >>> jax.grad(f, argnums=1)(jax.random.key(0), 0.5).shape
        ()
    """
    return Reinforce(baseline)
