"""A mixture of two normals, with the label of each point summed out."""

import arviz as az
import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS, Predictive


def mixture(n, x=None):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    normals = dist.Normal(0.0, 5.0).expand([2]).to_event(1)
    means = numpyro.sample("means", dist.TransformedDistribution(normals, dist.transforms.OrderedTransform()))
    spread = numpyro.sample("spread", dist.HalfNormal(2.0))
    with numpyro.plate("points", n):
        component = dist.Normal(means, spread)
        numpyro.sample("x", dist.MixtureSameFamily(dist.Categorical(probs=weights), component), obs=x)


def run(key, x, draws=1000):
    fit, before, rest = jax.random.split(key, 3)
    mcmc = MCMC(
        NUTS(mixture), num_warmup=draws, num_samples=draws, num_chains=4, chain_method="vectorized", progress_bar=False
    )
    mcmc.run(fit, len(x), x)
    prior = Predictive(mixture, num_samples=1000)(before, len(x))
    checked = Predictive(mixture, mcmc.get_samples())(rest, len(x))
    return az.from_numpyro(mcmc, prior=prior, posterior_predictive=checked)
