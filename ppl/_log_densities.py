"""Log densities of families whose own have a wrong derivative somewhere.

numpyro's Bernoulli and binomial in terms of logits take the derivative of max(logits, 0) and |logits| at zero, one by
one, so the score of an outcome is 0 and 1 there where it must be -1/2 and 1/2: at the very place where networks start
(seen in numpyro 0.22). The formulas here are y x - softplus(x) and its binomial kin, smooth everywhere.
"""

from __future__ import annotations

import copy
from typing import Any

import numpyro.distributions as dist
from jax import numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.scipy.special import gammaln
from numpyro.distributions.util import validate_sample

from .transforms import log_prob


@jax.custom_jvp
def _sigmoid(x: jax.Array) -> jax.Array:
    """From the same exponential as the terms below, which a gradient then computes once; smooth by its rule."""
    e = jnp.exp(-jnp.abs(x))
    return jnp.where(x >= 0, 1.0, e) / (1.0 + e)


@_sigmoid.defjvp
def _(primals, tangents):
    s = _sigmoid(*primals)
    return s, s * (1.0 - s) * tangents[0]


@jax.custom_jvp
def _smooth_term(logits: jax.Array, value: jax.Array, total: jax.Array) -> jax.Array:
    """Compute value * logits - total * softplus(logits), without a difference of infinities."""
    size = jnp.abs(logits)
    missed = jnp.where(logits > 0, total - value, value)
    return -jnp.where(missed == 0, 0.0, size * missed) - total * jnp.log1p(jnp.exp(-size))


def _smooth_term_jvp(primals, tangents):
    logits, value, total = primals
    slopes = (
        lambda: value - total * _sigmoid(logits),
        lambda: logits,
        lambda: _smooth_term(logits, jnp.zeros_like(value), jnp.ones_like(total)),
    )
    terms = [slope() * t for slope, t in zip(slopes, tangents, strict=True) if not isinstance(t, SymbolicZero)]
    return _smooth_term(*primals), sum(terms[1:], terms[0])


_smooth_term.defjvp(_smooth_term_jvp, symbolic_zeros=True)


def _softplus(x):
    """log(1 + e^x), from smooth operations alone.

    `jax.nn.softplus` has a kink at zero under a rule of its own, and reverse mode through a loop loses the rule: its
    second derivative at zero is then twice the right one (seen in jax 0.10).
    """
    return jnp.where(x > 40.0, x, jnp.log1p(jnp.exp(jnp.minimum(x, 40.0))))


def _log_odds_term(logits, value, total):
    """Log of sigmoid(logits)^value (1 - sigmoid(logits))^(total - value), for infinite logits too."""
    dtype = jnp.result_type(logits, float)
    return _smooth_term(*jnp.broadcast_arrays(*(jnp.asarray(x, dtype) for x in (logits, value, total))))


class _Bernoulli(dist.BernoulliLogits):
    @validate_sample
    def log_prob(self, value, intermediates=None):
        return _log_odds_term(self.logits, value, 1)


class _Binomial(dist.BinomialLogits):
    @validate_sample
    def log_prob(self, value, intermediates=None):
        dtype = jnp.result_type(self.logits, float)
        n, k = jnp.asarray(self.total_count, dtype), jnp.asarray(value, dtype)
        ways = gammaln(n + 1.0) - gammaln(k + 1.0) - gammaln(n - k + 1.0)
        return ways + _log_odds_term(self.logits, value, n)


REPAIRED = {dist.BernoulliLogits: _Bernoulli, dist.BinomialLogits: _Binomial}


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
