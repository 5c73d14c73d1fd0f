"""Where a search, a fit or a chain starts: by a rule, or at values that are given by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float, Key

from .._errors import AddressError, ChoiceError
from ..core._addresses import Choices, as_arrays, check_known, lookup, nest, paths, show
from ..core._arguments import mapping
from ..transforms._internal import finite_real, one_of
from ._unconstrained import Unconstrained, starting_points

RULES = ("uniform", "prior")
TRIES = 20
"""Draws of the program that are tried for one at which the density is finite."""

Initial = Mapping | str | None


def checked_initial(what: str, space: Unconstrained, initial: Any) -> Initial:
    """A rule, or values by address that are those of latents, of their shapes and inside their supports."""
    if initial is None or isinstance(initial, str):
        return initial if initial is None else one_of(what, "initial", initial, RULES, ChoiceError)
    example = "of values by address, {'mu': 1.0}, or 'prior' or 'uniform'"
    given = as_arrays(mapping(what, "initial", initial, example, AddressError))
    latents = space.target.latents()
    check_known(given, latents, space.target.function.name, f"{what}: initial")
    values = nest({p: _shaped(what, p, x, lookup(latents, p)) for p, x in paths(given)})
    # One visit at once, that refuses what lies outside of its support, by name.
    space.backward(_over(_drawn(space, jax.random.key(0))[0], values))
    return values


def _shaped(what, path, value, like):
    """A value in the shape and type of a latent; one number stands for all entries."""
    finite_real(what, f"initial at {show(path)}", value, ChoiceError, scalar=False)
    if jnp.ndim(value) and jnp.shape(value) != like.shape:
        raise ChoiceError(
            f"{what}: initial at {show(path)} has the shape {jnp.shape(value)}, and the latent {like.shape}. Give that "
            "shape, or one number for all entries."
        )
    return jnp.broadcast_to(jnp.asarray(value, like.dtype), like.shape)


def _drawn(space: Unconstrained, key) -> tuple[Choices, Any]:
    """The latents of a draw of the program, and their point."""
    latents = space.target.draw(key)[0]
    return latents, space.unconstrain(latents)


def _over(choices: Choices, values: Mapping) -> Choices:
    """Choices with some of them replaced."""
    return nest(dict(paths(choices)) | dict(paths(values)))


def starting_point(space: Unconstrained, key: Key[Array, ""], initial: Initial = None) -> Float[Array, " d"]:
    """A point to start from: by the rule, or at the given values, the rest by "uniform".

    Args:
        space: the unconstrained space.
        key: one typed key.
        initial: as `checked_initial` returns it: None or "uniform" is uniform in (-2, 2)^d, "prior" a draw of the
            program, each the first at which the density is finite; or values by address.
    """
    if initial == "prior":
        points = jax.lax.map(lambda k: _drawn(space, k)[1], jax.random.split(key, TRIES))
        finite = jnp.isfinite(jax.lax.map(space.log_prob, points))
        return points[jnp.argmax(finite)]
    point = starting_points(space, key)
    if isinstance(initial, Mapping):
        return space.unconstrain(_over(space.constrain(point), initial))
    return point
