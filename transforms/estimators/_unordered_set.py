"""The unordered set estimator: a few values drawn without replacement, whose order is averaged out."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Key

from .._arguments import whole
from .._distribution import WeakDerivative
from .._errors import EstimatorError
from .._estimator import Fork
from ._finite_support import Finite, count, finite, pick, refuse_infinite

LARGEST = 12
"""The largest set: its subsets are summed over, and there are 2^12 of so many values."""


def _floored(found: Finite) -> jax.Array:
    """Probabilities above zero: values without one are still drawn when nothing else is left, and then none twice."""
    return jnp.maximum(found.fixed, jnp.finfo(found.p.dtype).tiny)


def _others(found: Finite, first: jax.Array, key: jax.Array, k: int) -> jax.Array:
    """The indices of the set, shape (k, *batch): the first, and k - 1 more, each drawn from what is left."""
    numbers = jnp.reshape(jnp.arange(found.p.shape[0]), (-1, *(1 for _ in found.batch)))
    logits, chosen = jnp.log(_floored(found)), [first]
    for i in range(k - 1):
        logits = jnp.where(numbers == chosen[-1][None], -jnp.inf, logits)
        chosen.append(pick(jax.random.fold_in(key, i), logits))
    return jnp.stack(chosen)


def _in_any_order(p: jax.Array, outside: jax.Array) -> dict[tuple[int, ...], jax.Array]:
    """The probability that values drawn without replacement are those of a set, in any order, once some are taken.

    For k values of probabilities p, shape (k, *batch), and the probability of all values outside of the set. The keys
    are subsets C of range(k), of at most two: with those of C gone, the next draws are the others of the set, in any
    order, with probability g(C) = sum_{t not in C} p_t / (1 - p(C)) g(C and t), g(all) = 1.
    """
    k = p.shape[0]
    shape = (-1, *(1 for _ in p.shape[1:]))
    masks = np.arange(1 << k)
    within = np.array([[m >> t & 1 for t in range(k)] for m in masks], bool)
    left = outside[None] + jnp.tensordot(jnp.asarray(~within, p.dtype), p, axes=1, precision="highest")
    g = jnp.ones((1 << k, *p.shape[1:]), p.dtype)
    for taken in range(k - 1, -1, -1):
        here = masks[within.sum(1) == taken]
        total = jnp.zeros((len(here), *p.shape[1:]), p.dtype)
        for t in range(k):
            free = jnp.reshape(jnp.asarray(~within[here, t], p.dtype), shape)
            total = total + free * p[t][None] / left[here] * g[here | 1 << t]
        g = g.at[here].set(total)
    sets = [(), *((t,) for t in range(k)), *itertools.combinations(range(k), 2)]
    return {s: g[sum(1 << t for t in s)] for s in sets}


def _coefficients(p: jax.Array, outside: jax.Array) -> jax.Array:
    """A with sum_s dp_s sum_t A[s, t] f(t) the estimate, shape (k, k, *batch); every row sums to zero.

    A[s, t] = R(s) (1[s = t] - p_t R(t | s)), with the leave-one-out ratios R(s) = g(s) / g() and, of the baseline,
    R(t | s) = g(s, t) / g(s), R(s | s) = 1.
    """
    k, g = p.shape[0], _in_any_order(p, outside)

    def entry(s, t):
        return (1.0 - p[s]) * g[s,] if s == t else -p[t] * g[min(s, t), max(s, t)]

    return jnp.stack([jnp.stack([entry(s, t) / g[()] for t in range(k)]) for s in range(k)])


class UnorderedSet(Fork):
    """See `unordered_set`."""

    k: int = 2

    def refuses(self, distribution: Any) -> str | None:
        """Refuse infinite supports, and sets larger than the support."""
        values = count(distribution)
        if values is not None and values < self.k:
            return (
                f"a set of {self.k} of the {values} values of {type(distribution).__name__} cannot be drawn. Write "
                "`local_expectation()`, which sums them all, or a smaller k."
            )
        return refuse_infinite(distribution)

    def fork(self, key: Key[Array, ""], distribution: Any, value: Any) -> WeakDerivative:
        """The others of the set, drawn from what the drawn value leaves."""
        found = finite(distribution)
        index = _others(found, found.which(value), key, self.k)
        numbers = jnp.reshape(jnp.arange(found.p.shape[0]), (-1, *(1 for _ in found.batch)))
        inside = jnp.any(numbers[None] == index[:, None], axis=0)
        fixed = _floored(found)
        outside = jnp.sum(jnp.where(inside, 0.0, fixed), axis=0)
        table = lax.stop_gradient(_coefficients(jnp.take_along_axis(fixed, index, axis=0), outside))
        p = jnp.take_along_axis(found.p, index, axis=0)
        return WeakDerivative(found.alternatives(index[1:], value), jnp.sum(p[:, None] * table[:, 1:], axis=0))

    def __repr__(self):
        return f"unordered_set({self.k})"


def unordered_set(k: int = 2) -> UnorderedSet:
    """The unordered set estimator with its built-in baseline: k values drawn without replacement, in any order.

        d E f = E[sum_{s in S} dq_s R(S, s) (f(s) - sum_{t in S} q_t R(S, t | s) f(t))]

    R(S, s) = p(S | first = s) / p(S) is the leave-one-out ratio, R(S, t | s) the same once s is taken, R(S, s | s) = 1;
    the sums over orders are exact, by the subsets of S. For k = 2 it is

        d E f = E[(f(t) - f(s)) (d log q_t - d log q_s) (1 - q_s) (1 - q_t) / (2 - q_s - q_t)]

    and with as many values as the support has, the local expectation. The site's own draw is the first of the set. For
    distributions of finite support, anywhere: loops, branches, plates; k - 1 further runs for each element, however
    many values the support has. First order only. Values of probability exactly 0 are drawn when no others are left, so
    not all of them are seen: see `reinforce`.

    Args:
        k: the size of the set, from 2 to 12, and at most that of the support. Time and memory for the weights grow as
            2^k.

    Raises:
        EstimatorError: the support is not finite or has fewer than k values; k is not an integer from 2 to 12.
        HigherOrderError: a second derivative was asked for.

    Source: Kool, van Hoof and Welling, Estimating Gradients for Discrete Random Variables by Sampling without
    Replacement, ICLR 2020.

    Examples:
        >>> import jax, numpyro.distributions as dist
        >>> from tracegrad.transforms import expectation, sample, unordered_set
        >>> f = expectation(lambda key, w: 1.0 * sample(key, dist.Categorical(logits=w), estimator=unordered_set(3)))
        >>> jax.grad(f, argnums=1)(jax.random.key(0), jax.numpy.zeros(5)).shape
        (5,)
    """
    return UnorderedSet(whole("unordered_set", "k", k, EstimatorError, least=2, most=LARGEST))
