"""The score function estimator: without a baseline, with one that is given, or with one that `fit` learns."""

from __future__ import annotations

from typing import Any, Literal

import equinox as eqx
import jax
import numpy as np
from jax import lax
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


AUTO: Literal["auto"] = "auto"
"""The baseline that `fit` learns."""


class NoLevelError(EstimatorError):
    """A site whose baseline somebody is to carry, and nobody does."""


class AutoReinforce(Reinforce):
    """See `reinforce`, baseline "auto".

    Two terms are added that are zero in value: to the score one in the level, so that the derivative of an objective in
    the level is the sum of what the score is multiplied by less the level; and to the objective one in the count, whose
    derivative is how often that is. The first over the second is how far the level is from the mean. Neither touches
    the derivative in anything else.

    Attributes:
        level: the baseline, of the shape of the score; None where nobody carries one.
        count: zeros of the same shape.
    """

    level: Any = None
    count: Any = None

    def draw(self, key: Key[Array, ""], distribution: Any) -> Drawn:
        """As by `reinforce()`, with the level for a baseline."""
        drawn = super().draw(key, distribution)
        if self.level is None or drawn.score is None:
            return drawn
        held_level, zeros = lax.stop_gradient(self.level), self.count - lax.stop_gradient(self.count)
        moved = drawn.score + (self.level - held_level).astype(drawn.score.dtype)
        return Drawn(drawn.value, moved, held_level, zeros)

    def at(self, level: jax.Array, count: jax.Array) -> AutoReinforce:
        """The same with a level."""
        return eqx.tree_at(lambda e: (e.level, e.count), self, (level, count), is_leaf=lambda x: x is None)

    def __repr__(self):
        return "reinforce(baseline='auto')"


def reinforce(baseline: Any | Literal["auto"] = None) -> Reinforce:
    """Score function gradient: d/dtheta E f = E[(f - baseline) d log p(value; theta) + df].

    For every distribution with a log density whose support does not move with its parameters; right to every order, by
    the factor exp(log p - stop_gradient(log p)).

    A value is counted where it is drawn. At a probability of exactly 0 or 1 that a parameter moves (`Bernoulli(p)` at
    p = 0), the other value never is, and its part of the derivative is missing, here and in every estimator that
    weighs draws: `arm`, `disarm`, `relax`, `rebar`, `unordered_set`. There write `enum()`, `local_expectation()`,
    `sum_and_sample()` or `mvd()`, which take probabilities as they are; or logits, which have no such place.

    Args:
        baseline: a number or array that does not depend on the value drawn here; it is subtracted from the objective
            and leaves the gradient unbiased. A float array broadcastable to the site's batch shape. Or "auto": `fit`
            learns one for each element of the draw, in each lane and loop step inside the `expectation`: the mean of
            what the score was multiplied by in the latest twenty steps or so, never in the present one. Outside of
            `fit`, where nobody carries it, a derivative is refused.

    Raises:
        EstimatorError: the support moves with parameters that are arrays (the bounds of a uniform, say); the baseline
            is neither a number nor "auto"; it is "auto", and a derivative is taken outside of `fit`.

    Source: Williams, 1992 (REINFORCE); Foerster et al., DiCE: The Infinitely Differentiable Monte Carlo Estimator,
    2018.

    Examples:
        >>> import jax, numpyro.distributions as dist
        >>> from tracegrad.transforms import expectation, reinforce, sample
        >>> f = expectation(lambda key, p: 2.0 * sample(key, dist.Bernoulli(p), estimator=reinforce(baseline=1.0)))
        >>> jax.grad(f, argnums=1)(jax.random.key(0), 0.5).shape
        ()
    """
    if isinstance(baseline, str) and baseline == AUTO:
        return AutoReinforce()
    if baseline is not None:
        baseline = real(
            "reinforce", "baseline", baseline, EstimatorError, "a number or an array", np.isfinite, scalar=False
        )
    return Reinforce(baseline)
