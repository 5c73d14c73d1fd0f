"""Log densities of families whose own have a wrong derivative somewhere.

numpyro's Bernoulli and binomial in terms of logits take the derivative of max(logits, 0) and |logits| at zero, one by
one, so the score of an outcome is 0 and 1 there where it must be -1/2 and 1/2: at the very place where networks start
(seen in numpyro 0.22). The formulas here are y x - softplus(x) and its binomial kin, smooth everywhere.

In terms of probabilities they divide by the smallest float where an outcome of probability zero did not happen, which
a large objective turns into nan in reverse mode, and their slope there is 0 in place of -1. A Bernoulli whose
probability is a product with an earlier outcome is such a place.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import numpyro.distributions as dist
from jax import numpy as jnp
from jax.scipy.special import gammaln
from jax.typing import ArrayLike
from numpyro.distributions import constraints
from numpyro.distributions.util import validate_sample

from ..transforms._internal import guarded, law, log_prob
from ._supports import MIXTURES, feasible, is_real, over_events, satisfies, support_of


def _softplus(x: jax.Array) -> jax.Array:
    """Compute log(1 + e^x) from smooth operations alone, the slope from the same exponential.

    The usual formula, from |x| and max(x, 0), has kinks at zero that a rule of its own must mend, and reverse mode
    through a loop loses such rules: a second derivative at zero is then wrong (seen in jax 0.10).
    """
    large = x > 40.0
    return jnp.where(large, x, jnp.log1p(jnp.exp(jnp.where(large, 0.0, x))))


def _log_odds_term(logits: ArrayLike, value: ArrayLike, total: ArrayLike) -> jax.Array:
    """Log of sigmoid(logits)^value (1 - sigmoid(logits))^(total - value), for infinite logits too."""
    dtype = jnp.result_type(logits, float)
    x, k, n = (jnp.asarray(a, dtype) for a in (logits, value, total))
    finite = jnp.isfinite(x)
    safe = jnp.where(finite, x, 0.0)
    # No infinity where it is not chosen: the box of a credited score would multiply it, and 0 times inf is nan.
    certain = jnp.where(finite | (k == jnp.where(x > 0, n, 0.0)), 0.0, -jnp.inf)
    return jnp.where(finite, k * safe - n * _softplus(safe), certain)


def _log_probability_term(probs: ArrayLike, value: ArrayLike, total: ArrayLike) -> jax.Array:
    """Log of p^value (1 - p)^(total - value); a power that is zero has no part in it, nor in its derivative."""
    dtype = jnp.result_type(probs, float)
    p, k, n = (jnp.asarray(a, dtype) for a in (probs, value, total))
    limits = jnp.finfo(dtype)
    hit = jnp.where(k != 0.0, jnp.maximum(p, limits.tiny), 1.0)
    missed = jnp.where(k != n, jnp.minimum(p, 1.0 - limits.eps), 0.0)
    return k * jnp.log(hit) + (n - k) * jnp.log1p(-missed)


class _Bernoulli(dist.BernoulliLogits):
    @validate_sample
    def log_prob(self, value, intermediates=None):
        return _log_odds_term(self.logits, value, 1)


class _BernoulliProbs(dist.BernoulliProbs):
    @validate_sample
    def log_prob(self, value, intermediates=None):
        return _log_probability_term(self.probs, value, 1)


def _log_ways(total: ArrayLike, value: ArrayLike, dtype: Any) -> jax.Array:
    n, k = jnp.asarray(total, dtype), jnp.asarray(value, dtype)
    return gammaln(n + 1.0) - gammaln(k + 1.0) - gammaln(n - k + 1.0)


class _Binomial(dist.BinomialLogits):
    @validate_sample
    def log_prob(self, value, intermediates=None):
        ways = _log_ways(self.total_count, value, jnp.result_type(self.logits, float))
        return ways + _log_odds_term(self.logits, value, self.total_count)


class _BinomialProbs(dist.BinomialProbs):
    @validate_sample
    def log_prob(self, value, intermediates=None):
        ways = _log_ways(self.total_count, value, jnp.result_type(self.probs, float))
        return ways + _log_probability_term(self.probs, value, self.total_count)


def _log_mixture(mixture: Any, value: ArrayLike) -> jax.Array:
    """The log of the sum over components; where no component has a density it is -inf, without a derivative."""
    terms = mixture.component_log_probs(value)
    terms = jnp.where(jnp.isneginf(terms), -jnp.inf, terms)
    some = jnp.any(terms != -jnp.inf, axis=-1)
    logp = jax.nn.logsumexp(jnp.where(some[..., None], terms, 0.0), axis=-1)
    return jnp.where(some, logp, _nothing(jnp.asarray(value), mixture.event_dim))


class _MixtureSameFamily(dist.MixtureSameFamily):
    def log_prob(self, value, intermediates=None):
        return _log_mixture(self, value)


class _MixtureGeneral(dist.MixtureGeneral):
    def log_prob(self, value, intermediates=None):
        return _log_mixture(self, value)


class _Multinomial(dist.MultinomialLogits):
    @validate_sample
    def log_prob(self, value):
        # What did not happen has no part, whatever its logit: 0 times -inf is nan.
        drawn = value != 0
        logp = jnp.where(drawn, jax.nn.log_softmax(self.logits), 0.0)
        dtype = logp.dtype
        ways = gammaln(jnp.asarray(self.total_count, dtype) + 1.0) - gammaln(value.astype(dtype) + 1.0).sum(-1)
        return ways + jnp.sum(value.astype(dtype) * logp, axis=-1)


REPAIRED = {
    dist.BernoulliLogits: _Bernoulli,
    dist.BernoulliProbs: _BernoulliProbs,
    dist.BinomialLogits: _Binomial,
    dist.BinomialProbs: _BinomialProbs,
    dist.MixtureSameFamily: _MixtureSameFamily,
    dist.MixtureGeneral: _MixtureGeneral,
    dist.MultinomialLogits: _Multinomial,
}


def _rebuild(x: Any, replacement: Callable[[Any], type], enters: Callable[[Any], bool] = lambda _: True) -> Any:
    """The same distribution, or one around it, of other classes; itself where there is nothing to replace."""
    if isinstance(x, list | tuple):
        parts = [_rebuild(part, replacement, enters) for part in x]
        return x if all(a is b for a, b in zip(parts, x, strict=True)) else type(x)(parts)
    if not isinstance(x, dist.Distribution):
        return x
    inner = vars(x).items() if enters(x) else ()
    changed = {k: r for k, v in inner if (r := _rebuild(v, replacement, enters)) is not v}
    cls = replacement(x)
    if not changed and type(x) is cls:
        return x
    x = copy.copy(x)
    x.__dict__.update(changed)
    x.__class__ = cls
    return x


@log_prob.register(dist.Distribution)
def _(distribution, value):
    return _rebuild(distribution, lambda d: REPAIRED.get(type(d), type(d))).log_prob(value)


# ---- outside the support --------------------------------------------------------------------------------------------

WRAPPERS = (dist.Independent, dist.ExpandedDistribution, dist.MaskedDistribution, *MIXTURES)
"""What has the density of what is inside, where each part looks at its own support."""


def _nothing(value: jax.Array, event_dim: int) -> Any:
    """The log density outside the support: -inf, or nan where the value is."""
    if not jnp.issubdtype(value.dtype, jnp.inexact):
        return -jnp.inf
    unknown = jnp.any(jnp.isnan(value), axis=tuple(range(-event_dim, 0)))
    return jnp.where(unknown, jnp.nan, -jnp.inf)


def _guard_of(distribution: Any) -> Any:
    """The constraint to look at; between 0 and 1 a relaxed flip has the density of the formula."""
    support = support_of(distribution)
    return constraints.unit_interval if isinstance(support, type(constraints.boolean)) else support


@functools.cache
def _guarded_class(cls: Any) -> type:
    """A family that looks at the support before it computes: outside, at another value, so no derivative is nan."""
    formula = REPAIRED.get(cls, cls)

    def log_prob(self, value, *rest):
        support, value = _guard_of(self), jnp.asarray(value)
        inside = satisfies(self, support, value)
        safe = jnp.where(over_events(self, inside), value, feasible(support, value))
        return jnp.where(inside, formula.log_prob(self, safe, *rest), _nothing(value, self.event_dim))

    return type(cls.__name__, (formula,), {"log_prob": log_prob})


def _guard(x: Any) -> type:
    """The class to compute a density by: the same where every value has one."""
    support, cls = support_of(x), cast(Any, type(x))
    needless = isinstance(x, WRAPPERS) or support is None or is_real(support)
    return cls if needless else _guarded_class(cls)


def _has_parts(x: Any) -> bool:
    """Whether a density is zero where that of a part is: a family made by a map says its own support."""
    return isinstance(x, WRAPPERS) or type(x) is dist.TransformedDistribution


@guarded.register(dist.Distribution)
def _(distribution):
    return _rebuild(distribution, _guard, _has_parts)


# ---- draws ----------------------------------------------------------------------------------------------------------


@law.register(dist.Distribution)
def _(distribution):
    return distribution


@law.register(dist.MaskedDistribution)
def _(distribution):
    return law(distribution.base_dist)


@law.register(dist.Independent)
@law.register(dist.ExpandedDistribution)
def _(distribution):
    base = law(distribution.base_dist)
    if base is distribution.base_dist:
        return distribution
    distribution = copy.copy(distribution)
    distribution.base_dist = base
    return distribution
