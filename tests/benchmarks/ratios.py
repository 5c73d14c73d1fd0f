"""Ratios of ours to the others, how certain they are, what of them is stored, and when one got worse.

A time is compared with another by the median over rounds of the ratio within a round. How far off that may be is read
off the same rounds: an interval of order statistics that holds the median in 19 cases of 20. Counts are exact.

The rule of `--check`: a ratio got worse where it is more than a tenth above the stored one and its interval lies above
that of the stored one. Of three to five rounds, as compilations have, the interval is from the least to the greatest;
of fewer, as in the quick table, nothing is said.
"""

import csv
import math
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from .measure import FEWEST, HAND, NUMPYRO, Cost

WORSE = 1.1
"""A ratio that is as many times the stored one is worse."""
TIMES, COUNTS = ("run", "compile"), ("flops", "bytes")
MISSED = 0.05
"""How often an interval may leave out what it is to hold."""


class Entry(NamedTuple):
    """What a ratio is of."""

    platform: str
    row: str
    size: str
    form: str
    against: str
    measure: str

    def __str__(self):
        to = f" / {self.against}" if self.against else ""
        return f"{named(self.row, self.form)}, size {self.size}: {self.measure}{to}"


class Ratio(NamedTuple):
    """A ratio, and between what it lies."""

    ratio: float
    low: float
    high: float


def named(row: str, form: str) -> str:
    """A row, with the form of ours where there are several."""
    return f"{row}: {form}" if form else row


def interval(values: list[float]) -> tuple[float, float]:
    """What holds the median of what these are drawn from; everything, where there are too few of them.

    The k-th smallest of n and the k-th greatest leave it out with the probability that fewer than k of n fair coins
    show heads, twice. Where that is too often with k = 1 already (fewer than six), the least and the greatest.
    """
    n, ordered = len(values), sorted(values)
    if n < FEWEST:
        return -math.inf, math.inf
    k, outside = 0, 0.0
    while k < n // 2:
        outside += 2.0 * math.comb(n, k) / 2.0**n
        if outside > MISSED:
            break
        k += 1
    k = max(k, 1)
    return ordered[k - 1], ordered[-k]


def ratio_of_times(above: list[float], below: list[float]) -> Ratio:
    """That of two candidates that took turns."""
    within = [a / b for a, b in zip(above, below, strict=True)]
    return Ratio(*map(to_digits, (statistics.median(within), *interval(within))))


def to_digits(x: float) -> float:
    """Five digits of a number: what a file says is what was shown."""
    return float(f"{x:.5g}")


def _exactly(ratio):
    return Ratio(*[to_digits(ratio)] * 3)


def ratios_of(platform: str, row: str, size: object, costs: dict[str, Cost]) -> dict[Entry, Ratio]:
    """All ratios of a row at a size: each form of ours to each of the others; where there is none, its counts."""
    found: dict[Entry, Ratio] = {}
    others = [name for name in (HAND, NUMPYRO) if name in costs]
    for form, ours in costs.items():
        if form in (HAND, NUMPYRO):
            continue
        for other in others:
            for what in TIMES:
                above, below = getattr(ours, what), getattr(costs[other], what)
                if above and below and min(below) > 0.0:
                    found[Entry(platform, row, str(size), form, other, what)] = ratio_of_times(above, below)
        for other in others or [""]:
            for what in COUNTS:
                above, below = getattr(ours, what), getattr(costs[other], what) if other else 1.0
                if above and below:
                    found[Entry(platform, row, str(size), form, other, what)] = _exactly(above / below)
    return found


def got_worse(found: dict[Entry, Ratio], stored: dict[Entry, Ratio]) -> list[str]:
    """A line for each ratio that got worse by the rule above."""
    return [
        f"{entry}: {now.ratio:.3g} ({now.low:.3g} to {now.high:.3g}), stored "
        f"{before.ratio:.3g} ({before.low:.3g} to {before.high:.3g})"
        for entry, now in found.items()
        if (before := stored.get(entry)) is not None and now.ratio > WORSE * before.ratio and now.low > before.high
    ]


def unsure(found: dict[Entry, Ratio]) -> int:
    """How many ratios were measured too seldom to be compared."""
    return sum(math.isinf(ratio.high) for ratio in found.values())


def growth(sizes: Iterable[float], values: Iterable[float | None]) -> float | None:
    """The exponent p of values that grow as size^p, by least squares in logarithms; None of fewer than two."""
    pairs = zip(sizes, values, strict=True)
    points = [(math.log(size), math.log(value)) for size, value in pairs if value and size > 0]
    if len({x for x, _ in points}) < 2:
        return None
    return statistics.linear_regression(*zip(*points, strict=True)).slope


def write(path: Path, found: dict[Entry, Ratio]) -> None:
    """Write ratios, in an order of their own."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow([*Entry._fields, *Ratio._fields])
        rows.writerows([*entry, *(f"{x:g}" for x in ratio)] for entry, ratio in sorted(found.items()))


def read(path: Path) -> dict[Entry, Ratio]:
    """Read what `write` wrote; nothing, where there is no file."""
    if not path.exists():
        return {}
    n = len(Entry._fields)
    with path.open(newline="") as file:
        _, *rows = csv.reader(file)
    return {Entry(*row[:n]): Ratio(*map(float, row[n:])) for row in rows}
