"""Eight schools, non-centred from outside: by Markov chains and by a fit."""

import jax

import tracegrad as tg
from tracegrad import dist


@tg.gen
def schools(sigma):
    mu = tg.sample("mu", dist.Normal(0.0, 5.0))
    tau = tg.sample("tau", dist.HalfCauchy(5.0))
    theta = tg.sample("theta", dist.Normal(mu, tau).expand([8]))
    tg.sample("y", dist.Normal(theta, sigma))


def run(key, sigma, y, draws=1000, steps=2000):
    by_chains, by_fit, rest = jax.random.split(key, 3)
    target = tg.Target(schools.with_coordinates({"theta": tg.noncentred()}), sigma, {"y": y})
    chains = tg.nuts(target, key=by_chains, draws=draws, warmup=draws, progress=False)
    fitted = tg.vi(target, key=by_fit, steps=steps, progress=False)
    return tg.to_arviz(chains, key=rest), tg.to_arviz(fitted, key=rest)
