"""Sum and sample: the likeliest values exactly, one draw for all the others."""

from __future__ import annotations

from typing import Any

import jax
from jax import numpy as jnp
from jaxtyping import Array, Key

from .._arguments import whole
from .._distribution import WeakDerivative
from .._errors import EstimatorError
from .._estimator import Fork
from ._finite_support import count, finite, pick, refuse_infinite, take
from ._local_expectation import LocalExpectation


def _weights(p: jax.Array) -> jax.Array:
    """What the others are drawn by: probabilities (m, *batch), and their mean for a zero, which may be leaving it."""
    least = jnp.finfo(p.dtype).tiny
    return jnp.where(p > 0.0, p, jnp.maximum(jnp.mean(p, axis=0), least)[None])


class SumAndSample(Fork):
    """See `sum_and_sample`."""

    k: int = 1

    def refuses(self, distribution: Any) -> str | None:
        """Refuse infinite supports, and sums over the whole of one."""
        values = count(distribution)
        if values is not None and values <= self.k:
            return (
                f"a sum over {self.k} of the {values} values of {type(distribution).__name__} leaves none to draw. "
                "Write `local_expectation()`, which sums them all, or a smaller k."
            )
        return refuse_infinite(distribution)

    def fork(self, key: Key[Array, ""], distribution: Any, value: Any) -> WeakDerivative:
        """The k likeliest values with their probabilities, and one of the others, independent of the drawn value."""
        found = finite(distribution)
        if self.k == found.p.shape[0] - 1:  # The only other one is sure: all are summed, and none is run twice.
            return LocalExpectation().fork(key, distribution, value)
        order = jnp.argsort(-found.fixed, axis=0)
        rest = order[self.k :]
        weights = _weights(jnp.take_along_axis(found.fixed, rest, axis=0))
        number = pick(key, jnp.log(weights))
        chosen = jnp.concatenate([order[: self.k], take(rest, number)[None]])
        p = jnp.take_along_axis(found.p, chosen, axis=0)
        coefficients = p.at[-1].divide(take(weights / jnp.sum(weights, axis=0, keepdims=True), number))
        return WeakDerivative(found.alternatives(chosen, value), coefficients)

    def __repr__(self):
        return f"sum_and_sample({self.k})"


def sum_and_sample(k: int = 1) -> SumAndSample:
    """Sum and sample: the k likeliest values of each element exactly, and one draw r from the others.

        d E f = sum_{c in C} f(c) dq_c + (1 - q_C) E_{r ~ q | not C}[f(r) d log q_r],   f less its value at the draw

    A value of probability zero is drawn as often as the mean of the others, for its derivative need not be zero.
    The draw r is independent of the site's own, whose objective is therefore a baseline. For distributions of finite
    support, anywhere: loops, branches, plates; k + 1 further runs for each element. Where only one value is left to
    draw, as of a coin, all are summed: that is `local_expectation()`, and k runs. First order only.

    Args:
        k: how many values are summed; fewer than the support has.

    Raises:
        EstimatorError: the support is not finite or has no more than k values; k is no positive integer.
        HigherOrderError: a second derivative was asked for.

    Source: Liang et al., Memory Augmented Policy Optimization, NeurIPS 2018; Liu et al., Rao-Blackwellized Stochastic
    Gradients for Discrete Distributions, ICML 2019.

    Examples:
        >>> import jax, numpyro.distributions as dist
        >>> from tracegrad.transforms import expectation, sample, sum_and_sample
        >>> f = expectation(lambda key, w: 1.0 * sample(key, dist.Categorical(logits=w), estimator=sum_and_sample(2)))
        >>> jax.grad(f, argnums=1)(jax.random.key(0), jax.numpy.zeros(5)).shape
        (5,)
    """
    return SumAndSample(whole("sum_and_sample", "k", k, EstimatorError))
