"""What `tune_estimators` found: a choice, and the table of what was measured for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..transforms import Estimator
from ..transforms._internal import table
from ._estimator_choice import with_choice


@dataclass(frozen=True)
class EstimatorChoice:
    """What `tune_estimators` chose, and why.

    Attributes:
        sites: from addresses to estimators, for `with_estimators`.
        forks: the number of alternatives to run, drawn at random; None for all; "kept" for what the objective has,
            where there was nothing to choose, or no time.
        rows: what was measured, a dict each: site (or 'forks'), candidate, variance and milliseconds with their
            standard errors (variance_error, milliseconds_error), cost (their product), pairs (of gradients that were
            looked at), chosen, refused (None, or why it cannot be).
        seconds: what the tuning took.
        untried: the sites for which there was no time.

    Examples:
        >>> import jax, tracegrad as tg
        >>> coin = tg.gen(lambda p: tg.sample("b", tg.dist.Bernoulli(p)))
        >>> f = tg.expectation(lambda key, p: 4.0 * coin.simulate(key, p).retval)
        >>> choice = tg.tune_estimators(f, 0.25, key=jax.random.key(0))
        >>> float(jax.grad(choice.apply(f), argnums=1)(jax.random.key(1), 0.25))
        4.0
    """

    sites: Mapping[str, Estimator]
    forks: int | None | Literal["kept"]
    rows: tuple[dict, ...] = field(repr=False)
    seconds: float
    untried: tuple[str, ...] = ()

    def apply(self, objective: Callable) -> Callable:
        """The objective, or another one with the same sites, with the estimators that were chosen.

        A site that has an estimator of the chosen kind keeps its own, with the baseline that it may have.
        """
        return with_choice(objective, self.sites, forks=self.forks)

    def __str__(self):
        head = ("site", "candidate", "variance", "+-", "ms", "+-", "variance x ms", "")
        rows = [_cells(row) for row in self.rows]
        late = [f"No time was left for {', '.join(self.untried)}."] if self.untried else []
        return "\n".join([table(head, rows), *late, f"{self.seconds:.1f} s"])

    def plot(self, ax: Any = None) -> Any:
        """Draw variance against time for each candidate, by matplotlib, what was chosen filled; returns the axes."""
        import matplotlib.pyplot as plt

        ax = plt.subplots()[1] if ax is None else ax
        for row in self.rows:
            if not row["refused"]:
                at = row["milliseconds"], row["variance"]
                ax.scatter(*at, facecolors=None if row["chosen"] else "none", edgecolors="C0")
                ax.annotate(f"{row['site']}: {row['candidate']}", at)
        ax.set(xscale="log", yscale="log", xlabel="ms per gradient", ylabel="gradient variance")
        return ax


def _cells(row) -> tuple[str, ...]:
    if row["refused"]:
        return row["site"], row["candidate"], "-", "-", "-", "-", "-", "refused"
    numbers = [row[n] for n in ("variance", "variance_error", "milliseconds", "milliseconds_error", "cost")]
    return row["site"], row["candidate"], *(f"{x:.3g}" for x in numbers), "chosen" if row["chosen"] else ""
