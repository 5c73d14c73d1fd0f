"""Ways to train "attend, infer, repeat": one model, one family, and a gradient estimator for its presence bits.

Each is an entry of METHODS, a function that makes an objective `(key, params, images) -> nats`, to be maximised, or for
the moving average `(key, params, images, state) -> (nats, state)`. The images of a batch are lanes of one `vmap`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from air_model import STEPS, air
from air_networks import SCENE, networks

import tracegrad as tg

PARTICLES = 2


class Method(NamedTuple):
    """How to train: `objective(*, scanned)`, and the state that it starts with, if it has one."""

    objective: Callable
    state: Any = None


def parameters(key):
    """Networks at random, with a critic for the learned baseline: it foretells the objective from the scene."""
    k1, k2 = jax.random.split(key)
    return networks(k1) | {"critic": eqx.nn.MLP(SCENE**2, STEPS, 100, depth=1, key=k2)}


def mean_over_batch(bound):
    """The mean over images of `bound(key, params, image)`; the images may be bytes."""

    def objective(key, params, images):
        if images.dtype == jnp.uint8:
            images = images.astype(float) / 255.0
        keys = jax.random.split(key, len(images))
        return jax.vmap(bound, (0, None, 0))(keys, params, images).mean()

    return objective


# ---- one sample: the evidence lower bound ----------------------------------------------------------------------------


def elbo(estimators):
    """The ELBO, with gradient estimators by address."""

    def make(*, scanned=False):
        model, guide = air(scanned=scanned)
        family = guide.with_estimators(estimators)

        @tg.expectation
        def bound(key, params, image):
            q = family.simulate(key, params["recogniser"], image)
            logp, _ = model.assess(q.choices | {"scene": image}, params["painter"])
            return logp - q.logp

        return mean_over_batch(bound)

    return make


def elbo_with_moving_average(*, scanned=False):
    """The score function, less a moving average of the objective over the steps before."""

    def objective(key, params, images, state):
        value = elbo({"**/pres": tg.reinforce(baseline=state.value)})(scanned=scanned)(key, params, images)
        return value, state.update(value)

    return objective


def elbo_with_critic(*, scanned=False):
    """The score function, less what a network foretells for each step of each scene, trained alongside."""
    model, guide = air(scanned=scanned)

    @tg.expectation
    def bound(key, params, image):
        foretold = 1000.0 * params["critic"](image.reshape(-1))
        baselines = [foretold.mean()] if scanned else list(foretold)
        addresses = ["steps/pres"] if scanned else [f"step{t}/pres" for t in range(STEPS)]
        estimators = {a: tg.reinforce(baseline=b) for a, b in zip(addresses, baselines, strict=True)}
        q = guide.with_estimators(estimators).simulate(key, params["recogniser"], image)
        logp, _ = model.assess(q.choices | {"scene": image}, params["painter"])
        value = logp - q.logp
        return value - sum(tg.baseline_loss(value, b) for b in baselines)

    return mean_over_batch(bound)


# ---- several samples -------------------------------------------------------------------------------------------------


def importance_weighted(estimators, objective=tg.iwelbo):
    """The bound with two particles."""

    def make(*, scanned=False):
        model, guide = air(scanned=scanned)
        family = guide.with_estimators(estimators)

        def bound(key, params, image):
            of_image = objective(model, family, {"scene": image}, n=PARTICLES)
            return of_image(key, params["painter"], (params["recogniser"], image))

        return mean_over_batch(bound)

    return make


def reweighted_wake_sleep(*, scanned=False):
    """The model by the importance weighted bound, the family by the weights of its draws: no estimator is needed."""
    model, guide = air(scanned=scanned)

    def bound(key, params, image):
        k1, k2 = jax.random.split(key)
        args = params["painter"], (params["recogniser"], image)
        observed = {"scene": image}
        wake_theta = tg.wake_theta(model, guide, observed, n=PARTICLES)(k1, *args)
        wake_phi = tg.wake_phi(model, guide, observed, n=PARTICLES)(k2, *args)
        return wake_theta + wake_phi - jax.lax.stop_gradient(wake_phi)  # shown is the bound alone

    return mean_over_batch(bound)


PRESENCE = "**/pres"
METHODS = {
    "reinforce": Method(elbo({PRESENCE: tg.reinforce()})),
    "reinforce-average": Method(elbo_with_moving_average, tg.MovingAverage(0.9)),
    "reinforce-critic": Method(elbo_with_critic),
    "mvd": Method(elbo({PRESENCE: tg.mvd()})),
    "enum": Method(elbo({PRESENCE: tg.enum()})),
    "local-expectation": Method(elbo({PRESENCE: tg.local_expectation()})),
    "hybrid": Method(elbo({"step0/pres": tg.mvd(), PRESENCE: tg.enum()})),
    "iwelbo-reinforce": Method(importance_weighted({PRESENCE: tg.reinforce()})),
    "iwelbo-vimco": Method(importance_weighted({PRESENCE: tg.reinforce()}, tg.vimco)),
    "iwelbo-mvd": Method(importance_weighted({PRESENCE: tg.mvd()})),
    "wake-sleep": Method(reweighted_wake_sleep),
}
UNROLLED_ONLY = {"enum", "hybrid"}  # a joint sum over the bits cannot go through `scan`
