"""How draws of continuous families come from standard noise: a question that families answer."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class StandardNoise(NamedTuple):
    """A draw as a function of standard noise: `push` maps noise of `shape` to a value.

    `law` is "normal", "uniform" or "exponential", all standard.
    """

    law: str
    shape: tuple[int, ...]
    push: Callable[[jax.Array], jax.Array]


@functools.singledispatch
def standard_noise(distribution: Any) -> StandardNoise | None:
    """How a draw of a continuous distribution comes from standard noise, or None where that is not known."""
    return None
