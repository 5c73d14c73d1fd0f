"""Antithetic estimators for two-valued draws: ARM and DisARM.

Both compare the drawn value with one alternative for the whole site, all elements at once: the value that the same
uniform noise gives when it is mirrored. The noise is drawn given the value, so the site draws as it always does.
"""

from __future__ import annotations

from typing import Any

import jax
from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Key

from .._distribution import WeakDerivative
from .._estimator import Fork
from ._finite_support import Finite, finite, pick, refuse_unless_binary, uniform


def _mirrored(found: Finite, key: jax.Array, value: jax.Array):
    """The drawn values and the mirrored ones, 1[u < p] and 1[u > 1 - p] of one u, and the log odds.

    Given the drawn value the mirrored one is drawn outright, with the probability that u leads to it, so that it is a
    draw of finite support: u < p holds with the mirrored 1 on (1 - p, p), u > p on (max(p, 1 - p), 1).
    """
    drawn, p = found.which(value), found.fixed[1]
    least = jnp.finfo(p.dtype).tiny  # A value without probability is not drawn.
    given_one = jnp.maximum(2.0 * p - 1.0, 0.0) / jnp.maximum(p, least)
    given_none = jnp.minimum(p, 1.0 - p) / jnp.maximum(1.0 - p, least)
    one = jnp.clip(jnp.where(drawn == 1, given_one, given_none), 0.0, 1.0)
    mirrored = pick(key, jnp.log(jnp.stack([1.0 - one, one])))
    return drawn, mirrored.astype(drawn.dtype), found.logp[1] - found.logp[0]


def _uniform(found: Finite, key: jax.Array, drawn: jax.Array, mirrored: jax.Array) -> jax.Array:
    """The noise given the two values that it leads to: uniform on the part of (0, 1) where it does."""
    p = found.fixed[1]
    inner, outer = jnp.minimum(p, 1.0 - p), jnp.maximum(p, 1.0 - p)
    low = jnp.where(drawn == mirrored, inner, jnp.where(drawn == 1, jnp.zeros_like(p), outer))
    high = jnp.where(drawn == mirrored, outer, jnp.where(drawn == 1, inner, jnp.ones_like(p)))
    return low + (high - low) * uniform(key, found.batch)


def _jointly(found: Finite, value: jax.Array, index: jax.Array, coefficients: jax.Array) -> WeakDerivative:
    """One alternative for all elements together."""
    return WeakDerivative(found.values[index].astype(value.dtype)[None], jnp.sum(coefficients)[None])


class Arm(Fork):
    """See `arm`."""

    def refuses(self, distribution: Any) -> str | None:
        """Refuse all but two-valued draws."""
        return refuse_unless_binary(distribution)

    def fork(self, key: Key[Array, ""], distribution: Any, value: Any) -> WeakDerivative:
        """The mirrored draw; the coefficient of each log odds is u - 1/2."""
        found = finite(distribution)
        first, second = jax.random.split(key)
        drawn, mirrored, odds = _mirrored(found, first, value)
        u = _uniform(found, second, drawn, mirrored)
        return _jointly(found, value, mirrored, lax.stop_gradient(u - 0.5) * odds)


class DisArm(Fork):
    """See `disarm`."""

    def refuses(self, distribution: Any) -> str | None:
        """Refuse all but two-valued draws."""
        return refuse_unless_binary(distribution)

    def fork(self, key: Key[Array, ""], distribution: Any, value: Any) -> WeakDerivative:
        """The mirrored draw; the coefficient of each log odds is ARM's, averaged over the noise given both draws."""
        found = finite(distribution)
        drawn, mirrored, odds = _mirrored(found, key, value)
        larger = jnp.max(found.fixed, axis=0)
        factor = 0.5 * (mirrored - drawn).astype(larger.dtype) * larger
        return _jointly(found, value, mirrored, factor * odds)


def arm() -> Arm:
    """Augment-REINFORCE-merge, for draws of two values: one more run for a whole site, however many elements it has.

        d/dphi E f = E[(f(1[u > s(-phi)]) - f(1[u < s(phi)])) (u - 1/2)],   u uniform, phi the log odds, s the sigmoid

    The second value is the drawn one, and u is drawn given it. Works in loops, branches and plates: a site under
    `vmap` has one alternative for each lane, the elements of one distribution (its batch or `to_event` dimensions) have
    one together. First order only. `disarm()` has never more variance. Not at probabilities of exactly 0 or 1
    that a parameter moves: see `reinforce`.

    Raises:
        EstimatorError: the distribution is not two-valued.
        HigherOrderError: a second derivative was asked for.

    Source: Yin and Zhou, ARM: Augment-REINFORCE-Merge Gradient for Stochastic Binary Networks, ICLR 2019.

    Examples:
        >>> import jax, numpyro.distributions as dist
        >>> from tracegrad.transforms import arm, expectation, sample
        >>> f = expectation(lambda key, w: 4.0 * sample(key, dist.Bernoulli(logits=w), estimator=arm()))
        >>> jax.grad(f, argnums=1)(jax.random.key(0), 0.5).shape
        ()
    """
    return Arm()


def disarm() -> DisArm:
    """DisARM (also U2G): ARM with its uniform noise integrated out given the two values that it leads to.

        d/dphi_i E f = E[1/2 (f(b) - f(b~)) (-1)^b~_i 1[b_i != b~_i] s(|phi_i|)]

    where b = 1[u < s(phi)] is drawn and b~ = 1[u > s(-phi)] mirrored. One more run for a whole site, all of whose
    elements are mirrored together; see `arm`. First order only.

    Raises:
        EstimatorError: the distribution is not two-valued.
        HigherOrderError: a second derivative was asked for.

    Source: Dong, Mnih and Tucker, DisARM: An Antithetic Gradient Estimator for Binary Latent Variables, NeurIPS 2020;
    Yin et al., Probabilistic Best Subset Selection via Gradient-Based Optimization, 2020 (U2G).

    Examples:
        >>> import jax, numpyro.distributions as dist
        >>> from tracegrad.transforms import disarm, expectation, sample
        >>> f = expectation(lambda key, w: 4.0 * sample(key, dist.Bernoulli(logits=w), estimator=disarm()))
        >>> jax.grad(f, argnums=1)(jax.random.key(0), 0.5).shape
        ()
    """
    return DisArm()
