"""`vi`: from a target to a checked variational posterior in one call."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp
from jaxtyping import Array, Key

from .._errors import ChoiceError, DensityError, FitError
from ..algorithms._base import at_index
from ..auto import flow, full_rank, laplace, low_rank, mean_field
from ..auto._family import Family
from ..auto._flow import Flow
from ..auto._starts import Initial, checked_initial, starting_point
from ..auto._unconstrained import cholesky_factor, describe, to_unconstrained
from ..core._arguments import count
from ..core._target import Target, checked_target
from ..transforms._internal import check_key, flag, one_of, positive
from ._fits import Training, traced, trained
from ._settling import WINDOW, in_words
from ._variational import Judgement, Variational, judged

LARGEST = 1000
"""Coordinates up to which the curvature at the mode, a matrix of them, is computed."""
RANK = 10
"""Columns of the factor of `low_rank`, where there are so many coordinates."""


class Recipe(NamedTuple):
    """How a family is made and fitted: (target, normal to start from) -> family, learning rate, draws of a step."""

    make: Callable
    rate: float
    draws: int


def _low_rank(target, around):
    return low_rank(target, max(1, min(RANK, describe(target).size)), around=around)


def _apart(normal):
    """The independent normals with the same deviations: around a correlated one the family would be so, too."""
    deviations = jnp.sqrt(jnp.sum(cholesky_factor(normal) ** 2, axis=1))
    return {"loc": normal["loc"], "log_scale": jnp.log(deviations)}


RECIPES = {
    "laplace": Recipe(lambda target, around: laplace(target), 0.0, 0),
    "mean_field": Recipe(lambda target, around: mean_field(target, around=_apart(around)), 0.02, 16),
    "low_rank": Recipe(_low_rank, 0.02, 16),
    "full_rank": Recipe(lambda target, around: full_rank(target, around=around), 0.02, 16),
    "flow": Recipe(lambda target, around: flow(target, around=around), 0.005, 32),
}


# ---- the fit --------------------------------------------------------------------------------------------------------


def _normal_of(target: Target, how: Training) -> tuple[Any, str]:
    """A normal to start from, and how it was found: Laplace's approximation, else a fit of independent normals."""
    why = f"there are more than {LARGEST} coordinates"
    if describe(target).size <= LARGEST:
        try:
            found = laplace(target, initial=how.initial, starts=how.searches).init(how.key)
        except FitError:
            why = "there is no mode"
        except DensityError:
            why = "a latent is discrete, or a centring is learned"
        else:
            return _or_standard(found), "Laplace's approximation, at the mode"
    family = mean_field(target)
    start = family.init(how.key)
    if how.initial is not None:
        start = start | {"loc": starting_point(to_unconstrained(target), how.key, how.initial)}
    params = trained(target, family, start, how)[0]
    return params, f"a fit of independent normals ({why})"


def _or_standard(normal):
    """The normal, or where it was not found and nothing could be looked at, a standard one."""
    found = jnp.all(jnp.isfinite(normal["log_scale"]))
    return {name: jnp.where(found, x, jnp.zeros_like(x)) for name, x in normal.items()}


def _recipe(family: Any) -> Recipe:
    """The recipe of a family's name; of a family that is made already that of its kind, or of a normal."""
    if isinstance(family, Family):
        return RECIPES["flow"] if isinstance(family, Flow) else RECIPES["full_rank"]
    return RECIPES[one_of("vi", "family", family, RECIPES, DensityError)]


def _made(target: Target, family: Any, recipe: Recipe, how: Training) -> tuple[Family, str]:
    """The family, and what it starts from."""
    if isinstance(family, Family):
        if how.initial is not None:
            raise ChoiceError("vi: a family that is made already starts from its own; give its name, or no `initial`.")
        return family, "Start: the family's own."
    if family == "laplace":
        return laplace(target, initial=how.initial), "Laplace's approximation: nothing is left to fit."
    if describe(target).size == 0:
        return mean_field(target), "There is no continuous latent: the family is of independent categoricals."
    normal, found = _normal_of(target, how._replace(rate=RECIPES["mean_field"].rate, draws=RECIPES["mean_field"].draws))
    return recipe.make(target, normal), f"Start: {found}."


NEAR = 0.1
"""Bounds that differ by less than this many nats, and three of their errors, are of fits that agree."""


def _restarted(target: Target, family: Any, recipe: Recipe, how: Training, keys: Any) -> tuple:
    """What `vi` keeps of the best of several fits that run side by side, and in words how many of them agree."""
    if not isinstance(family, Family) and describe(target).size == 0:
        family = mean_field(target)
    given, named = isinstance(family, Family), {}
    if given and how.initial is not None:
        raise ChoiceError("vi: a family that is made already starts from its own; give its name, or no `initial`.")

    def one(key):
        begin, start, train = jax.random.split(key, 3)
        first = RECIPES["mean_field"]
        search = how._replace(key=begin, rate=first.rate, draws=first.draws, searches=1)
        normal = {} if given else _normal_of(target, search)[0]
        made = family if given else recipe.make(target, normal)
        *run, named["objective"] = trained(target, made, made.init(start), how._replace(key=train))
        return normal, run

    normals, runs = jax.jit(jax.vmap(one))(keys)
    bounds = jnp.mean(runs[1][:, -WINDOW:], axis=1)
    best = jnp.argmax(jnp.where(jnp.isfinite(bounds), bounds, -jnp.inf))
    normal, (params, history, opt_state) = at_index((normals, runs), best)
    words = "" if traced(bounds) else _agreement(np.asarray(bounds), int(best), np.asarray(history[-WINDOW:]))
    made = family if given else recipe.make(target, normal)
    return made, params, history, opt_state, named["objective"], words


def _agreement(bounds, best, last) -> str:
    """Which of several fits is the best, and how many come as near."""
    finite = np.isfinite(bounds)
    if not finite.any():
        raise FitError(
            f"vi: the ELBO of each of {len(bounds)} starts is no longer finite. Lower `learning_rate`, or give "
            "`initial`, values at which the density is finite."
        )
    within = NEAR + 3.0 * last.std() / np.sqrt(len(last))
    agreed = int(np.sum(bounds[finite] > bounds[best] - within))
    lost = "" if finite.all() else f" {int(np.sum(~finite))} were no longer finite."
    return (
        f"Start: the best of {len(bounds)} side by side, number {best}. {agreed} of {len(bounds)} end within "
        f"{within:.2g} of its ELBO.{lost}"
    )


# ---- what is said of it ---------------------------------------------------------------------------------------------


def _fitted_in_words(name: str, how: Training, opt_state: Any, history: Any) -> list[str]:
    last = np.asarray(history[-WINDOW:])
    error = last.std() / np.sqrt(len(last))
    return [
        f"Objective: {name}, {how.draws} draws a step, Adam at {how.rate:g}.",
        f"End: {in_words(opt_state, how.steps)}",
        f"ELBO: {last.mean():.5g} ± {error:.1g}, over the last {len(last)} steps.",
    ]


def vi(
    target: Target,
    family: str | Family = "full_rank",
    *,
    key: Key[Array, ""],
    steps: int = 2000,
    draws: int | None = None,
    learning_rate: float | None = None,
    initial: Initial = None,
    restarts: int = 1,
    correct: bool = True,
    progress: bool = True,
) -> Variational:
    """Fit a variational family to a target, and check it.

    What fits most posteriors, in this order: Laplace's approximation (or where there is no mode a fit of independent
    normals); the family around it, so that one learning rate suits all coordinates; Adam on the ELBO, for normals by
    the path derivative alone, whose noise vanishes as the fit nears the posterior; the rate stays until the ELBO has
    stopped rising (in 4 windows of 50 steps by more than its error), then comes down to nothing, along half a cosine,
    over half of `steps`; and importance weights. Where their k-hat is below 0.7 they correct the draws, the density and
    the summary for what the family misses; where it is above, the report says that the fit is not to be believed.

    Args:
        target: a `Target`; its latents are continuous, or discrete of finite support.
        family: "full_rank", "mean_field", "low_rank", "flow" (of flowjax, for posteriors that are no normals in any
            coordinates), "laplace" (nothing is fitted); or a family of the target, as `auto` makes them, which is
            fitted as it is, from its own start.
        key: one typed key.
        steps: the largest number of steps.
        draws: draws of the ELBO at each step; None is 16, for a flow 32.
        learning_rate: None is 0.02, for a flow 0.005.
        initial: where the search for a mode starts: values by address, {"mu": 1.0}, the rest uniform in (-2, 2) on the
            unconstrained space; "prior", a draw of the program, or "uniform"; None tries four starts, two of each.
        restarts: fits from as many starts, each at the mode that one search leads to, side by side in one program; the
            one with the best bound is kept, and the report says how many agree with it. All run all steps.
        correct: whether draws are corrected by importance weights, where those can be relied on: each draw is then
            picked by weight from a few proposals, three quarters of them of the family and, for a normal one, a quarter
            of a Student t about it, which costs as many evaluations of the program. False keeps to the family.
        progress: whether to show a line while it runs, and to print the report at its end.

    Returns:
        A `Fitted` posterior with `params`, `history` (the ELBO at each step), `family`, `corrected`, `k_hat` of the
        weights, `log_evidence`, and `report`, which says in words what was done and what is not to be trusted. Inside
        `jit` or `vmap` all steps are run, and there is no k-hat, no correction and no report.

    Raises:
        AddressError, ChoiceError: `initial` names no latent, or a value that it cannot have; restarts of "laplace".
        DensityError: as for the family: a latent that has neither unconstrained coordinates nor finite support.
        FitError: the ELBO or its gradient is no longer finite; with restarts, from any of them.

    Source: Kucukelbir et al., Automatic Differentiation Variational Inference, 2017; Roeder, Wu and Duvenaud, Sticking
    the Landing, 2017; Yao et al., Yes, but Did It Work?, 2018; Dhaka et al., Robust, Accurate Stochastic Optimization
    for Variational Inference, 2020; Hesterberg, Weighted Average Importance Sampling and Defensive Mixture
    Distributions, 1995.

    Examples:
        >>> import jax, tracegrad as tg
        >>> @tg.gen
        ... def model():
        ...     z = tg.sample("z", tg.dist.Normal(0.0, 1.0))
        ...     tg.sample("x", tg.dist.Normal(z, 1.0))
        >>> posterior = tg.vi(tg.Target(model, observed={"x": 2.0}), key=jax.random.key(0), steps=500, progress=False)
        >>> bool(abs(posterior.sample(jax.random.key(1), 5000)["z"].mean() - 1.0) < 0.05)
        True
    """
    check_key(key, "vi")
    checked_target("vi", target)
    steps, progress = count("vi", "steps", steps), flag("vi", "progress", progress, FitError)
    correct = flag("vi", "correct", correct, FitError)
    recipe = _recipe(family)
    rate = recipe.rate if learning_rate is None else float(positive("vi", "learning_rate", learning_rate, FitError))
    begin, start, train, judge = jax.random.split(key, 4)
    restarts = count("vi", "restarts", restarts)
    if restarts > 1 and isinstance(family, str) and family == "laplace":
        raise ChoiceError("vi: Laplace's approximation searches from four starts by itself; leave `restarts` out.")
    initial = None if initial is None else checked_initial("vi", to_unconstrained(target), initial)
    draws = recipe.draws if draws is None else count("vi", "draws", draws)
    how = Training(train, steps, draws, rate, progress, initial)
    if restarts > 1:
        keys = jax.random.split(begin, restarts)
        made, params, history, opt_state, name, began = _restarted(target, family, recipe, how, keys)
    else:
        made, began = _made(target, family, recipe, how._replace(key=begin))
        params, history = made.init(start), jnp.zeros(0)
        if family != "laplace":
            params, history, opt_state, name = trained(target, made, params, how)
    said = [f"vi: {made!r}.", began]
    if family != "laplace" and not traced((params, history)):
        said += _fitted_in_words(name, how, opt_state, history)
    if traced((params, history)):
        return Variational(made, params, history, "", Judgement())
    found, words = judged(made, params, judge, correct=correct)
    report = "\n".join([*said, *words])
    if progress:
        print(report, file=sys.stderr)
    return Variational(made, params, history, report, found)
