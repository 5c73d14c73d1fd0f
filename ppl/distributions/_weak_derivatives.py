"""Measure-valued derivatives of numpyro's families: d/dtheta E f = c (E f(x+) - E f(x-)), coupled to the drawn value.

Wherever the drawn value is itself distributed as x+ or as x-, it serves as that side and only the other one is an
alternative; the alternatives are otherwise functions of the drawn value and of as little fresh noise as possible.
First come Mohamed, Rosca, Figurnov and Mnih, Monte Carlo Gradient Estimation in Machine Learning (JMLR 2020), Table 1;
the binomial, geometric, negative binomial, uniform and Laplace rows follow from the derivative of the density.

Three shape parameters have no such row: the concentrations of the gamma, Weibull and negative binomial. Their part is
the two-sample score term, 1/2 (f(x') - f(x)) (S(x') - S(x)) with x' an independent draw, which has the same form.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpyro.distributions as dist
from jax import lax
from jax import numpy as jnp

from ..transforms import EstimatorError, WeakDerivative, elementwise, log_density, noise, weak_derivative
from ..transforms._internal import stop_gradient


def _spread(parameter: Any, value: jax.Array) -> jax.Array:
    """A parameter as floats of the shape of the value."""
    return jnp.broadcast_to(jnp.asarray(parameter, dtype=float), value.shape)


def _pair(alternative: jax.Array, factor: jax.Array, parameter: jax.Array) -> tuple[jax.Array, jax.Array]:
    """An alternative whose coefficient has the derivative factor * d parameter."""
    return alternative, lax.stop_gradient(factor) * parameter


def _weak(value: jax.Array, *pairs: tuple[jax.Array, jax.Array]) -> WeakDerivative:
    """Pairs of an alternative and its coefficient, stacked."""
    alternatives = [lax.stop_gradient(x).astype(value.dtype) for x, _ in pairs]
    return WeakDerivative(jnp.stack(alternatives), jnp.stack([c for _, c in pairs]))


def _uniform(key, value):
    return noise(key, dist.Uniform(jnp.zeros(value.shape), 1.0))


def _exponential(key, value):
    return noise(key, dist.Exponential(jnp.ones(value.shape)))


def _geometric(key, p):
    """Failures before the first success."""
    u = noise(key, dist.Uniform(jnp.zeros(p.shape), 1.0))
    return jnp.floor(jnp.log1p(-u) / jnp.log1p(-lax.stop_gradient(p)))


def _two_sample(key, value, parameter, distribution) -> list[tuple[jax.Array, jax.Array]]:
    """The two-sample score term, where the parameter is one that a derivative can be taken in."""
    if not isinstance(parameter, jax.Array):
        return []
    other = noise(key, stop_gradient(distribution)).astype(value.dtype)
    other = lax.stop_gradient(other)
    score = functools.partial(log_density, distribution, inside=True)
    return [(other, 0.5 * (score(other) - score(value)))]


# ---- finite supports ------------------------------------------------------------------------------------------------


@weak_derivative.register(dist.BernoulliProbs)
def _(distribution, key, value):
    """d/dp: f(1) - f(0). One alternative, the other value."""
    p = _spread(distribution.probs, value)
    return _weak(value, _pair(1 - value, 1.0 - 2.0 * value.astype(p.dtype), p))


@weak_derivative.register(dist.BernoulliLogits)
def _(distribution, key, value):
    """The same of p = sigmoid(logit); no alternative where the logit is infinite."""
    p = _spread(distribution.probs, value)
    return _weak(value, _pair(_unless_certain(p, 1 - value, value), 1.0 - 2.0 * value.astype(p.dtype), p))


def _unless_certain(p: jax.Array, alternative: jax.Array, value: jax.Array) -> jax.Array:
    """An alternative, or the drawn value where p is 0 or 1 and logits have no derivative: a program may fail there."""
    return jnp.where((p > 0.0) & (p < 1.0), alternative, value.astype(alternative.dtype))


@weak_derivative.register(dist.CategoricalProbs)
def _(distribution, key, value):
    """d/dp_k: f(k) for each category, less the same for all. The drawn value needs no alternative."""
    p = jnp.asarray(distribution.probs, dtype=float)
    n = p.shape[-1]
    p = jnp.moveaxis(jnp.broadcast_to(p, (*value.shape, n)), -1, 0)
    others = jnp.stack([(value + c) % n for c in range(1, n)])
    return WeakDerivative(others, jnp.take_along_axis(p, others, axis=0))


@weak_derivative.register(dist.CategoricalLogits)
def _(distribution, key, value):
    """d/dlogit_k: p_k (1 - p_k) (f(k) - f(x given x is not k)), for each category k.

    Where k was not drawn, the drawn value is itself a draw of the others; where it was, another one is drawn. Where
    either has no probability, there is no alternative.
    """
    logits = jnp.asarray(distribution.logits, dtype=float)
    n = logits.shape[-1]
    logits = jnp.broadcast_to(logits, (*value.shape, n))
    fixed = lax.stop_gradient(logits)
    categories = jnp.reshape(jnp.arange(n), (n, *(1 for _ in value.shape)))
    drawn = value[None] == categories
    others = jnp.where(jax.nn.one_hot(value, n, dtype=bool), -jnp.inf, fixed)
    other = noise(key, dist.CategoricalLogits(others)).astype(value.dtype)
    probabilities = jax.nn.softmax(fixed)
    weight = jnp.moveaxis(probabilities * (1.0 - probabilities) * jnp.where(jnp.isfinite(logits), logits, 0.0), -1, 0)
    alternatives = jnp.where(drawn, other[None], categories.astype(value.dtype))
    possible = jnp.take_along_axis(jnp.moveaxis(probabilities, -1, 0), alternatives, axis=0) > 0.0
    alternatives = jnp.where(possible, alternatives, value[None])
    return WeakDerivative(lax.stop_gradient(alternatives), jnp.where(drawn, -weight, weight))


@weak_derivative.register(dist.BinomialProbs)
def _(distribution, key, value):
    """d/dp: n (f(K + 1) - f(K)), K ~ Bin(n - 1, p): the draw without one of its trials, chosen at random."""
    return _weak(value, _one_trial(distribution, key, value))


@weak_derivative.register(dist.BinomialLogits)
def _(distribution, key, value):
    """The same of p = sigmoid(logit); no alternative where the logit is infinite."""
    other, coefficient = _one_trial(distribution, key, value)
    return _weak(value, (_unless_certain(_spread(distribution.probs, value), other, value), coefficient))


def _one_trial(distribution, key, value):
    p, n = _spread(distribution.probs, value), _spread(distribution.total_count, value)
    x = value.astype(p.dtype)
    success = _uniform(key, value) * n < x
    other = jnp.where(success, x - 1.0, jnp.minimum(x + 1.0, n))
    return _pair(other, jnp.where(success, -n, n), p)


@weak_derivative.register(dist.MultinomialProbs)
@weak_derivative.register(dist.MultinomialLogits)
def _(distribution, key, value):
    """d/dp_c: n f(Y + e_c), Y ~ Mult(n - 1, p): the draw without one of its trials, which is of category c instead.

    The drawn value is itself Y + e_j with j ~ p, so it serves as the negative part, and j needs no alternative. With
    one trial, a one-hot draw, it is the local expectation. A logit of minus infinity has no alternative.
    """
    p = jnp.asarray(distribution.probs, dtype=float)
    k, n = p.shape[-1], jnp.asarray(distribution.total_count, dtype=float)
    trial = noise(key, dist.CategoricalProbs(lax.stop_gradient(value.astype(p.dtype)) / n[..., None]))
    others = jnp.stack([(trial + c) % k for c in range(1, k)], axis=-1)
    steps = jax.nn.one_hot(others, k, dtype=value.dtype) - jax.nn.one_hot(trial, k, dtype=value.dtype)[..., None, :]
    p = jnp.take_along_axis(jnp.broadcast_to(p, value.shape), others, axis=-1)
    if isinstance(distribution, dist.MultinomialLogits):
        steps = jnp.where(p[..., None] > 0.0, steps, 0)
    return WeakDerivative(value[None] + jnp.moveaxis(steps, -2, 0), jnp.moveaxis(n[..., None] * p, -1, 0))


# ---- counts ---------------------------------------------------------------------------------------------------------


@weak_derivative.register(dist.Poisson)
def _(distribution, key, value):
    """d/drate: f(X + 1) - f(X)."""
    rate = _spread(distribution.rate, value)
    return _weak(value, _pair(value + 1, jnp.ones_like(rate), rate))


@weak_derivative.register(dist.GeometricProbs)
@weak_derivative.register(dist.GeometricLogits)
def _(distribution, key, value):
    """d/dp: 1/p (f(G) - f(G + G' + 1)), of failures."""
    p = _spread(distribution.probs, value)
    return _weak(value, _pair(value.astype(p.dtype) + _geometric(key, p) + 1.0, -1.0 / p, p))


@weak_derivative.register(dist.GammaPoisson)
def _(distribution, key, value):
    """d/dp: r/p (f(NB(r)) - f(NB(r + 1) + 1)), p = rate / (1 + rate); the two-sample score term for r."""
    r, rate = _spread(distribution.concentration, value), _spread(distribution.rate, value)
    p = rate / (1.0 + rate)
    key, fresh = jax.random.split(key)
    counts = dist.GammaPoisson(r, lax.stop_gradient(rate))
    return _weak(
        value,
        _pair(value.astype(p.dtype) + _geometric(key, p) + 1.0, -r / p, p),
        *_two_sample(fresh, value, distribution.concentration, counts),
    )


# ---- continuous families --------------------------------------------------------------------------------------------


@weak_derivative.register(dist.Normal)
def _(distribution, key, value):
    """d/dmean: 1/(sd sqrt(2 pi)) (f(mean + sd W) - f(mean - sd W)), W ~ Weibull(2, scale sqrt 2).

    d/dsd: 1/sd (f(mean + sd M) - f(mean + sd M U)), M double-sided Maxwell. M U is standard normal, so the drawn value
    serves; given z = M U, M = sign(z) sqrt(z^2 + 2 E) with E exponential.
    """
    mean, sd = _spread(distribution.loc, value), _spread(distribution.scale, value)
    first, second = jax.random.split(key)
    step = sd * jnp.sqrt(2.0 * _exponential(first, value))
    z = (value - mean) / sd
    maxwell = jnp.where(z < 0.0, -1.0, 1.0) * jnp.sqrt(z**2 + 2.0 * _exponential(second, value))
    slope = 1.0 / (sd * jnp.sqrt(2.0 * jnp.pi))
    return _weak(
        value,
        _pair(mean + step, slope, mean),
        _pair(mean - step, -slope, mean),
        _pair(mean + sd * maxwell, 1.0 / sd, sd),
    )


@weak_derivative.register(dist.Exponential)
def _(distribution, key, value):
    """d/drate: 1/rate (f(E) - f(E + E'))."""
    rate = _spread(distribution.rate, value)
    return _weak(value, _pair(value + _exponential(key, value) / rate, -1.0 / rate, rate))


@weak_derivative.register(dist.Gamma)
def _(distribution, key, value):
    """d/drate: a/rate (f(G) - f(G + Exp(rate))); the two-sample score term for the concentration a."""
    a, rate = _spread(distribution.concentration, value), _spread(distribution.rate, value)
    key, fresh = jax.random.split(key)
    return _weak(
        value,
        _pair(value + _exponential(key, value) / rate, -a / rate, rate),
        *_two_sample(fresh, value, distribution.concentration, dist.Gamma(a, lax.stop_gradient(rate))),
    )


@weak_derivative.register(dist.Weibull)
def _(distribution, key, value):
    """d/dbe: 1/be (f((G1/be)^(1/k)) - f((G2/be)^(1/k))), be = scale^-k, G1 and G2 gammas of shape 1 and 2.

    G1 + E has the law of G2; the two-sample score term for the concentration k.
    """
    scale, k = _spread(distribution.scale, value), _spread(distribution.concentration, value)
    key, fresh = jax.random.split(key)
    longer = scale * ((value / scale) ** k + _exponential(key, value)) ** (1.0 / k)
    weibull = dist.Weibull(lax.stop_gradient(scale), k)
    return _weak(
        value,
        _pair(longer, k / scale, scale),
        *_two_sample(fresh, value, distribution.concentration, weibull),
    )


@weak_derivative.register(dist.Uniform)
def _(distribution, key, value):
    """d/dhigh: (f(high) - f(U)) / (high - low). d/dlow: (f(U) - f(low)) / (high - low)."""
    low, high = _spread(distribution.low, value), _spread(distribution.high, value)
    slope = 1.0 / (high - low)
    return _weak(value, _pair(high, slope, high), _pair(low, -slope, low))


@weak_derivative.register(dist.Laplace)
def _(distribution, key, value):
    """d/dloc: 1/(2 s) (f(loc + E) - f(loc - E)), the draw and its mirror image.

    d/ds: 1/s (f(loc +- Gamma(2, s)) - f(loc +- E)): the draw, and one that is longer by an exponential.
    """
    loc, s = _spread(distribution.loc, value), _spread(distribution.scale, value)
    side = jnp.where(value < loc, -1.0, 1.0)
    return _weak(
        value,
        _pair(2.0 * loc - value, -side / (2.0 * s), loc),
        _pair(value + side * s * _exponential(key, value), 1.0 / s, s),
    )


# ---- wrappers -------------------------------------------------------------------------------------------------------


@weak_derivative.register(dist.ExpandedDistribution)
def _(distribution, key, value):
    """That of what was expanded: every family above broadcasts its parameters to the value."""
    base = elementwise(distribution.base_dist)
    found = weak_derivative(base, key, value)
    if found is None:
        raise EstimatorError(
            f"mvd(): {type(base).__name__} (expanded) has no measure-valued derivative here. Write `reinforce()`, or "
            "`reparam()` where the distribution can."
        )
    return found
