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
from ._finite_support import Finite, finite, refuse_unless_binary, uniform


def _mirrored(found: Finite, key: jax.Array, value: jax.Array):
    """The noise given the value, the mirrored draw, and the log odds: all of the shape of the elements."""
    drawn = found.which(value)
    p = found.fixed[1]
    v = uniform(key, found.batch)
    u = jnp.where(drawn == 1, p * v, p + (1.0 - p) * v)
    return drawn, u, (u > 1.0 - p).astype(drawn.dtype), found.logp[1] - found.logp[0]


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
        _, u, mirrored, odds = _mirrored(found, key, value)
        return _jointly(found, value, mirrored, lax.stop_gradient(u - 0.5) * odds)


class DisArm(Fork):
    """See `disarm`."""

    def refuses(self, distribution: Any) -> str | None:
        """Refuse all but two-valued draws."""
        return refuse_unless_binary(distribution)

    def fork(self, key: Key[Array, ""], distribution: Any, value: Any) -> WeakDerivative:
        """The mirrored draw; the coefficient of each log odds is ARM's, averaged over the noise given both draws."""
        found = finite(distribution)
        drawn, _, mirrored, odds = _mirrored(found, key, value)
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

    Example:
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

    Example:
        >>> import jax, numpyro.distributions as dist
        >>> from tracegrad.transforms import disarm, expectation, sample
        >>> f = expectation(lambda key, w: 4.0 * sample(key, dist.Bernoulli(logits=w), estimator=disarm()))
        >>> jax.grad(f, argnums=1)(jax.random.key(0), 0.5).shape
        ()
    """
    return DisArm()
