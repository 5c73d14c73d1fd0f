"""The baselines that `fit` learns for `reinforce(baseline="auto")`: running means, carried from step to step.

    mean_t = sum_s decay^(t - s) x_s / sum_s decay^(t - s),      s <= t

where x_s is what the scores of step s were multiplied by, on the mean over what shares the baseline. The baseline of
step t is mean_(t-1): it depends on earlier draws alone, so that E[baseline d log p | the steps before] = 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Float

from ..transforms._internal import level_shapes

DECAY = 0.95
"""By how much a step counts less than the next: the latest 1 / (1 - DECAY) = 20 steps have two thirds of the weight."""


class Level(NamedTuple):
    """A running mean for each element, lane and loop step of a site.

    Attributes:
        total: the weighted sum of what scores were multiplied by, in the unit of the objective.
        weight: the sum of the weights; zero where nothing has been drawn yet.
    """

    total: Float[Array, "*shape"]
    weight: Float[Array, "*shape"]

    @property
    def mean(self) -> Float[Array, "*shape"]:
        """The mean so far; zero where nothing has been drawn yet."""
        return lax.stop_gradient(self.total / jnp.where(self.weight > 0.0, self.weight, 1.0))


Levels = dict[str, Level]


def empty_levels(shapes: Mapping[str, tuple[int, ...]]) -> Levels:
    """Levels at the start of a run."""
    return {name: Level(jnp.zeros(shape), jnp.zeros(shape)) for name, shape in shapes.items()}


def with_missing(levels: Levels | None, loss: Callable, arrays: Any) -> Levels:
    """Levels for all sites of a loss: those that there are, and empty ones."""
    return empty_levels(level_shapes(loss, arrays)) | (levels or {})


def means(levels: Levels | None) -> dict[str, tuple[jax.Array, jax.Array]] | None:
    """What a loss takes of levels: the means, and their counts."""
    return (
        None if levels is None else {name: (level.mean, jnp.zeros(level.mean.shape)) for name, level in levels.items()}
    )


def learned(levels: Levels | None, drift: Any) -> Levels | None:
    """Levels after a step.

    Args:
        levels: those before it.
        drift: the derivatives of the loss in the means and in their counts. The second is zero where nothing was drawn
            or where the weights of what was cancel; such a mean stays as it is.
    """
    return None if levels is None else {name: _learned(level, *drift[name]) for name, level in levels.items()}


def _learned(level: Level, away: jax.Array, count: jax.Array) -> Level:
    latest = level.mean + away / jnp.where(count == 0.0, 1.0, count)
    counts = (count != 0.0) & jnp.isfinite(latest)
    total = DECAY * level.total + (1.0 - DECAY) * latest
    weight = DECAY * level.weight + (1.0 - DECAY)
    return Level(jnp.where(counts, total, level.total), jnp.where(counts, weight, level.weight))
