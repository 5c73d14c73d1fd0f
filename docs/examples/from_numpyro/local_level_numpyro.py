"""A local level, a random walk seen through noise: the level by Markov chains, then a forecast."""

import arviz as az
import jax
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan
from numpyro.infer import MCMC, NUTS, Predictive


def local_level(n, y=None, ahead=0):
    drift = numpyro.sample("drift", dist.HalfNormal(1.0))
    noise = numpyro.sample("noise", dist.HalfNormal(1.0))

    def step(level, _):
        level = numpyro.sample("level", dist.Normal(level, drift))
        numpyro.sample("y", dist.Normal(level, noise))
        return level, None

    with numpyro.handlers.condition(data={} if y is None else {"y": y}):
        scan(step, 0.0, None, length=n + ahead)


def run(key, y, ahead, draws=1000):
    fit, before, later, rest = jax.random.split(key, 4)
    mcmc = MCMC(
        NUTS(local_level),
        num_warmup=draws,
        num_samples=draws,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(fit, len(y), y)
    forecast = Predictive(local_level, mcmc.get_samples())(later, len(y), y, ahead)
    prior = Predictive(local_level, num_samples=1000)(before, len(y))
    checked = Predictive(local_level, mcmc.get_samples())(rest, len(y))
    return az.from_numpyro(mcmc, prior=prior, posterior_predictive=checked), forecast["y"][:, len(y) :]
