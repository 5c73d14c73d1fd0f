"""The search for estimators, by coordinates, and what it keeps from one time to the next."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

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
from ._chosen_estimators import EstimatorChoice
from ._contest import Pairs, Trial, contest
from ._estimator_choice import kind_of, path_of, with_choice
from ._gradients import gradient_of

TRIED = (reparam(), enum(), local_expectation(), mvd(), disarm(), sum_and_sample(1), unordered_set(2), reinforce())
"""What is tried at a site where it fits, the simpler first: those without parameters of their own."""

FORKS = (1, 4, 16, 64)
"""Numbers of alternatives that are tried beside all of them."""

KEPT: Literal["kept"] = "kept"
MANY, FEW = 32, 8
"""From so many alternatives on the sites are first tried with a few of them, drawn at random."""


class Tuner:
    """Chooses the estimators of one objective, as often as it is asked, and keeps what it compiled for that.

    Attributes:
        present: the estimator that each site of the objective has, by address.
        chosen: the estimator of each in the search.
        forks: the number of alternatives in the search.
        rows: what was measured in it, by site.
    """

    def __init__(self, objective: Callable, args: tuple, key: Key[Array, ""], argnums: tuple[int, ...] | None):
        self.objective, self.args, self.key, self.argnums = objective, args, key, argnums
        self.present = self.sites_of(objective)
        if len(gradient_of(objective, args, argnums)[1]) == 1:
            raise EstimatorError("tune_estimators: there is no floating-point argument to take derivatives in.")
        if not self.present:
            raise AddressError("tune_estimators: the objective has no sample sites, so there is nothing to choose.")
        self.chosen: dict[str, Estimator] = {}
        self.forks: int | None | Literal["kept"] = KEPT
        self.rows: dict[str, list[dict]] = {}
        self._compiled: dict[tuple, Pairs | str] = {}
        self._programs: dict[str, Pairs] = {}
        self._end = 0.0

    def sites_of(self, objective) -> dict[str, Estimator]:
        """The estimators of an objective, by address."""
        return {"/".join(path_of(r.label)): r.estimator for r in describe_sites(objective, self.key, *self.args)}

    def tune(
        self, args: tuple, key: Key[Array, ""], budget: float, *, held: tuple | None = None, begun: float | None = None
    ) -> EstimatorChoice:
        """Choose at these arguments, of the shapes of the first ones.

        Args:
            args: the arguments.
            key: one typed key.
            budget: seconds.
            held: the sites and the forks that are in use; what there is no time for stays as it is in them.
            begun: when the time began.
        """
        begun = time.perf_counter() if begun is None else begun
        self.args, self.key, self.rows, self._end = args, key, {}, begun + budget
        before = self.present | dict(held[0]) if held else self.present
        forks: int | None | Literal["kept"] = held[1] if held else KEPT
        self.chosen, self.forks = (dict(before), forks) if held else self._start()
        self._sweep()
        if self._choose_forks(forks):
            self._sweep()
        untried = tuple(site for site in self.present if site not in self.rows)
        sites = self.chosen | {site: before[site] for site in untried}
        rows = tuple(row for site in (*self.present, "forks") for row in self.rows.get(site, []))
        return EstimatorChoice(sites, self.forks, rows, time.perf_counter() - begun, untried)

    def _start(self) -> tuple[dict[str, Estimator], int | Literal["kept"]]:
        """Where the first search begins."""
        # What is behind the noise of the other sites cannot be told, so they start from what seldom has much.
        start = choose_estimators(self.objective, lambda *_: local_expectation(), keep_refused=True)
        for unbiased in (reinforce(), mvd()):
            jumping = {r.label for r in describe_sites(start, self.key, *self.args) if r.jumps}
            start = choose_estimators(start, _at(jumping, unbiased), keep_refused=True)
        self.chosen = self.sites_of(start)
        return self.chosen, FEW if self._alternatives() >= MANY else KEPT

    @property
    def _left(self) -> float:
        """Seconds that are left."""
        return self._end - time.perf_counter()

    def _alternatives(self) -> int:
        """How many alternatives the forks of what is chosen have."""
        reports = describe_sites(with_choice(self.objective, self.chosen), self.key, *self.args)
        return sum(r.runs for r in reports if isinstance(r.estimator, Fork))

    def _sweep(self) -> None:
        """Choose the estimator of each site, with the others as they are."""
        for i, site in enumerate(self.present):
            if self._left <= 0:
                return
            # First what is in use: where there is no time for more, it stays.
            kinds: dict[str, Estimator] = {}
            for estimator in (self.chosen[site], self.present[site], *TRIED):
                kinds.setdefault(kind_of(estimator), estimator)
            names = {str(e): e for e in kinds.values()}
            share = self._left / (len(self.present) - i + 1)  # one of them is for the forks
            found = self._settle(site, names, lambda e, site=site: (self.chosen | {site: e}, self.forks), share)
            self.chosen[site] = self.chosen[site] if found is None else found

    def _choose_forks(self, held: int | None | Literal["kept"]) -> bool:
        """Choose the number of alternatives; returns whether it changed."""
        if self._left <= 0:
            self.forks = held
            return False
        count, before = self._alternatives(), self.forks
        numbers = {"kept": KEPT, "all": None} | {str(n): n for n in FORKS if n < count}
        self.forks = self._settle("forks", numbers, lambda n: (self.chosen, n), self._left) if count > 1 else KEPT
        return self.forks != before

    def _settle(self, site: str, candidates: dict, choice: Callable, seconds: float) -> Any:
        """Hold a contest, note it, and return the winner among the candidates."""
        begun = time.perf_counter()
        end = begun + seconds
        trials: dict[str, Trial] = {}
        refused: dict[str, str] = {}
        by_program: dict[Pairs, Trial] = {}  # two names of one program are one trial
        for name, candidate in candidates.items():
            if trials and time.perf_counter() > end:
                break
            pairs = self._pairs_of(*choice(candidate))
            if isinstance(pairs, str):
                refused[name] = pairs
            else:
                trials[name] = by_program.setdefault(pairs, Trial(candidate, pairs, self.args))
        if not trials:
            raise EstimatorError(
                f"tune_estimators: at {site} no estimator is unbiased or fits. " + "; ".join(refused.values())
            )
        # What was compiled for long is looked at for a while, even when its time is over.
        now = time.perf_counter()
        winner = contest(list(by_program.values()), self.key, max(end - now, (now - begun) / 4))
        ranked = sorted(trials, key=lambda name: trials[name].cost)
        rows = [_row(site, n, trials[n], chosen=candidates[n] is winner.choice) for n in ranked]
        self.rows[site] = [*rows, *(_row(site, name, refused=why) for name, why in refused.items())]
        return winner.choice

    def _pairs_of(self, estimators: Mapping, forks) -> Pairs | str:
        """The gradients of a choice, compiled once; or why it is refused."""
        name = (*((site, str(estimator)) for site, estimator in estimators.items()), str(forks))
        if name not in self._compiled:
            self._compiled[name] = self._pairs(estimators, forks)
        return self._compiled[name]

    def _pairs(self, estimators: Mapping, forks) -> Pairs | str:
        """Those of another choice where they are the same program."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", DiscontinuityWarning)
                objective = with_choice(self.objective, estimators, forks=forks)
                pairs = Pairs(objective, self.key, self.args, self.argnums)
        except (EstimatorError, NoRuleError, DiscontinuityWarning) as error:
            return str(error)
        same = self._programs.setdefault(pairs.text, pairs)
        if same is pairs:
            pairs(self.key, 0, 0, self.args)  # compiles it
        return same


def _at(labels: set, estimator: Estimator) -> Callable:
    """The choice of an estimator at these labels, and of nothing elsewhere."""
    return lambda label, _: estimator if label in labels else None


def _row(site: str, name: str, trial: Trial | None = None, *, chosen: bool = False, refused: str | None = None) -> dict:
    measured = ("variance", "variance_error", "milliseconds", "milliseconds_error", "cost", "pairs")
    numbers = {n: np.inf if trial is None else getattr(trial, n) for n in measured}
    return {"site": site, "candidate": name, **numbers, "chosen": chosen, "refused": refused}
