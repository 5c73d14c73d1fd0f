"""The data of `fit`: its arrays, the order of its minibatches, and a minibatch on the devices that the data is on."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from jax.sharding import Mesh

from .._errors import FitError
from ..transforms._internal import as_array
from ._arguments import as_arrays, count_of, named_leaves
from ._mesh import in_pieces, on_auto_axes, rows_of, sharding_of_batch


class Batches:
    """What of the data comes to a step: nothing, all of it as it is, or a minibatch of what is on the devices.

    Attributes:
        has_data: whether a step has a batch.
        size: how many examples there are.
        batch: how many come to a step.
        examples, batch_size: the same two as a run is recognised by them; None where there is none.
        names: what of the batch an objective may ask for by name.
        most: how many steps a dispatch may have, for what is fed to it.
        at: the batch of the i-th step of a dispatch, `at(fed, i)`: as arguments of the objective, and which examples it
            holds. It holds no data, so that what is compiled of it may outlive them.
    """

    most: int | None = None
    at: Callable[[Any, Any], tuple[tuple, Any]]

    def __init__(self, data: Any, batch_size: Any, key: jax.Array, mesh: Mesh | None = None):
        if data is None and batch_size is not None:
            raise FitError("fit: batch_size is given without data. Pass the arrays as `data`.")
        self.has_data = data is not None
        self._data: Any = None if data is None else self._held(data)
        self.size: int = 1 if data is None else jax.tree.leaves(self._data)[0].shape[0]
        self.batch = self.size if batch_size is None else _size_of_batch(batch_size, self.size)
        self.mini = batch_size is not None
        self.examples = self.size if self.has_data else None
        self.batch_size = self.batch if self.mini else None
        self.names = {"scale", "indices"} if self.has_data else {"scale"}
        self._rows: np.ndarray | None = None
        seed = np.asarray(jax.random.key_data(key)).ravel().tolist()
        self._order = functools.lru_cache(maxsize=2)(functools.partial(_order, seed, self.size))
        self._place(mesh)

    def _held(self, data: Any) -> Any:
        """The data as they are held, checked."""
        return check_sizes(jax.tree.map(on_auto_axes, as_arrays(data, "data")))

    def _place(self, mesh: Mesh | None) -> None:
        """Put the data where they are to be."""
        if self.has_data:
            self._data = in_pieces(self._data, mesh, self.batch_size)
        if self.mini:
            where = [sharding_of_batch(x, self.batch, mesh) for x in jax.tree.leaves(self._data)]
            self.at = functools.partial(_minibatch, where)
        else:
            self.at = functools.partial(_whole, self.size) if self.has_data else _nothing

    def begin(self, step: int, end: int) -> None:
        """Get ready for the steps from one on, until another at most."""

    def rows(self, start: int, count: int) -> np.ndarray:
        """The rows of steps `start` to `start + count`: passes over the data, one running into the next."""
        first, end = start * self.batch, (start + count) * self.batch
        passes = range(first // self.size, -(-end // self.size))
        rows = np.concatenate([self._order(n) for n in passes])[first - passes[0] * self.size :]
        return rows[: end - first].reshape(count, self.batch)

    def _rows_in(self, start: int, count: int, room: int) -> np.ndarray:
        """The rows of a dispatch, in an array that has room for those of the longest."""
        if self._rows is None:
            self._rows = np.zeros((room, self.batch), np.int32)
        self._rows[:count] = self.rows(start, count)
        return self._rows

    def feed(self, start: int, count: int, room: int) -> tuple[Any, int]:
        """What the compiled loop needs for a dispatch, and for how many steps there is enough."""
        return (self._rows_in(start, count, room) if self.mini else None, self._data), count


def _minibatch(where: list, fed: Any, i: Any) -> tuple[tuple, Any]:
    """The rows of a step, array by array where they are to be."""
    rows, data = fed
    leaves, structure = jax.tree.flatten(data)
    taken = [rows_of(x, rows[i], sharding) for x, sharding in zip(leaves, where, strict=True)]
    return (jax.tree.unflatten(structure, taken),), rows[i]


def _whole(size: int, fed: Any, i: Any) -> tuple[tuple, Any]:
    return (fed[1],), jnp.arange(size)


def _nothing(fed: Any, i: Any) -> tuple[tuple, Any]:
    return (), None


def columns(data: Any) -> Any:
    """Tables (pandas, polars) among the data as dicts of their columns."""

    def is_table(x):
        return hasattr(type(x), "columns") and hasattr(type(x), "to_numpy")

    def of(x):
        return {str(name): as_array(x[name]) for name in x.columns} if is_table(x) else as_array(x)

    return jax.tree.map(of, data, is_leaf=is_table)


def check_leaves(data: Any) -> None:
    """Refuse numbers, which have no examples."""
    for name, x in named_leaves(data, "data"):
        if isinstance(x, bool | int | float | complex):
            raise FitError(
                f"fit: {name} is the number {x!r}, and has no leading axis of examples. A list is a pytree of its "
                "items: write `jnp.asarray(...)` around one."
            )


def check_sizes(data: Any) -> Any:
    """The arrays, if they have one number of examples, above zero."""
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
