"""The unordered set estimator: two values drawn without replacement, whose order is averaged out."""

from __future__ import annotations

from typing import Any

import jax
from jax import lax
from jax import numpy as jnp

from ._distribution import WeakDerivative
from ._errors import EstimatorError
from ._finite import finite, refuse_infinite, uniform
from ._kinds import Fork


class UnorderedSet(Fork):
    """See `unordered_set`."""

    k: int = 2

    def refuses(self, distribution: Any) -> str | None:
        """Refuse infinite supports."""
        return refuse_infinite(distribution)

    def fork(self, key: jax.Array, distribution: Any, value: Any) -> WeakDerivative:
        """A second value t, drawn from what the first one s leaves."""
        found = finite(distribution)
        first = found.which(value)
        p = jnp.exp(found.fixed)
        numbers = jnp.reshape(jnp.arange(p.shape[0]), (p.shape[0], *(1 for _ in found.batch)))
        left = jnp.where(numbers == first[None], 0.0, p)
        cumulative = jnp.cumsum(left, axis=0)
        second = jnp.argmax(cumulative > (uniform(key, found.batch) * cumulative[-1])[None], axis=0)
        not_s, not_t = (jnp.sum(jnp.where(numbers == i[None], 0.0, p), axis=0) for i in (first, second))
        factor = jnp.where(not_s > 0.0, not_s * not_t / jnp.where(not_s > 0.0, not_s + not_t, 1.0), 0.0)
        score = found.at(second) - found.at(first)
        return WeakDerivative(found.values[second].astype(value.dtype)[None], (lax.stop_gradient(factor) * score)[None])


def unordered_set(k: int = 2) -> UnorderedSet:
    """The unordered set estimator with its built-in baseline, for two values s, t drawn without replacement.

        d E f = E[(f(t) - f(s)) (d log q_t - d log q_s) (1 - q_s) (1 - q_t) / (2 - q_s - q_t)]

    It is sum_{s in set} q_s R(set, s) (f(s) - baseline) d log q_s with R = p(set | first = s) / p(set). For
    distributions of finite support, anywhere: loops, branches, plates; one further run for each element, however many
    values the support has. First order only.

    Args:
        k: the size of the set. Two is what there is.

    Raises:
        EstimatorError: the support is not finite; k is not 2.
        HigherOrderError: a second derivative was asked for.

    Source: Kool, van Hoof and Welling, Estimating Gradients for Discrete Random Variables by Sampling without
    Replacement, ICLR 2020.

    Example:
        >>> import jax, numpyro.distributions as dist
        >>> from tracegrad.transforms import expectation, sample, unordered_set
        >>> f = expectation(lambda key, w: 1.0 * sample(key, dist.Categorical(logits=w), estimator=unordered_set(2)))
        >>> jax.grad(f, argnums=1)(jax.random.key(0), jax.numpy.zeros(5)).shape
        (5,)
    """
    if k != 2:
        raise EstimatorError(
            f"unordered_set(k) is for sets of 2, and got {k!r}. To use more values write `sum_and_sample(k)` or "
            "`local_expectation()`."
        )
    return UnorderedSet(k)
