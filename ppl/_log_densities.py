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
from typing import Any

import jax
import numpyro.distributions as dist
from jax import numpy as jnp
from jax.scipy.special import gammaln
from jax.typing import ArrayLike
from numpyro.distributions.util import validate_sample

from .transforms import log_prob


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
    dist.MultinomialLogits: _Multinomial,
}


def _repair(x: Any) -> Any:
    """The same distribution, or one around it, with the formulas above; itself where there is nothing to repair."""
    if isinstance(x, list | tuple):
        parts = [_repair(part) for part in x]
        return x if all(a is b for a, b in zip(parts, x, strict=True)) else type(x)(parts)
    if not isinstance(x, dist.Distribution):
        return x
    changed = {k: r for k, v in vars(x).items() if (r := _repair(v)) is not v}
    if not changed and type(x) not in REPAIRED:
        return x
    x = copy.copy(x)
    x.__dict__.update(changed)
    x.__class__ = REPAIRED.get(type(x), type(x))
    return x


@log_prob.register(dist.Distribution)
def _(distribution, value):
    return _repair(distribution).log_prob(value)
