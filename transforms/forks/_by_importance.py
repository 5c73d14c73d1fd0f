"""Which alternatives to run when only some are: those likelier whose coefficients move more with the parameters.

Drawn with probabilities p, an alternative counts 1 / (k p) times. To be right to the last bit, the probabilities are
whole parts of a total, and a draw is a whole number below it: what is drawn has the probability that it is weighed by,
and no rounding of a sum of many probabilities comes between.
"""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Float, Int

from .._arguments import real, whole
from .._errors import ObjectiveError
from ..program._site import noise

PARTS = 30
"""Two to this power is about how many parts the probabilities are of: as many as a signed 32-bit number counts."""

SPARE = 2.0**-20
"""The share of the parts that is kept back for what sums of rounded numbers may be over."""

UNIFORM = 0.1
"""The share that is drawn uniformly unless another is said: no weight is then above ten times the uniform one."""

MOST = 1 << 20
"""How many alternatives are drawn by importance at most, so that each draw has parts to fall on."""


@dataclasses.dataclass(frozen=True)
class ByImportance:
    """See `by_importance`.

    Attributes:
        k: how many alternatives are drawn.
        uniform: the share of the probability that is spread evenly.
    """

    k: int
    uniform: float = UNIFORM

    def __repr__(self):
        share = "" if self.uniform == UNIFORM else f", uniform={self.uniform!r}"
        return f"by_importance({self.k}{share})"


class _Shares(eqx.Module):
    """A number from each of k strata of equal length, in which every number has so many units."""

    units: Int[Array, " n"]
    k: int = eqx.field(static=True)
    bits: int = eqx.field(static=True)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """One draw for each stratum."""
        return (self.k,)

    def starts(self) -> Int[Array, " k"]:
        """Where each stratum begins."""
        return jnp.arange(self.k, dtype=jnp.int32) << self.bits

    def sample(self, key: jax.Array) -> Int[Array, " k"]:
        """The number that a unit of each stratum belongs to."""
        within = jax.random.bits(key, (self.k,), jnp.uint32) >> (32 - self.bits)
        places = self.starts() + within.astype(jnp.int32)
        return jnp.searchsorted(jnp.cumsum(self.units, dtype=jnp.int32), places, side="right").astype(int)

    def log_prob(self, value: Int[Array, " k"]) -> Float[Array, " k"]:
        """The share of each stratum that the number covers."""
        ends = jnp.cumsum(self.units, dtype=jnp.int32)
        begin, end = (ends - self.units)[value], ends[value]
        start = self.starts()
        # The last stratum ends at most where 32 bits do: what lies in a stratum is counted from its start.
        inside = jnp.clip(end - start, 0, 1 << self.bits) - jnp.clip(begin - start, 0, 1 << self.bits)
        return jnp.log(inside.astype(float) / (1 << self.bits))

    def enumerate_support(self) -> Int[Array, " n"]:
        """All numbers."""
        return jnp.arange(len(self.units))


def _units(sizes: jax.Array, total: int, uniform: float) -> jax.Array:
    """How many of `total` units each alternative has; none where its size is zero, one or more elsewhere."""
    there = sizes > 0.0
    there = there | ~jnp.any(there)
    relative = jnp.where(there, sizes / jnp.maximum(jnp.max(sizes), jnp.finfo(sizes.dtype).tiny), 0.0)
    known = jnp.sum(relative)
    likely = jnp.where(known > 0.0, relative / jnp.where(known > 0.0, known, 1.0), 0.0)
    share = (1.0 - uniform) * likely + uniform * jnp.where(there, 1.0 / jnp.sum(there.astype(sizes.dtype)), 0.0)
    units = jnp.floor(share * (total * (1.0 - SPARE))).astype(jnp.int32)
    units = jnp.where(there, jnp.maximum(units, 1), 0)
    return units.at[jnp.argmax(units)].add(total - jnp.sum(units, dtype=jnp.int32))


def likely(key: jax.Array, chosen: ByImportance, sizes: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The numbers of `k` alternatives, one from each of k strata of equal probability, and what each counts."""
    bits = PARTS - (chosen.k - 1).bit_length()
    units = _units(lax.stop_gradient(sizes), chosen.k << bits, chosen.uniform)
    numbers = noise(key, _Shares(units, chosen.k, bits))
    return numbers, (1 << bits) / units[numbers].astype(sizes.dtype)


def by_importance(k: int, *, uniform: float = UNIFORM) -> ByImportance:
    """Draw the alternatives of forking estimators by importance, where `forks=k` draws them evenly.

    An alternative contributes d coefficient times what it changes. How much its coefficient moves with the parameters
    of its distribution is known where it is drawn, before anything is run again (for a coin p (1 - p) in its logit).
    Alternatives are drawn in proportion to that, stratified, and each is weighed by 1 / (k p):

        sum_j a_j = E[ 1/k sum_{i=1..k} a_{j_i} / p_{j_i} ]        for any p_j > 0

    so that the gradient is unbiased whatever the proportions, and has less noise where they are near those of |a_j|: of
    a network's coins those that are all but decided are left alone. A share of the draws is spread evenly, which
    bounds the weights. What is not run, such as the draws of a branch not taken, is never drawn.

    Args:
        k: how many alternatives to run, a positive int. Where there are no more than k, all of them run.
        uniform: the share that is spread evenly, above 0 and at most 1; 1 draws evenly.

    Returns:
        What `expectation`, `with_estimators` and `choose_estimators` take for `forks`.

    Raises:
        ObjectiveError: an argument out of its range.

    Source: Owen, Monte Carlo Theory, Methods and Examples, chapters 8 (stratification) and 9 (defensive importance
    sampling), 2013.

    Examples:
        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist
        >>> from tracegrad.transforms import by_importance, expectation, local_expectation, sample
        >>> def bits(key, logits):
        ...     return jnp.sum(sample(key, dist.Bernoulli(logits=logits), estimator=local_expectation())) ** 2.0
        >>> f = expectation(bits, forks=by_importance(2))
        >>> jax.grad(f, argnums=1)(jax.random.key(0), jnp.array([0.0, 9.0, -9.0, 0.5])).shape
        (4,)
    """
    k = whole("by_importance", "k", k, ObjectiveError, most=MOST)
    expected = "a number between 0 and 1, and above 0"
    share = real("by_importance", "uniform", uniform, ObjectiveError, expected, lambda x: (x > 0) & (x <= 1))
    return ByImportance(k, float(share))
