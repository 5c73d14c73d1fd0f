"""A Gaussian process: its hyperparameters by Markov chains, then the function at new points."""

import jax
import jax.numpy as jnp

import tracegrad as tg
from tracegrad import dist


@tg.gen
def kernel():
    variance = tg.sample("variance", dist.LogNormal(0.0, 1.0))
    length = tg.sample("length", dist.LogNormal(0.0, 1.0))
    noise = tg.sample("noise", dist.LogNormal(-1.0, 1.0))

    def between(a, b):
        return variance * jnp.exp(-0.5 * ((a[:, None] - b) / length) ** 2)

    return between, lambda x: between(x, x) + (noise + 1e-6) * jnp.eye(len(x))


@tg.gen
def process(x):
    _, noisy = kernel.inline()
    tg.sample("y", dist.MultivariateNormal(jnp.zeros(len(x)), noisy(x)))


@tg.gen
def later(x, y, new):
    between, noisy = kernel.inline()
    gain = jnp.linalg.solve(noisy(x), between(x, new)).T
    tg.sample("f", dist.MultivariateNormal(gain @ y, noisy(new) - gain @ between(x, new)))


def run(key, x, y, new, draws=1000):
    fit, ahead, rest = jax.random.split(key, 3)
    chains = tg.nuts(tg.Target(process, x, {"y": y}), key=fit, draws=draws, warmup=draws, progress=False)
    predicted = tg.predictive(later, (x, y, new), draws=chains, key=ahead)
    return tg.to_arviz(chains, key=rest), predicted["f"]
