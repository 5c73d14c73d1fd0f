"""Eight schools, non-centred from outside: by Markov chains and by a fit."""

import arviz as az
import jax
import numpyro
import numpyro.distributions as dist
from numpyro.handlers import reparam
from numpyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO, log_likelihood
from numpyro.infer.autoguide import AutoMultivariateNormal
from numpyro.infer.reparam import LocScaleReparam


def schools(sigma, y=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("schools", 8):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def run(key, sigma, y, draws=1000, steps=2000):
    by_chains, by_fit, before, rest = jax.random.split(key, 4)
    easier = reparam(schools, config={"theta": LocScaleReparam(0)})
    prior = Predictive(easier, num_samples=1000)(before, sigma)
    mcmc = MCMC(
        NUTS(easier), num_warmup=draws, num_samples=draws, num_chains=4, chain_method="vectorized", progress_bar=False
    )
    mcmc.run(by_chains, sigma, y)
    checked = Predictive(easier, mcmc.get_samples())(rest, sigma)
    chains = az.from_numpyro(mcmc, prior=prior, posterior_predictive=checked)

    guide = AutoMultivariateNormal(easier)
    svi = SVI(easier, guide, numpyro.optim.Adam(0.02), Trace_ELBO(num_particles=16))
    params = svi.run(by_fit, steps, sigma, y, progress_bar=False).params
    fitted = guide.sample_posterior(rest, params, sample_shape=(1000,))
    groups = {
        "posterior": fitted,
        "prior": prior,
        "posterior_predictive": Predictive(easier, fitted)(rest, sigma),
        "log_likelihood": log_likelihood(easier, fitted, sigma, y),
    }
    stacked = jax.tree.map(lambda x: x[None], groups)
    return chains, az.from_dict(**stacked, observed_data={"y": y})
