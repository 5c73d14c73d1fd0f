"""Given values: what an operation is told about them, and the check that a distribution could have made them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jax import numpy as jnp

from .._errors import ChoiceError
from ..distributions._supports import inside
from ..transforms._internal import as_array, lenient, lift, value_struct
from ._addresses import Path, lookup, show
from ._by_address import InForce
from ._guide_supports import Supports


class Attitude(NamedTuple):
    """What every operation may be told about the values that it is given, and asked about those that it meets.

    Attributes:
        live: a flag; where it is false, as under a mask, given values count for nothing and may be anything, NaN too.
        known: given values that are not traced, by path: checked though a `vmap` or a loop around the site traces them.
        validate: whether values that are traced are checked when the program runs.
        drawn: where to write down what values are drawn from.
        weighed: such a record of another program; a site of smaller support than a value's is warned of.
        scales: the weights of parts of the density that are in force.
        coordinates: the coordinates that are chosen for latents.
        interventions: where to write down the sites in whose place a value was put.
        conditions: where to write down the sites that were given a value for good.
        in_place: whether a site that cannot be drawn gives some value of its support: only its shape is asked for.
    """

    live: Any = True
    known: Any = None
    validate: bool = False
    drawn: Supports | None = None
    weighed: Supports | None = None
    scales: tuple[InForce, ...] = ()
    coordinates: tuple[InForce, ...] = ()
    interventions: tuple[set[Path], ...] = ()
    conditions: tuple[set[Path], ...] = ()
    in_place: bool = False


def kind(distribution) -> str:
    """A distribution as messages name it."""
    return f"a {type(distribution).__name__}"


def struct(distribution: Any) -> Any:
    """The shape and type of a value; of a float where the distribution has no sampler to tell."""
    try:
        return value_struct(distribution)
    except NotImplementedError:
        return jax.ShapeDtypeStruct(distribution.batch_shape + distribution.event_shape, jnp.zeros((), float).dtype)


def conform(path: Path, distribution: Any, value: Any, attitude: Attitude) -> Any:
    """Check a given value against what the distribution draws, and return it as an array of that kind."""
    expected = struct(distribution)
    if not isinstance(expected, jax.ShapeDtypeStruct):
        return value
    site = f"The choice at {show(path)} ({kind(distribution)})"
    if isinstance(value, Mapping):
        raise ChoiceError(f"{site} is one value, and got nested choices {sorted(value)}. Give an array.")
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise ChoiceError(
            f"{site} has the wrong type: expected {expected.dtype}{list(expected.shape)}, got {type(value).__name__}."
        ) from error
    if array.shape != expected.shape:
        raise ChoiceError(
            f"{site} has the wrong shape: expected {list(expected.shape)}, got {list(array.shape)}. The shape is the "
            "distribution's batch shape followed by its event shape."
        )
    _check_dtype(site, distribution, expected.dtype, array.dtype)
    known = lookup(attitude.known, path)
    if attitude.live is True and validates(distribution):
        _check_support(site, distribution, value if known is None else known)
    if attitude.validate:
        array = _checked(site, distribution, array, attitude.live)
    # A float given for 0 or 1 stays one, with its derivative; all else becomes what the distribution draws.
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(expected.dtype)


def _check_dtype(site, distribution, expected, came):
    number = jnp.issubdtype(came, jnp.number) or came == jnp.bool_
    real = number and not jnp.issubdtype(came, jnp.complexfloating)
    support = getattr(distribution, "support", None)
    boolean = "boolean" in type(getattr(support, "base_constraint", support)).__name__.lower()
    whole = jnp.issubdtype(expected, jnp.integer) and not boolean
    if real and not (whole and jnp.issubdtype(came, jnp.floating)):
        return
    hint = " Convert it with `.astype(int)`." if real else ""
    raise ChoiceError(f"{site} has the wrong type: expected {expected}, got {came}.{hint}")


def validates(distribution) -> bool:
    """Whether validation is on, by default or as the distribution was built."""
    stated = vars(distribution).get("_validate_args")
    return bool(getattr(type(distribution), "_validate_args", False) if stated is None else stated)


def _check_support(site, distribution, value):
    """Refuse what is outside the support where both are known, whatever else is traced."""
    if isinstance(value, jax.core.Tracer):
        return
    with jax.ensure_compile_time_eval(), lenient():
        array = _near(distribution, as_array(value))
        found = inside(distribution, array).all()
    if not isinstance(found, jax.core.Tracer) and not bool(found):
        raise ChoiceError(
            f"{site} is outside the support: expected {distribution.support}, got {array}. Give a value inside it, or "
            "build the distribution with validate_args=False to have none checked."
        )


SMALL = 1 << 16
"""So many numbers are looked at by numpy: to compile a comparison takes longer than to make it."""


def _near(distribution, value):
    """A value as numpy has it, where it is small, here, and the bounds are known too; else as an array of JAX."""
    traced = any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(lift(distribution)))
    away = isinstance(value, jax.Array) and not value.is_fully_addressable
    return jnp.asarray(value) if traced or away or np.size(value) > SMALL else np.asarray(jnp.asarray(value))


def _checked(site, distribution, array, live):
    """The array, with a check that runs with the program."""
    with lenient():
        outside = ~jnp.all(inside(distribution, array)) & live
    return eqx.error_if(array, outside, f"{site} is outside the support: expected {distribution.support}.")
