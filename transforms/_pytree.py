"""Splitting a pytree into its arrays and everything else, so that the arrays can be operands of a primitive."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

from ._errors import ArgumentError

DYNAMIC = "<array>"

KINDS = 4096
"""How many kinds of site are remembered, each by its `Spec`: more than any program has, so that what is traced once for
a kind is traced once, and yet not everything that a long session ever made."""


def is_array(x: Any) -> bool:
    """Whether `x` is an array (JAX or NumPy, traced or not), as opposed to a Python scalar or any other object."""
    return isinstance(x, (jax.Array, np.ndarray, np.generic))


def is_inexact(x: Any) -> bool:
    """Whether `x` is an array of floating or complex numbers, the kind that carries a derivative."""
    return is_array(x) and jnp.issubdtype(x.dtype, jnp.inexact)


def as_array(x: Any) -> Any:
    """A column of a table (pandas, polars) or another array of the `__array__` protocol as NumPy's; all else as it is.

    Raises:
        ArgumentError: a whole table, or a column of something that is no number.
    """
    if is_array(x) or not (hasattr(type(x), "to_numpy") or hasattr(type(x), "__array__")):
        return x
    what = f"{type(x).__module__.partition('.')[0]} {type(x).__name__}"
    if hasattr(x, "columns"):
        raise ArgumentError(
            f"A table ({what}) is no array. Give its columns, which are: `{{name: df[name] for name in df.columns}}`."
        )
    array = np.asarray(x.to_numpy() if hasattr(x, "to_numpy") else x)
    if not (jnp.issubdtype(array.dtype, jnp.number) or array.dtype == bool):
        raise ArgumentError(
            f"A column ({what}) of type {array.dtype} holds no numbers. Encode it (`.astype(float)`, or categories by "
            "their codes), and say what is missing by a mask."
        )
    return array


class Spec:
    """What is left of a pytree without its arrays: hashable, so that it can be a static parameter and a cache key.

    Static leaves compare by equality and type where they hash, by identity where they do not.
    """

    __slots__ = ("_hash", "_key", "statics", "treedef")

    def __init__(self, treedef, statics: tuple):
        self.treedef = treedef
        self.statics = statics
        try:
            self._key: Any = (treedef, tuple((type(s), s) for s in statics))
            self._hash = hash(self._key)
        except TypeError:
            self._key = (id(treedef), tuple(map(id, statics)))
            self._hash = hash(self._key)

    def __hash__(self):
        return self._hash

    def __eq__(self, other):
        return isinstance(other, Spec) and self._hash == other._hash and self._key == other._key

    def combine(self, arrays) -> Any:
        """Put the arrays back in their places."""
        arrays = iter(arrays)
        return self.treedef.unflatten([next(arrays) if s is DYNAMIC else s for s in self.statics])

    @property
    def count(self) -> int:
        """How many arrays the pytree holds."""
        return sum(s is DYNAMIC for s in self.statics)

    def __repr__(self):
        return f"Spec({self.treedef})"


def partition(tree: Any) -> tuple[list, Spec]:
    """Return the arrays of a pytree, in order, and the `Spec` that puts them back."""
    leaves, treedef = jax.tree.flatten(tree)
    leaves = [as_array(leaf) for leaf in leaves]
    arrays = [leaf for leaf in leaves if is_array(leaf)]
    return arrays, Spec(treedef, tuple(DYNAMIC if is_array(leaf) else leaf for leaf in leaves))


def stop_gradient(tree: Any) -> Any:
    """`lax.stop_gradient` on the inexact arrays of a pytree; all else is left as it is."""
    return jax.tree.map(lambda x: lax.stop_gradient(x) if is_inexact(x) else x, tree)


def size(shape) -> int:
    """The number of elements of a shape."""
    return math.prod(shape)


def weighted_sum(weights: jax.Array, ys: jax.Array) -> jax.Array:
    """sum_j weights_j ys_j over the leading axis: a product and a sum that XLA fuses, exact where `dot` may round."""
    return jnp.sum(jnp.reshape(weights, (-1, *(1 for _ in ys.shape[1:]))).astype(ys.dtype) * ys, axis=0)
