"""What the transformation may ask of numpyro's distributions: pathwise derivatives and finite supports.

Measure-valued derivatives are in `_weak_derivatives`.
"""

from __future__ import annotations

import inspect

import jax
import numpy as np
import numpyro.distributions as dist
from jax import numpy as jnp

from ..transforms import elementwise, moving_support, positive_support, reparameterised, support

# ---- is the sampler's derivative the pathwise one? ------------------------------------------------------------------


@reparameterised.register(dist.Distribution)
def _(distribution) -> bool:
    said = inspect.getattr_static(distribution, "has_rsample")
    if isinstance(said, bool):  # a class of a user's own; numpyro's have a property
        return said
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


@support.register(dist.MultinomialProbs)
@support.register(dist.MultinomialLogits)
def _(distribution):
    # One trial is a one-hot draw; the vectors of more trials are too many to list.
    n = distribution.total_count
    if isinstance(n, jax.Array) or np.any(np.asarray(n) != 1):
        return None
    return jnp.eye(distribution.event_shape[-1], dtype=int)


@elementwise.register(dist.Independent)
def _(distribution):
    return elementwise(distribution.base_dist)


@moving_support.register(dist.Distribution)
def _(distribution) -> bool:
    # The bounds that a constraint holds are its arrays. Counts, as of a binomial, have no derivative.
    bounds = jax.tree.leaves(distribution.support)
    return any(isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.inexact) for x in bounds)


@moving_support.register(dist.Independent)
@moving_support.register(dist.ExpandedDistribution)
@moving_support.register(dist.MaskedDistribution)
def _(distribution) -> bool:
    return moving_support(distribution.base_dist)


@moving_support.register(dist.Delta)
def _(distribution) -> bool:
    return isinstance(distribution.v, jax.Array)


@positive_support.register(dist.Distribution)
def _(distribution) -> bool:
    constraint = distribution.support
    while hasattr(constraint, "base_constraint"):
        constraint = constraint.base_constraint
    low = getattr(constraint, "lower_bound", None)
    return constraint is dist.constraints.simplex or isinstance(low, int | float) and low >= 0
