"""What importance weights say against a posterior, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp

from ._summary import NAMED, named, scalars

RELIABLE = 0.7
"""The k-hat from which on weights cannot be relied on (Vehtari et al., Pareto Smoothed Importance Sampling, 2024)."""
JUDGED = 100
"""Draws below which their weights have no tail that could be judged."""
OFF = 0.1
"""A mean off by so many standard deviations, or a standard deviation off by this share, is told."""
ERRORS = 3.0
"""So many standard errors more it must be off, for it not to be chance."""


def weights_doubts(weighted: Any) -> Iterator[str]:
    """Doubts that the tail of importance weights raises: that of a proposal which misses a part of the target."""
    n = len(weighted.log_weights)
    if n < JUDGED:
        yield f"There are {n} draws, too few for their weights to say whether they cover the posterior. Draw {JUDGED}."
        return
    k_hat = k_hat_or_none(weighted)
    if k_hat is None:
        yield "k-hat, which says whether the draws cover the posterior, needs arviz: `pip install tracegrad[plots]`."
    elif not k_hat <= RELIABLE:
        yield (
            f"k-hat is {k_hat:.2f}, above {RELIABLE}: the draws miss a part of the posterior, so that these numbers "
            "may be far off, and weights do not mend them. Take a richer family (`auto.flow`), non-centre hierarchies "
            f"(`model.with_coordinates({{'effects': noncentred()}})`), or run `nuts`.{_by_address(weighted)}"
        )


def _by_address(weighted: Any) -> str:
    """Where it is worst, where there are several addresses."""
    worst = sorted(weighted.k_hats.items(), key=lambda pair: -pair[1])
    if len(worst) < 2:
        return ""
    listed = ", ".join(f"{k_hat:.2f} at {address!r}" for address, k_hat in worst[:NAMED])
    return f" Of what each address explains of the weights it is {listed}."


def fit_doubts(weighted: Any) -> Iterator[str]:
    """Doubts about the draws themselves, unweighted: those of their weights, and moments that the weights correct."""
    found = list(weights_doubts(weighted))
    yield from found
    if found:
        return
    shifted, rescaled = moments_off(weighted)
    if shifted:
        worst = max(shifted.values(), key=abs)
        yield f"By the weights the mean is off at {named(shifted)}, by at most {abs(worst):.2f} sd. {_MEND}"
    wide = {name: ratio for name, ratio in rescaled.items() if ratio > 1.0}
    if wide:
        yield f"The sd is too large at {named(wide)}: at most {max(wide.values()):.2f} times the weighted one. {_MEND}"
    narrow = {name: ratio for name, ratio in rescaled.items() if ratio < 1.0}
    if narrow:
        worst = min(narrow.values())
        yield (
            f"The sd is too small at {named(narrow)}: at least {worst:.2f} times the weighted one. "
            f"{_MEND if worst > MENDED else _REACH}"
        )


MENDED = 0.75
"""A standard deviation below this share of the right one leaves places without draws, which weights do not reach."""
_MEND = "Where that matters take the weighted draws, `posterior.weighted(key, n)`."
_REACH = "Weights do not reach where no draws are, so it may be worse: take a richer family, or run `nuts`."


def k_hat_or_none(weighted: Any) -> float | None:
    """K-hat, or None where the library that knows it is missing."""
    try:
        return weighted.k_hat
    except ImportError:
        return None


ROUGH = 0.1
"""Weights that are worth a smaller share of even ones may hang on a few draws that happened to be there."""


class Corrections(NamedTuple):
    """What weights correct of a family, in words, and what of it they may correct too little."""

    words: tuple[str, ...]
    doubts: tuple[str, ...]


def corrections(weighted: Any, plain: Mapping, least: float = MENDED) -> Corrections:
    """What weighted draws, of whatever proposal, correct of the plain draws of a family.

    A family is doubted where its standard deviation is below the share `least` of the right one.
    """
    shifted, rescaled = moments_off(weighted, plain)
    words, doubts = [], []
    if shifted:
        worst = max(shifted.values(), key=abs)
        words.append(f"They correct the mean at {named(shifted)}, by at most {abs(worst):.2f} sd.")
    if rescaled:
        low, high = min(rescaled.values()), max(rescaled.values())
        words.append(f"They correct the sd at {named(rescaled)}: the family's is {low:.2f} to {high:.2f} of it.")
    narrow = {name: ratio for name, ratio in rescaled.items() if ratio < least}
    even, n = float(weighted.ess), len(weighted.log_weights)
    if even < ROUGH * n:
        doubts.append(
            f"The weights are worth {even:.0f} even ones of {n}, so few that the corrections are rough: take a richer "
            "family or other coordinates, or run `nuts`."
        )
    if narrow:
        doubts.append(
            f"The family is too narrow at {named(narrow)}: its sd is at least {min(narrow.values()):.2f} times the "
            f"weighted one. {_REACH}"
        )
    return Corrections(tuple(words), tuple(doubts))


def moments_off(weighted: Any, plain: Mapping | None = None) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """Means of the unweighted draws less the weighted ones, in sd, and the ratio of their sd, where they are off.

    The unweighted draws are those that have the weights, or others, `plain`.
    """
    log_weights, _ = weighted.psis()
    weights = np.asarray(jax.nn.softmax(jnp.asarray(log_weights)), np.float64)
    error = math.sqrt(float(weights @ weights))  # of a weighted mean, in sd
    shifted, rescaled = {}, {}
    unweighted = dict(scalars(weighted.choices if plain is None else plain, 1))
    for name, x in scalars(weighted.choices, 1):
        mean = weights @ x
        sd = math.sqrt(weights @ (x - mean) ** 2)
        if not sd > 0.0:
            continue
        shift, ratio = (unweighted[name].mean() - mean) / sd, unweighted[name].std() / sd
        if abs(shift) > OFF + ERRORS * error:
            shifted[name] = float(shift)
        if abs(math.log(ratio)) > OFF + ERRORS * error / math.sqrt(2.0):
            rescaled[name] = float(ratio)
    return shifted, rescaled
