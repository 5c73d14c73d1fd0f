"""Bounds of reparameterised samples whose gradient is stated outright: DReG, sticking the landing.

Notation: w_k = p(z_k, observed) / q(z_k), wbar_k = w_k / sum_j w_j, L = log 1/n sum_k w_k.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Unpack

import jax
from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Float, Key

from ..algorithms._base import at_index, log_mean_exp
from ..core._arguments import particles
from ..core._generative import GenerativeFunction
from ..transforms import EstimatorError, ObjectiveError, check_pathwise, held, with_surrogate
from ..transforms._internal import finite_real, stop_gradient
from ._objective import Objective, Shared, objective
from ._pair import Pair, terms


class Paths(NamedTuple):
    """Reparameterised draws: log w with the derivative of the path alone, log p and log q with that of parameters."""

    log_weights: Float[Array, " n"]
    logp: Float[Array, " n"]
    logq: Float[Array, " n"]


def paths(what: str, pair: Pair, key: Key[Array, ""], n: int) -> Paths:
    """Draws from the guide, all of it reparameterised, as arrays of shape (n,)."""
    pair = pair.compared()
    check_pathwise(what, lambda k: pair.simulate(k).choices, key)

    def one(key):
        z = pair.simulate(key).choices
        fixed = stop_gradient(z)
        log_weight = held(lambda z: pair.logp(z) - pair.logq(z))(z)
        return Paths(log_weight, pair.logp(fixed), pair.logq(fixed))

    return jax.vmap(one)(jax.random.split(key, n))


@objective
def sticking_the_landing(
    model: GenerativeFunction,
    guide: GenerativeFunction,
    observed: Mapping,
    *,
    n: int = 1,
    scale_both: Mapping | None = None,
    **shared: Unpack[Shared],
) -> Objective:
    """The evidence lower bound with the path derivative alone: log q at held parameters.

        d ELBO = E[(d log w/dz)(dz/dphi)];   the part left out, d log q at given z, has expectation zero

    Its variance is zero where the guide is the posterior. For reparameterised guides and exact densities; first order
    only. Inside the importance weighted bound the part left out does not average to zero: there it is refused.

    Args:
        n: the number of particles: 1.
        scale_both: weights of the terms log p - log q by address, as of `elbo`.

    Returns:
        An objective `(key, model_args=(), guide_args=()) -> scalar`, in nats, to be maximised.

    Raises:
        EstimatorError: n is above 1; a site of the guide is not reparameterised.
        RandomKeyError: a density is an estimate.
        HigherOrderError: a second derivative was asked for.

    Source: Roeder, Wu and Duvenaud, Sticking the Landing: Simple, Lower-Variance Gradient Estimators for Variational
    Inference, NeurIPS 2017.

    Examples:
        >>> import jax, tracegrad as tg
        >>> model = tg.gen(lambda: tg.sample("x", tg.dist.Normal(tg.sample("z", tg.dist.Normal(0.0, 1.0)), 1.0)))
        >>> guide = tg.gen(lambda m, s: tg.sample("z", tg.dist.Normal(m, s)))
        >>> objective = tg.sticking_the_landing(model, guide, {"x": 2.0})
        >>> gradient = jax.grad(objective, argnums=2)(jax.random.key(0), (), (1.0, 0.5**0.5))
        >>> bool(abs(gradient[0]) < 1e-5)
        True
    """
    if particles("sticking_the_landing", n) != 1:
        raise EstimatorError(
            f"sticking_the_landing is unbiased for the ELBO only, so for n=1, and got n={n!r}: in the importance "
            "weighted bound the score that it drops has no zero expectation. Write `dreg(model, guide, observed, n=n)`."
        )

    scale = terms(scale_both)

    def bound(pair, key):
        one = at_index(paths("sticking_the_landing", pair.with_terms_scaled(scale), key, 1), 0)
        return with_surrogate(one.log_weights, one.log_weights + one.logp)

    return bound


@objective
def dreg(
    model: GenerativeFunction,
    guide: GenerativeFunction,
    observed: Mapping,
    *,
    n: int,
    alpha: float = 0.0,
    **shared: Unpack[Shared],
) -> Objective:
    """The importance weighted bound, or the Renyi bound of order alpha, with the doubly reparameterised gradient.

        d/dphi = E[sum_k (alpha wbar_k + (1 - alpha) wbar_k^2) (d log w_k/dz_k)(dz_k/dphi)],   wbar ~ w^(1 - alpha)

    In the model's own parameters it is sum_k wbar_k d log p. At alpha = 0 the bound is that of `iwelbo`; the signal to
    noise ratio of the gradient in the guide does not fall with n, as it does there. For reparameterised guides and
    exact densities; first order only.

    Args:
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

    Examples:
        >>> import jax, tracegrad as tg
        >>> model = tg.gen(lambda: tg.sample("x", tg.dist.Normal(tg.sample("z", tg.dist.Normal(0.0, 1.0)), 1.0)))
        >>> guide = tg.gen(lambda m: tg.sample("z", tg.dist.Normal(m, 0.7)))
        >>> objective = tg.dreg(model, guide, {"x": 2.0}, n=5)
        >>> jax.grad(objective, argnums=2)(jax.random.key(0), (), (0.0,))[0].shape
        ()
    """
    n = particles("dreg", n)
    finite_real("dreg", "alpha", alpha, ObjectiveError)
    if alpha == 1.0:
        raise ObjectiveError("dreg: alpha = 1 is the ELBO. Write `sticking_the_landing(model, guide, observed)`.")
    if not alpha >= 0.0:
        raise ObjectiveError(
            f"dreg: alpha must be at least 0, and is {alpha}: below it the bound is an upper one, and its estimate is "
            "not. Write `cubo(model, guide, observed, order=1 - alpha)`."
        )

    def bound(pair, key):
        log_weights, logp, _ = paths("dreg", pair, key, n)
        scaled = lax.stop_gradient((1.0 - alpha) * log_weights)
        share = jax.nn.softmax(scaled)
        doubly = alpha * share + (1.0 - alpha) * share**2
        value = log_mean_exp(scaled) / (1.0 - alpha)
        return with_surrogate(value, jnp.sum(doubly * log_weights) + jnp.sum(share * logp))

    return bound


@objective
def dreg_wake_phi(
    model: GenerativeFunction, guide: GenerativeFunction, observed: Mapping, *, n: int, **shared: Unpack[Shared]
) -> Objective:
    """The wake-phase loss of the guide, E[sum_k wbar_k log q(z_k)], with the doubly reparameterised gradient.

        d/dphi = E[sum_k (wbar_k - wbar_k^2) (d log w_k/dz_k)(dz_k/dphi)] = E[sum_k wbar_k d log q(z_k) at given z_k]

    It has the expectation of the usual wake-phase gradient with n samples, which is biased as an estimate of the
    gradient of E_p(z | observed)[log q(z)], the more so the smaller n: the weights are self-normalised. In the model's
    parameters it has no derivative. For reparameterised guides and exact densities; first order only.

    Args:
        n: the number of particles.

    Returns:
        An objective `(key, model_args=(), guide_args=()) -> scalar`, in nats, to be maximised.

    Raises:
        EstimatorError: a site of the guide is not reparameterised.
        RandomKeyError: a density is an estimate.
        HigherOrderError: a second derivative was asked for.

    Source: Tucker, Lawson, Gu and Maddison, Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives, ICLR
    2019; Bornschein and Bengio, Reweighted Wake-Sleep, 2015.

    Examples:
        >>> import jax, tracegrad as tg
        >>> model = tg.gen(lambda: tg.sample("x", tg.dist.Normal(tg.sample("z", tg.dist.Normal(0.0, 1.0)), 1.0)))
        >>> guide = tg.gen(lambda m: tg.sample("z", tg.dist.Normal(m, 0.7)))
        >>> objective = tg.dreg_wake_phi(model, guide, {"x": 2.0}, n=5)
        >>> jax.grad(objective, argnums=2)(jax.random.key(0), (), (0.0,))[0].shape
        ()
    """
    n = particles("dreg_wake_phi", n)

    def loss(pair, key):
        log_weights, _, logq = paths("dreg_wake_phi", pair, key, n)
        share = jax.nn.softmax(lax.stop_gradient(log_weights))
        return with_surrogate(jnp.sum(share * logq), jnp.sum((share - share**2) * log_weights))

    return loss
