"""How the known posteriors are fitted, and how a fit is judged: the same in the tests and in the benchmark.

The recipe is the library's: Laplace's approximation first, a family around it, Adam with a learning rate that decays
to nothing; with the path derivative alone (`sticking_the_landing`) for a normal, whose gradient noise then vanishes as
it nears the posterior.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np
import optax
from jax import numpy as jnp

import tracegrad as tg

# family -> objective, steps, learning rate, lanes
FAMILIES: dict = {
    "laplace": None,
    "full_rank": (tg.sticking_the_landing, 4000, 0.02, 16),
    "flow": (tg.elbo, 2000, 0.005, 32),
}
DRAWS = 40_000


class Judged(NamedTuple):
    """The largest |mean error| / sd, the range of sd ratios, k-hat, the estimated log evidence; the first with weights.

    `weighted_z` is of the draws weighted by Pareto smoothed importance weights, which k-hat speaks of.
    """

    z: float
    low: float
    high: float
    k_hat: float
    log_evidence: float
    weighted_z: float


def normal_of(target: tg.Target) -> Mapping:
    """Laplace's approximation, or where there is no mode (a centred hierarchy) a fit of the mean-field family."""
    try:
        return tg.auto.laplace(target).init(jax.random.key(0))
    except tg.FitError:
        return fit_of(target, tg.auto.mean_field(target), tg.elbo, 3000, 0.02, 16)


def fitted(target: tg.Target, family: str, normal: Mapping) -> tuple[tg.GenerativeFunction, Mapping]:
    """The guide and the fitted parameters of a family around Laplace's approximation."""
    if family == "laplace":
        return (tg.auto.laplace if "lower" in normal else tg.auto.mean_field)(target).guide, normal
    made = getattr(tg.auto, family)(target, around=normal)
    return made.guide, fit_of(target, made, *FAMILIES[family])


def fit_of(target: tg.Target, made: tg.auto.Family, bound: Callable, steps: int, rate: float, lanes: int) -> Mapping:
    """The parameters after Adam with half a cosine."""
    bound = bound(target.function, made.guide, target.observed)

    def objective(key, params):
        return jnp.mean(jax.vmap(lambda k: bound(k, target.args, params))(jax.random.split(key, lanes)))

    optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps))
    start = made.init(jax.random.key(1))
    run = tg.fit(objective, start, optimizer, key=jax.random.key(2), steps=steps, maximize=True, progress=False)
    return run.params


def judged(posterior, target: tg.Target, guide: tg.GenerativeFunction, params: Mapping, reference: Mapping) -> Judged:
    """Compare a fit with the reference's moments, by its own draws."""

    def one(key):
        return posterior.quantities(guide.simulate(key, params).choices)

    draws = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=2000))(jax.random.split(jax.random.key(3), DRAWS))
    mean, sd = np.asarray(reference["mean"]), np.asarray(reference["sd"])
    z, ratio = (np.asarray(draws.mean(0)) - mean) / sd, np.asarray(draws.std(0)) / sd
    weighted = tg.importance_sampling(target, guide, params, key=jax.random.key(4), n=5000, chunk_size=500)
    log_weights, k_hat = weighted.psis()
    means = np.asarray(jnp.exp(log_weights) @ jax.jit(jax.vmap(posterior.quantities))(weighted.choices))
    weighted_z = np.abs((means - mean) / sd).max()
    evidence = float(weighted.log_evidence)
    return Judged(float(np.abs(z).max()), float(ratio.min()), float(ratio.max()), k_hat, evidence, float(weighted_z))
