"""Sums over lanes: that of the base, and for each version what its lane adds."""

from __future__ import annotations

from typing import Any

import jax
from jax import numpy as jnp

from ..._jax import param
from ._value import Value, apart


def sum_over(eqn: Any, value: Value) -> Value:
    """The versions of a sum whose operand varies along an axis that is summed."""
    axes = param(eqn, "axes")
    parts = zip(_parts(value.base), _parts(value.varied), strict=True)
    return apart(_whole(*(_sum(value.how, axes, base, varied) for base, varied in parts)))


def _sum(how, axes, base, varied):
    """The sum of the base, and what each lane adds to it."""
    change = jnp.moveaxis(varied - base, how, 0)
    order = [a for a in range(base.ndim) if a != how]
    change = jnp.sum(change, axis=tuple(1 + order.index(a) for a in axes if a != how), dtype=change.dtype)
    return jnp.sum(base, axis=axes, dtype=change.dtype)[None] + change


def _parts(x: jax.Array) -> tuple:
    """What is finite, and where it is not the numbers of +inf and -inf: these have differences. A nan is both."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return (x,)
    return jnp.where(jnp.isfinite(x), x, 0), (~(x < jnp.inf)).astype(int), (~(x > -jnp.inf)).astype(int)


def _whole(finite, above=0, below=0):
    """A sum from those of its parts."""
    infinite = jnp.where(above > 0, jnp.inf, 0.0) - jnp.where(below > 0, jnp.inf, 0.0)
    return jnp.where((above > 0) | (below > 0), infinite.astype(finite.dtype), finite)
