"""What the transformation may ask of numpyro's distributions: pathwise derivatives, finite supports, weak derivatives.

Weak derivatives follow Mohamed et al., Monte Carlo Gradient Estimation in Machine Learning (JMLR 2020), Table 1.
"""

from __future__ import annotations

import jax
import numpyro.distributions as dist
from jax import numpy as jnp

from .transforms import WeakDerivative, elementwise, reparameterised, support, weak_derivative

# ---- is the sampler's derivative the pathwise one? ------------------------------------------------------------------


@reparameterised.register(dist.Distribution)
def _(distribution) -> bool:
    # A family without parameters of its own answers numpyro's `has_rsample` with True by default: mixtures, say.
    return bool(distribution.reparametrized_params) and distribution.has_rsample


@reparameterised.register(dist.Independent)
@reparameterised.register(dist.ExpandedDistribution)
@reparameterised.register(dist.MaskedDistribution)
@reparameterised.register(dist.TransformedDistribution)
def _(distribution) -> bool:
    return reparameterised(_base(distribution))


def _base(distribution):
    return distribution.base_dist


# ---- finite supports and independent elements -----------------------------------------------------------------------


@support.register(dist.Distribution)
def _(distribution):
    if not distribution.has_enumerate_support:
        return None
    values = distribution.enumerate_support(expand=False)
    return jnp.reshape(values, (values.shape[0], *distribution.event_shape))


@elementwise.register(dist.Independent)
def _(distribution):
    return elementwise(distribution.base_dist)


# ---- measure-valued derivatives -------------------------------------------------------------------------------------


@weak_derivative.register(dist.BernoulliProbs)
@weak_derivative.register(dist.BernoulliLogits)
def _(distribution, key, value):
    """One alternative, the other value: d/dp E f = f(1) - f(0)."""
    p = distribution.probs
    sign = 1.0 - 2.0 * value.astype(p.dtype)
    return WeakDerivative((1 - value)[None], (sign * p)[None])


@weak_derivative.register(dist.CategoricalProbs)
@weak_derivative.register(dist.CategoricalLogits)
def _(distribution, key, value):
    """For each category k: p_k (1 - p_k) d logit_k times the difference between k and a draw of the others.

    Where k was not drawn, the drawn value is itself a draw of the others; where it was, another one is drawn.
    """
    logits = distribution.logits
    n = logits.shape[-1]
    categories = jnp.reshape(jnp.arange(n), (n, *(1 for _ in value.shape)))
    drawn = value[None] == categories
    others = jnp.where(jax.nn.one_hot(value, n, dtype=bool), -jnp.inf, jax.lax.stop_gradient(logits))
    other = jax.random.categorical(key, others).astype(value.dtype)
    probabilities = jax.nn.softmax(jax.lax.stop_gradient(logits))
    weight = jnp.moveaxis(probabilities * (1.0 - probabilities) * logits, -1, 0)
    weight = jnp.broadcast_to(weight, drawn.shape)
    alternatives = jnp.where(drawn, other[None], categories.astype(value.dtype))
    return WeakDerivative(alternatives, jnp.where(drawn, -weight, weight))
