"""The data of `fit`: its arrays, the order of its minibatches, and a minibatch on the devices that the data is on."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from jax.sharding import Mesh

from .._errors import FitError
from ._arguments import as_arrays, count_of, named_leaves
from ._mesh import in_pieces, on_auto_axes, taker


class Batches:
    """What of the data comes to a step: nothing, all of it as it is, or a minibatch."""

    def __init__(self, data: Any, batch_size: Any, key: jax.Array, mesh: Mesh | None = None):
        if data is None and batch_size is not None:
            raise FitError("fit: batch_size is given without data. Pass the arrays as `data`.")
        self.data: Any = None if data is None else _as_data(data)
        self.size: int = 1 if data is None else jax.tree.leaves(self.data)[0].shape[0]
        self.batch = self.size if batch_size is None else _size_of_batch(batch_size, self.size)
        self.mini = batch_size is not None
        self.examples = None if data is None else self.size
        self.batch_size = self.batch if self.mini else None
        seed = np.asarray(jax.random.key_data(key)).ravel().tolist()
        self._order = functools.lru_cache(maxsize=2)(functools.partial(_order, seed, self.size))
        if data is not None:
            self.data = in_pieces(self.data, mesh, self.batch_size)
        self._takes = jax.tree.map(lambda x: taker(x, self.batch, mesh), self.data) if self.mini else None

    def rows(self, start: int, count: int) -> np.ndarray:
        """The rows of steps `start` to `start + count`: passes over the data, one running into the next."""
        first, end = start * self.batch, (start + count) * self.batch
        passes = range(first // self.size, -(-end // self.size))
        rows = np.concatenate([self._order(n) for n in passes])[first - passes[0] * self.size :]
        return rows[: end - first].reshape(count, self.batch)

    def at(self, data: Any, rows: jax.Array | None) -> tuple:
        """The batch of one step, as arguments of the objective: none without data."""
        if data is None:
            return ()
        return (data if rows is None else jax.tree.map(lambda take, x: take(x, rows), self._takes, data),)

    def indices(self, rows: jax.Array | None) -> jax.Array:
        """Which examples the batch of one step holds."""
        return jnp.arange(self.size) if rows is None else rows


def _as_data(data):
    for name, x in named_leaves(data, "data"):
        if isinstance(x, bool | int | float | complex):
            raise FitError(
                f"fit: {name} is the number {x!r}, and has no leading axis of examples. A list is a pytree of its "
                "items: write `jnp.asarray(...)` around one."
            )
    data = jax.tree.map(on_auto_axes, as_arrays(data, "data"))
    sizes = {x.shape[0] if x.ndim else -1 for x in jax.tree.leaves(data)}
    if len(sizes) != 1 or -1 in sizes:
        came = sorted("none" if n < 0 else str(n) for n in sizes)
        raise FitError(f"fit: the arrays of `data` must have one leading size, and have {came}.")
    if sizes == {0}:
        raise FitError("fit: the arrays of `data` hold no example: their leading size is 0.")
    return data


def _size_of_batch(batch_size, size):
    batch = count_of("batch_size", batch_size)
    if batch > size:
        raise FitError(f"fit: batch_size must be between 1 and the number of examples, {size}, and is {batch}.")
    return batch


def _order(seed: list[int], size: int, n: int) -> np.ndarray:
    """The order of the examples in the n-th pass over the data."""
    return np.random.default_rng([*seed, n]).permutation(size).astype(np.int32)
