"""The scores of a program's draws, kept apart, and the boxes that multiply values by those that they depend on."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax import numpy as jnp

from ..analysis._sources import Dependence, bits
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
        groups = (x.ndim, *dependence.items())
        if groups not in self.boxes:
            first, *others = (self._aligned(key, mask, x.ndim) for key, mask in dependence.items())
            self.boxes[groups] = magic_box(sum(others, first))
        return x * self.boxes[groups].astype(x.dtype)

    def _aligned(self, key, mask, rank):
        """The summed scores of a group, laid along the axes of a value of this rank."""
        shape, axes = key
        score = jnp.sum(self.of(mask), axis=tuple(i for i, a in enumerate(axes) if a is None))
        kept = [a for a in axes if a is not None]
        order = sorted(range(len(kept)), key=kept.__getitem__)
        score = jnp.transpose(score, order)
        lengths = dict(zip(sorted(kept), score.shape, strict=True))
        return jnp.reshape(score, [lengths.get(a, 1) for a in range(rank)])
