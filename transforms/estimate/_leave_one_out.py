"""The leave-one-out baseline: several samples of an objective, each one's baseline the mean of the others."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Float, Key

from .._arguments import objective_function, whole
from .._errors import ObjectiveError
from ..program._site_terms import magic_box
from ._stated import stated
from ._surrogate import Scored, scored


def lanes_of(what: str, fun: Callable, key: Key[Array, ""], n: int, args: tuple, kwargs: dict) -> Scored:
    """`n` independent runs of a scalar objective, with their scores: arrays of shape (n,)."""
    run = scored(fun, what)
    found = jax.vmap(lambda k: run(k, *args, **kwargs))(jax.random.split(key, n))
    value = found.value
    if not hasattr(value, "shape") or value.shape != (n,) or not jnp.issubdtype(value.dtype, jnp.floating):
        raise ObjectiveError(f"{what} takes an objective that returns one float scalar, and this one does not.")
    return found._replace(score=found.score.astype(value.dtype), control=found.control.astype(value.dtype))


def leave_one_out(fun: Callable, n: int) -> Callable:
    """The mean of n samples of an objective, with the other samples' mean as each one's baseline.

        d E f = E[1/(n - 1) sum_k (f_k - mean f) d log q_k + 1/n sum_k df_k]

    Score-function sites anywhere in `fun` are credited so, reparameterised ones keep their paths; a baseline given at a
    site acts as well. Right to every order. It pays where the variance of `f` is large against that of the scores; it
    is not always below that of n plain samples.

    Args:
        fun: `f(key, *args)`, a float scalar, in any units; an `expectation` or not.
        n: the number of samples, at least 2: lanes of one `vmap`.

    Returns:
        `(key, *args) -> scalar`, the mean over the samples, to be differentiated as it is.

    Raises:
        EstimatorError: a site has an estimator that compares whole objectives (mvd, local_expectation, enum, ...).
        ObjectiveError: n is below 2, or the objective is no float scalar.

    Source: Kool, van Hoof and Welling, Buy 4 REINFORCE Samples, Get a Baseline for Free!, 2019; Salimans and
    Knowles, On Using Control Variates with Stochastic Approximation for Variational Bayes, 2014.

    Examples:
        >>> import jax, numpyro.distributions as dist
        >>> from tracegrad.transforms import leave_one_out, sample
        >>> f = leave_one_out(lambda key, w: 4.0 * sample(key, dist.Bernoulli(logits=w)), 8)
        >>> jax.grad(f, argnums=1)(jax.random.key(0), 0.5).shape
        ()
    """
    objective_function("leave_one_out", fun)
    n = whole("leave_one_out", "n, the number of samples,", n, ObjectiveError, least=2)

    @functools.wraps(fun)
    def objective(key: Key[Array, ""], *args: Any, **kwargs: Any) -> Float[Array, ""]:
        value, score, control = lanes_of("leave_one_out", fun, key, n, args, kwargs)
        others = lax.stop_gradient((jnp.sum(value) - value) / (n - 1))
        box = magic_box(score)
        return stated(jnp.mean(value * box + others * (1.0 - box) + control))

    return objective
