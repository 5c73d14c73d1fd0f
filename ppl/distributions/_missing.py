"""Missing data: NaN among observed values counts for nothing, and does no harm in derivatives."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import numpyro.distributions as dist
from jax import numpy as jnp

from .._errors import DistributionError
from ..transforms import elementwise, log_density, reparameterised
from ..transforms._internal import law
from ._supports import feasible, support_of


class NanAsMissing(eqx.Module):
    """See `nan_as_missing`."""

    base: Any

    def sample(self, key: jax.Array) -> jax.Array:
        """Draw all of it, as floats: among integers there is no NaN."""
        value = law(self.base).sample(key)
        return value if jnp.issubdtype(value.dtype, jnp.floating) else value.astype(float)

    def log_prob(self, value: jax.Array) -> jax.Array:
        """The log density of what is there; a value that would do stands for the rest, so that nothing becomes NaN."""
        inner, summed = self.base, 0
        while isinstance(inner, dist.Independent):
            inner, summed = inner.base_dist, summed + inner.reinterpreted_batch_ndims
        gone = jnp.isnan(value)
        whole = jnp.all(gone, axis=tuple(range(gone.ndim - getattr(inner, "event_dim", 0), gone.ndim)))
        logp = log_density(inner, jnp.where(_as_wide(whole, gone), _possible(inner, value), value))
        return jnp.sum(jnp.where(whole, 0.0, logp), axis=tuple(range(-summed, 0)))


def _as_wide(flags, like):
    return jnp.reshape(flags, flags.shape + (1,) * (like.ndim - flags.ndim))


def _possible(distribution, value):
    """A value of the support, zero where none is known."""
    zeros, support = jnp.zeros_like(value), support_of(distribution)
    return zeros if support is None else feasible(support, zeros)


@elementwise.register
def _(distribution: NanAsMissing) -> Any:
    return NanAsMissing(elementwise(distribution.base))


@reparameterised.register
def _(distribution: NanAsMissing) -> bool:
    return reparameterised(distribution.base)


def nan_as_missing(distribution: Any) -> NanAsMissing:
    """A distribution whose observed values may be NaN: what is missing, and counts for nothing.

    Elements of the batch, and of `to_event` dimensions, are missing one by one. A vector of a joint distribution (a
    multivariate normal, say) is missing as a whole; where a part of it is NaN, so is its density. What is missing at
    random is thereby integrated out; whether it is, is a question about the data.

    Args:
        distribution: one of numpyro's, or any object with `sample(key)` and `log_prob(value)`.

    Returns:
        A distribution of the same shape; its draws have no NaN, and are floats.

    Raises:
        DistributionError: something that is no distribution.

    Source: Rubin, Inference and Missing Data, 1976.

    Examples:
        >>> import jax, jax.numpy as jnp, tracegrad as tg
        >>> @tg.gen
        ... def model(mean):
        ...     tg.sample("y", tg.nan_as_missing(tg.dist.Normal(mean, 1.0).expand([2])))
        >>> logp = lambda mean: model.assess({"y": jnp.array([1.0, jnp.nan])}, mean)[0]
        >>> round(float(logp(1.0)), 4), float(jax.grad(logp)(0.0))
        (-0.9189, 1.0)
    """
    if isinstance(distribution, type) or not (hasattr(distribution, "sample") and hasattr(distribution, "log_prob")):
        raise DistributionError(
            "nan_as_missing takes a distribution, an object with `sample(key)` and `log_prob(value)`, and got "
            f"{distribution!r}. Write `nan_as_missing(dist.Normal(mean, 1.0))`."
        )
    return NanAsMissing(distribution)
