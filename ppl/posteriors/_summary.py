"""What a posterior is like, in a table, and in words what in it is not to be trusted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin

from ..core._addresses import paths
from ..transforms._internal import table

QUANTILES = {"5%": 0.05, "median": 0.5, "95%": 0.95}
SHOWN, OF_ONE = 40, 10
"""So many rows are printed, and of an array so many; the rest is counted."""
FEWEST = 8
"""Draws of a chain below which its halves say nothing about it."""
MIXED = 1.01
"""R-hat from which on chains disagree, of the same source as its form."""
ENOUGH = 100
"""Effective draws for each chain below which quantiles and R-hat itself are rough, of the same source."""
NAMED = 5
"""So many quantities are named in a doubt; the rest is counted."""


@dataclass(frozen=True)
class Summary:
    """A posterior in numbers, and in words what is not trustworthy in it. It prints as a table with the words beneath.

    Attributes:
        rows: by quantity ("a", or "b[0,2]" for an entry of an array), a dict: mean, sd, 5%, median, 95%; with weights
            or chains "ess", the effective number of draws; with chains "r_hat".
        doubts: sentences, each about something that is not to be trusted; none where nothing was found.
        title: what it is a summary of.

    Examples:
        >>> import jax, tracegrad as tg
        >>> target = tg.Target(tg.gen(lambda: tg.sample("z", tg.dist.Normal(0.0, 1.0))))
        >>> family = tg.auto.laplace(target)
        >>> summary = family.posterior(family.init(jax.random.key(0))).summary()
        >>> bool(abs(summary["z"]["sd"] - 1.0) < 0.1), summary.doubts
        (True, ())
    """

    rows: dict[str, dict[str, float]]
    doubts: tuple[str, ...]
    title: str

    def __getitem__(self, quantity: str) -> dict[str, float]:
        return self.rows[quantity]

    def __str__(self):
        names, left = _shown(self.rows)
        columns = list(self.rows[names[0]]) if names else []
        cells = [(name, *(f"{self.rows[name][column]:.4g}" for column in columns)) for name in names]
        lines = [self.title, table(("", *columns), cells)] if names else [f"{self.title}: there are no latents"]
        if left:
            lines.append("... and " + ", ".join(f"{count} more of {of}" for of, count in left.items()))
        words = self.doubts or ("Nothing was found that speaks against these numbers.",)
        return "\n".join([*lines, "", *words])

    __repr__ = __str__


def _shown(names: Iterable[str]) -> tuple[list[str], Counter[str]]:
    """The quantities that are printed, and of each array how many are not."""
    shown: list[str] = []
    seen, left = Counter[str](), Counter[str]()
    for name in names:
        of = name.split("[")[0]
        seen[of] += 1
        if seen[of] <= OF_ONE and len(shown) < SHOWN:
            shown.append(name)
        else:
            left[of] += 1
    return shown, left


def scalars(choices: Mapping, lead: int) -> Iterator[tuple[str, np.ndarray]]:
    """Every scalar quantity of choices with so many leading axes, by name, as an array of those axes."""
    for path, value in paths(choices):
        value, name = np.asarray(value), "/".join(path)
        if np.issubdtype(value.dtype, np.complexfloating):
            continue
        entries = value.shape[lead:]
        for index in np.ndindex(entries):
            label = f"[{','.join(map(str, index))}]" if entries else ""
            yield name + label, np.asarray(value[(..., *index)], np.float64)


def summarised(title: str, choices: Mapping, log_weights: Any = None, doubts: Sequence[str] = ()) -> Summary:
    """The summary of draws, stacked to (chain, draw, ...), with weights of that shape or none."""
    quantities = dict(scalars(choices, 2))
    rows = {name: _moments(x, log_weights) for name, x in quantities.items()}
    shapes = {x.shape for x in quantities.values()}
    if log_weights is None and any(chains > 1 for chains, _ in shapes):
        for name, x in quantities.items():
            rows[name] |= {"ess": ess_of(x), "r_hat": r_hat_of(x)}
        doubts = (*_mixing(rows, *shapes.pop()), *doubts)
    return Summary(rows, tuple(doubts), title)


def _moments(x, log_weights) -> dict[str, float]:
    x = x.reshape(-1)
    if not len(x):
        return dict.fromkeys(("mean", "sd", *QUANTILES), math.nan)
    if log_weights is None:
        quantiles = np.quantile(x, list(QUANTILES.values()))
        return {"mean": x.mean(), "sd": x.std()} | dict(zip(QUANTILES, quantiles, strict=True))
    weights = np.asarray(jax.nn.softmax(jnp.ravel(log_weights)), np.float64)
    mean = weights @ x
    order = np.argsort(x)
    below = np.cumsum(weights[order])
    # Of each quantile the first draw up to which there is so much weight.
    quantiles = x[order][np.minimum(np.searchsorted(below, list(QUANTILES.values())), len(x) - 1)]
    out = {"mean": mean, "sd": math.sqrt(weights @ (x - mean) ** 2)} | dict(zip(QUANTILES, quantiles, strict=True))
    return out | {"ess": 1.0 / (weights @ weights)}


# ---- chains ---------------------------------------------------------------------------------------------------------


def _normal_scores(x: np.ndarray) -> np.ndarray:
    """The ranks of draws, (chain, draw), as normal quantiles, so that no moment need exist."""
    ranks = np.argsort(np.argsort(x, axis=None, kind="stable"), kind="stable") + 1.0
    return np.asarray(jax.scipy.stats.norm.ppf((ranks - 0.375) / (x.size + 0.25))).reshape(x.shape)


def r_hat_of(x: np.ndarray) -> float:
    """R-hat of one quantity, (chain, draw): of its rank-normalised draws and of their distances from the median.

    It is nan where there are too few draws, or all are the same.

    Source: Vehtari et al., Rank-Normalization, Folding, and Localization: An Improved R-hat, 2021.
    """
    if x.shape[1] < FEWEST or np.ptp(x) == 0:
        return math.nan
    folded = np.abs(x - np.median(x))
    return max(float(split_gelman_rubin(_normal_scores(y))) for y in (x, folded))


def ess_of(x: np.ndarray) -> float:
    """The effective number of rank-normalised draws of one quantity, (chain, draw), by half chains; same source."""
    if x.shape[1] < FEWEST or np.ptp(x) == 0:
        return math.nan
    half = x.shape[1] // 2
    return float(effective_sample_size(_normal_scores(np.concatenate([x[:, :half], x[:, -half:]]))))


def _mixing(rows: Mapping, chains: int, draws: int) -> Iterator[str]:
    """Doubts about chains."""
    apart = {name: row["r_hat"] for name, row in rows.items() if row["r_hat"] > MIXED}
    if apart:
        yield (
            f"The chains disagree: R-hat is above {MIXED} at {named(apart)} (at most {max(apart.values()):.3f}). Run "
            "longer (`warmup`, `draws`), or write the program so that its latents depend less on each other."
        )
    few = {name: row["ess"] for name, row in rows.items() if row["ess"] < ENOUGH * chains}
    if few:
        yield (
            f"There are few effective draws at {named(few)}: {min(few.values()):.0f} of {chains * draws}, and "
            f"quantiles want {ENOUGH * chains}. Draw more."
        )


def named(quantities: Mapping) -> str:
    """Names as a sentence lists them."""
    names = [repr(name) for name in quantities]
    rest = f" and {len(names) - NAMED} others" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + rest
