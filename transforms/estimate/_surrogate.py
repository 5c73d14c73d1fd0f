"""Building blocks of objectives that state their own gradient.

They are scores laid open, draws without derivative, functions at held parameters, and surrogates of the gradient.
Each takes a function that may sample and returns one that does not: what is left of its draws is noise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Float

from .._errors import EstimatorError, name_of
from .._estimator import Direct
from .._jax import evaluate_with
from .._pytree import stop_gradient
from .._samples_in import sites_in
from ..analysis._key_reuse import refuse_reuse
from ..forks._first_order_sum import fork_sum
from ..forks._replay import Options
from ..program._interpreter import run
from ..program._plan import plan_of
from ..program._rewriting import Rewriting, plain
from ..program._trace_call import trace_call
from ._estimate import Estimating
from ._stated import stated


class Scored(NamedTuple):
    """What a function returned, and what its draws contribute.

    `score` is the sum of their score terms, whose derivative is d log q; `control` that of their own control variates,
    zero in value. Both are float scalars.

    Examples:
        >>> import jax, numpyro.distributions as dist
        >>> from tracegrad.transforms import sample, scored
        >>> found = scored(lambda key, p: sample(key, dist.Bernoulli(p)))(jax.random.key(0), 0.5)
        >>> round(float(found.score), 3), float(found.control)
        (-0.693, 0.0)
    """

    value: Any
    score: Float[Array, ""]
    control: Float[Array, ""]


def _traced(fun, args, kwargs):
    """The jaxpr of a call, its operands, and the structure of what it returns."""
    traced = trace_call(fun, args, kwargs)
    refuse_reuse(traced.jaxpr)
    return traced.jaxpr, traced.operands, jax.tree.structure(traced.out)


def scored(fun: Callable, what: str = "scored") -> Callable:
    """The function `(key, *args) -> Scored`: its value with the path derivative of its draws, their scores apart.

    What has used up its draws so states its own gradient: give its value back through `stated`.

    Args:
        fun: `(key, *args)`, which may sample.
        what: whose name the error's text begins with.

    Raises:
        EstimatorError: a site's estimator is neither a score function nor a path (mvd, enum, ...).

    Examples:
        >>> import jax, numpyro.distributions as dist
        >>> from tracegrad.transforms import magic_box, sample, scored, stated
        >>> run = scored(lambda key, p: 4.0 * sample(key, dist.Bernoulli(p)))
        >>> def objective(key, p, baseline):
        ...     value, score, control = run(key, p)
        ...     return stated((value - baseline) * magic_box(score) + baseline + control)
        >>> round(float(jax.grad(objective, argnums=1)(jax.random.key(0), 0.25, 3.0)), 5)    # (0 - 3) d log (1 - p)
        4.0
    """

    def scores_of(key, *args, **kwargs):
        jaxpr, operands, tree = _traced(fun, (key, *args), kwargs)
        for site in sites_in(jaxpr.eqns):
            if not isinstance(site.prototype(), Direct):
                raise EstimatorError(
                    f"{what}: the sample at {name_of(site.label)} has the estimator {site.prototype()}, which compares "
                    "whole objectives; here each draw is credited by its score. Write `reinforce()` or `reparam()` at "
                    "that site."
                )
        mode = Estimating(Options(tree.num_leaves), key, [])
        outs, ledger = run(plan_of(jaxpr), operands, mode)
        zero, score = jnp.zeros((), float), mode.scores.whole()
        return Scored(
            tree.unflatten(outs), zero if score is None else score, zero if ledger.control is None else ledger.control
        )

    return scores_of


def detached(fun: Callable) -> Callable:
    """The same function with draws that carry no derivative, neither of a path nor of a score.

    What is left is the derivative of what it computes with the draws: by itself no derivative of an expectation.

    Examples:
        >>> import jax, numpyro.distributions as dist
        >>> from tracegrad.transforms import detached, sample
        >>> f = detached(lambda key, m: m * sample(key, dist.Normal(m, 1.0)))
        >>> value, slope = jax.value_and_grad(f, argnums=1)(jax.random.key(0), 2.0)
        >>> bool(value == 2.0 * slope)                                            # the slope is the draw
        True
    """
    held_draws = Rewriting(lambda site, operands, lanes: plain(site, stop_gradient(operands), lanes))

    def values_of(*args, **kwargs):
        jaxpr, operands, tree = _traced(fun, args, kwargs)
        return tree.unflatten(run(plan_of(jaxpr), operands, held_draws)[0])

    return values_of


def held(fun: Callable) -> Callable:
    """The same function with a derivative in its arguments only: whatever it closes over is held fixed.

    Examples:
        >>> import jax
        >>> from tracegrad.transforms import held
        >>> float(jax.grad(lambda w: held(lambda x: w * x)(w))(3.0))            # 3 from the argument; w itself is held
        3.0
    """

    def values_of(*args):
        jaxpr, operands, tree = _traced(fun, args, {})
        n = len(jaxpr.constvars)
        return tree.unflatten(evaluate_with(jaxpr, [*map(stop_gradient, operands[:n]), *operands[n:]]))

    return values_of


def check_pathwise(what: str, fun: Callable, *args: Any) -> None:
    """Refuse a function with a draw that is not reparameterised.

    Args:
        what: the objective that takes paths only; the error's text begins with it.
        fun: a function that may sample.
        *args: its arguments.

    Raises:
        EstimatorError: a draw has another estimator than a path.

    Examples:
        >>> import jax, numpyro.distributions as dist
        >>> from tracegrad.transforms import check_pathwise, sample
        >>> check_pathwise("mine", lambda key: sample(key, dist.Poisson(2.0), label="n"), jax.random.key(0))
        Traceback (most recent call last):
            ...
        tracegrad...EstimatorError: mine: the sample at 'n' has the estimator reinforce()...
    """
    for site in sites_in(_traced(fun, args, {})[0].eqns):
        if not site.prototype().pathwise:
            raise EstimatorError(
                f"{what}: the sample at {name_of(site.label)} has the estimator {site.prototype()}, and the gradient "
                "is one of paths only. Write `reparam()` where the distribution can; for other guides `vimco(...)` or "
                "`leave_one_out(...)`."
            )


def with_surrogate(value: Float[Array, ""], surrogate: Float[Array, ""]) -> Float[Array, ""]:
    """The value, with the derivative of the surrogate, which has itself no derivative (asking is an error).

    Args:
        value: the objective, a float array.
        surrogate: a float array of its shape; only its derivative counts.

    Returns:
        The value: in an objective of an `expectation` it may be summed and scaled, and nothing else (see `stated`).

    Raises:
        HigherOrderError: a second derivative was asked for.

    Examples:
        >>> import jax
        >>> from tracegrad.transforms import with_surrogate
        >>> [float(x) for x in jax.value_and_grad(lambda x: with_surrogate(x**2, 10.0 * x))(3.0)]
        [9.0, 10.0]
    """
    surrogate = jnp.asarray(surrogate, dtype=value.dtype)
    who = (
        "the surrogate of an objective that states its own gradient (dreg, vargrad, sticking_the_landing, ...), which "
        "has first derivatives only. For higher orders write the objective as it is, `elbo` or `iwelbo`."
    )
    return stated(lax.stop_gradient(value) + fork_sum(jnp.ones((1,), value.dtype), surrogate[None], [surrogate], who))
