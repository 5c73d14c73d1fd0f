"""Choosing gradient estimators on a whole objective, and describing those that it has."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, ParamSpec, TypeVar

import equinox as eqx
import jax
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


def with_choice(
    objective: Callable[P, R], sites: Mapping, *, forks: int | None | Literal["kept"] = "kept"
) -> Callable[P, R]:
    """As `with_estimators`, but a site that has such an estimator keeps its own, and with it its baseline."""
    return _with_rules(objective, estimators_of(sites), forks, _unless_alike)


def kind_of(estimator: Any) -> str:
    """What an estimator is but for its numbers (a baseline), of which a description knows some and others not."""
    return str(jax.tree.map(lambda x: None if isinstance(x, float) or eqx.is_array(x) else x, estimator))


def _unless_alike(found: Any, present: Any) -> Any:
    return None if kind_of(found) == kind_of(present) else found


def _with_rules(objective: Callable[P, R], overrides: Any, forks: Any, pick: Callable) -> Callable[P, R]:
    """The objective with estimators by address; `pick` has the last word, from the one found and the present one."""
    objective_function("with_estimators", objective)

    @functools.wraps(objective)
    def chosen(*args, **kwargs):
        rules = InForce("with_estimators", overrides, ())

        def choose(label, present):
            return pick(rules.at(path_of(label)), present)

        out = choose_estimators(objective, choose, forks=forks)(*args, **kwargs)
        for pattern in overrides.patterns:
            if not any(matches(pattern, path) for path in rules.seen):
                have = name_them(rules.seen, pattern)
                raise AddressError(f"with_estimators: {show(pattern)} matches no sample. The objective has: {have}.")
        return out

    return chosen


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
    return _with_rules(objective, estimators_of(estimators), forks, lambda found, _: found)


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
