"""Bounds of several samples with a score function gradient that is stated outright: VIMCO, VarGrad.

Notation: w_k = p(z_k, observed) / q(z_k), wbar_k = w_k / sum_j w_j, L = log 1/n sum_k w_k.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Unpack

import jax
from jax import lax
from jax import numpy as jnp

from ..algorithms._base import log_mean_exp
from ..core._generative import GenerativeFunction
from ..transforms import ObjectiveError, detached, magic_box, stated, with_surrogate
from ..transforms._internal import lanes_of, one_of, whole
from ._objective import Objective, Shared, Spent, objective

SAMPLES = "n, the number of samples,"


def _without(log_weights: jax.Array, mean: str) -> jax.Array:
    """L with each weight in turn replaced by a mean of the others, shape (n,)."""
    n = log_weights.shape[0]
    own = jnp.eye(n, dtype=bool)
    spread = jnp.broadcast_to(log_weights[None], (n, n))
    if mean == "geometric":
        stand_in = (jnp.sum(log_weights) - log_weights) / (n - 1)
    else:
        stand_in = jax.nn.logsumexp(jnp.where(own, -jnp.inf, spread), axis=1) - jnp.log(float(n - 1))
    return jax.vmap(log_mean_exp)(jnp.where(own, stand_in[:, None], spread))


@objective
def vimco(
    model: GenerativeFunction,
    guide: GenerativeFunction,
    observed: Mapping,
    *,
    n: int,
    mean: str = "geometric",
    **shared: Unpack[Shared],
) -> Objective:
    """The importance weighted bound with VIMCO's gradient: every particle has the others as its baseline.

        dL = E[sum_k (L - L_{-k}) d log q(z_k) + sum_k wbar_k d log w_k],   L_{-k} = L with w_k a mean of the others

    For discrete guides; reparameterised sites keep their paths. The guide's sites use score functions or paths;
    densities may be estimates, whose draws are credited like any others. Right to every order.

    Args:
        n: the number of particles, at least 2.
        mean: "geometric" or "arithmetic", the mean of the other weights that stands in for one.

    Returns:
        An objective `(key, model_args=(), guide_args=()) -> scalar`, in nats, to be maximised.

    Raises:
        EstimatorError: a site has an estimator that compares whole objectives (mvd, enum, ...).
        ObjectiveError: n is below 2, or the mean is none of the two.

    Source: Mnih and Rezende, Variational Inference for Monte Carlo Objectives, ICML 2016.

    Examples:
        >>> import jax, tracegrad as tg
        >>> @tg.gen
        ... def model():
        ...     z = tg.sample("z", tg.dist.Bernoulli(0.3))
        ...     tg.sample("x", tg.dist.Normal(2.0 * z, 1.0))
        >>> guide = tg.gen(lambda w: tg.sample("z", tg.dist.Bernoulli(logits=w)))
        >>> objective = tg.vimco(model, guide, {"x": 1.5}, n=5)
        >>> jax.grad(objective, argnums=2)(jax.random.key(0), (), (0.0,))[0].shape
        ()
    """
    n = whole("vimco", SAMPLES, n, ObjectiveError, least=2)
    one_of("vimco", "mean", mean, ("geometric", "arithmetic"), ObjectiveError)

    def bound(pair, key):
        log_weights, score, control = lanes_of("vimco", pair.log_weight, key, n, (), {})
        without = lax.stop_gradient(_without(log_weights, mean))
        boxed = log_mean_exp(log_weights) * magic_box(jnp.sum(score))
        return stated(boxed + jnp.sum(without * (1.0 - magic_box(score)) + control))

    return Spent(bound)


@objective
def vargrad(
    model: GenerativeFunction, guide: GenerativeFunction, observed: Mapping, *, n: int, **shared: Unpack[Shared]
) -> Objective:
    """The evidence lower bound over n samples with VarGrad's gradient: that of -1/2 Var(log q - log p), draws fixed.

        d ELBO/dphi = E[1/(n - 1) sum_k (l_k - mean l) d log q(z_k)],   l = log p - log q

    Sample by sample it is the leave-one-out gradient without its term of zero expectation. In the model's parameters
    the derivative is the mean of d log p. For every guide with an exact density, discrete or continuous; first order
    only.

    Args:
        n: the number of samples, at least 2.

    Returns:
        An objective `(key, model_args=(), guide_args=()) -> scalar`, the ELBO in nats, to be maximised.

    Raises:
        ObjectiveError: n is below 2.
        RandomKeyError: a density is an estimate.
        HigherOrderError: a second derivative was asked for.

    Source: Richter, Boustati, Nusken, Ruiz and Akyildiz, VarGrad: A Low-Variance Gradient Estimator for Variational
    Inference, NeurIPS 2020.

    Examples:
        >>> import jax, tracegrad as tg
        >>> model = tg.gen(lambda: tg.sample("x", tg.dist.Normal(tg.sample("z", tg.dist.Normal(0.0, 1.0)), 1.0)))
        >>> guide = tg.gen(lambda m: tg.sample("z", tg.dist.Normal(m, 0.7)))
        >>> objective = tg.vargrad(model, guide, {"x": 2.0}, n=5)
        >>> jax.grad(objective, argnums=2)(jax.random.key(0), (), (0.0,))[0].shape
        ()
    """
    n = whole("vargrad", SAMPLES, n, ObjectiveError, least=2)

    def bound(pair, key):
        pair = pair.compared()

        def one(key):
            z = detached(lambda key: pair.simulate(key).choices)(key)
            return pair.logp(z), pair.logq(z)

        logp, logq = jax.vmap(one)(jax.random.split(key, n))
        spread = jnp.var(logq - lax.stop_gradient(logp), ddof=1)
        return with_surrogate(jnp.mean(logp - logq), jnp.mean(logp) - 0.5 * spread)

    return Spent(bound)
