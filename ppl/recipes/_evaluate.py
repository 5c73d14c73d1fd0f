"""`evaluate`: the mean of an objective over many draws, with its standard error."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, overload

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float, Key

from ..algorithms._base import each
from ..core._arguments import chunk
from ..objectives._objective import LOWER, UPPER, side_of
from ..transforms import ObjectiveError
from ..transforms._internal import check_key, is_boolean, is_numeric, objective_function, whole


class Evaluation(NamedTuple):
    """A mean, and its standard error; each of the shape of the objective.

    Examples:
        >>> import jax.numpy as jnp, tracegrad as tg
        >>> print(tg.Evaluation(jnp.array(-1.2345), jnp.array(0.02)))
        -1.2345 ± 0.02
    """

    mean: Float[Array, " *shape"]
    se: Float[Array, " *shape"]

    def __str__(self):
        return f"{self.mean:.5g} ± {self.se:.2g}" if jnp.ndim(self.mean) == 0 else f"{self.mean} ± {self.se}"


MANY_ERRORS = 4.0
"""Two means that differ by more of their standard errors are not in this order by chance."""


def _each_of(objectives, args, key, draws, chunk_size):
    """Every one of several objectives; those that are bounds on one number are compared."""
    if not objectives:
        raise ObjectiveError("evaluate: the dict of objectives is empty. Give at least one, {'elbo': bound}.")
    keys = jax.random.split(key, len(objectives))
    found = {
        name: evaluate(each, *args, key=k, draws=draws, chunk_size=chunk_size)
        for k, (name, each) in zip(keys, objectives.items(), strict=True)
    }
    lower, upper = ([n for n, each in objectives.items() if side_of(each) == side] for side in (LOWER, UPPER))
    for high, low in itertools.product(upper, lower):
        if _is_above(found[low], found[high]):
            warnings.warn(
                f"evaluate: {high!r} bounds the evidence from above, {low!r} from below, and the one lies below the "
                f"other: {found[high]} and {found[low]}. Its draws miss where the weights are large, so that it is "
                "estimated from below. Give it more of them (`n`) or a guide of wider tails, or write `cubo` with "
                "`log_z`, which is unbiased; until then trust the lower bound.",
                stacklevel=3,
            )
    return found


def _is_above(one, other):
    gap = one.mean - other.mean
    if isinstance(gap, jax.core.Tracer) or jnp.ndim(gap):
        return False
    return bool(gap > MANY_ERRORS * jnp.hypot(one.se, other.se))


@overload
def evaluate(
    objective: Callable, *args: Any, key: Key[Array, ""], draws: int = ..., chunk_size: int | None = ...
) -> Evaluation: ...
@overload
def evaluate(
    objective: Mapping[str, Callable], *args: Any, key: Key[Array, ""], draws: int = ..., chunk_size: int | None = ...
) -> dict[str, Evaluation]: ...
def evaluate(
    objective: Callable | Mapping[str, Callable],
    *args: Any,
    key: Key[Array, ""],
    draws: int = 1000,
    chunk_size: int | None = None,
) -> Evaluation | dict[str, Evaluation]:
    """The expectation of an objective, as the mean of independent estimates with its standard error.

    Args:
        objective: `objective(key, *args)`, one of the library's or any other function; it returns a number or an array.
            Or a dict of several: then bounds of the library's are compared, too.
        *args: its arguments.
        key: one typed key.
        draws: the number of estimates, at least 2.
        chunk_size: run at most about this many at a time; None runs all in one `vmap`.

    Returns:
        `Evaluation(mean, se)`, a pair, or a dict of them. An estimate that is not finite makes the mean so: an ELBO of
        minus infinity says that the guide draws what the model rules out.

    Raises:
        ObjectiveError: the objective is no function, or returns something else than numbers; fewer than 2 draws; an
            empty dict.

    Warns:
        UserWarning: of several, an upper bound (`cubo`) is below a lower one by more than their errors.

    Examples:
        >>> import jax, tracegrad as tg
        >>> model = tg.gen(lambda: tg.sample("x", tg.dist.Normal(tg.sample("z", tg.dist.Normal(0.0, 1.0)), 1.0)))
        >>> guide = tg.gen(lambda m: tg.sample("z", tg.dist.Normal(m, 0.5**0.5)))
        >>> bound = tg.elbo(model, guide, {"x": 2.0})
        >>> mean, error = tg.evaluate(bound, (), (1.0,), key=jax.random.key(0), draws=500)
        >>> exact = tg.dist.Normal(0.0, 2.0**0.5).log_prob(2.0)           # the guide is the posterior
        >>> bool(abs(mean - exact) < 1e-4), bool(error < 1e-4)
        (True, True)
        >>> found = tg.evaluate({"lower": bound, "upper": tg.cubo(model, guide, {"x": 2.0})}, (), (0.9,),
        ...                     key=jax.random.key(0))
        >>> bool(found["lower"].mean < exact < found["upper"].mean)
        True
    """
    check_key(key, "evaluate")
    if isinstance(objective, Mapping):
        return _each_of(objective, args, key, draws, chunk_size)
    objective = objective_function("evaluate", objective)
    draws = whole("evaluate", "draws, of which an error is taken,", draws, ObjectiveError, least=2)
    chunk_size = chunk("evaluate", chunk_size)

    def one(key):
        value = objective(key, *args)
        if not (is_numeric(value) or is_boolean(value)):
            raise ObjectiveError(f"evaluate: the objective must return numbers, and returned {type(value).__name__}.")
        return jnp.asarray(value, float)

    values = jax.jit(lambda keys: each(one, keys, chunk_size))(jax.random.split(key, draws))
    return Evaluation(jnp.mean(values, axis=0), jnp.std(values, axis=0, ddof=1) / draws**0.5)
