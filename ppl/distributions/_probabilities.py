"""Probabilities at finite supports, for numpyro's families whose parameters are probabilities.

They are the parameters or polynomials of them, so they have a derivative at 0 and 1 too, where a log density has none:
d/dp of the probability of heads is 1 at p = 0. Families of logits keep exp(log_prob), which has all there is.
"""

from __future__ import annotations

import jax
import numpyro.distributions as dist
from jax import lax
from jax import numpy as jnp

from ..transforms import probabilities
from ..transforms._internal import log_density_at_support


def _float(x) -> jax.Array:
    return jnp.asarray(x, dtype=float)


@probabilities.register(dist.BernoulliProbs)
def _(distribution, values):
    p = _float(distribution.probs)
    return jnp.stack([1.0 - p, p])


@probabilities.register(dist.CategoricalProbs)
@probabilities.register(dist.MultinomialProbs)
def _(distribution, values):
    # A multinomial with a finite support has one trial, and its values are the rows of an identity matrix.
    return jnp.moveaxis(_float(distribution.probs), -1, 0)


@probabilities.register(dist.BinomialProbs)
def _(distribution, values):
    """By one trial after the other, sums of products alone: right at the ends and for any number of trials."""
    n = values.shape[0] - 1
    p = jnp.broadcast_to(_float(distribution.probs), distribution.batch_shape)

    def trial(q, _):
        up = jnp.concatenate([jnp.zeros_like(q[:1]), q[:-1]])
        return (1.0 - p)[None] * q + p[None] * up, None

    start = jnp.stack([jnp.ones_like(p), *[jnp.zeros_like(p)] * n])
    return lax.scan(trial, start, length=n, unroll=8)[0]


@probabilities.register(dist.ZeroInflatedProbs)
def _(distribution, values):
    base, gate = distribution.base_dist, _float(distribution.gate)
    p = probabilities(base, values)
    p = jnp.exp(log_density_at_support(base, values)) if p is None else p
    zero = jnp.reshape(values == 0, (-1, *(1 for _ in distribution.batch_shape)))
    return jnp.where(zero, gate[None], 0.0) + (1.0 - gate)[None] * p


@probabilities.register(dist.ExpandedDistribution)
def _(distribution, values):
    p, shape = probabilities(distribution.base_dist, values), distribution.batch_shape
    if p is None:
        return None
    inner = p.shape[1:]
    return jnp.broadcast_to(jnp.reshape(p, (-1, *(1 for _ in shape[len(inner) :]), *inner)), (len(p), *shape))
