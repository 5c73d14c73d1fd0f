"""Intercepts that vary by group around a common mean, non-centred from outside."""

import jax

import tracegrad as tg
from tracegrad import dist


@tg.gen
def groups(group, x, n):
    mean = tg.sample("mean", dist.Normal(0.0, 5.0))
    spread = tg.sample("spread", dist.HalfNormal(2.0))
    slope = tg.sample("slope", dist.Normal(0.0, 2.0))
    noise = tg.sample("noise", dist.HalfNormal(2.0))
    intercept = tg.sample("intercept", dist.Normal(mean, spread).expand([n]))
    tg.sample("y", dist.Normal(intercept[group] + slope * x, noise))


def run(key, group, x, y, n, draws=1000):
    fit, rest = jax.random.split(key)
    easier = groups.with_coordinates({"intercept": tg.noncentred()})
    chains = tg.nuts(tg.Target(easier, (group, x, n), {"y": y}), key=fit, draws=draws, warmup=draws, progress=False)
    return tg.to_arviz(chains, key=rest)
