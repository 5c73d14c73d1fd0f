"""A hidden Markov model of two states, which are summed out."""

import arviz as az
import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS


def hmm(y):
    stay = numpyro.sample("stay", dist.Beta(4.0, 1.0).expand([2]))
    means = numpyro.sample("means", dist.Normal(jnp.array([-1.0, 1.0]), 0.5))
    move = jnp.array([[0.0, 1.0], [1.0, 0.0]]) + jnp.array([[1.0, -1.0], [-1.0, 1.0]]) * stay[:, None]

    def step(alpha, y):
        alpha = jax.nn.logsumexp(alpha[:, None] + jnp.log(move), axis=0)
        return alpha + dist.Normal(means, 1.0).log_prob(y), None

    first = jnp.log(move[0]) + dist.Normal(means, 1.0).log_prob(y[0])
    last, _ = jax.lax.scan(step, first, y[1:])
    numpyro.factor("y", jax.nn.logsumexp(last))


def run(key, y, draws=1000):
    mcmc = MCMC(
        NUTS(hmm), num_warmup=draws, num_samples=draws, num_chains=4, chain_method="vectorized", progress_bar=False
    )
    mcmc.run(key, y)
    return az.from_numpyro(mcmc, log_likelihood=False)
