"""Intercepts that vary by group around a common mean, non-centred from outside."""

import arviz as az
import jax
import numpyro
import numpyro.distributions as dist
from numpyro.handlers import reparam
from numpyro.infer import MCMC, NUTS, Predictive
from numpyro.infer.reparam import LocScaleReparam


def groups(group, x, n, y=None):
    mean = numpyro.sample("mean", dist.Normal(0.0, 5.0))
    spread = numpyro.sample("spread", dist.HalfNormal(2.0))
    slope = numpyro.sample("slope", dist.Normal(0.0, 2.0))
    noise = numpyro.sample("noise", dist.HalfNormal(2.0))
    with numpyro.plate("groups", n):
        intercept = numpyro.sample("intercept", dist.Normal(mean, spread))
    numpyro.sample("y", dist.Normal(intercept[group] + slope * x, noise), obs=y)


def run(key, group, x, y, n, draws=1000):
    fit, before, rest = jax.random.split(key, 3)
    easier = reparam(groups, config={"intercept": LocScaleReparam(0)})
    mcmc = MCMC(
        NUTS(easier), num_warmup=draws, num_samples=draws, num_chains=4, chain_method="vectorized", progress_bar=False
    )
    mcmc.run(fit, group, x, n, y)
    prior = Predictive(easier, num_samples=1000)(before, group, x, n)
    checked = Predictive(easier, mcmc.get_samples())(rest, group, x, n)
    return az.from_numpyro(mcmc, prior=prior, posterior_predictive=checked)
