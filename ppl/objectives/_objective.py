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
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from jaxtyping import Array, Float

from ..core._arguments import positional, posterior
from ..transforms import expectation
from ._pair import Pair

Objective = Callable[..., Float[Array, ""]]
"""A function `(key, model_args=(), guide_args=())` of one typed key, to be differentiated as it is."""

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
    what = constructor.__name__

    @functools.wraps(constructor)
    def make(model, guide, observed, **options):
        observed = posterior(what, model, guide, observed)
        formula = constructor(model, guide, observed, **options)
        return estimated(formula, functools.partial(Pair.of, model, guide, observed))

    make.__doc__ = _with_shared_arguments(constructor.__doc__ or "")
    return make  # type: ignore[return-value]


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


def _signature(formula: Callable) -> inspect.Signature:
    """How an objective is called: as all are, and then with what its formula takes after its first two arguments."""

    def call(key, model_args=(), guide_args=()):
        """Every objective."""

    own = list(inspect.signature(formula).parameters.values())[2:]
    return inspect.Signature([*inspect.signature(call).parameters.values(), *own])


# ---- help -----------------------------------------------------------------------------------------------------------

SHARED = {
    "model": "a generative function over the latent and the observed addresses.",
    "guide": "one over the latent addresses, the variational family.",
    "observed": "values at the observed addresses.",
}


def _with_shared_arguments(doc: str) -> str:
    """A docstring with the arguments that all constructors take, where it does not say more of them itself."""
    before, returns, after = doc.partition("    Returns:\n")
    head, args, own = before.partition("    Args:\n")
    lines = [f"        {name}: {text}\n" for name, text in SHARED.items() if f"        {name}: " not in own]
    return f"{head}    Args:\n{''.join(lines)}{own if args else chr(10)}{returns}{after}"
