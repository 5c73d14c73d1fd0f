"""A mixture of two normals, with the label of each point summed out."""

import jax
import jax.numpy as jnp

import tracegrad as tg
from tracegrad import dist


@tg.gen
def point(weights, means, spread):
    label = tg.sample("label", dist.Categorical(probs=weights))
    tg.sample("x", dist.Normal(means[label], spread))


@tg.gen
def mixture(n):
    weights = tg.sample("weights", dist.Dirichlet(jnp.ones(2)))
    normals = dist.Normal(0.0, 5.0).expand([2]).to_event(1)
    means = tg.sample("means", dist.TransformedDistribution(normals, dist.transforms.OrderedTransform()))
    spread = tg.sample("spread", dist.HalfNormal(2.0))
    tg.sample("points", tg.marginal(point, "x", tg.exact()).repeat(n)(weights, means, spread))


def run(key, x, draws=1000):
    fit, rest = jax.random.split(key)
    chains = tg.nuts(
        tg.Target(mixture, len(x), {"points": {"x": x}}), key=fit, draws=draws, warmup=draws, progress=False
    )
    return tg.to_arviz(chains, key=rest)
