"""The keys that a program draws from: each is one outcome, wherever it is used.

So runs that share keys stay coupled, and a key that is used twice by mistake shows as the bias that it is. Keys do not
depend on what is drawn; where one does, it is found missing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp

from .._jax import bits_of_key, vmapped
from .._pytree import stop_gradient
from ..program._interpreter import Mode, run
from ..program._plan import plan_of_draws
from ..program._records import Records
from ._outcomes import Draw
from ._rewritten import known


class _Keys(Records):
    """(key words, (count, law)) of every draw, one below the other."""

    def join(self, records):
        """All of them."""
        records = [r for r in records if r is not None]
        return jax.tree.map(lambda *xs: jnp.concatenate(xs), *records) if records else None

    def stack(self, record):
        """Those of every step."""
        return jax.tree.map(lambda x: jnp.reshape(x, (-1, x.shape[-1])), record)


class _Collecting(Mode):
    """Finds the keys that are drawn from, on both sides of every branch.

    `look` says what a distribution draws, from noise of a dtype.
    """

    records = _Keys()

    def __init__(self, look: Callable[[Any], Draw], dtype: Any):
        self.look = look
        self.dtype = dtype

    def draw(self, step, operands, alternative):
        """Any outcome, and a record of the keys."""
        found: list[Draw] = []

        def one(key, *arrays):
            found.append(self.look(step.site.restore(arrays)[0]))
            return jax.tree.leaves(found[-1].at(jnp.zeros((found[-1].elements,), self.dtype))[0])

        values = vmapped(one, step.lanes)(*operands)
        words = bits_of_key(operands[0])
        words = jnp.reshape(words, (-1, words.shape[-1]))
        about = jnp.array([found[-1].elements, found[-1].law])
        return values, (words, jnp.broadcast_to(about[None], (words.shape[0], 2)))

    def branch(self, index, branches, operands):
        """Every branch is run; the values do not matter."""
        outs, records = zip(*[branch(*operands) for branch in branches], strict=True)
        return outs[0], self.records.join(list(records))


class Table(NamedTuple):
    """The distinct keys, and where the noise variables of each begin."""

    words: np.ndarray
    starts: np.ndarray

    def find(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The first variable of a key, and whether the key is here at all."""
        hits = jnp.all(jnp.asarray(self.words) == bits_of_key(key)[None], axis=-1)
        return jnp.sum(jnp.where(hits, jnp.asarray(self.starts), 0)), jnp.any(hits)


Found = tuple[int, int]
"""How many variables a key stands for, and their law."""


def find_keys(
    jaxpr: Any, operands: list, look: Callable[[Any], Draw], dtype: Any, check: Callable[[Found, Found], None]
) -> tuple[Table, np.ndarray]:
    """The table of the keys of a program, and the law of each variable.

    `check` refuses a key that is drawn from twice for what cannot be matched.
    """
    plan = plan_of_draws(jaxpr)
    record = jax.jit(lambda *xs: run(plan, xs, _Collecting(look, dtype))[1])(*map(stop_gradient, operands))
    if record is None:
        return Table(np.zeros((1, 1), np.uint32), np.zeros(1, int)), np.zeros(0, int)
    words, about = map(known, record)
    words, where = np.unique(words, axis=0, return_inverse=True)
    counts, laws = np.zeros(len(words), int), np.zeros(len(words), int)
    for i, found in zip(where.ravel(), about, strict=True):
        if counts[i]:
            check((counts[i], laws[i]), tuple(found))
        counts[i], laws[i] = max(counts[i], found[0]), found[1]
    return Table(words, np.cumsum(counts) - counts), np.repeat(laws, counts)
