"""Parameters that are constrained, or not trained: leaves of a params pytree that `fit` knows how to read."""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx
import jax
import numpy as np
import numpyro.distributions as dist
from jax import numpy as jnp
from numpyro.distributions import constraints

from .._errors import FitError
from ..transforms._internal import is_numeric, lenient, stop_gradient

CONSTRAINTS = {
    "positive": constraints.positive,
    "unit_interval": constraints.unit_interval,
    "simplex": constraints.simplex,
    "ordered": constraints.ordered_vector,
    "scale_tril": constraints.lower_cholesky,
}


class Parameter(eqx.Module):
    """A leaf that stands for a value: an objective sees the value, an optimiser what is inside."""

    @property
    @abc.abstractmethod
    def value(self) -> Any:
        """What it stands for."""


class Constrained(Parameter):
    """See `positive` and its kin."""

    raw: jax.Array
    kind: str = eqx.field(static=True)

    @property
    def value(self):
        """The value that the unconstrained array stands for."""
        with lenient():
            return dist.biject_to(CONSTRAINTS[self.kind])(self.raw)

    def __repr__(self):
        return f"{self.kind}({self.value})"


class Frozen(Parameter):
    """See `frozen`."""

    held: Any

    @property
    def value(self):
        """What was given, without derivative."""
        return stop_gradient(self.held)


def _constrained(kind: str, start: Any) -> Constrained:
    array, constraint = _numbers(kind, start), CONSTRAINTS[kind]
    if array.ndim < constraint.event_dim:
        raise FitError(f"{kind}: the start must be an array of {constraint.event_dim} or more axes, and is {start!r}.")
    with lenient():
        if _is_known_not(constraint(array)):
            raise FitError(f"{kind}: the start must be {constraint}, and is {start!r}.")
        raw = jnp.asarray(dist.biject_to(constraint).inv(array))
    if _is_known_not(jnp.isfinite(raw)):
        raise FitError(
            f"{kind}: the start must be finite and off the edge of its range, from where no step leads away, and is "
            f"{start!r}."
        )
    return Constrained(raw, kind)


def _numbers(kind, start) -> jax.Array:
    """The start as an array of floats."""
    try:
        given = np.asarray(start) if isinstance(start, list) else start
    except ValueError:  # Rows of different lengths.
        given = None
    if not is_numeric(given):
        raise FitError(f"{kind}: the start must be an array of numbers, and is {start!r}.")
    return jnp.asarray(given, float)


def _is_known_not(flags) -> bool:
    return not isinstance(flags, jax.core.Tracer) and not np.all(flags)


def positive(start: Any) -> Constrained:
    """A parameter above zero, entry by entry: trained as its logarithm.

    A leaf of the parameters that `fit` is given. The objective sees the value; `unwrap(fitted.params)` gives it later.

    Args:
        start: where it starts, of any shape.

    Raises:
        FitError: a start that is not above zero.

    Source: numpyro's bijections (`numpyro.distributions.biject_to`), as are those of its kin.

    Examples:
        >>> import jax, optax, tracegrad as tg
        >>> def loss(key, params):
        ...     return (params["scale"] - 2.0) ** 2
        >>> run = tg.fit(loss, {"scale": tg.positive(1.0)}, optax.adam(0.1), key=jax.random.key(0), steps=200,
        ...              progress=False)
        >>> round(float(tg.unwrap(run.params)["scale"]), 2)
        2.0
    """
    return _constrained("positive", start)


def unit_interval(start: Any) -> Constrained:
    """A parameter between zero and one, entry by entry; see `positive`.

    Examples:
        >>> import tracegrad as tg
        >>> round(float(tg.unit_interval(0.25).value), 2)
        0.25
    """
    return _constrained("unit_interval", start)


def simplex(start: Any) -> Constrained:
    """Positive numbers that add up to one along the last axis, which is of length two or more; see `positive`.

    Examples:
        >>> import jax.numpy as jnp, tracegrad as tg
        >>> tg.simplex(jnp.array([0.2, 0.8])).raw.shape
        (1,)
    """
    return _constrained("simplex", start)


def ordered(start: Any) -> Constrained:
    """Numbers that grow along the last axis; see `positive`.

    Examples:
        >>> import jax.numpy as jnp, tracegrad as tg
        >>> tg.ordered(jnp.array([-1.0, 0.5, 2.0])).raw.shape
        (3,)
    """
    return _constrained("ordered", start)


def scale_tril(start: Any) -> Constrained:
    """A lower triangular matrix with a positive diagonal, the Cholesky factor of a covariance; see `positive`.

    Examples:
        >>> import jax.numpy as jnp, tracegrad as tg
        >>> tg.scale_tril(jnp.eye(3)).raw.shape
        (6,)
    """
    return _constrained("scale_tril", start)


def frozen(value: Any) -> Frozen:
    """Parameters that `fit` leaves as they are: any pytree, and it carries no derivative.

    Examples:
        >>> import jax, optax, tracegrad as tg
        >>> params = {"a": 1.0, "b": tg.frozen(2.0)}
        >>> run = tg.fit(lambda key, p: (p["a"] - p["b"]) ** 2, params, optax.sgd(0.5), key=jax.random.key(0), steps=1,
        ...              progress=False)
        >>> float(tg.unwrap(run.params)["a"]), float(tg.unwrap(run.params)["b"])
        (2.0, 2.0)
    """
    return Frozen(value)


def _is_parameter(x):
    return isinstance(x, Parameter)


def unwrap(params: Any) -> Any:
    """The parameters as an objective sees them: values in place of `positive(...)`, `frozen(...)` and their kin.

    Examples:
        >>> import tracegrad as tg
        >>> round(float(tg.unwrap({"scale": tg.positive(3.0)})["scale"]), 4)
        3.0
    """
    return jax.tree.map(lambda x: unwrap(x.value) if _is_parameter(x) else x, params, is_leaf=_is_parameter)


def is_trained(params: Any) -> Any:
    """For each leaf whether it is trained: floating-point arrays are, but for those that are frozen."""

    def of(x):
        if isinstance(x, Frozen):
            return jax.tree.map(lambda _: False, x)
        return jax.tree.map(eqx.is_inexact_array, x)

    return jax.tree.map(of, params, is_leaf=_is_parameter)
