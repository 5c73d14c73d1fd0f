"""A chain of two finite choices a step, with a state, a counter and parameters in its carry."""

from jax import numpy as jnp

import tracegrad as tg
from tracegrad import dist


@tg.gen
def two_choices(carry, x):
    state, t, w = carry
    z = tg.sample("z", dist.Categorical(logits=w[state]))
    b = tg.sample("b", dist.Bernoulli(logits=x + 0.1 * t))
    tg.sample("y", dist.Normal(w[0, z] + b.astype(float), 1.0))
    return (z, t + 1.0, w), None


W = jnp.array([[0.3, -1.0, 0.5], [0.9, 0.2, -0.4], [-0.7, 0.1, 1.1]])
XS, YS = jnp.array([0.3, -0.5]), jnp.array([0.1, -1.0])
