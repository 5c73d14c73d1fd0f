"""Choosing estimators on a whole objective: the same program with other estimators at its sites."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax

from ._arguments import objective_function, whole
from ._errors import EstimatorError, name_of
from ._estimator import Estimator
from ._jax import Lane, param, trace, without_lanes
from ._pytree import partition
from .forks._by_importance import ByImportance
from .program._interpreter import run
from .program._plan import Step, plan_of
from .program._rewriting import Rewriting
from .program._site import Site, rebind
from .program._trace_call import trace_call

Choose = Callable[[Any, Any], Estimator | None]
"""From a label and the default or present estimator to another one, or None to keep it."""


def _choosing(choose: Choose, options: dict, *, keep_refused: bool) -> Rewriting:
    """The mode that binds every sample again, with the estimator chosen for it; an `expectation` inside stays one.

    `options` are those of expectations inside that are to be others.
    """

    def site_chosen(site, operands, lanes):
        estimator = None if site.estimator is None else choose(site.label, site.prototype())
        reason = None if estimator is None else _refusal(site, estimator, without_lanes(operands, lanes))
        if estimator is None or (reason and keep_refused):
            return rebind(operands, site, lanes)
        if reason:
            raise EstimatorError(f"{estimator} at {name_of(site.label)}: {reason}")
        n = 1 + site.distribution.count
        arrays, spec = partition(estimator)
        lanes = tuple(Lane(lane.size, (*lane.mapped[:n], *(False for _ in arrays))) for lane in lanes)
        return rebind([*operands[:n], *arrays], site._replace(estimator=spec), lanes)

    mode = Rewriting(
        site_chosen,
        nested=lambda step, operands: expectation_under(mode, step, operands, options),
        refusal="Estimators are chosen from outside for a program with samples in a `while_loop` under a `vmap`, in "
        "which lanes end apart. Name the estimators at the sites, or write the bounded loop: `lax.scan` with the steps "
        "past the end masked.",
    )
    return mode


def expectation_under(mode: Rewriting, step: Step, operands: list, options: dict) -> list:
    """The values of an `expectation` whose program is rewritten by a mode, and which stays one, with other options."""
    program, lanes = param(step.eqn, "program"), step.lanes
    plan = plan_of(program.jaxpr, nested=True)
    traced = trace(lambda *xs: run(plan, xs, mode)[0], *without_lanes(operands, lanes))
    n = len(traced.consts)
    program = program._replace(jaxpr=traced.jaxpr, key=program.key + n, options=program.options._replace(**options))
    lanes = tuple(Lane(lane.size, (*(False for _ in traced.consts), *lane.mapped)) for lane in lanes)
    return step.eqn.primitive.bind(*traced.consts, *operands, program=program, lanes=lanes)


def _refusal(site: Site, estimator: Estimator, avals) -> str | None:
    """Why an estimator does not fit the distribution of a site; None where it does."""
    reasons: list[str | None] = []

    def ask(_, *arrays):
        reasons.append(estimator.refuses(site.restore(arrays)[0]))
        return 0

    jax.eval_shape(ask, *avals)
    return reasons[0]


def choose_estimators(
    fun: Callable,
    choose: Choose,
    *,
    keep_refused: bool = False,
    forks: int | ByImportance | None | Literal["kept"] = "kept",
) -> Callable:
    """The same function with the estimators of its samples chosen anew, inside `expectation` and outside.

    Args:
        fun: any JAX function that samples: a program, an `expectation`, or a loss that calls one.
        choose: from a site's label and its present estimator to another one, or None to keep it.
        keep_refused: a site that refuses the estimator chosen for it keeps its own; otherwise that is an error.
        forks: the `forks` of the expectations inside: so many alternatives, drawn at random (by
            importance: `by_importance(k)`), or all (None).

    Returns:
        A function of the same arguments.

    Raises:
        EstimatorError: an estimator that does not fit the distribution of its site.

    Examples:
        >>> import jax, numpyro.distributions as dist
        >>> from tracegrad.transforms import choose_estimators, enum, expectation, sample
        >>> f = expectation(lambda key, p: 4.0 * sample(key, dist.Bernoulli(p)))
        >>> g = choose_estimators(f, lambda label, present: enum())
        >>> float(jax.grad(g, argnums=1)(jax.random.key(0), 0.25))
        4.0
    """
    objective_function("choose_estimators", fun)

    mode = _choosing(choose, _forks(forks), keep_refused=keep_refused)

    @functools.wraps(fun)
    def chosen(*args, **kwargs):
        traced = trace_call(fun, args, kwargs)
        outs, _ = run(plan_of(traced.jaxpr, nested=True), traced.operands, mode)
        return jax.tree.unflatten(jax.tree.structure(traced.out), outs)

    return chosen


def _forks(forks) -> dict:
    """The options that a choice of `forks` changes."""
    if isinstance(forks, str) and forks == "kept":
        return {}
    if forks is None or isinstance(forks, ByImportance):
        return {"forks": forks}
    return {"forks": whole("choose_estimators", "forks", forks, EstimatorError, least=1)}
