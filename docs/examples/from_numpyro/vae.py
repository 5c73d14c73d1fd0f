"""A variational autoencoder, trained by minibatches; the latents of new images, and new images."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import tracegrad as tg
from tracegrad import dist


@tg.gen
def model(decoder):
    z = tg.sample("z", dist.Normal(jnp.zeros(decoder.in_size), 1.0).to_event(1))
    tg.sample("image", dist.Bernoulli(logits=decoder(z)).to_event(1))


@tg.gen
def guide(encoder, image):
    loc, log_scale = jnp.split(encoder(image), 2)
    tg.sample("z", dist.Normal(loc, jnp.exp(log_scale)).to_event(1))


def run(key, images, new, latents=8, hidden=64, batch=64, steps=2000):
    k1, k2, fit, draw, rest = jax.random.split(key, 5)
    encoder = eqx.nn.MLP(images.shape[1], 2 * latents, hidden, 1, key=k1)
    decoder = eqx.nn.MLP(latents, images.shape[1], hidden, 1, key=k2)

    def bound(key, networks, images):
        def one(key, image):
            return tg.elbo(model, guide, {"image": image})(key, (networks[1],), (networks[0], image))

        return jax.vmap(one)(jax.random.split(key, len(images)), images).mean()

    adam = optax.adam(1e-3)
    done = tg.fit(
        bound,
        (encoder, decoder),
        adam,
        key=fit,
        steps=steps,
        data=images,
        batch_size=batch,
        maximize=True,
        progress=False,
    )
    encoder, decoder = done.params
    posterior = tg.Fitted(tg.Target(model, decoder, {"image": new}), guide, (encoder, new))
    drawn = tg.predictive(model, decoder, key=draw, n=100)
    return tg.to_arviz(posterior, key=rest), drawn["image"], done.history
