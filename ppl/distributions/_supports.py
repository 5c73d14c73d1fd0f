"""Supports of numpyro's distributions: which values lie inside, a value that does, and which support is the larger.

The support of a distribution is what its class says, except that a density which is finite at the edge counts there,
where numpyro leaves the edge out (an exponential at 0, which its own draws reach by rounding).
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import numpyro.distributions as dist
from jax import numpy as jnp
from numpyro.distributions import constraints

from ..transforms._internal import lenient

FINITE_AT_THE_EDGE = (
    dist.Exponential,
    dist.FoldedDistribution,
    dist.Gompertz,
    dist.HalfCauchy,
    dist.HalfNormal,
    dist.Pareto,
)
MIXTURES = (dist.MixtureSameFamily, dist.MixtureGeneral)


def support_of(distribution: Any) -> Any:
    """The constraint on a value, or None where a distribution has none that can be checked."""
    support = getattr(distribution, "support", None)
    if not isinstance(support, constraints.Constraint) or constraints.is_dependent(support):
        return None
    if isinstance(distribution, FINITE_AT_THE_EDGE):
        return constraints.greater_than_eq(support.lower_bound)
    return support


def _scalar(support: Any) -> Any:
    """The constraint on one number of a value."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


def is_real(support: Any) -> bool:
    """Whether a constraint leaves out nothing."""
    return isinstance(_scalar(support), type(constraints.real))


def satisfies(distribution: Any, support: Any, value: Any) -> Any:
    """Whether a value satisfies a constraint, one answer for each element of the batch."""
    inside = support(value)
    missing = distribution.event_dim - support.event_dim
    return inside.all(axis=tuple(range(-missing, 0))) if missing > 0 else inside


def over_events(distribution: Any, flags: jax.Array) -> jax.Array:
    """Flags of the elements of a batch, ready to choose between values."""
    return jnp.reshape(flags, flags.shape + (1,) * distribution.event_dim)


def feasible(support: Any, value: jax.Array) -> jax.Array:
    """Some value that satisfies a constraint, of the type of another value; that value itself where none is known."""
    try:
        found = support.feasible_like(value)
    except NotImplementedError:
        return value
    return jax.lax.stop_gradient(jnp.asarray(found).astype(value.dtype))


def inside(distribution: Any, value: Any) -> Any:
    """Whether a value lies in the support, one answer for each element of the batch; numpy's for a value of numpy."""
    if isinstance(distribution, dist.MaskedDistribution):
        return inside(distribution.base_dist, value) | ~jnp.asarray(distribution._mask)
    if isinstance(distribution, dist.ExpandedDistribution):
        return inside(distribution.base_dist, value)
    if isinstance(distribution, dist.Independent):
        axes = tuple(range(-distribution.reinterpreted_batch_ndims, 0))
        return inside(distribution.base_dist, value).all(axis=axes)
    support = support_of(distribution)
    return np.ones((), bool) if support is None else satisfies(distribution, support, value)


def usable(distribution: Any, live: Any, value: Any) -> Any:
    """A given value where a flag is true; elsewhere, where the value is outside the support, one that is inside."""
    while isinstance(distribution, dist.Independent | dist.ExpandedDistribution | dist.MaskedDistribution):
        distribution = distribution.base_dist
    support = support_of(distribution)
    if live is True or support is None:
        return value
    with lenient():
        kept = over_events(distribution, satisfies(distribution, support, value) | live)
        return jnp.where(kept, value, feasible(support, value))


# ---- which support is the larger ------------------------------------------------------------------------------------


def drawn_from(distribution: Any) -> Any:
    """The support of a distribution's draws as far as it is known, or None: bounds that are traced are not known."""
    if isinstance(distribution, dist.Independent | dist.ExpandedDistribution | dist.MaskedDistribution):
        return drawn_from(distribution.base_dist)
    if isinstance(distribution, (dist.Delta, *MIXTURES)):
        return None
    if type(distribution) is dist.TransformedDistribution and not is_real(support_of(distribution.base_dist)):
        return None
    support = _scalar(support_of(distribution))
    if isinstance(support, type(constraints.boolean)):
        return constraints.integer_interval(0, 1)
    return support


def _bounds(support: Any) -> tuple[Any, Any]:
    """The least and the largest number, None where it is not known; (None, None) where that is not what binds."""
    if is_real(support):
        return -np.inf, np.inf
    if isinstance(support, constraints.interval | constraints.integer_interval):
        low, high = support.lower_bound, support.upper_bound
    elif isinstance(support, constraints.greater_than | constraints.integer_greater_than):
        low, high = support.lower_bound, np.inf
    elif isinstance(support, constraints.less_than):
        low, high = -np.inf, support.upper_bound
    else:
        return None, None
    return _known(low), _known(high)


def _known(bound: Any) -> Any:
    return None if isinstance(bound, jax.core.Tracer) else np.asarray(bound)


def _below(x: Any, y: Any) -> bool:
    """Whether one bound is known to be below another; one that is not known is finite."""
    if x is None or y is None:
        return bool((x is None and y is not None and np.all(y == np.inf)) or (x is not None and np.all(x == -np.inf)))
    return bool(np.any(x < y))


def exceeds(one: Any, other: Any) -> bool:
    """Whether the first support is known to hold values, with positive probability, that the second lacks."""
    if one is None or other is None or is_real(other):
        return False
    if is_real(one):
        return True
    a, b = _bounds(one), _bounds(other)
    if (None, None) in (a, b):
        return False
    return _below(a[0], b[0]) or _below(b[1], a[1])


def differ(one: Any, other: Any) -> bool:
    """Whether two supports are known to hold different values, but for their edges."""
    if one is None or other is None:
        return False
    one, other = _scalar(one), _scalar(other)
    a, b = _bounds(one), _bounds(other)
    if (None, None) in (a, b):
        return not (isinstance(one, type(other)) or isinstance(other, type(one)))
    return any(x is not None and y is not None and not np.allclose(x, y) for x, y in zip(a, b, strict=True))
