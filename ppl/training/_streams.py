"""Data that do not lie on the devices: files that are mapped into memory, and loaders that make their own batches.

Of both, a dispatch is fed the batches of its steps, gathered on the host, and no more than some megabytes of them. What
comes next is read by a thread while the devices compute.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from .._errors import FitError
from ..transforms._internal import as_array
from ._arguments import as_arrays
from ._data import Batches, check_leaves, check_sizes, columns

BYTES = 2**26
"""Of what is fed to one dispatch, at most, unless a single batch is larger."""


def _bytes_of(batch: Any) -> int:
    return sum(np.dtype(x.dtype).itemsize * int(np.prod(x.shape)) for x in jax.tree.leaves(batch))


class _Fed(Batches):
    """Batches that are fed to a dispatch, those of its steps along the leading axis."""

    _mesh: Mesh | None = None

    def _placed(self, stacked: Any) -> Any:
        """Where the batches go: over a mesh, each of them in pieces."""
        if self._mesh is None:
            return stacked
        sharding = NamedSharding(self._mesh, PartitionSpec(None, self._mesh.axis_names))
        return jax.tree.map(lambda x: jax.device_put(x, sharding), stacked)

    def _check_parts(self) -> None:
        if self._mesh is not None and self.batch % self._mesh.size:
            raise FitError(
                f"fit: batch_size must be a multiple of the {self._mesh.size} devices of `mesh`, and is {self.batch}."
            )


def _fed_rows(fed: Any, i: Any) -> tuple[tuple, Any]:
    rows, batches = fed
    return (jax.tree.map(lambda x: x[i], batches),), rows[i]


def _fed_batch(fed: Any, i: Any) -> tuple[tuple, Any]:
    return (jax.tree.map(lambda x: x[i], fed),), None


class Mapped(_Fed):
    """Arrays of which some are files in memory (`np.memmap`): rows are read as they are needed."""

    def _held(self, data: Any) -> Any:
        return check_sizes(data)

    def _place(self, mesh: Mesh | None) -> None:
        if not self.mini:
            raise FitError("fit: `data` holds a memory-mapped array, which is read in minibatches: give `batch_size`.")
        self._mesh, self.at = mesh, _fed_rows
        self._check_parts()
        self.most = max(1, BYTES // max(1, _bytes_of(self._data) // self.size * self.batch))
        self._thread = ThreadPoolExecutor(1, "tracegrad data")
        self._ahead: tuple[tuple[int, int], Future] | None = None

    def _gathered(self, start: int, count: int, room: int) -> tuple[np.ndarray, Any]:
        """The rows of some steps, and their examples; there is room for more, so that all dispatches have one shape."""
        rows = np.zeros((room, self.batch), np.int32)
        rows[:count] = self.rows(start, count)
        flat = rows[:count].ravel()
        order = np.argsort(flat, kind="stable")  # a file is read from its beginning to its end

        def gather(x):
            batches = np.zeros((room * self.batch, *x.shape[1:]), x.dtype)
            batches[order] = x[flat[order]]
            return batches.reshape(room, self.batch, *x.shape[1:])

        return rows, jax.tree.map(gather, self._data)

    def feed(self, start: int, count: int, room: int) -> tuple[Any, int]:
        ahead, self._ahead = self._ahead, None
        ready = ahead is not None and ahead[0] == (start, count)
        rows, batches = ahead[1].result() if ahead and ready else self._gathered(start, count, room)
        following = (start + count, count)
        self._ahead = following, self._thread.submit(self._gathered, *following, room)
        return (rows, as_arrays(self._placed(batches), "data")), count


class Loaded(_Fed):
    """The batches that a loader or an iterator makes, in its order; those not of the size of the first are left out.

    A loader that can be gone through again is, pass after pass. An iterator ends the run where it ends.
    """

    def __init__(self, data: Iterable, batch_size: Any, mesh: Mesh | None):
        if batch_size is not None:
            raise FitError("fit: `data` is a loader, which makes its own batches: leave `batch_size` out.")
        self.has_data, self.examples, self.batch_size, self.mini = True, None, None, False
        self.names, self._mesh, self._source, self._left_out = set(), mesh, data, False
        self.at = _fed_batch
        self._batches = self._passes()
        first = next(self._batches, None)
        if first is None:
            raise FitError("fit: the loader `data` has no batch.")
        self._batches = itertools.chain([first], self._batches)
        self.size = self.batch = jax.tree.leaves(first)[0].shape[0]
        self._check_parts()
        self.most = max(1, BYTES // max(1, _bytes_of(first)))
        self._thread = ThreadPoolExecutor(1, "tracegrad data")
        self._ahead: Future = self._thread.submit(list)

    def _passes(self) -> Iterator[Any]:
        """Batch after batch, all of one kind."""
        first: tuple | None = None
        while True:
            empty = True
            for given in self._source:
                batch, empty = _arrays_of(given), False
                kind = _kind_of(batch)
                first = kind if first is None else first
                if kind[:2] != first[:2]:
                    raise FitError(f"fit: the loader `data` gives batches of different kinds: {first}, then {kind}.")
                if kind == first:
                    yield batch
                elif not self._left_out:
                    self._left_out = True
                    warnings.warn(
                        f"fit: the loader `data` gives batches of {first[2]} examples, and one of {kind[2]}. Those of "
                        "another size are left out.",
                        stacklevel=2,
                    )
            if empty or iter(self._source) is self._source:
                return

    def begin(self, step: int) -> None:
        """Leave out the batches of the steps before."""
        for _ in itertools.islice(self._batches, step):
            pass

    def _next(self, count: int) -> list:
        return list(itertools.islice(self._batches, max(0, count)))

    def feed(self, start: int, count: int, room: int) -> tuple[Any, int]:
        ready = self._ahead.result()
        ready += self._next(count - len(ready))
        now, rest = ready[:count], ready[count:]
        self._ahead = self._thread.submit(lambda: rest + self._next(count - len(rest)))
        if not now:
            return None, 0
        filled = now + [now[-1]] * (room - len(now))
        return as_arrays(self._placed(jax.tree.map(lambda *xs: np.stack(xs), *filled)), "data"), len(now)


def _kind_of(batch: Any) -> tuple[Any, list, Any]:
    """Its structure, the shapes and the types of one example, and how many examples it has."""
    leaves = jax.tree.leaves(batch)
    sizes = sorted({x.shape[0] if x.ndim else -1 for x in leaves})
    if len(sizes) != 1 or sizes[0] < 1:
        raise FitError(f"fit: the arrays of a batch of `data` must have one leading size, above 0, and have {sizes}.")
    return jax.tree.structure(batch), [(x.shape[1:], str(x.dtype)) for x in leaves], sizes[0]


def _arrays_of(batch: Any) -> Any:
    return jax.tree.map(lambda x: np.asarray(as_array(x)), columns(batch))


def is_loader(data: Any) -> bool:
    """Whether these are no arrays, but what gives batch after batch."""
    if isinstance(data, Iterator):
        return True
    known = str | bytes | dict | list | tuple | jax.Array | np.ndarray
    array = any(hasattr(type(data), name) for name in ("__array__", "to_numpy"))
    if array or isinstance(data, known) or not isinstance(data, Iterable):
        return False
    return jax.tree_util.treedef_is_leaf(jax.tree.structure(data))


def batches_of(data: Any, batch_size: Any, key: jax.Array, mesh: Mesh | None) -> Batches:
    """The batches of whatever `fit` is given as its data."""
    if data is None:
        return Batches(data, batch_size, key, mesh)
    if is_loader(data):
        return Loaded(data, batch_size, mesh)
    data = columns(data)
    check_leaves(data)
    mapped = any(isinstance(x, np.memmap) for x in jax.tree.leaves(data))
    return (Mapped if mapped else Batches)(data, batch_size, key, mesh)
