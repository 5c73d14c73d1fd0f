"""How `vi` fits a family: the bound that its draws allow, and Adam on it until it is at rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import optax
from jax import lax
from jax import numpy as jnp

from ..auto._family import Family
from ..auto._flow import Flow
from ..auto._starts import Initial
from ..core._generative import Around
from ..core._target import Target
from ..estimators import local_expectation
from ..objectives import elbo, sticking_the_landing
from ..training._fit import fit
from ..transforms import EstimatorError
from ..transforms._internal import lenient
from ._settling import WINDOW, at_rest, settling_adam


class _WithKwargs(Around):
    """A program with keyword arguments in place, for objectives, which give arguments by place."""

    kwargs: dict

    def visit(self, operation, key, given, path, args, kwargs):
        """Visit with them."""
        return self.function.visit(operation, key, given, path, args, {**self.kwargs, **kwargs})


class Training(NamedTuple):
    """How a fit is run."""

    key: Any
    steps: int
    draws: int
    rate: float
    progress: bool
    initial: Initial = None
    searches: int = 4


def _bound_of(target: Target, family: Family, params: Mapping) -> tuple[Callable, str]:
    """The bound with the path derivative alone where the family and the program allow it, else the ELBO; its name."""
    model = _WithKwargs(target.function, target.kwargs) if target.kwargs else target.function

    def of(make, guide):
        bound = make(model, guide, target.observed)
        return lambda key, params: bound(key, target.args, params)

    discrete = {path: local_expectation() for path, site in family.space.sites if site.discrete}
    if discrete:
        guide = family.guide.with_estimators(discrete)
        return of(elbo, guide), "the ELBO (`elbo`), discrete latents by local expectation"
    if not isinstance(family, Flow):  # A flow is slow to weigh what is given to it, as the path derivative asks.
        path = of(sticking_the_landing, family.guide)
        try:
            jax.eval_shape(jax.grad(path, argnums=1), jax.random.key(0), params)
        except EstimatorError:
            pass  # A family of one's own, whose draws have no derivative.
        else:
            return path, "the ELBO by the path derivative alone (`sticking_the_landing`)"
    return of(elbo, family.guide), "the ELBO (`elbo`)"


def trained(target: Target, family: Family, start: Mapping, how: Training) -> tuple[Any, Any, Any, str]:
    """The parameters after a fit, the history, the optimiser's state, and the objective's name."""
    bound, name = _bound_of(target, family, start)

    def objective(key, params):
        return jnp.mean(jax.vmap(lambda k: bound(k, params))(jax.random.split(key, how.draws)))

    optimizer = settling_adam(how.rate, how.steps)
    if traced((how.key, target, start)):
        return *_scanned(objective, start, optimizer, how), name
    run = fit(
        objective,
        start,
        optimizer,
        key=how.key,
        steps=how.steps,
        maximize=True,
        progress=how.progress,
        callback=lambda so_far: at_rest(so_far.opt_state, how.steps),
        every=WINDOW,
    )
    return run.params, run.history, run.opt_state, name


def traced(tree) -> bool:
    return any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(tree))


def _scanned(objective, start, optimizer, how):
    """The same steps in one loop, all of them, where nothing can be looked at while it runs."""
    trained, rest = eqx.partition(start, eqx.is_inexact_array)

    def step(carry, key):
        params, state = carry
        loss, grads = jax.value_and_grad(lambda p: -objective(key, eqx.combine(p, rest)))(params)
        with lenient():
            updates, state = optimizer.update(grads, state, params, value=loss)
        return (optax.apply_updates(params, updates), state), -loss

    (params, state), history = lax.scan(step, (trained, optimizer.init(trained)), jax.random.split(how.key, how.steps))
    return eqx.combine(params, rest), history, state
