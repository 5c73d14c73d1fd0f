"""Ways to draw ancestors: n indices whose expected counts are n times the weights."""

from __future__ import annotations

from typing import Any

import jax
import numpyro.distributions as dist
from jax import numpy as jnp
from jaxtyping import Array, Float, Int, Key


class Systematic(dist.Distribution):
    """n ancestors from one uniform number u: the k-th is where (u + k) / n falls among the cumulative weights.

    Its density is the length of the interval of u that gives the same ancestors, so that the score function estimator
    serves it as it serves any other draw.
    """

    arg_constraints = {"logits": dist.constraints.real_vector}
    support = dist.constraints.independent(dist.constraints.nonnegative_integer, 1)
    pytree_data_fields = ("logits",)

    def __init__(self, logits: Any, *, validate_args: bool | None = None):
        self.logits = logits
        super().__init__((), jnp.shape(logits)[-1:], validate_args=validate_args)

    def _edges(self):
        n = self.logits.shape[-1]
        above = jnp.cumsum(jax.nn.softmax(self.logits)) * n
        return above, above - jax.nn.softmax(self.logits) * n

    def sample(self, key: Key[Array, ""], sample_shape: tuple = ()) -> Int[Array, "*sample n"]:
        """Draw all ancestors."""
        n = self.logits.shape[-1]
        points = jax.random.uniform(key, (*sample_shape, 1)) + jnp.arange(n, dtype=float)
        return jnp.minimum(jnp.searchsorted(self._edges()[0], points, side="right"), n - 1)

    def log_prob(self, value: Int[Array, "*sample n"]) -> Float[Array, "*sample"]:
        """The log length of the interval of u that gives these ancestors."""
        above, below = self._edges()
        k = jnp.arange(self.logits.shape[-1], dtype=above.dtype)
        upper = jnp.min(jnp.minimum(above[value] - k, 1.0), axis=-1)
        lower = jnp.max(jnp.maximum(below[value] - k, 0.0), axis=-1)
        return jnp.log(jnp.maximum(upper - lower, jnp.finfo(above.dtype).tiny))


def multinomial(logits: Float[Array, " n"]) -> dist.Distribution:
    """Independent ancestors; the default, and the one that conditional SMC is exact for."""
    return dist.Categorical(logits=logits, validate_args=False).expand(logits.shape)


def systematic(logits: jax.Array) -> dist.Distribution:
    """Evenly spaced ancestors: fewer duplicates, and no conditional form."""
    return Systematic(logits, validate_args=False)


RESAMPLING = {"multinomial": multinomial, "systematic": systematic}
"""By name; the log weights may be -inf, where what is observed is out of a particle's reach."""
