"""What the estimators for finite supports have in common: probabilities, indices, and uniform noise."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
from jax import lax
from jax import numpy as jnp

from .._distribution import batch_shape, elementwise, lenient, log_density_at_support, probabilities, support
from .._errors import EstimatorError
from .._standard_noise import StandardNoise, standard_noise
from ..program._site import noise


class Uniform(eqx.Module):
    """Uniform noise on (0, 1), away from both ends by rounding error."""

    shape: tuple[int, ...] = eqx.field(static=True)

    def sample(self, key: jax.Array) -> jax.Array:
        """Draw."""
        eps = jnp.finfo(float).eps
        return jax.random.uniform(key, self.shape, minval=eps, maxval=1.0 - eps)

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Zero."""
        return jnp.zeros(())


@standard_noise.register(Uniform)
def _(distribution):
    return StandardNoise("uniform", distribution.shape, lambda x: x)


def uniform(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Uniform noise on behalf of an estimator."""
    return noise(key, Uniform(shape))


class Index(eqx.Module):
    """An index along the leading axis of unnormalised log probabilities, shape (k, *batch): one for each element."""

    logits: jax.Array

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The shape of the elements."""
        return self.logits.shape[1:]

    def sample(self, key: jax.Array) -> jax.Array:
        """Draw."""
        return jax.random.categorical(key, self.logits, axis=0)

    def log_prob(self, value: jax.Array) -> jax.Array:
        """The log probability of each element."""
        return take(jax.nn.log_softmax(self.logits, axis=0), value)

    def enumerate_support(self) -> jax.Array:
        """All indices."""
        return jnp.arange(self.logits.shape[0])


def pick(key: jax.Array, logits: jax.Array) -> jax.Array:
    """An index along the leading axis for each element, on behalf of an estimator: from (k, *batch) to (*batch)."""
    return noise(key, Index(lax.stop_gradient(logits)))


class Finite(NamedTuple):
    """A distribution of finite support, element by element.

    Attributes:
        values: the support, shape (k, *event_shape).
        p: the probabilities, shape (k, *batch_shape).
        possible: False where the probability is zero and so is its derivative; None where there is no such value.
        logp: the log probabilities, that of nothing as that of the smallest float.
    """

    values: jax.Array
    p: jax.Array
    possible: jax.Array | None
    logp: jax.Array

    @property
    def batch(self) -> tuple[int, ...]:
        """The shape of the elements."""
        return self.p.shape[1:]

    @property
    def fixed(self) -> jax.Array:
        """The probabilities without derivative."""
        return lax.stop_gradient(self.p)

    def which(self, value: jax.Array) -> jax.Array:
        """Which support point each element is, shape (*batch_shape)."""
        spread = jnp.reshape(self.values, (self.values.shape[0], *(1 for _ in self.batch), *self.values.shape[1:]))
        event = tuple(range(1 + len(self.batch), spread.ndim))
        return jnp.argmax(jnp.all(spread.astype(value.dtype) == value[None], axis=event), axis=0)

    def alternatives(self, index: jax.Array, value: jax.Array) -> jax.Array:
        """The support points at indices of shape (m, *batch_shape), as alternatives to a drawn value.

        Of what is impossible a program may make nothing, or nan: the drawn value itself stands in its place.
        """
        others = self.values[index].astype(value.dtype)
        if self.possible is None:
            return others
        possible = jnp.take_along_axis(self.possible, index, axis=0)
        return jnp.where(jnp.reshape(possible, possible.shape + (1,) * (others.ndim - possible.ndim)), others, value)


def take(table: jax.Array, index: jax.Array) -> jax.Array:
    """The entries of a table of shape (k, *batch) at an index of shape (*batch)."""
    return jnp.take_along_axis(table, index[None], axis=0)[0]


def finite(distribution: Any) -> Finite:
    """The support and probabilities of a distribution that has a finite support."""
    flat = elementwise(distribution)
    values = support(flat)
    if values is None:
        raise EstimatorError(str(refuse_infinite(distribution)))
    logp = jnp.asarray(log_density_at_support(flat, values), dtype=float)
    floored = jnp.maximum(logp, jnp.log(jnp.finfo(logp.dtype).tiny))
    with lenient():
        p = probabilities(flat, values)
    if p is not None:
        return Finite(values, jnp.asarray(p, dtype=float), None, floored)
    p = jnp.exp(logp)
    return Finite(values, jnp.where(p > 0.0, p, 0.0), lax.stop_gradient(p) > 0.0, floored)


def count(distribution: Any) -> int | None:
    """How many values an element has, or None where the support is not finite."""
    values = support(elementwise(distribution))
    return None if values is None else values.shape[0]


def elements(distribution: Any) -> tuple[int, ...]:
    """The shape of the independent elements of a draw."""
    return batch_shape(elementwise(distribution))


def refuse_infinite(distribution: Any) -> str | None:
    """Why an estimator for finite supports cannot serve a distribution."""
    if count(distribution) is not None:
        return None
    return (
        f"{type(distribution).__name__} has no finite support to sum over. Write `reparam()` or `reinforce()`, or "
        "`mvd()` where the distribution has a weak derivative."
    )


def refuse_unless_binary(distribution: Any) -> str | None:
    """Why an estimator for two-valued draws cannot serve a distribution."""
    values = count(distribution)
    if values == 2:
        return None
    has = "no finite support" if values is None else f"{values} values"
    return (
        f"{type(distribution).__name__} has {has}, and this estimator is for draws of two values (Bernoulli). Write "
        "`local_expectation()`, `unordered_set(2)` or `relax(...)` for more values, `reinforce()` for any distribution."
    )
