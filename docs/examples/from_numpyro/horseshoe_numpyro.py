"""Regression with a horseshoe: few of many coefficients differ from 0. Non-centred from outside."""

import arviz as az
import jax
import numpyro
import numpyro.distributions as dist
from numpyro.handlers import reparam
from numpyro.infer import MCMC, NUTS, Predictive
from numpyro.infer.reparam import LocScaleReparam


def horseshoe(x, y=None):
    local = numpyro.sample("local", dist.HalfCauchy(1.0).expand([x.shape[1]]))
    overall = numpyro.sample("overall", dist.HalfCauchy(1.0))
    beta = numpyro.sample("beta", dist.Normal(0.0, overall * local))
    noise = numpyro.sample("noise", dist.HalfNormal(1.0))
    numpyro.sample("y", dist.Normal(x @ beta, noise), obs=y)


def run(key, x, y, draws=1000):
    fit, before, rest = jax.random.split(key, 3)
    easier = reparam(horseshoe, config={"beta": LocScaleReparam(0)})
    mcmc = MCMC(
        NUTS(easier), num_warmup=draws, num_samples=draws, num_chains=4, chain_method="vectorized", progress_bar=False
    )
    mcmc.run(fit, x, y)
    prior = Predictive(easier, num_samples=1000)(before, x)
    checked = Predictive(easier, mcmc.get_samples())(rest, x)
    return az.from_numpyro(mcmc, prior=prior, posterior_predictive=checked)
