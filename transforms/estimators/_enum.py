"""Exact sums over a finite support."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Float, Shaped

from .._estimator import Enumerate
from .._pytree import size
from ..program._site import value_struct
from ._finite_support import count, elements, finite, refuse_infinite

LIMIT = 1 << 16
"""How many values of a joint support are run: each is a run of the rest of the program, in memory all at once."""


class Enum(Enumerate):
    """See `enum`."""

    def refuses(self, distribution: Any) -> str | None:
        """Refuse infinite supports, and joint supports too large to sum."""
        values = count(distribution)
        if values is None:
            return refuse_infinite(distribution)
        n = size(elements(distribution))
        if values**n > LIMIT:
            return (
                f"{n} elements of {values} values each have {values**n} joint values, over "
                f"the limit of {LIMIT}. Write `local_expectation()`, which sums one element at a time."
            )
        return None

    def enumerate(self, distribution: Any) -> tuple[Shaped[Array, " k *value"], Float[Array, " k"]]:
        """The joint support of all elements of the site, and its probabilities."""
        found = finite(distribution)
        k, n = found.p.shape[0], size(found.batch)
        p = jnp.reshape(found.p, (k, n))
        numbers = np.broadcast_to(np.arange(k)[:, None], (k, n))
        if found.possible is not None:
            numbers = _runnable(lax.stop_gradient(p), lax.stop_gradient(p))
        joint = np.stack(np.meshgrid(*[np.arange(k)] * n, indexing="ij"), -1).reshape(-1, n)
        index = numbers[joint, np.arange(n)]
        values = found.values.astype(value_struct(distribution).dtype)[index]
        return jnp.reshape(values, (-1, *found.batch, *values.shape[2:])), functools.reduce(_products, p.T)

    def __repr__(self):
        return "enum()"


def _products(a: jax.Array, b: jax.Array) -> jax.Array:
    """All products of the probabilities of two independent choices, the second one fastest."""
    return jnp.ravel(a[:, None] * b[None])


@jax.custom_batching.custom_vmap
def _runnable(most: jax.Array, least: jax.Array) -> jax.Array:
    """The number of the value to run for each value, shape (k, n): a likely one in place of one without probability.

    The results have no weight, and are not nan. `most` and `least` are the probabilities over all lanes, so that the
    values are the same in all of them and what follows is not repeated in each.
    """
    numbers = jnp.arange(most.shape[0])[:, None]
    return jnp.where(most > 0.0, numbers, jnp.argmax(least, axis=0)[None])


@_runnable.def_vmap
def _(size, mapped, most, least):
    most = jnp.max(most, axis=0) if mapped[0] else most
    least = jnp.min(least, axis=0) if mapped[1] else least
    return _runnable(most, least), False


def enum() -> Enum:
    """Exact enumeration: the rest of the program is run at every value of the support and summed with probabilities.

    For distributions of finite support, at sites outside loops, branches and `vmap` (there the joint support grows as
    a power: write `local_expectation()`, or marginalise). A batch-shaped site is summed over its joint support. Zero
    variance from this site, and right to every order. The sites upstream are not repeated; those downstream are, with
    the same noise for every value.

    Raises:
        EstimatorError: the support is not finite, or the site is in a loop, a branch or a plate.

    Examples:
        >>> import jax, numpyro.distributions as dist
        >>> from tracegrad.transforms import enum, expectation, sample
        >>> f = expectation(lambda key, p: 4.0 * sample(key, dist.Bernoulli(p), estimator=enum()))
        >>> float(f(jax.random.key(0), 0.25)), float(jax.grad(f, argnums=1)(jax.random.key(0), 0.25))
        (1.0, 4.0)
    """
    return Enum()
