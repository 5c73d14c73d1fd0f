"""The versions of one value, in the shortest form that holds them all.

What is the same in all versions is held once. What varies along an axis, index by index, is held twice: as it is in the
base, and with all lanes changed; version j has entry j of the second along that axis, and the base's entries elsewhere.
What varies in any other way is held in all its versions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
from jax import numpy as jnp

SAME, APART = -2, -1
"""How a value varies with the version: not at all; freely; or (an axis, 0 and up) index by index along that axis."""


class Value(NamedTuple):
    """The versions of a value.

    Attributes:
        how: `SAME`, `APART`, or the axis along which it varies index by index.
        base: the value of the base; None where versions are apart.
        varied: along an axis, the value with all lanes changed; apart, the versions along a leading axis.
    """

    how: int
    base: Any
    varied: Any = None


def same(x: Any) -> Value:
    """A value that is the same in all versions."""
    return Value(SAME, x)


def apart(versions: Any) -> Value:
    """A value by its versions along a leading axis."""
    return Value(APART, None, versions)


def laid_out(value: Value, lanes: int) -> jax.Array:
    """All versions along a leading axis."""
    if value.how == SAME:
        return jnp.broadcast_to(value.base, (lanes, *jnp.shape(value.base)))
    if value.how == APART:
        return value.varied
    return jnp.where(_diagonal(value, lanes), value.varied, value.base)


def _diagonal(value, lanes):
    """Version i at index i of the axis."""
    rank = value.base.ndim
    here = jnp.eye(lanes, dtype=bool)
    return here.reshape([lanes, *(lanes if a == value.how else 1 for a in range(rank))])


def widened(value: Value, how: int, lanes: int) -> Value:
    """The same versions in a form that varies no less."""
    if how in (value.how, SAME):
        return value
    if how == APART:
        return apart(laid_out(value, lanes))
    return Value(how, value.base, value.base)


def pair(value: Value) -> tuple:
    """What a loop carries of a value."""
    return value.base, value.varied
