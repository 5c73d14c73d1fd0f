"""What a gradient step of a variational autoencoder costs, against the same written by hand and by NumPyro.

Latent 10, hidden 200, 784 Bernoulli pixels. All of them take the gradient of minus the mean over a batch of

    log p(z) + log p(x | z) - log q(z | x),    z drawn from q by reparameterisation,

at the same parameters. `by_hand` draws the noise of each example from a key of its own, as the others do where they
map over examples; `by_hand_one_call` draws that of the whole batch in one call.
"""

import statistics
import zlib
from functools import partial

import jax
import numpyro
from jax import numpy as jnp
from numpyro.infer import Trace_ELBO

import tracegrad as tg
from tracegrad import dist

from .timing import median_ratio, show_table, take_turns

LATENT, HIDDEN, PIXELS = 10, 200, 784
BATCHES = (64, 128, 256, 512, 1024)


def layer(key, n_in, n_out):
    return {"w": jax.random.normal(key, (n_in, n_out)) / jnp.sqrt(n_in), "b": jnp.zeros((n_out,))}


def initial_parameters(key):
    keys = jax.random.split(key, 5)
    return {
        "encoder": {
            "hidden": layer(keys[0], PIXELS, HIDDEN),
            "loc": layer(keys[1], HIDDEN, LATENT),
            "log_scale": layer(keys[2], HIDDEN, LATENT),
        },
        "decoder": {"hidden": layer(keys[3], LATENT, HIDDEN), "logits": layer(keys[4], HIDDEN, PIXELS)},
    }


def images(key, n):
    return jax.random.bernoulli(key, 0.3, (n, PIXELS)).astype(float)


def linear(layer, x):
    return jnp.matmul(x, layer["w"]) + jnp.broadcast_to(layer["b"], (*x.shape[:-1], layer["b"].shape[0]))


def encode(params, x):
    h = jax.nn.softplus(linear(params["hidden"], x))
    return linear(params["loc"], h), jnp.exp(linear(params["log_scale"], h))


def decode(params, z):
    return linear(params["logits"], jax.nn.softplus(linear(params["hidden"], z)))


# ---- ours: one example, then `vmap` ---------------------------------------------------------------------------------


@tg.gen
def model(decoder):
    z = tg.sample("z", dist.Normal(jnp.zeros(LATENT), 1.0).to_event(1))
    return tg.sample("x", dist.Bernoulli(logits=decode(decoder, z)).to_event(1))


@tg.gen
def guide(encoder, x):
    loc, scale = encode(encoder, x)
    tg.sample("z", dist.Normal(loc, scale).to_event(1))


@tg.expectation
def elbo(key, params, x):
    q = guide.simulate(key, params["encoder"], x)
    logp, _ = model.assess(q.choices | {"x": x}, params["decoder"])
    return logp - q.logp


def ours(key, params, batch):
    return -jnp.mean(jax.vmap(lambda k, x: elbo(k, params, x))(jax.random.split(key, len(batch)), batch))


# ---- by hand: the whole batch at once -------------------------------------------------------------------------------


def noise_per_example(key, n):
    return jax.vmap(lambda k: jax.random.normal(k, (LATENT,)))(jax.random.split(key, n))


def noise_in_one_call(key, n):
    return jax.random.normal(key, (n, LATENT))


def noise_as_ours(key, n):
    """The numbers that the site "z" of `guide` draws: a key for each example, folded with the address."""
    fold = zlib.crc32(b"z")
    return jax.vmap(lambda k: jax.random.normal(jax.random.fold_in(k, fold), (LATENT,)))(jax.random.split(key, n))


def normal_log_density(x, loc, scale):
    return jnp.sum(-0.5 * ((x - loc) / scale) ** 2 - jnp.log(scale) - 0.5 * jnp.log(2 * jnp.pi), axis=-1)


def bernoulli_log_probability(x, logits):
    """In the cheapest stable form: with `jax.nn.softplus` the whole step takes some 7 % longer."""
    return x * logits - jnp.maximum(logits, 0.0) - jnp.log1p(jnp.exp(-jnp.abs(logits)))


def written_by_hand(noise):
    def loss(key, params, batch):
        loc, scale = encode(params["encoder"], batch)
        z = loc + scale * noise(key, len(batch))
        logits = decode(params["decoder"], z)
        log_likelihood = jnp.sum(bernoulli_log_probability(batch, logits), axis=-1)
        log_prior = normal_log_density(z, jnp.zeros(()), jnp.ones(()))
        return -jnp.mean(log_prior + log_likelihood - normal_log_density(z, loc, scale))

    return loss


# ---- NumPyro --------------------------------------------------------------------------------------------------------


def their_model(batch):
    decoder = numpyro.param("decoder")
    with numpyro.plate("batch", len(batch)):
        z = numpyro.sample("z", dist.Normal(jnp.zeros(LATENT), 1.0).to_event(1))
        numpyro.sample("x", dist.Bernoulli(logits=decode(decoder, z)).to_event(1), obs=batch)


def their_guide(batch):
    encoder = numpyro.param("encoder")
    with numpyro.plate("batch", len(batch)):
        loc, scale = encode(encoder, batch)
        numpyro.sample("z", dist.Normal(loc, scale).to_event(1))


def numpyros(key, params, batch):
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):  # NumPyro needs both
        return Trace_ELBO().loss(key, params, their_model, their_guide, batch) / len(batch)


LOSSES = {
    "ours": ours,
    "by hand": written_by_hand(noise_per_example),
    "by hand, one call": written_by_hand(noise_in_one_call),
    "NumPyro": numpyros,
}


def gradient_steps(batch_size):
    """The arguments (key, params, batch) and, by name, a function of them: the loss and its gradient."""
    args = (jax.random.key(1), initial_parameters(jax.random.key(2)), images(jax.random.key(3), batch_size))
    return args, {name: jax.value_and_grad(loss, argnums=1) for name, loss in LOSSES.items()}


def main():
    rows = []
    for n in BATCHES:
        args, steps = gradient_steps(n)
        compiled = {name: jax.jit(step).lower(*args).compile() for name, step in steps.items()}
        calls = {name: partial(run, *args) for name, run in compiled.items()}
        times = take_turns(calls, rounds=max(60, 20_000 // n))
        cost = {name: run.cost_analysis() for name, run in compiled.items()}
        rows.append(
            [
                str(n),
                *(f"{1e3 * statistics.median(times[name]):.2f}" for name in times),
                *(f"{median_ratio(times['ours'], times[name]):.3f}" for name in list(times)[1:]),
                *(f"{cost['ours'][k] / cost['by hand'][k]:.4f}" for k in ("flops", "bytes accessed")),
            ]
        )
    show_table(
        "Gradient step of a VAE: medians in ms, then ours divided by the others' (medians of ratios, paired).",
        ["batch", *(f"{name}, ms" for name in LOSSES)]
        + [f"ours / {name}" for name in list(LOSSES)[1:]]
        + ["flops / by hand", "bytes / by hand"],
        rows,
    )
