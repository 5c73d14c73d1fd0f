"""How draws of numpyro's continuous families come from standard noise: what `exact_expectation` enumerates."""

from __future__ import annotations

import jax
import numpyro.distributions as dist
from jax import numpy as jnp

from ..transforms import StandardNoise, standard_noise


def _noise(distribution, law, move):
    shape = distribution.shape()
    return StandardNoise(law, shape, lambda x: jnp.broadcast_to(move(x), shape))


@standard_noise.register(dist.Normal)
def _(distribution):
    return _noise(distribution, "normal", lambda x: distribution.loc + distribution.scale * x)


@standard_noise.register(dist.MultivariateNormal)
def _(distribution):
    root = distribution.scale_tril
    return _noise(distribution, "normal", lambda x: distribution.loc + (root @ x[..., None])[..., 0])


@standard_noise.register(dist.Uniform)
def _(distribution):
    low, high = distribution.low, distribution.high
    return _noise(distribution, "uniform", lambda x: low + (high - low) * x)


@standard_noise.register(dist.Exponential)
def _(distribution):
    return _noise(distribution, "exponential", lambda x: x / distribution.rate)


@standard_noise.register(dist.Independent)
def _(distribution):
    return standard_noise(distribution.base_dist)


@standard_noise.register(dist.ExpandedDistribution)
def _(distribution):
    base, shape = standard_noise(distribution.base_dist), distribution.shape()
    if base is None or shape[len(shape) - len(base.shape) :] != base.shape:
        return None

    def push(x):
        copies = jax.vmap(base.push)(jnp.reshape(x, (-1, *base.shape)))
        return jnp.reshape(copies, shape)

    return StandardNoise(base.law, shape, push)


@standard_noise.register(dist.TransformedDistribution)
def _(distribution):
    base = standard_noise(distribution.base_dist)
    if base is None:
        return None

    def push(x):
        x = base.push(x)
        for transform in distribution.transforms:
            x = transform(x)
        return x

    return StandardNoise(base.law, base.shape, push)
