"""Rows of networks: particles of a variational autoencoder, and "attend, infer, repeat"."""

import equinox as eqx
import jax
from jax import numpy as jnp
from numpyro.infer import RenyiELBO

import tracegrad as tg

from .. import air, vae
from ..measure import Case, Row

IMAGES, PARTICLES, BATCH = 8, (1, 30, 1000), 64


def _particles(n):
    """The importance-weighted bound of the autoencoder of `vae`."""
    args = jax.random.key(1), vae.initial_parameters(jax.random.key(2)), vae.images(jax.random.key(3), IMAGES)

    def ours(key, p, images):
        def bound(key, x):
            return tg.iwelbo(vae.model, vae.guide, {"x": x}, n=n)(key, (p["decoder"],), (p["encoder"], x))

        return jax.vmap(bound)(jax.random.split(key, len(images)), images).mean()

    def hand(key, p, images):
        loc, scale = vae.encode(p["encoder"], images)
        z = loc + scale * jax.random.normal(key, (n, *loc.shape))
        likelihood = vae.bernoulli_log_probability(images, vae.decode(p["decoder"], z)).sum(-1)
        prior = vae.normal_log_density(z, jnp.zeros(()), jnp.ones(()))
        weights = prior + likelihood - vae.normal_log_density(z, loc, scale)
        return (jax.nn.logsumexp(weights, axis=0) - jnp.log(n)).mean()

    def theirs(key, p, images):
        bound = RenyiELBO(alpha=0.0, num_particles=n)
        return bound.loss(key, p, vae.their_model, vae.their_guide, images) / len(images)

    runs = [jax.value_and_grad(run, argnums=1) for run in (ours, hand, theirs)]
    return Case(args, {"": runs[0]}, *runs[1:])


def _attend(batch):
    """The published methods; nobody has written them by hand, nor in NumPyro."""
    params = air.parameters(jax.random.key(0))
    arrays, static = eqx.partition(params, eqx.is_inexact_array)
    images = jnp.asarray(air.make_scenes(air.digits(), batch, seed=0).images)

    def gradient(name):
        objective = air.METHODS[name].objective(scanned=False)

        def loss(key, arrays, images):
            return -objective(key, eqx.combine(arrays, static), images)

        return jax.value_and_grad(loss, argnums=1)

    return Case((jax.random.key(1), arrays, images), {name: gradient(name) for name in air.PUBLISHED}, spread=False)


ROWS = {
    "IWELBO of an autoencoder, particles": Row(_particles, PARTICLES),
    "attend, infer, repeat": Row(_attend, (BATCH,)),
}
