"""Linear regression: Markov chains, predictions at new points, ArviZ."""

import arviz as az
import jax
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS, Predictive


def line(x, y=None):
    start = numpyro.sample("start", dist.Normal(0.0, 2.0))
    slope = numpyro.sample("slope", dist.Normal(0.0, 2.0))
    noise = numpyro.sample("noise", dist.Exponential(1.0))
    numpyro.sample("y", dist.Normal(start + slope * x, noise), obs=y)


def run(key, x, y, new, draws=1000):
    fit, later, before, rest = jax.random.split(key, 4)
    mcmc = MCMC(
        NUTS(line), num_warmup=draws, num_samples=draws, num_chains=4, chain_method="vectorized", progress_bar=False
    )
    mcmc.run(fit, x, y)
    predicted = Predictive(line, mcmc.get_samples())(later, new)
    prior = Predictive(line, num_samples=1000)(before, x)
    checked = Predictive(line, mcmc.get_samples())(rest, x)
    return az.from_numpyro(mcmc, prior=prior, posterior_predictive=checked), predicted["y"]
