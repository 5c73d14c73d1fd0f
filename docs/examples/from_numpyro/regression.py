"""Linear regression: Markov chains, predictions at new points, ArviZ."""

import jax

import tracegrad as tg
from tracegrad import dist


@tg.gen
def line(x):
    start = tg.sample("start", dist.Normal(0.0, 2.0))
    slope = tg.sample("slope", dist.Normal(0.0, 2.0))
    noise = tg.sample("noise", dist.Exponential(1.0))
    tg.sample("y", dist.Normal(start + slope * x, noise))


def run(key, x, y, new, draws=1000):
    fit, later, rest = jax.random.split(key, 3)
    chains = tg.nuts(tg.Target(line, x, {"y": y}), key=fit, draws=draws, warmup=draws, progress=False)
    predicted = tg.predictive(line, new, draws=chains, key=later)
    return tg.to_arviz(chains, key=rest), predicted["y"]
