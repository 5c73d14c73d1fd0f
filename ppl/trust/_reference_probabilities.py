"""The probabilities that `check_unbiased` holds estimators against: numpyro's own, by a way of their own.

Estimators take probabilities from the parameters, or from repaired log densities. Here they are exp(log_prob) as
numpyro has it, and the derivative is taken a few roundings further inside the domain of the parameters: at its edge, at
a probability of 0 or 1, a log density has none, and at a logit of zero numpyro's is wrong (see `_repaired_densities`).
"""

from __future__ import annotations

import copy
from typing import Any

import numpyro.distributions as dist
from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Float, Shaped
from numpyro.distributions import constraints

from ..transforms._internal import lenient

GENERIC = 0.3
"""How far from zero a real parameter is moved to, in place of zero itself."""


def own_probabilities(distribution: Any, values: Shaped[Array, " k *event"]) -> Float[Array, " k *batch"]:
    """exp(log_prob) at the support (k, *event_shape), and its derivative from just inside; shape (k, *batch_shape)."""
    inside = _exp_log_prob(_inward(distribution), values)
    return lax.stop_gradient(_exp_log_prob(distribution, values)) + inside - lax.stop_gradient(inside)


def _exp_log_prob(distribution, values):
    batch = tuple(getattr(distribution, "batch_shape", ()))
    at = [jnp.broadcast_to(v, (*batch, *v.shape)) for v in values]
    with lenient():
        return jnp.exp(jnp.stack([jnp.asarray(distribution.log_prob(v), dtype=float) for v in at]))


def _inward(x: Any) -> Any:
    """The same distribution with its parameters, and those of its base, a few roundings further inside."""
    if not isinstance(x, dist.Distribution):
        return x
    moved = copy.copy(x)
    for name, constraint in x.arg_constraints.items():
        if name in x.__dict__ and jnp.issubdtype(jnp.result_type(x.__dict__[name]), jnp.inexact):
            moved.__dict__[name] = _towards(_middle(constraint, x.__dict__[name]), x.__dict__[name])
    for name in set(x.__dict__) - set(x.arg_constraints):
        moved.__dict__[name] = _inward(x.__dict__[name])
    return moved


def _middle(constraint, parameter):
    """A place inside a domain, or None where it is not known."""
    if constraint in (constraints.real, constraints.real_vector):
        return jnp.full_like(parameter, GENERIC)
    try:
        return constraint.feasible_like(jnp.asarray(parameter))
    except (NotImplementedError, AttributeError):
        return None


def _towards(middle, parameter):
    if middle is None:
        return parameter
    step = 8.0 * jnp.finfo(jnp.result_type(parameter)).eps
    return jnp.where(jnp.isfinite(parameter), parameter + step * (middle - parameter), parameter)
