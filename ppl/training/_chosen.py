"""What estimators a run used from which step on, as a `Fit` says it and a file keeps it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from .._errors import CheckpointError, FitError
from ..core._overrides import estimators_of
from ..transforms import Estimator
from ..trust._estimator_choice import with_choice, with_estimators
from ..trust._tuner import TRIED

AUTO: Literal["auto"] = "auto"
BY_NAME = {str(estimator): estimator for estimator in TRIED}
"""What may be chosen: in a file an estimator is its name. What else a site has is its own, which it keeps."""


class Chosen(NamedTuple):
    """The estimators from a step on: at the sites that are not named, the objective's own.

    Attributes:
        step: the first step that had them.
        sites: pairs of an address and its estimator.
        forks: the number of alternatives; None for all, "kept" for what the objective has.
    """

    step: int
    sites: tuple[tuple[str, Estimator], ...]
    forks: int | None | Literal["kept"]

    @classmethod
    def at(cls, step: int, sites: Mapping[str, Estimator], forks: Any) -> Chosen:
        """Those that a tuning found."""
        return cls(step, tuple((a, BY_NAME[str(e)]) for a, e in sites.items() if str(e) in BY_NAME), forks)

    def said(self) -> dict[str, Any]:
        """In plain values, for a manifest."""
        return {"step": self.step, "sites": {a: str(e) for a, e in self.sites}, "forks": self.forks}


def chosen_of(path: Any, told: list[dict]) -> tuple[Chosen, ...]:
    """From the plain values of a manifest.

    Raises:
        CheckpointError: an estimator that this version does not know by name.
    """
    for entry in told:
        for address, name in entry["sites"].items():
            if name not in BY_NAME:
                raise CheckpointError(
                    f"{path} has the estimator {name} at {address!r}, which this version of tracegrad does not choose. "
                    "Read it with the version that wrote it."
                )
    return tuple(Chosen.at(e["step"], {a: BY_NAME[name] for a, name in e["sites"].items()}, e["forks"]) for e in told)


def applied(chosen: Chosen | None, given: Mapping | None) -> Callable[[Callable], Callable] | None:
    """What makes of an objective the one that a run uses: by what it chose, or was given; None for itself."""
    if given is not None:
        return functools.partial(with_estimators, estimators=given)
    if chosen is None or (not chosen.sites and chosen.forks == "kept"):
        return None
    return functools.partial(with_choice, sites=dict(chosen.sites), forks=chosen.forks)


def check_estimators(given: Any, *, tunes: bool) -> Mapping | Literal["auto"] | None:
    """What `fit` takes as its `estimators`.

    Raises:
        FitError: it is neither a dict nor "auto"; or a dict where it is to be tuned.
        EstimatorError: a dict of something else.
    """
    if given is None:
        return AUTO if tunes else None
    if isinstance(given, str) and given == AUTO:
        return AUTO
    if not isinstance(given, Mapping):
        raise FitError(
            f'fit: `estimators` must be "auto", or a dict from addresses to estimators such as {{"z": tg.mvd()}}, and '
            f"is {given!r}."
        )
    if tunes:
        raise FitError(
            "fit: `tune_every` says how often estimators are chosen, and `estimators` are given. Leave one of them out."
        )
    estimators_of(given)
    return given
