"""A run at one outcome of every draw, and a measure of the draws that it meets."""

from __future__ import annotations

import abc
from typing import Any

import jax
from jax import numpy as jnp

from .._jax import vmapped
from ..program._interpreter import Mode
from ..program._records import Records
from ._keys import Table


class Measure(Records, abc.ABC):
    """What is measured of a run: a record of each draw at its outcome."""

    @abc.abstractmethod
    def at(self, distribution: Any, start: jax.Array, found: jax.Array) -> tuple[Any, Any]:
        """The value of a draw whose variables begin at `start`, and its record; `found` says whether its key is known.

        A record is one array or more, of the same shapes at every draw.
        """


class Measuring(Mode):
    """Looks up the outcome of every draw by its key."""

    def __init__(self, table: Table, measure: Measure):
        self.table = table
        self.records = self.measure = measure

    def draw(self, step, operands, alternative):
        """The value at its outcome, and the records of all lanes in one."""
        found: list = []

        def one(key, *arrays):
            value, record = self.measure.at(step.site.restore(arrays)[0], *self.table.find(key))
            found[:] = [x.ndim for x in jax.tree.leaves(record)]
            return jax.tree.leaves(value), record

        values, record = vmapped(one, step.lanes)(*operands)
        ranks = jax.tree.unflatten(jax.tree.structure(record), found)
        lanes = jax.tree.map(lambda x, n: jnp.reshape(x, (-1, *x.shape[x.ndim - n :])), record, ranks)
        return values, self.measure.stack(lanes)
