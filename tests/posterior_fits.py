"""How the known posteriors are fitted, and how a fit is judged: the same in the tests and in the benchmark.

The recipe is the library's: Laplace's approximation first, a family around it, Adam with a learning rate that decays
to nothing; with the path derivative alone (`sticking_the_landing`) for a normal, whose gradient noise then vanishes as
it nears the posterior.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np
import optax
from jax import numpy as jnp

import tracegrad as tg

# family -> objective, steps, learning rate, lanes
FAMILIES = {
    "laplace": None,
    "full_rank": (tg.sticking_the_landing, 1000, 0.02, 16),
    "flow": (tg.elbo, 2000, 0.005, 32),
}
DRAWS = 40_000


class Judged(NamedTuple):
    """The largest |mean error| / sd, the range of sd ratios, k-hat and the estimated log evidence."""

    z: float
    low: float
    high: float
    k_hat: float
    log_evidence: float


def fitted(target: tg.Target, family: str, normal: Mapping) -> tuple[tg.GenerativeFunction, Mapping]:
    """The guide and the fitted parameters of a family around Laplace's approximation."""
    if family == "laplace":
        return tg.auto.laplace(target).guide, normal
    made = getattr(tg.auto, family)(target, around=normal)
    bound, steps, rate, lanes = FAMILIES[family]
    bound = bound(target.function, made.guide, target.observed)

    def objective(key, params):
        return jnp.mean(jax.vmap(lambda k: bound(k, target.args, params))(jax.random.split(key, lanes)))

    optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps))
    start = made.init(jax.random.key(1))
    run = tg.fit(objective, start, optimizer, key=jax.random.key(2), steps=steps, maximize=True, progress=False)
    return made.guide, run.params


def judged(posterior, target: tg.Target, guide: tg.GenerativeFunction, params: Mapping, reference: Mapping) -> Judged:
    """Compare a fit with the reference's moments, by its own draws."""

    def one(key):
        return posterior.quantities(guide.simulate(key, params).choices)

    draws = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=2000))(jax.random.split(jax.random.key(3), DRAWS))
    mean, sd = np.asarray(reference["mean"]), np.asarray(reference["sd"])
    z, ratio = (np.asarray(draws.mean(0)) - mean) / sd, np.asarray(draws.std(0)) / sd
    weighted = tg.importance_sampling(target, guide, params, key=jax.random.key(4), n=5000, chunk_size=500)
    return Judged(
        float(np.abs(z).max()), float(ratio.min()), float(ratio.max()), weighted.k_hat, float(weighted.log_evidence)
    )
