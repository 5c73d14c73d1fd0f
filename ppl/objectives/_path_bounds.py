"""Bounds of reparameterised samples whose gradient is stated outright: DReG, sticking the landing.

Notation: w_k = p(z_k, observed) / q(z_k), wbar_k = w_k / sum_j w_j, L = log 1/n sum_k w_k.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
from jax import lax
from jax import numpy as jnp

from ..core._addresses import merge
from ..core._arguments import particles, posterior
from ..core._attitudes import compared
from ..core._generative import GenerativeFunction
from ..core._target import splat
from ..transforms import EstimatorError, ObjectiveError, check_pathwise, expectation, held, with_surrogate
from ..transforms._internal import finite_real
from ._pair import log_mean


class _Paths:
    """n reparameterised draws from a guide: log w with the derivative of the path, log p with that of the model."""

    def __init__(self, what, key, n, model, guide, observed, model_args, guide_args):
        self.observed = observed
        self.guide, self.model = compared(guide, model)
        self.guide_args, self.model_args = splat(guide_args), splat(model_args)
        check_pathwise(what, lambda k: guide.simulate(k, *self.guide_args).choices, key)
        self.log_weights, self.logp, self.logq = jax.vmap(self._lane)(jax.random.split(key, n))

    def _lane(self, key):
        z = self.guide.simulate(key, *self.guide_args).choices
        fixed = jax.tree.map(lax.stop_gradient, z)
        log_weight = held(lambda z: self._logp(z) - self._logq(z))(z)
        return log_weight, self._logp(fixed), self._logq(fixed)

    def _logp(self, z):
        return self.model.assess(merge(z, self.observed), *self.model_args)[0]

    def _logq(self, z):
        return self.guide.assess(z, *self.guide_args)[0]


def sticking_the_landing(
    model: GenerativeFunction, guide: GenerativeFunction, observed: Mapping, *, n: int = 1
) -> Callable:
    """The evidence lower bound with the path derivative alone: log q at held parameters.

        d ELBO = E[(d log w/dz)(dz/dphi)];   the part left out, d log q at given z, has expectation zero

    Its variance is zero where the guide is the posterior. For reparameterised guides and exact densities; first order
    only. Inside the importance weighted bound the part left out does not average to zero: there it is refused.

    Args:
        model: a generative function over the latent and the observed addresses.
        guide: one over the latent addresses.
        observed: values at the observed addresses.
        n: the number of particles: 1.

    Returns:
        An objective `(key, model_args=(), guide_args=()) -> scalar`, in nats, to be maximised.

    Raises:
        EstimatorError: n is above 1; a site of the guide is not reparameterised.
        RandomKeyError: a density is an estimate.
        HigherOrderError: a second derivative was asked for.

    Source: Roeder, Wu and Duvenaud, Sticking the Landing: Simple, Lower-Variance Gradient Estimators for Variational
    Inference, NeurIPS 2017.

    Example:
        >>> import jax, tracegrad as tg
        >>> model = tg.gen(lambda: tg.sample("x", tg.dist.Normal(tg.sample("z", tg.dist.Normal(0.0, 1.0)), 1.0)))
        >>> guide = tg.gen(lambda m, s: tg.sample("z", tg.dist.Normal(m, s)))
        >>> objective = tg.sticking_the_landing(model, guide, {"x": 2.0})
        >>> gradient = jax.grad(objective, argnums=2)(jax.random.key(0), (), (1.0, 0.5**0.5))
        >>> bool(abs(gradient[0]) < 1e-5)
        True
    """
    observed, n = posterior("sticking_the_landing", model, guide, observed), particles("sticking_the_landing", n)
    if n != 1:
        raise EstimatorError(
            f"sticking_the_landing is unbiased for the ELBO only, so for n=1, and got n={n!r}: in the importance "
            "weighted bound the score that it drops has no zero expectation. Write `dreg(model, guide, observed, n=n)`."
        )

    @expectation
    def objective(key, model_args=(), guide_args=()):
        paths = _Paths("sticking_the_landing", key, 1, model, guide, observed, model_args, guide_args)
        return with_surrogate(paths.log_weights[0], paths.log_weights[0] + paths.logp[0])

    return objective


def dreg(
    model: GenerativeFunction, guide: GenerativeFunction, observed: Mapping, *, n: int, alpha: float = 0.0
) -> Callable:
    """The importance weighted bound, or the Renyi bound of order alpha, with the doubly reparameterised gradient.

        d/dphi = E[sum_k (alpha wbar_k + (1 - alpha) wbar_k^2) (d log w_k/dz_k)(dz_k/dphi)],   wbar ~ w^(1 - alpha)

    In the model's own parameters it is sum_k wbar_k d log p. At alpha = 0 the bound is that of `iwelbo`; the signal to
    noise ratio of the gradient in the guide does not fall with n, as it does there. For reparameterised guides and
    exact densities; first order only.

    Args:
        model: a generative function over the latent and the observed addresses.
        guide: one over the latent addresses.
        observed: values at the observed addresses.
        n: the number of particles.
        alpha: the order of the bound 1/(1 - alpha) log 1/n sum_k w_k^(1 - alpha), at least 0; not 1, which is the ELBO.

    Returns:
        An objective `(key, model_args=(), guide_args=()) -> scalar`, in nats, to be maximised.

    Raises:
        EstimatorError: a site of the guide is not reparameterised.
        ObjectiveError: alpha is 1, or below 0, where the bound is an upper one.
        RandomKeyError: a density is an estimate.
        HigherOrderError: a second derivative was asked for.

    Source: Tucker, Lawson, Gu and Maddison, Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives, ICLR
    2019; Bauer and Mnih, Generalized Doubly Reparameterized Gradient Estimators, ICML 2021.

    Example:
        >>> import jax, tracegrad as tg
        >>> model = tg.gen(lambda: tg.sample("x", tg.dist.Normal(tg.sample("z", tg.dist.Normal(0.0, 1.0)), 1.0)))
        >>> guide = tg.gen(lambda m: tg.sample("z", tg.dist.Normal(m, 0.7)))
        >>> objective = tg.dreg(model, guide, {"x": 2.0}, n=5)
        >>> jax.grad(objective, argnums=2)(jax.random.key(0), (), (0.0,))[0].shape
        ()
    """
    observed, n = posterior("dreg", model, guide, observed), particles("dreg", n)
    finite_real("dreg", "alpha", alpha, ObjectiveError)
    if alpha == 1.0:
        raise ObjectiveError("dreg: alpha = 1 is the ELBO. Write `sticking_the_landing(model, guide, observed)`.")
    if not alpha >= 0.0:
        raise ObjectiveError(
            f"dreg: alpha must be at least 0, and is {alpha}: below it the bound is an upper one, and its estimate is "
            "not. Write `cubo(model, guide, observed, order=1 - alpha)`."
        )

    @expectation
    def objective(key, model_args=(), guide_args=()):
        paths = _Paths("dreg", key, n, model, guide, observed, model_args, guide_args)
        scaled = lax.stop_gradient((1.0 - alpha) * paths.log_weights)
        share = jax.nn.softmax(scaled)
        doubly = alpha * share + (1.0 - alpha) * share**2
        return with_surrogate(
            log_mean(scaled) / (1.0 - alpha), jnp.sum(doubly * paths.log_weights) + jnp.sum(share * paths.logp)
        )

    return objective


def dreg_wake_phi(model: GenerativeFunction, guide: GenerativeFunction, observed: Mapping, *, n: int) -> Callable:
    """The wake-phase loss of the guide, E[sum_k wbar_k log q(z_k)], with the doubly reparameterised gradient.

        d/dphi = E[sum_k (wbar_k - wbar_k^2) (d log w_k/dz_k)(dz_k/dphi)] = E[sum_k wbar_k d log q(z_k) at given z_k]

    It has the expectation of the usual wake-phase gradient with n samples, which is biased as an estimate of the
    gradient of E_p(z | observed)[log q(z)], the more so the smaller n: the weights are self-normalised. In the model's
    parameters it has no derivative. For reparameterised guides and exact densities; first order only.

    Args:
        model: a generative function over the latent and the observed addresses.
        guide: one over the latent addresses.
        observed: values at the observed addresses.
        n: the number of particles.

    Returns:
        An objective `(key, model_args=(), guide_args=()) -> scalar`, in nats, to be maximised.

    Raises:
        EstimatorError: a site of the guide is not reparameterised.
        RandomKeyError: a density is an estimate.
        HigherOrderError: a second derivative was asked for.

    Source: Tucker, Lawson, Gu and Maddison, Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives, ICLR
    2019; Bornschein and Bengio, Reweighted Wake-Sleep, 2015.

    Example:
        >>> import jax, tracegrad as tg
        >>> model = tg.gen(lambda: tg.sample("x", tg.dist.Normal(tg.sample("z", tg.dist.Normal(0.0, 1.0)), 1.0)))
        >>> guide = tg.gen(lambda m: tg.sample("z", tg.dist.Normal(m, 0.7)))
        >>> objective = tg.dreg_wake_phi(model, guide, {"x": 2.0}, n=5)
        >>> jax.grad(objective, argnums=2)(jax.random.key(0), (), (0.0,))[0].shape
        ()
    """
    observed, n = posterior("dreg_wake_phi", model, guide, observed), particles("dreg_wake_phi", n)

    @expectation
    def objective(key, model_args=(), guide_args=()):
        paths = _Paths("dreg_wake_phi", key, n, model, guide, observed, model_args, guide_args)
        share = jax.nn.softmax(lax.stop_gradient(paths.log_weights))
        return with_surrogate(jnp.sum(share * paths.logq), jnp.sum((share - share**2) * paths.log_weights))

    return objective
