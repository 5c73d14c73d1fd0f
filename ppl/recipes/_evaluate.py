"""`evaluate`: the mean of an objective over many draws, with its standard error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float, Key

from ..algorithms._base import each
from ..core._arguments import chunk
from ..transforms import ObjectiveError
from ..transforms._internal import check_key, is_boolean, is_numeric, objective_function, whole


class Evaluation(NamedTuple):
    """A mean, and its standard error; each of the shape of the objective.

    Example:
        >>> import jax.numpy as jnp, tracegrad as tg
        >>> print(tg.Evaluation(jnp.array(-1.2345), jnp.array(0.02)))
        -1.2345 ± 0.02
    """

    mean: Float[Array, " *shape"]
    se: Float[Array, " *shape"]

    def __str__(self):
        return f"{self.mean:.5g} ± {self.se:.2g}" if jnp.ndim(self.mean) == 0 else f"{self.mean} ± {self.se}"


def evaluate(
    objective: Callable, *args: Any, key: Key[Array, ""], draws: int = 1000, chunk_size: int | None = None
) -> Evaluation:
    """The expectation of an objective, as the mean of independent estimates with its standard error.

    Args:
        objective: `objective(key, *args)`, one of the library's or any other function; it returns a number or an array.
        *args: its arguments.
        key: one typed key.
        draws: the number of estimates, at least 2.
        chunk_size: run at most about this many at a time; None runs all in one `vmap`.

    Returns:
        `Evaluation(mean, se)`, a pair. An estimate that is not finite makes the mean so: an ELBO of minus infinity says
        that the guide draws what the model rules out.

    Raises:
        ObjectiveError: the objective is no function, or returns something else than numbers; fewer than 2 draws.

    Example:
        >>> import jax, tracegrad as tg
        >>> model = tg.gen(lambda: tg.sample("x", tg.dist.Normal(tg.sample("z", tg.dist.Normal(0.0, 1.0)), 1.0)))
        >>> guide = tg.gen(lambda m: tg.sample("z", tg.dist.Normal(m, 0.5**0.5)))
        >>> bound = tg.elbo(model, guide, {"x": 2.0})
        >>> mean, error = tg.evaluate(bound, (), (1.0,), key=jax.random.key(0), draws=500)
        >>> exact = tg.dist.Normal(0.0, 2.0**0.5).log_prob(2.0)           # the guide is the posterior
        >>> bool(abs(mean - exact) < 1e-4), bool(error < 1e-4)
        (True, True)
    """
    check_key(key, "evaluate")
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
