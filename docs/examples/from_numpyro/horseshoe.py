"""Regression with a horseshoe: few of many coefficients differ from 0. Non-centred from outside."""

import jax

import tracegrad as tg
from tracegrad import dist


@tg.gen
def horseshoe(x):
    local = tg.sample("local", dist.HalfCauchy(1.0).expand([x.shape[1]]))
    overall = tg.sample("overall", dist.HalfCauchy(1.0))
    beta = tg.sample("beta", dist.Normal(0.0, overall * local))
    noise = tg.sample("noise", dist.HalfNormal(1.0))
    tg.sample("y", dist.Normal(x @ beta, noise))


def run(key, x, y, draws=1000):
    fit, rest = jax.random.split(key)
    target = tg.Target(horseshoe.with_coordinates({"beta": tg.noncentred()}), x, {"y": y})
    chains = tg.nuts(target, key=fit, draws=draws, warmup=draws, progress=False)
    return tg.to_arviz(chains, key=rest)
