"""Biased relatives: relaxed draws of a category, whose path derivative is not that of the discrete program."""

from __future__ import annotations

from typing import Any, ClassVar

import equinox as eqx
import jax
import numpy as np
import numpyro.distributions as dist
from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Float

from ..transforms import Estimator, EstimatorError
from ..transforms._internal import is_numeric, positive, real


class _Relaxed(eqx.Module):
    """A one-hot draw from logits, shape (*batch, k), made differentiable by Gumbel noise and a softmax."""

    logits: Float[Array, "*batch k"]
    temperature: Float[Array, ""]

    has_rsample: ClassVar[bool] = True

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """One draw: its lanes are not apart."""
        return ()

    def soft(self, key):
        """Perturbed logits through a softmax."""
        logits = jax.nn.log_softmax(self.logits)
        return jax.nn.softmax((logits + jax.random.gumbel(key, logits.shape, logits.dtype)) / self.temperature)


class BiasedStraightThrough(_Relaxed):
    """See `biased_straight_through`."""

    def sample(self, key):
        """One-hot in value, soft in derivative."""
        soft = self.soft(key)
        hard = jax.nn.one_hot(jnp.argmax(soft, -1), soft.shape[-1], dtype=soft.dtype)
        return hard + (soft - lax.stop_gradient(soft))

    def log_prob(self, value):
        """The log probability of the category, extended linearly off the corners of the simplex."""
        return jnp.sum(value * jax.nn.log_softmax(self.logits))


class BiasedConcrete(_Relaxed):
    """See `biased_concrete`."""

    def sample(self, key):
        """A point inside the simplex."""
        return self.soft(key)

    def log_prob(self, value):
        """The log density of the concrete distribution, summed over the batch."""
        k, t = self.logits.shape[-1], self.temperature
        logs = jnp.log(value)
        scores = jax.nn.log_softmax(self.logits) - t * logs
        norm = jax.scipy.special.gammaln(jnp.asarray(k, value.dtype)) + (k - 1) * jnp.log(t)
        return jnp.sum(norm + jnp.sum(scores - logs, -1) - k * jax.nn.logsumexp(scores, -1))


class StraightThroughBits(eqx.Module):
    """Draws of two values, 0 and 1 in value and soft in derivative, in place of those of a Bernoulli."""

    logits: Float[Array, "*shape"]
    temperature: Float[Array, ""]
    event_dim: int = eqx.field(static=True)

    has_rsample: ClassVar[bool] = True

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """That of the Bernoulli."""
        return self.logits.shape[: self.logits.ndim - self.event_dim]

    @property
    def event_shape(self) -> tuple[int, ...]:
        """That of the Bernoulli."""
        return self.logits.shape[self.logits.ndim - self.event_dim :]

    def sample(self, key):
        """Whether log odds and logistic noise are positive; the derivative is that of their sigmoid."""
        perturbed = self.logits + jax.random.logistic(key, self.logits.shape, self.logits.dtype)
        soft = jax.nn.sigmoid(perturbed / self.temperature)
        return (perturbed > 0.0).astype(soft.dtype) + (soft - lax.stop_gradient(soft))

    def log_prob(self, value):
        """The log probability of the values, extended linearly between them."""
        each = value * jax.nn.log_sigmoid(self.logits) + (1.0 - value) * jax.nn.log_sigmoid(-self.logits)
        return jnp.sum(each, axis=tuple(range(-self.event_dim, 0))) if self.event_dim else each


class Relaxing(Estimator):
    """A choice of relaxed draws, by address, for a site that is written as discrete."""

    temperature: Any

    def refuses(self, distribution: Any) -> str | None:
        """All sites, where it has not replaced their distribution: it is for generative functions."""
        return "relaxed draws are chosen for the sites of generative functions, by `with_estimators` or `estimator=`."

    def relaxed(self, where: str, distribution: Any) -> Any:
        """The relaxed distribution in place of one of 0 and 1."""
        base, event_dim = distribution, getattr(distribution, "event_dim", 0)
        while isinstance(base, dist.Independent | dist.ExpandedDistribution):
            base = base.base_dist
        temperature = jnp.asarray(self.temperature, float)
        if isinstance(base, dist.BernoulliProbs | dist.BernoulliLogits):
            logits = jnp.broadcast_to(jnp.asarray(base.logits, float), distribution.shape())
            return StraightThroughBits(logits, temperature, event_dim)
        raise EstimatorError(
            f"{self!r} at {where}: a {type(base).__name__} has no relaxed draws that a program could take for its own. "
            "Draw a Bernoulli there, or from `biased_straight_through(logits)` itself, or choose an estimator."
        )

    def __repr__(self):
        return f"biased_straight_through(temperature={self.temperature!r})"


def _make(cls, name: str, logits: Any, temperature: Any):
    if isinstance(logits, list) or is_numeric(logits):
        logits = jnp.asarray(logits)
    if not jnp.issubdtype(getattr(logits, "dtype", object), jnp.floating) or logits.ndim == 0:
        got = f"{logits.dtype}{list(logits.shape)}" if hasattr(logits, "dtype") else type(logits).__name__
        raise EstimatorError(
            f"{name}(logits) takes a float array of shape (..., k), and got {got}. For a "
            "Bernoulli with logit l write `jnp.stack([jnp.zeros_like(l), l], -1)`."
        )
    expected = "numbers, or minus infinity,"
    real(name, "logits", logits, EstimatorError, expected, lambda x: np.isfinite(x) | (x == -np.inf), scalar=False)
    positive(name, "temperature", temperature, EstimatorError)
    return cls(logits, jnp.asarray(temperature, logits.dtype))


def biased_straight_through(logits: Any = None, temperature: Any = 1.0) -> Any:
    """BIASED: a one-hot draw from logits whose derivative is that of a relaxed one (straight-through Gumbel-softmax).

    With Gumbel noise g the value is exactly one-hot, argmax(log p + g), and its derivative is that of softmax((log p +
    g) / temperature). The value of an objective has the right mean, its gradient has not, at any temperature: it treats
    the objective as linear between the corners, and the softmax as the step that it is not. A distribution, to be
    drawn from in place of a categorical one; its sites are reparameterised. For unbiased gradients of the same draw
    write `dist.Categorical(logits=...)` with `disarm()`, `mvd()`, `local_expectation()`, `rebar()` or `enum()`.

    Args:
        logits: shape (..., k), unnormalised log probabilities; None for a choice by address.
        temperature: of the softmax, positive. A low one has less bias and more variance.

    Returns:
        A distribution of float one-hot vectors, shape (..., k); `log_prob` (nats) is the sum over the batch. Without
        logits a choice for `with_estimators` or `estimator=`: a site that draws a Bernoulli draws 0.0 and 1.0 so
        in place of its own values.

    Raises:
        EstimatorError: logits that are not a float array with an axis of categories.

    Source: Jang, Gu and Poole, Categorical Reparameterization with Gumbel-Softmax, ICLR 2017; Bengio, Leonard and
    Courville, Estimating or Propagating Gradients Through Stochastic Neurons, 2013.

    Examples:
        >>> import jax, jax.numpy as jnp, tracegrad as tg
        >>> g = tg.gen(lambda l: tg.sample("z", tg.biased_straight_through(l, 0.5)))
        >>> f = tg.expectation(lambda key, l: g.simulate(key, l).retval @ jnp.arange(3.0))
        >>> jax.grad(f, argnums=1)(jax.random.key(0), jnp.zeros(3)).shape
        (3,)
    """
    if logits is None:
        positive("biased_straight_through", "temperature", temperature, EstimatorError)
        return Relaxing(temperature)
    return _make(BiasedStraightThrough, "biased_straight_through", logits, temperature)


def biased_concrete(logits: Any, temperature: Any) -> Any:
    """BIASED for the discrete program: a draw of the concrete distribution in place of a category (Gumbel-softmax).

    With Gumbel noise g the value is softmax((log p + g) / temperature), a point inside the simplex. Value and gradient
    of an objective are unbiased for the relaxed program, in which the category is replaced by such a point; for the
    discrete one both are biased, less so at a lower temperature, where the variance grows without bound.

    Args:
        logits: shape (..., k), unnormalised log probabilities.
        temperature: of the softmax, positive.

    Returns:
        A distribution of points in the simplex, shape (..., k); `log_prob` (nats) is the density of the concrete
        distribution with respect to the first k - 1 coordinates, summed over the batch.

    Raises:
        EstimatorError: logits that are not a float array with an axis of categories.

    Source: Maddison, Mnih and Teh, The Concrete Distribution, ICLR 2017; Jang, Gu and Poole, ICLR 2017.

    Examples:
        >>> import jax, jax.numpy as jnp, tracegrad as tg
        >>> g = tg.gen(lambda l: tg.sample("z", tg.biased_concrete(l, 0.5)))
        >>> f = tg.expectation(lambda key, l: g.simulate(key, l).retval @ jnp.arange(3.0))
        >>> jax.grad(f, argnums=1)(jax.random.key(0), jnp.zeros(3)).shape
        (3,)
    """
    return _make(BiasedConcrete, "biased_concrete", logits, temperature)
