"""Which alternatives to run when only some are: one from each of k equal parts, so that none is drawn twice."""

from __future__ import annotations

import jax
import numpy as np
from jax import numpy as jnp

from ..program._site import noise


class _Parts:
    """How far into its part of range(total) the number drawn from each of k equal parts lies."""

    def __init__(self, k: int, total: int):
        self.k = k
        self.total = total
        self.batch_shape = (k,)

    def starts(self) -> np.ndarray:
        """The first number of each part."""
        return np.arange(self.k) * self.total // self.k

    def sample(self, key: jax.Array) -> jax.Array:
        """A uniform position in each part."""
        position = (jnp.arange(self.k) + jax.random.uniform(key, (self.k,))) * (self.total / self.k)
        return jnp.minimum(position.astype(int), self.total - 1) - self.starts()

    def log_prob(self, value: jax.Array) -> jax.Array:
        """The share of each part that the number covers."""
        begin, number = np.arange(self.k) * self.total, value + self.starts()
        end = jnp.minimum(begin + self.total, self.k * (number + 1))
        return jnp.log(jnp.maximum(end - jnp.maximum(begin, self.k * number), 0) / self.total)

    def enumerate_support(self) -> jax.Array:
        """As many numbers as a part can touch."""
        return jnp.arange(-(-self.total // self.k) + 1)


def some(key: jax.Array, k: int, total: int) -> jax.Array:
    """`k` of `total` numbers, one at random from each of k equal parts: each has probability k / total."""
    parts = _Parts(k, total)
    return noise(key, parts) + parts.starts()
