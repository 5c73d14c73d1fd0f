"""A variational autoencoder, trained by minibatches; the latents of new images, and new images."""

import arviz as az
import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.module import eqx_module
from numpyro.infer import SVI, Predictive, Trace_ELBO


def run(key, images, new, latents=8, hidden=64, batch=64, steps=2000):
    k1, k2, fit, draw, rest = jax.random.split(key, 5)
    encoder = eqx.nn.MLP(images.shape[1], 2 * latents, hidden, 1, key=k1)
    decoder = eqx.nn.MLP(latents, images.shape[1], hidden, 1, key=k2)

    def model(images=None, n=1):
        decode = eqx_module("decoder", decoder)
        with numpyro.plate("images", n, subsample_size=batch if n > batch else None):
            some = None if images is None else numpyro.subsample(images, event_dim=1)
            z = numpyro.sample("z", dist.Normal(jnp.zeros(latents), 1.0).to_event(1))
            numpyro.sample("image", dist.Bernoulli(logits=jax.vmap(decode)(z)).to_event(1), obs=some)

    def guide(images, n=1):
        encode = eqx_module("encoder", encoder)
        with numpyro.plate("images", n, subsample_size=batch if n > batch else None):
            some = numpyro.subsample(images, event_dim=1)
            loc, log_scale = jnp.split(jax.vmap(encode)(some), 2, axis=-1)
            numpyro.sample("z", dist.Normal(loc, jnp.exp(log_scale)).to_event(1))

    svi = SVI(model, guide, numpyro.optim.Adam(1e-3), Trace_ELBO())
    done = svi.run(fit, steps, images, len(images), progress_bar=False)
    posterior = Predictive(guide, params=done.params, num_samples=1000)(rest, new[None])
    drawn = Predictive(model, params=done.params, num_samples=100)(draw)
    idata = az.from_dict(posterior={"z": posterior["z"][None, :, 0]}, observed_data={"image": new})
    return idata, drawn["image"][:, 0], -done.losses / len(images)
