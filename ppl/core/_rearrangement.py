"""Rearrangements of choices: the same numbers under other addresses, or in another order.

A rearrangement is found by moving numbered entries: what a function makes of the numbers 0 .. N - 1 says where each
entry goes, and, where it is those numbers again, that the function is a bijection of volume one. Its inverse follows.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from .._errors import AddressError, ChoiceError, DensityError
from ..transforms._internal import lenient
from ._addresses import Choices, Path, as_arrays, as_path, name_them, nest, paths, show, unmatched


@dataclasses.dataclass(frozen=True)
class Leaf:
    """Where a value comes from: the old values that it is made of, and which of their entries it holds."""

    sources: tuple[Path, ...]
    entries: np.ndarray
    whole: bool

    def of(self, have: Mapping[Path, Any]) -> Any:
        """The value, from old values; of no entries it is empty, wherever it comes from."""
        if not self.sources:
            return jnp.zeros(self.entries.shape, float)
        if self.whole:
            return have[self.sources[0]]
        return jnp.concatenate([jnp.ravel(have[p]) for p in self.sources])[self.entries]


@dataclasses.dataclass(frozen=True)
class Rearrangement:
    """Where the entries of choices go.

    Attributes:
        before: the shapes and types of the choices that are rearranged, by path.
        after: for each new value the numbers of the entries that it holds; the old ones are counted leaf after leaf.
    """

    before: dict[Path, jax.ShapeDtypeStruct]
    after: dict[Path, np.ndarray]

    @functools.cached_property
    def starts(self) -> dict[Path, int]:
        """The number of the first entry of each old value."""
        sizes = [math.prod(x.shape) for x in self.before.values()]
        return dict(zip(self.before, np.cumsum([0, *sizes]).tolist(), strict=False))

    @functools.cached_property
    def leaves(self) -> dict[Path, Leaf]:
        """The new values."""
        return {path: self._leaf(labels) for path, labels in self.after.items()}

    def _leaf(self, labels):
        ends = {p: self.starts[p] + math.prod(x.shape) for p, x in self.before.items()}
        sources = tuple(p for p, end in ends.items() if np.any((labels >= self.starts[p]) & (labels < end)))
        numbers = np.concatenate([np.arange(self.starts[p], ends[p]) for p in sources] or [np.arange(0)])
        entries = np.searchsorted(numbers, labels)
        whole = len(sources) == 1 and labels.shape == self.before[sources[0]].shape
        return Leaf(sources, entries, whole and np.array_equal(np.ravel(entries), np.arange(len(numbers))))

    @functools.cached_property
    def inverse(self) -> Rearrangement:
        """The way back."""
        types = {p: self.before[x.sources[0]].dtype for p, x in self.leaves.items() if x.sources}
        before = {p: jax.ShapeDtypeStruct(x.shape, types.get(p, jnp.zeros(()).dtype)) for p, x in self.after.items()}
        order = np.argsort(np.concatenate([np.ravel(x) for x in self.after.values()] or [np.arange(0)]))
        return Rearrangement(before, _split(order, self.before))

    @property
    def renames(self) -> bool:
        """Whether all values are as they were, under other names."""
        return all(leaf.whole for leaf in self.leaves.values())

    def homes(self, path: Path) -> tuple[Path, ...]:
        """The new addresses that hold entries of an old value; those of no value keep their own."""
        return tuple(new for new, leaf in self.leaves.items() if path in leaf.sources) or (path,)

    def __call__(self, choices: Mapping, who: str) -> Choices:
        """Rearrange choices. A new value none of whose entries are there is left out.

        Raises:
            ChoiceError: a value of another shape.
            DensityError: some of the entries of a value are there and some are not.
        """
        have = {path: self._checked(path, x) for path, x in paths(choices) if path in self.before}
        return nest({path: leaf.of(have) for path, leaf in self.leaves.items() if _there(who, path, leaf, have)})

    def _checked(self, path, value):
        """A value to take entries from; one that goes on whole is the business of who takes it."""
        if all(home in self.leaves and self.leaves[home].whole for home in self.homes(path)):
            return value
        expected, value = self.before[path], jnp.asarray(value)
        if value.shape != expected.shape:
            raise ChoiceError(
                f"The choice at {show(path)} has the wrong shape: expected {list(expected.shape)}, got "
                f"{list(value.shape)}."
            )
        return value if jnp.issubdtype(value.dtype, jnp.floating) else value.astype(expected.dtype)


def _there(who, path, leaf, have):
    lacking = [p for p in leaf.sources if p not in have]
    if lacking and len(lacking) < len(leaf.sources):
        raise DensityError(
            f"{who}: what is drawn at {show(path)} comes from several addresses, of which a value is given or kept at "
            f"{show(next(p for p in leaf.sources if p in have))} and not at {show(lacking[0])}. Give all of them, or "
            "none."
        )
    return not lacking


def _split(labels, like):
    """Labels in a row as those of leaves."""
    ends = np.cumsum([math.prod(x.shape) for x in like.values()])
    parts = np.split(labels, ends[:-1]) if like else []
    return {path: part.reshape(x.shape) for (path, x), part in zip(like.items(), parts, strict=True)}


# ---- finding one -----------------------------------------------------------------------------------------------------

STEP = 0x9E3779B1
PERIOD = 2**31 - 1
"""Multiples of the one, counted round the other, a prime, come in a scattered order."""


def rearrangement(who: str, function: Callable, shapes: Mapping) -> Rearrangement:
    """The rearrangement that a function of choices is.

    Args:
        who: what messages call it.
        function: from choices to choices.
        shapes: the choices as `jax.ShapeDtypeStruct`s.

    Raises:
        ChoiceError: it returns no choices, or makes one value of old ones of different types.
        DensityError: it is no rearrangement: an entry is lost, or there twice, or is computed.
    """
    before = dict(paths(shapes))
    numbers = np.arange(sum(math.prod(x.shape) for x in before.values()))
    after = _moved(who, function, before, numbers)
    moved = np.concatenate([np.ravel(x) for x in after.values()] or [numbers[:0]])
    scattered = np.argsort(numbers * STEP % PERIOD)[::-1]  # Backwards, so that two are out of order, too.
    again = _moved(who, function, before, scattered)
    same = after.keys() == again.keys() and all(np.array_equal(scattered[x], again[p]) for p, x in after.items())
    if not np.array_equal(np.sort(moved), numbers) or not same:
        raise DensityError(
            f"{who}: the function is no rearrangement of the choices {', '.join(map(show, before))}: each of their "
            f"{len(numbers)} entries must be in what it returns once, as it is, and it returned {len(moved)} entries. "
            "Where it computes with them, give its inverse: `relabel(f, function, inverse=...)`."
        )
    found = Rearrangement(before, after)
    for path, leaf in found.leaves.items():
        _check_types(who, path, {p: before[p].dtype for p in leaf.sources})
    return found


def retelling(who: str, function: Callable, choices: Choices) -> Choices:
    """What a user's function makes of choices, which is to be choices again."""
    try:
        returned = function(choices)
    except KeyError as error:
        known = name_them(path for path, _ in paths(choices))
        raise AddressError(
            f"{who}: the function asked for {error}, and the choices that it is given are at {known}."
        ) from error
    if not isinstance(returned, Mapping):
        raise ChoiceError(
            f"{who}: the function returns choices, a nested dict from addresses to values, and returned "
            f"{type(returned).__name__}."
        )
    return as_arrays(returned)


def _moved(who, function, before, labels):
    """What a function makes of labels in place of choices, by path; of what is no integer any more, none."""
    if not len(labels):
        labels = np.zeros(0, int)
    with jax.ensure_compile_time_eval(), lenient():
        given = nest({p: jnp.asarray(x, jnp.int32) for p, x in _split(labels, before).items()})
        moved = {path: np.asarray(x) for path, x in paths(retelling(who, function, given))}
    return {p: x if np.issubdtype(x.dtype, np.integer) else np.full(x.shape, -1) for p, x in moved.items()}


def _check_types(who, path, types):
    if len(set(types.values())) > 1:
        came = ", ".join(f"{show(p)} ({dtype})" for p, dtype in types.items())
        raise ChoiceError(f"{who}: the value at {show(path)} is made of values of different types, {came}.")


@dataclasses.dataclass(frozen=True)
class Renaming:
    """The function of choices that gives addresses, with all that is beneath them, other names."""

    moves: tuple[tuple[Path, Path], ...]

    def __call__(self, choices: Mapping) -> Choices:
        """The same values under the new names."""
        known = [p for p, _ in paths(choices)]
        for old, _ in self.moves:
            if not any(p[: len(old)] == old for p in known):
                raise AddressError(unmatched("relabel", old, known))
        new = [_renamed(dict(self.moves), p) for p in known]
        _check_apart(new, known)
        return nest(dict(zip(new, (x for _, x in paths(choices)), strict=True)))


def renaming(names: Mapping) -> Renaming:
    """A renaming, from a dict of old addresses to new ones."""
    return Renaming(tuple((as_path(old), as_path(new)) for old, new in names.items()))


def _renamed(moves, path):
    old = max((p for p in moves if path[: len(p)] == p), key=len, default=None)
    return path if old is None else (*moves[old], *path[len(old) :])


def _check_apart(new, known):
    for path, old in zip(new, known, strict=True):
        other = next((o for p, o in zip(new, known, strict=True) if o != old and p[: len(path)] == path), None)
        if other is not None:
            raise AddressError(f"relabel: {show(old)} and {show(other)} would both be at {show(path)}.")
