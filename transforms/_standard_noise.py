"""How draws of continuous families come from standard noise: a question that families answer."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, Float


class StandardNoise(NamedTuple):
    """A draw as a function of standard noise: `push` maps noise of `shape` to a value.

    `law` is "normal", "uniform" or "exponential", all standard.

    Examples:
        >>> from tracegrad.transforms import StandardNoise
        >>> StandardNoise("exponential", (), lambda e: e / 2.0).push(3.0)      # of an exponential of rate 2
        1.5
    """

    law: str
    shape: tuple[int, ...]
    push: Callable[[Float[Array, "*noise"]], Float[Array, "*value"]]


@functools.singledispatch
def standard_noise(distribution: Any) -> StandardNoise | None:
    """How a draw of a continuous distribution comes from standard noise, or None where that is not known.

    It is what `exact_expectation` and `check_unbiased` integrate over; a program that draws does not ask.

    Examples:
        >>> import jax.numpy as jnp, numpyro.distributions as dist
        >>> found = standard_noise(dist.Normal(1.0, 2.0))
        >>> found.law, float(found.push(jnp.array(0.5)))
        ('normal', 2.0)
    """
    return None
