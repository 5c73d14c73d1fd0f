"""The gamma's rejection sampler, read backwards: which noise it accepted to make a drawn value."""

from __future__ import annotations

import jax
import numpyro.distributions as dist
from jax import lax
from jax import numpy as jnp

from ..transforms import Accepted, accepted_noise, noise


def _map(eps, a):
    """The map of Marsaglia and Tsang, z = (a - 1/3) (1 + eps / sqrt(9 a - 3))^3, and log |dz/deps|."""
    root = 1.0 + eps / jnp.sqrt(9.0 * a - 3.0)
    z = (a - 1.0 / 3.0) * root**3
    return z, jnp.log(3.0 * (a - 1.0 / 3.0)) + 2.0 * jnp.log(root) - 0.5 * jnp.log(9.0 * a - 3.0)


def _noise_of(z, a):
    """The noise that the map takes to z."""
    return (jnp.cbrt(z / (a - 1.0 / 3.0)) - 1.0) * jnp.sqrt(9.0 * a - 3.0)


def _augment(key, x, a, steps):
    """A gamma of shape a + steps given one of shape a, and the factor between them as a function of a.

    If x is a gamma of shape a and E an exponential, x + E is one of shape a + 1, and x / (x + E) = U^(1/a) with U
    uniform and independent of it.
    """
    factor = jnp.ones_like(x)
    for i in range(steps):
        longer = x + noise(jax.random.fold_in(key, i), dist.Exponential(jnp.ones(x.shape)))
        power = lax.stop_gradient((a + i) * (jnp.log(x) - jnp.log(longer)))
        x, factor = longer, factor * jnp.exp(power / (a + i))
    return lax.stop_gradient(x), factor


@accepted_noise.register(dist.Gamma)
def _(distribution, key, value, augmentation):
    a = jnp.broadcast_to(jnp.asarray(distribution.concentration, dtype=float), value.shape)
    rate = jnp.broadcast_to(jnp.asarray(distribution.rate, dtype=float), value.shape)
    tiny = jnp.finfo(float).tiny
    x = jnp.maximum(lax.stop_gradient(value.astype(float) * rate), tiny)
    x, factor = _augment(key, x, a, augmentation)
    shape = a + augmentation
    eps = lax.stop_gradient(_noise_of(x, shape))
    z, log_slope = _map(eps, shape)
    score = (shape - 1.0) * jnp.log(z) - z - jax.scipy.special.gammaln(shape) + log_slope
    return Accepted(z * factor / rate, score)
