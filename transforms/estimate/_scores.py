"""The scores of a program's draws, kept apart, and the boxes that multiply values by those that they depend on."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax import numpy as jnp

from ..analysis._sources import Dependence, Part, bits
from ..program._site_terms import magic_box
from ._ledger import total

LATEST = 32
"""How many earlier sums are looked at for one to build on: the sources of a chain grow by one a step."""


class Scores:
    """Score terms in the order of their draws, those given from outside first.

    `boxed` holds values that come boxed already.
    """

    def __init__(self, sources: Sequence[jax.Array] = (), boxed: Mapping | None = None):
        self.sources = list(sources)
        self.boxed = dict(boxed or {})
        self.sums: dict = {}
        self.boxes: dict = {}

    def copy(self) -> Scores:
        """The scores so far, to which others may be added."""
        return Scores(self.sources, self.boxed)

    def whole(self) -> jax.Array | None:
        """All of them in one, a scalar; None where there are none."""
        return total([score.sum() for score in self.sources])

    def of(self, mask: int) -> jax.Array:
        """The sum of some; a sum is built on the latest one that is a part of it, so that chains stay linear."""
        if mask not in self.sums:
            latest = itertools.islice(reversed(self.sums), LATEST)
            part = next((m for m in latest if m & ~mask == 0), 0)
            terms = [self.sums[part]] if part else []
            self.sums[mask] = total([*terms, *(self.sources[b] for b in bits(mask & ~part))])
        return self.sums[mask]

    def box(self, x: Any, dependence: Dependence) -> Any:
        """A value times the box of the scores that it depends on."""
        if not dependence:
            return x
        groups = (x.shape, *dependence.items())
        if groups not in self.boxes:
            first, *others = (self._aligned(key, mask, x.shape) for key, mask in dependence.items())
            self.boxes[groups] = magic_box(sum(others, first))
        return x * self.boxes[groups].astype(x.dtype)

    def _aligned(self, key, mask, shape):
        """The summed scores of a group, laid along the axes of a value of this shape."""
        axes = key[1]
        score = jnp.sum(self.of(mask), axis=tuple(i for i, a in enumerate(axes) if a is None))
        kept = [a if isinstance(a, Part) else Part(a, 1, shape[a]) for a in axes if a is not None]
        order = sorted(range(len(kept)), key=lambda i: (kept[i].axis, -kept[i].stride))
        return _laid(jnp.transpose(score, order), [kept[i] for i in order], shape)


def _laid(score, parts, shape):
    """A score whose axes are these parts of the axes of a value, in order, laid along it."""
    own, full, lengths = [], [], []
    for axis, n in enumerate(shape):
        inside = [part for part in parts if part.axis == axis]
        left = n if inside else 1
        lengths.append(left)
        for part in inside:  # outermost first, and what is between two of them is the same all along
            own += [1, part.size]
            full += [left // (part.stride * part.size), part.size]
            left = part.stride
        own.append(1)
        full.append(left)
    return jnp.broadcast_to(score.reshape(own), full).reshape(lengths)
