"""Exact sums over a finite support."""

from __future__ import annotations

from typing import Any

import jax
from jax import numpy as jnp

from ._distribution import batch_shape, elementwise, finite_support, log_density_at_support, support
from ._kinds import Enumerate
from ._primitive import value_struct
from ._pytree import size

LIMIT = 65536


class Enum(Enumerate):
    """See `enum`."""

    def refuses(self, distribution: Any) -> str | None:
        """Refuse infinite supports, and joint supports too large to sum."""
        flat = elementwise(distribution)
        values = support(flat)
        if values is None:
            return (
                f"{type(distribution).__name__} has no finite support to sum over. Write `reparam()` or `reinforce()`, "
                "or `mvd()` where the distribution has a weak derivative."
            )
        joint = values.shape[0] ** size(batch_shape(flat))
        if joint > LIMIT:
            return (
                f"{size(batch_shape(flat))} elements of {values.shape[0]} values each have {joint} joint values, over "
                f"the limit of {LIMIT}. Write `local_expectation()`, which sums one element at a time."
            )
        return None

    def enumerate(self, distribution: Any) -> tuple[Any, jax.Array]:
        """The joint support of all elements of the site, and its log probabilities."""
        flat = elementwise(distribution)
        values, batch = finite_support(flat), batch_shape(flat)
        logp = log_density_at_support(flat, values)
        values = values.astype(value_struct(flat).dtype)
        k, n = values.shape[0], size(batch)
        if n == 1:
            return jnp.reshape(values, (k, *batch, *values.shape[1:])), jnp.reshape(logp, (k,))
        index = jnp.stack(jnp.meshgrid(*[jnp.arange(k)] * n, indexing="ij"), -1).reshape(-1, n)
        joint = jnp.take_along_axis(logp.reshape(k, n), index, axis=0).sum(1)
        return values[index].reshape(-1, *batch, *values.shape[1:]), joint


def enum() -> Enum:
    """Exact enumeration: the rest of the program is run at every value of the support and summed with probabilities.

    For distributions of finite support, at sites outside loops, branches and `vmap` (there the joint support grows as
    a power: write `local_expectation()`, or marginalise). A batch-shaped site is summed over its joint support. Zero
    variance from this site, and right to every order. The sites upstream are not repeated; those downstream are, with
    the same noise for every value.

    Raises:
        EstimatorError: the support is not finite, or the site is in a loop, a branch or a plate.

    Example:
        >>> import jax, numpyro.distributions as dist
        >>> from tracegrad.transforms import enum, expectation, sample
        >>> f = expectation(lambda key, p: 4.0 * sample(key, dist.Bernoulli(p), estimator=enum()))
        >>> float(f(jax.random.key(0), 0.25)), float(jax.grad(f, argnums=1)(jax.random.key(0), 0.25))
        (1.0, 4.0)
    """
    return Enum()
