"""Choosing gradient estimators on a whole objective, and describing those that it has."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, ParamSpec, TypeVar

from jaxtyping import Array, Key

from .._errors import AddressError
from ..core._addresses import Path, matches, name_them, show
from ..core._by_address import InForce
from ..core._overrides import estimators_of
from ..transforms import Description, choose_estimators, describe_sites
from ..transforms._internal import ByImportance, check_key, objective_function

P = ParamSpec("P")
R = TypeVar("R")


def path_of(label: Any) -> Path:
    """The path that the label of a site stands for."""
    return label if isinstance(label, tuple) and label else (str(label),)


def with_estimators(
    objective: Callable[P, R], estimators: Mapping, *, forks: int | ByImportance | None | Literal["kept"] = "kept"
) -> Callable[P, R]:
    """The same objective with other gradient estimators, chosen by address.

    Args:
        objective: `objective(key, *args)`: an `expectation`, or any function that calls one.
        estimators: from address patterns ('z', 'steps/z', ('steps', 'z'), '*', '**/z') to estimators; the most
            specific pattern wins. Here a choice wins over those at the sites and in the generative functions.
        forks: where it is given, forking estimators run so many alternatives, drawn at random (by importance:
            `by_importance(k)`), or all of them (None),
            whatever the `forks` of the expectations inside.

    Returns:
        An objective of the same arguments.

    Raises:
        AddressError: a pattern that matches no sample of the objective.
        EstimatorError: an estimator that does not fit its site; `forks` below 1.

    Examples:
        >>> import jax, tracegrad as tg
        >>> coin = tg.gen(lambda p: tg.sample("b", tg.dist.Bernoulli(p)))
        >>> f = tg.expectation(lambda key, p: 4.0 * coin.simulate(key, p).retval)
        >>> float(jax.grad(tg.with_estimators(f, {"b": tg.mvd()}), argnums=1)(jax.random.key(0), 0.25))
        4.0
    """
    objective_function("with_estimators", objective)
    overrides = estimators_of(estimators)

    @functools.wraps(objective)
    def chosen(*args, **kwargs):
        rules = InForce("with_estimators", overrides, ())
        out = choose_estimators(objective, lambda label, _: rules.at(path_of(label)), forks=forks)(*args, **kwargs)
        for pattern in overrides.patterns:
            if not any(matches(pattern, path) for path in rules.seen):
                have = name_them(rules.seen, pattern)
                raise AddressError(f"with_estimators: {show(pattern)} matches no sample. The objective has: {have}.")
        return out

    return chosen


def describe_estimators(objective: Callable, key: Key[Array, ""], *args, **kwargs) -> Description:
    """What each sample site of an objective uses, why, and what its gradient costs in further runs.

    Args:
        objective: `objective(key, *args)`.
        key: one typed key; nothing is drawn.
        *args: arguments, for their shapes.
        **kwargs: keyword arguments.

    Returns:
        A tuple of `SiteReport`s (label, distribution, estimator, reason, where, draws, runs, jumps); printed, it is a
        table, with a line below for each discontinuity that a path derivative misses.

    Examples:
        >>> import jax, tracegrad as tg
        >>> coin = tg.gen(lambda p: tg.sample("b", tg.dist.Bernoulli(p), estimator=tg.mvd()))
        >>> f = tg.expectation(lambda key, p: 4.0 * coin.simulate(key, p).retval)
        >>> print(tg.describe_estimators(f, jax.random.key(0), 0.25))
        address  distribution    estimator  why     where  draws  runs
        -------  --------------  ---------  ------  -----  -----  ----
        b        BernoulliProbs  mvd()      chosen  -      1      1
    """
    check_key(key, "describe_estimators")
    return describe_sites(objective, key, *args, **kwargs)
