"""A hidden Markov model of two states, which are summed out."""

import jax
import jax.numpy as jnp

import tracegrad as tg
from tracegrad import dist


@tg.gen
def hmm(n):
    stay = tg.sample("stay", dist.Beta(4.0, 1.0).expand([2]))
    means = tg.sample("means", dist.Normal(jnp.array([-1.0, 1.0]), 0.5))
    move = jnp.array([[0.0, 1.0], [1.0, 0.0]]) + jnp.array([[1.0, -1.0], [-1.0, 1.0]]) * stay[:, None]

    @tg.gen
    def step(state, _):
        state = tg.sample("state", dist.Categorical(probs=move[state]))
        tg.sample("y", dist.Normal(means[state], 1.0))
        return state, None

    tg.sample("steps", tg.marginal(step.scan(length=n), "y", tg.forward_filter())(0))


def run(key, y, draws=1000):
    fit, rest = jax.random.split(key)
    chains = tg.nuts(tg.Target(hmm, len(y), {"steps": {"y": y}}), key=fit, draws=draws, warmup=draws, progress=False)
    return tg.to_arviz(chains, key=rest)
