"""`tune_estimators`: which gradient estimator at which site, by measurement."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Array, Key

from .._errors import AddressError
from ..transforms import (
    DiscontinuityWarning,
    Estimator,
    EstimatorError,
    Fork,
    NoRuleError,
    choose_estimators,
    describe_sites,
    disarm,
    enum,
    local_expectation,
    mvd,
    reinforce,
    reparam,
    sum_and_sample,
    unordered_set,
)
from ..transforms._internal import check_key, positive, table, whole
from ._contest import Trial, contest
from ._estimator_choice import path_of, with_estimators
from ._gradients import gradient_of, one_float

TRIED = (reparam(), enum(), local_expectation(), mvd(), disarm(), sum_and_sample(1), unordered_set(2), reinforce())
"""What is tried at a site where it fits, the simpler first: those without parameters of their own."""

FORKS = (1, 4, 16, 64)
"""Numbers of alternatives that are tried beside all of them."""

KEPT: Literal["kept"] = "kept"
MANY, FEW = 32, 8
"""From so many alternatives on the sites are first tried with a few of them, drawn at random."""


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
        """The objective, or another one with the same sites, with the estimators that were chosen."""
        return with_estimators(objective, self.sites, forks=self.forks)

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


def tune_estimators(
    objective: Callable,
    *args,
    key: Key[Array, ""],
    budget: float = 60.0,
    argnums: int | tuple[int, ...] | None = None,
) -> EstimatorChoice:
    """Choose the gradient estimator of every site, and the number of forks, by variance times time.

    Site by site, with the others as they are, every estimator that fits is tried: on the same draws, in turn, with
    those that are clearly behind given up and the others looked at longer. What is compared is the variance of the
    whole gradient, summed over its entries, times the time that one gradient takes on this machine. Then the number
    of forks is chosen in the same way; and where that changed something, the sites once more. All candidates are
    unbiased; one whose path misses a discontinuity is left out.

    Args:
        objective: `objective(key, *args) -> scalar`: an `expectation`, an objective of the library, or any function
            that calls one.
        *args: its arguments, where all is measured.
        key: one typed key.
        budget: seconds, compilation included. What is left when they are over keeps its estimator; the candidate that
            is being measured is finished.
        argnums: the arguments (0 is the first after the key) whose derivatives count; None for all floating-point
            arrays.

    Returns:
        An `EstimatorChoice`; it prints as a table, `apply(objective)` puts it to use, and `plot()` draws it. It holds
        for the arguments at which it was measured: what is best can change while parameters are learned. Times, and
        with them a choice between like candidates, differ from run to run.

    Raises:
        AddressError: the objective has no sites.
        EstimatorError: a number out of its range; no floating-point arrays among the arguments; arguments that are
            traced.
        ObjectiveError: the objective does not return one float.

    Examples:
        >>> import jax, tracegrad as tg
        >>> coin = tg.gen(lambda p: tg.sample("b", tg.dist.Bernoulli(p)))
        >>> f = tg.expectation(lambda key, p: 4.0 * coin.simulate(key, p).retval)
        >>> choice = tg.tune_estimators(f, 0.25, key=jax.random.key(0))
        >>> sorted(choice.sites), choice.forks
        (['b'], 'kept')

    Source: successive halving by Jamieson and Talwalkar, Non-stochastic Best Arm Identification and Hyperparameter
    Optimization, AISTATS 2016; variance times time as the measure of an estimator by Glynn and Whitt, The Asymptotic
    Efficiency of Simulation Estimators, Operations Research 1992.
    """
    check_key(key, "tune_estimators")
    positive("tune_estimators", "budget", budget, EstimatorError)
    if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves((key, args))):
        raise EstimatorError("tune_estimators measures values and times: call it outside `jit`, `vmap` and `grad`.")
    tuning = _Tuning(one_float("tune_estimators", objective), args, key, float(budget), _numbers(argnums, args))
    tuning.sweep()
    if tuning.choose_forks():
        tuning.sweep()
    return tuning.result()


def _numbers(argnums, args) -> tuple[int, ...] | None:
    if argnums is None:
        return None
    given = argnums if isinstance(argnums, tuple) else (argnums,)
    return tuple(
        whole("tune_estimators", "argnums", n, EstimatorError, least=0, most=max(len(args) - 1, 0)) for n in given
    )


class _Tuning:
    """A search by coordinates: what is chosen so far, and what has been measured.

    Attributes:
        sites: the reports of the sites, by address.
        chosen: the estimator of each.
        forks: the number of alternatives.
        rows: what was measured, by site.
    """

    def __init__(self, objective, args, key, budget, argnums):
        self.objective, self.args, self.key, self.argnums = objective, args, key, argnums
        self.begun = time.perf_counter()
        self.end = self.begun + budget
        self.present = self.sites_of(objective)
        if len(gradient_of(objective, args, argnums)[1]) == 1:
            raise EstimatorError("tune_estimators: there is no floating-point argument to take derivatives in.")
        if not self.present:
            raise AddressError("tune_estimators: the objective has no sample sites, so there is nothing to choose.")
        # What is behind the noise of the other sites cannot be told, so they start from what seldom has much.
        start = choose_estimators(self.objective, lambda *_: local_expectation(), keep_refused=True)
        for unbiased in (reinforce(), mvd()):
            jumping = {r.label for r in describe_sites(start, key, *args) if r.jumps}
            start = choose_estimators(start, _at(jumping, unbiased), keep_refused=True)
        self.chosen = self.sites_of(start)
        self.rows: dict[str, list[dict]] = {}
        self.forks: int | None | Literal["kept"] = FEW if self.alternatives() >= MANY else KEPT

    def sites_of(self, objective) -> dict[str, Estimator]:
        """The estimators of an objective, by address."""
        return {"/".join(path_of(r.label)): r.estimator for r in describe_sites(objective, self.key, *self.args)}

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.end - time.perf_counter()

    def alternatives(self) -> int:
        """How many alternatives the forks of what is chosen have."""
        reports = describe_sites(with_estimators(self.objective, self.chosen), self.key, *self.args)
        return sum(r.runs for r in reports if isinstance(r.estimator, Fork))

    def sweep(self) -> None:
        """Choose the estimator of each site, with the others as they are."""
        for i, site in enumerate(self.present):
            if self.left <= 0:
                return
            kinds = {str(e): e for e in (self.present[site], self.chosen[site], *TRIED)}
            share = self.left / (len(self.present) - i)
            found = self.settle(site, kinds, lambda e, site=site: (self.chosen | {site: e}, self.forks), share)
            self.chosen[site] = self.chosen[site] if found is None else found

    def choose_forks(self) -> bool:
        """Choose the number of alternatives; returns whether it changed."""
        count, before = self.alternatives(), self.forks
        numbers = {"kept": KEPT, "all": None} | {str(n): n for n in FORKS if n < count}
        if self.left > 0 and count > 1:
            self.forks = self.settle("forks", numbers, lambda n: (self.chosen, n), self.left)
        else:
            self.forks = KEPT
        return self.forks != before

    def settle(self, site: str, candidates: dict, choice: Callable, seconds: float) -> Any:
        """Hold a contest, note it, and return the winner among the candidates."""
        begun = time.perf_counter()
        end = begun + seconds
        names: dict[Trial, str] = {}
        rows: list[dict] = []
        for name, candidate in candidates.items():
            if names and time.perf_counter() > end:
                break
            trial = self.trial(candidate, *choice(candidate))
            if isinstance(trial, str):
                rows.append(_row(site, name, refused=trial))
                continue
            names[trial] = name
        if not names:
            raise EstimatorError(
                f"tune_estimators: at {site} no estimator is unbiased or fits. " + "; ".join(r["refused"] for r in rows)
            )
        # What was compiled for long is looked at for a while, even when its time is over.
        now = time.perf_counter()
        winner = contest(list(names), self.key, max(end - now, (now - begun) / 4))
        rows += [_row(site, names[t], t, chosen=t is winner) for t in sorted(names, key=lambda t: t.cost)]
        self.rows[site] = sorted(rows, key=lambda row: row["refused"] is not None)
        return winner.choice

    def trial(self, candidate, estimators, forks) -> Trial | str:
        """A trial, compiled; or why the candidate is refused."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", DiscontinuityWarning)
                objective = with_estimators(self.objective, estimators, forks=forks)
                trial = Trial(candidate, objective, self.args, self.argnums)
                trial.warm_up(self.key)
        except (EstimatorError, NoRuleError, DiscontinuityWarning) as error:
            return str(error)
        return trial

    def result(self) -> EstimatorChoice:
        """The choice."""
        rows = [row for site in (*self.present, "forks") for row in self.rows.get(site, [])]
        untried = tuple(site for site in self.present if site not in self.rows)
        sites = self.chosen | {site: self.present[site] for site in untried}
        return EstimatorChoice(sites, self.forks, tuple(rows), time.perf_counter() - self.begun, untried)


def _at(labels: set, estimator: Estimator) -> Callable:
    """The choice of an estimator at these labels, and of nothing elsewhere."""
    return lambda label, _: estimator if label in labels else None


def _row(site: str, name: str, trial: Trial | None = None, *, chosen: bool = False, refused: str | None = None) -> dict:
    measured = ("variance", "variance_error", "milliseconds", "milliseconds_error", "cost", "pairs")
    numbers = {n: np.inf if trial is None else getattr(trial, n) for n in measured}
    return {"site": site, "candidate": name, **numbers, "chosen": chosen, "refused": refused}
