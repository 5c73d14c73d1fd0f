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
from ._rows import Rows

BYTES = 2**24
"""Of what is fed to one dispatch, at most, unless a single batch is larger. Memory of up to twice as much is used again
by the allocator; pages of larger arrays are new each time, which takes longer than to copy them."""


def _bytes_of(batch: Any) -> int:
    return sum(np.dtype(x.dtype).itemsize * int(np.prod(x.shape)) for x in jax.tree.leaves(batch))


class _Fed(Batches):
    """Batches that are fed to a dispatch, those of its steps along the leading axis."""

    _mesh: Mesh | None = None

    def _placed(self, stacked: Any) -> Any:
        """Where the batches go: over a mesh, each of them in pieces."""
        if self._mesh is None:
            return jax.device_put(stacked)
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


class _Ahead:
    """The steps that are read from files before they are asked for: those from `start` on, in arrays with room."""

    def __init__(self, start: int, count: int, rows: np.ndarray, batches: Any):
        self.start, self.count, self.rows, self.batches = start, count, rows, batches

    def move_from(self, other: _Ahead) -> None:
        """Take over what another one holds of the steps that this one begins with."""
        skipped = self.start - other.start
        count = other.count - skipped
        if 0 <= skipped and 0 < count <= len(self.rows):
            for mine, its in zip(self._arrays(), other._arrays(), strict=True):
                mine[:count] = its[skipped : skipped + count]
            self.count = count

    def _arrays(self) -> list[np.ndarray]:
        return [self.rows, *jax.tree.leaves(self.batches)]


class Mapped(_Fed):
    """Arrays of which some are files in memory (`np.memmap`): rows are read as they are needed."""

    _end = 0  # no step is known to follow

    def begin(self, step: int, end: int) -> None:
        """Note where the run ends: behind it nothing is read."""
        self._end = end

    def _held(self, data: Any) -> Any:
        check_sizes(data)
        as_arrays(jax.tree.map(lambda x: x[:1], data), "data")
        return data

    def _place(self, mesh: Mesh | None) -> None:
        if not self.mini:
            raise FitError("fit: `data` holds a memory-mapped array, which is read in minibatches: give `batch_size`.")
        self._mesh, self.at = mesh, _fed_rows
        self._check_parts()
        self.most = max(1, BYTES // max(1, _bytes_of(self._data) // self.size * self.batch))
        self._thread = ThreadPoolExecutor(1, "tracegrad data")
        self._ahead: Future[_Ahead] | None = None
        self._sources = [Rows(x) for x in jax.tree.leaves(self._data)]

    def _room_from(self, start: int, room: int) -> _Ahead:
        def empty(x):
            return np.empty((room, self.batch, *x.shape[1:]), x.dtype)

        rows = np.zeros((room, self.batch), np.int32)
        return _Ahead(start, 0, rows, jax.tree.map(empty, self._data))

    def _fill(self, ahead: _Ahead, count: int) -> _Ahead:
        """Read on until so many steps are there, from the beginning of the files to their end."""
        begin = ahead.count
        if count <= begin:
            return ahead
        ahead.rows[begin:count] = self.rows(ahead.start + begin, count - begin)
        flat = ahead.rows[begin:count].ravel()
        for x, batches in zip(self._sources, jax.tree.leaves(ahead.batches), strict=True):
            x.read(flat, batches[begin:count].reshape(-1, *batches.shape[2:]))
        ahead.count = count
        return ahead

    def _read(self, start: int, count: int, before: _Ahead, room: int) -> _Ahead:
        ahead = self._room_from(start, room)
        ahead.move_from(before)
        return self._fill(ahead, count)

    def feed(self, start: int, count: int, room: int) -> tuple[Any, int]:
        ahead, self._ahead = self._ahead, None
        now = self._room_from(start, room) if ahead is None else ahead.result()
        now = self._fill(now, count)
        following = start + count
        # As many again, and as many more where dispatches grow; none where the run ends.
        more = max(0, min(2 * count, room, self._end - following))
        if more:
            self._ahead = self._thread.submit(self._read, following, more, now, room)
        return (now.rows, as_arrays(self._placed(now.batches), "data")), count


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
        as_arrays(first, "data")
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

    def begin(self, step: int, end: int) -> None:
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
