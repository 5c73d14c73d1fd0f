"""Choosing estimators on a whole objective: the same program with other estimators at its sites."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax

from ._arguments import objective_function
from ._errors import EstimatorError, NoRuleError, name_of
from ._estimator import Estimator
from ._jax import Lane, trace, without_lanes
from ._pytree import partition
from .program._interpreter import Mode, walk
from .program._plan import plan_of
from .program._site import Site, rebind
from .program._trace_call import trace_call

Choose = Callable[[Any, Any], Estimator | None]
"""From a label and the default or present estimator to another one, or None to keep it."""


class Choosing(Mode):
    """Binds every sample again, with the estimator chosen for it; an `expectation` inside stays one."""

    nested = True

    def __init__(self, choose: Choose, *, keep_refused: bool):
        self.choose = choose
        self.keep_refused = keep_refused

    def enumerates(self, site):
        """Nothing is summed here."""
        return False

    def among(self, loop, going):
        """What is bound again would not say which lanes go on."""
        raise NoRuleError(
            "Estimators are chosen from outside for a program with samples in a `while_loop` under a `vmap`, in which "
            "lanes end apart. Name the estimators at the sites, or write the bounded loop: `lax.scan` with the steps "
            "past the end masked."
        )

    def draw(self, site, operands, lanes, cursor):
        """Bind the sample again."""
        estimator = None if site.estimator is None else self.choose(site.label, site.prototype())
        reason = None if estimator is None else _refusal(site, estimator, without_lanes(operands, lanes))
        if estimator is None or (reason and self.keep_refused):
            return rebind(operands, site, lanes), None
        if reason:
            raise EstimatorError(f"{estimator} at {name_of(site.label)}: {reason}")
        n = 1 + site.distribution.count
        arrays, spec = partition(estimator)
        lanes = tuple(Lane(lane.size, (*lane.mapped[:n], *(False for _ in arrays))) for lane in lanes)
        return rebind([*operands[:n], *arrays], site._replace(estimator=spec), lanes), None

    def expectation(self, step, operands):
        """The same `expectation` of the program with its estimators chosen."""
        params = step.eqn.params
        program, lanes = params["program"], params["lanes"]
        plan = plan_of(program.jaxpr, nested=True)

        def run(*xs):
            return walk(
                plan, dict(zip(plan.inputs, xs, strict=True)), Choosing(self.choose, keep_refused=self.keep_refused)
            )[0]

        traced = trace(run, *without_lanes(operands, lanes))
        n = len(traced.consts)
        program = program._replace(jaxpr=traced.jaxpr, key=program.key + n)
        lanes = tuple(Lane(lane.size, (*(False for _ in traced.consts), *lane.mapped)) for lane in lanes)
        bound = functools.partial(step.eqn.primitive.bind, program=program, lanes=lanes)
        return bound(*traced.consts, *operands)


def _refusal(site: Site, estimator: Estimator, avals) -> str | None:
    """Why an estimator does not fit the distribution of a site; None where it does."""
    reasons: list[str | None] = []

    def ask(_, *arrays):
        reasons.append(estimator.refuses(site.restore(arrays)[0]))
        return 0

    jax.eval_shape(ask, *avals[: 1 + site.distribution.count])
    return reasons[0]


def choose_estimators(fun: Callable, choose: Choose, *, keep_refused: bool = False) -> Callable:
    """The same function with the estimators of its samples chosen anew, inside `expectation` and outside.

    Args:
        fun: any JAX function that samples: a program, an `expectation`, or a loss that calls one.
        choose: from a site's label and its present estimator to another one, or None to keep it.
        keep_refused: a site that refuses the estimator chosen for it keeps its own; otherwise that is an error.

    Returns:
        A function of the same arguments.

    Raises:
        EstimatorError: an estimator that does not fit the distribution of its site.

    Example:
        >>> import jax, numpyro.distributions as dist
        >>> from tracegrad.transforms import choose_estimators, enum, expectation, sample
        >>> f = expectation(lambda key, p: 4.0 * sample(key, dist.Bernoulli(p)))
        >>> g = choose_estimators(f, lambda label, present: enum())
        >>> float(jax.grad(g, argnums=1)(jax.random.key(0), 0.25))
        4.0
    """
    objective_function("choose_estimators", fun)

    @functools.wraps(fun)
    def chosen(*args, **kwargs):
        traced = trace_call(fun, args, kwargs)
        plan = plan_of(traced.jaxpr, nested=True)
        env = dict(zip(plan.inputs, traced.operands, strict=True))
        return jax.tree.unflatten(
            jax.tree.structure(traced.out), walk(plan, env, Choosing(choose, keep_refused=keep_refused))[0]
        )

    return chosen
