"""Weights of the parts of a density, by address: log p becomes sum over addresses of scale * log p(address)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
from jax import numpy as jnp

from .._errors import AddressError, DensityError
from ..transforms._internal import real, share
from ._addresses import Path, as_path, show
from ._by_address import ByAddress, InForce


def scales_of(scale: Any) -> ByAddress:
    """Scales by address, checked."""
    if not isinstance(scale, Mapping):
        raise AddressError(
            f"scale is a dict from address patterns to numbers, like {{'data': N / B}}, and got {scale!r}."
        )
    for pattern, x in scale.items():
        real("scale", show(as_path(pattern)), x, DensityError, "a finite number, zero or more", _is_scale)
    return ByAddress({pattern: jnp.asarray(x, float) for pattern, x in scale.items()})


class OfTerms(InForce):
    """Scales of the terms of a bound, which weigh what the guide draws as they do what the model is given."""

    weighs_draws = True


def _is_scale(x):
    return (x >= 0) & (x < jnp.inf)


def scale_at(in_force: tuple[InForce, ...], path: Path) -> jax.Array | None:
    """The product of the scales in force at a path; None where there are none."""
    found = [x for x in (each.at(path) for each in in_force) if x is not None]
    return None if not found else jnp.prod(jnp.stack(found))


def scaled(logp: Any, scale: jax.Array) -> jax.Array:
    """A log density times a scale; a scale of zero leaves the part out, even one of density zero."""
    return share(scale, logp)
