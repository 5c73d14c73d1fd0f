"""Weights of the parts of a density, by address: log p becomes sum over addresses of scale * log p(address)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
from jax import numpy as jnp

from .._errors import AddressError, DensityError
from ..transforms._internal import real
from ._addresses import Path, as_path, matches, paths, show, specificity, unmatched


class Scales(eqx.Module):
    """Patterns with their factors, the most specific first."""

    patterns: tuple[Path, ...] = eqx.field(static=True)
    factors: tuple[Any, ...]

    def __init__(self, scale: Mapping):
        if not isinstance(scale, Mapping):
            raise AddressError(
                f"scale is a dict from address patterns to numbers, like {{'data': N / B}}, and got {scale!r}."
            )
        entries = sorted(((as_path(p), x) for p, x in scale.items()), key=lambda e: specificity(e[0]), reverse=True)
        for pattern, x in entries:
            real("scale", show(pattern), x, DensityError, "a finite number, zero or more", _is_scale)
        self.patterns = tuple(p for p, _ in entries)
        self.factors = tuple(jnp.asarray(x, float) for _, x in entries)


def _is_scale(x):
    return (x >= 0) & (x < jnp.inf)


class ActiveScales:
    """Scales in force from a path on, and where they have been asked for."""

    def __init__(self, scales: Scales, path: Path):
        self.scales = scales
        self.depth = len(path)
        self.seen: set[Path] = set()

    def at(self, path: Path) -> jax.Array | None:
        """The factor at a path; None where there is none."""
        below = path[self.depth :]
        self.seen.add(below)
        pairs = zip(self.scales.patterns, self.scales.factors, strict=True)
        return next((x for p, x in pairs if matches(p, below)), None)

    def check_used(self, who: str, choices: Mapping) -> None:
        """Refuse patterns that matched nothing."""
        known = self.seen | {p for p, _ in paths(choices)}
        for pattern in self.scales.patterns:
            if not any(matches(pattern, path) for path in known):
                raise AddressError(unmatched(f"scale for {who}", pattern, known))


def scale_at(active: tuple[ActiveScales, ...], path: Path) -> jax.Array | None:
    """The product of the scales in force at a path; None where there are none."""
    found = [x for x in (each.at(path) for each in active) if x is not None]
    return None if not found else jnp.prod(jnp.stack(found))


def scaled(logp: Any, scale: jax.Array) -> jax.Array:
    """Scale * logp; a density of zero stays zero, whatever its scale."""
    finite = jnp.isfinite(logp)
    return jnp.where(finite, scale * jnp.where(finite, logp, 0.0), logp)
