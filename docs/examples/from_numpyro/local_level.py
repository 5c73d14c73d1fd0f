"""A local level, a random walk seen through noise: the level by Markov chains, then a forecast."""

import jax

import tracegrad as tg
from tracegrad import dist


@tg.gen
def local_level(n, ahead=0):
    drift = tg.sample("drift", dist.HalfNormal(1.0))
    noise = tg.sample("noise", dist.HalfNormal(1.0))

    @tg.gen
    def step(level, _):
        level = tg.sample("level", dist.Normal(level, drift))
        tg.sample("y", dist.Normal(level, noise))
        return level, None

    last, _ = tg.sample("past", step.scan(length=n)(0.0))
    if ahead:
        tg.sample("future", step.scan(length=ahead)(last))


def run(key, y, ahead, draws=1000):
    fit, later, rest = jax.random.split(key, 3)
    chains = tg.nuts(
        tg.Target(local_level, len(y), {"past": {"y": y}}), key=fit, draws=draws, warmup=draws, progress=False
    )
    forecast = tg.predictive(local_level, (len(y), ahead), draws=chains, key=later)
    return tg.to_arviz(chains, key=rest), forecast["future"]["y"]
