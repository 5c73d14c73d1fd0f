"""What all objectives share: their arguments, how they are called, what is differentiated, and their part of the help.

An objective of a model and a guide is written as a formula of one `Pair`, and `objective` makes of it what users call:

    @objective
    def iwelbo(model, guide, observed, *, n):
        return lambda pair, key: log_mean_exp(pair.log_weights(key, n))

    tg.iwelbo(model, guide, observed, n=10)(key, model_args, guide_args)

What holds for every objective is written here and nowhere else.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict, TypeVar

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float

from ..core._arguments import count, positional, posterior
from ..transforms import expectation
from ._pair import Pair

Objective = Callable[..., Float[Array, ""]]
"""A function `(key, model_args=(), guide_args=())` of one typed key, to be differentiated as it is."""

LOWER, UPPER = "lower", "upper"
"""On which side of log p(observed) the expectation of a bound lies."""

LOWER_BOUNDS = {"elbo", "iwelbo", "tvo", "vimco", "vargrad", "dreg", "sticking_the_landing"}
"""Objectives whose expectation is below log p(observed) at any number of draws; `renyi` is, or is `cubo`."""

Constructor = TypeVar("Constructor", bound=Callable)


@dataclass(frozen=True)
class Spent:
    """A formula that has closed its draws (by `scored` or `detached`), so that its derivative is right as it stands."""

    formula: Callable

    def __call__(self, pair: Pair, key: Any) -> Any:
        """The formula."""
        return self.formula(pair, key)


def objective(constructor: Constructor) -> Constructor:
    """Make of a function that returns a formula one that returns the objective of a model and a guide.

    Args:
        constructor: `(model, guide, observed, ...) -> formula`; the formula is `(pair, key, ...) -> scalar`, or `Spent`
            of one. What it takes beyond a pair and a key, the objective takes after its own arguments.
    """
    what, known = constructor.__name__, inspect.signature(constructor).parameters

    @functools.wraps(constructor)
    def make(model, guide, observed, *, scale=None, draws=1, **options):
        for name in options:
            if name not in known:
                raise TypeError(f"{what}() got an unexpected keyword argument {name!r}.")
        observed, draws = posterior(what, model, guide, observed), count(what, "draws", draws)
        model = model if scale is None else model.with_scale(scale)
        formula = constructor(model, guide, observed, **options)
        made = averaged(estimated(formula, functools.partial(Pair.of, model, guide, observed)), draws)
        weighed = scale is not None or options.get("scale_both") is not None
        made.side = None if weighed else _side(what, **options)  # type: ignore[attr-defined]
        return made

    make.__doc__ = _with_shared_arguments(constructor.__doc__ or "")
    return make  # type: ignore[return-value]


def _side(what: str, *, alpha: float = 0.0, **options: Any) -> str | None:
    """On which side of log p(observed) an objective lies; None where it is none of its bounds."""
    if what == "cubo" or what == "renyi" and alpha < 0.0:
        return UPPER
    return LOWER if what in LOWER_BOUNDS or what == "renyi" else None


def side_of(objective: Any) -> str | None:
    """On which side of log p(observed) an objective of the library lies; None of any other."""
    return getattr(objective, "side", None)


def _each_a_tuple(model_args: Any, guide_args: Any) -> tuple[tuple, tuple]:
    return positional(model_args), positional(guide_args)


def estimated(formula: Callable, gather: Callable = _each_a_tuple) -> Objective:
    """The objective that is estimated by a formula.

    Args:
        formula: `(gathered, key, ...) -> scalar`, or `Spent` of one.
        gather: what the formula is of, as a function of the arguments of the model and of the guide; by default the
            pair of them, as tuples.
    """
    signature = _signature(formula)

    def objective(*args, **kwargs):
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        key, model_args, guide_args, *more = given.args
        return formula(gather(model_args, guide_args), key, *more)

    objective.__signature__ = signature  # type: ignore[attr-defined]
    return objective if isinstance(formula, Spent) else expectation(objective)


def averaged(objective: Objective, draws: int) -> Objective:
    """The mean of an objective over so many independent draws, lanes of one `vmap`."""
    if draws == 1:
        return objective

    @functools.wraps(objective)
    def mean(key, *args, **kwargs):
        return jnp.mean(jax.vmap(lambda key: objective(key, *args, **kwargs))(jax.random.split(key, draws)))

    return mean


def _signature(formula: Callable) -> inspect.Signature:
    """How an objective is called: as all are, and then with what its formula takes after its first two arguments."""

    def call(key, model_args=(), guide_args=()):
        """Every objective."""

    own = list(inspect.signature(formula).parameters.values())[2:]
    return inspect.Signature([*inspect.signature(call).parameters.values(), *own])


# ---- help -----------------------------------------------------------------------------------------------------------


class Shared(TypedDict, total=False):
    """What every constructor takes by name, beside what is its own."""

    scale: Mapping | None
    draws: int


BEFORE = {
    "model": "a generative function over the latent and the observed addresses.",
    "guide": "one over the latent addresses, the variational family.",
    "observed": "values at the observed addresses.",
}
AFTER = {
    "scale": "weights of parts of the model's density by address, as of `with_scale`: `{'data': N / B}` for a batch.",
    "draws": "the objective is the mean over so many independent draws of the whole estimate.",
}


def _with_shared_arguments(doc: str) -> str:
    """A docstring with the arguments that all constructors take, where it does not say more of them itself."""
    before, returns, after = doc.partition("    Returns:\n")
    head, args, own = before.partition("    Args:\n")
    first, last = (
        "".join(f"        {name}: {text}\n" for name, text in lines.items() if f"        {name}: " not in own)
        for lines in (BEFORE, AFTER)
    )
    own = own.rstrip() + "\n" if args else ""
    return f"{head}    Args:\n{first}{own}{last}\n{returns}{after}"
