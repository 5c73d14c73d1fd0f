"""A Gaussian process: its hyperparameters by Markov chains, then the function at new points."""

import arviz as az
import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS, Predictive


def kernel():
    variance = numpyro.sample("variance", dist.LogNormal(0.0, 1.0))
    length = numpyro.sample("length", dist.LogNormal(0.0, 1.0))
    noise = numpyro.sample("noise", dist.LogNormal(-1.0, 1.0))

    def between(a, b):
        return variance * jnp.exp(-0.5 * ((a[:, None] - b) / length) ** 2)

    return between, lambda x: between(x, x) + (noise + 1e-6) * jnp.eye(len(x))


def process(x, y=None):
    _, noisy = kernel()
    numpyro.sample("y", dist.MultivariateNormal(jnp.zeros(len(x)), noisy(x)), obs=y)


def later(x, y, new):
    between, noisy = kernel()
    gain = jnp.linalg.solve(noisy(x), between(x, new)).T
    numpyro.sample("f", dist.MultivariateNormal(gain @ y, noisy(new) - gain @ between(x, new)))


def run(key, x, y, new, draws=1000):
    fit, before, ahead, rest = jax.random.split(key, 4)
    mcmc = MCMC(
        NUTS(process), num_warmup=draws, num_samples=draws, num_chains=4, chain_method="vectorized", progress_bar=False
    )
    mcmc.run(fit, x, y)
    predicted = Predictive(later, mcmc.get_samples())(ahead, x, y, new)
    prior = Predictive(process, num_samples=1000)(before, x)
    checked = Predictive(process, mcmc.get_samples())(rest, x)
    return az.from_numpyro(mcmc, prior=prior, posterior_predictive=checked), predicted["f"]
