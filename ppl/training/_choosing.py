"""The estimators that a run chooses for itself: at which steps, within which time, and with which draws.

A choice for a step is made from the parameters and the batch that it begins with, by draws of a stream that no step
has. Given those, each of the choices has the gradient of the objective for its expectation, and the step's own draws
are independent of which one it is: so the gradient stays unbiased.
"""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from .._errors import AddressError, FitError
from ..trust._tuner import Tuner
from ._chosen import Chosen
from ._result import Fit
from ._run import Run

SHARE = 0.05
"""Of the time of a run goes into choosing."""
LEGS = 4
"""So often is chosen anew in a run, unless it is said how many steps lie between."""
CANDIDATES = 2
"""So many gradients must at least be compiled for a choice: in less time none is made."""
STREAM = 0x7E57
"""Folded into the run's key for what choosing draws: its steps and its data have parts 0 and 1 of the split key."""


class Choosing:
    """When a run chooses, and what for.

    Attributes:
        every: the steps from one choice to the next; None where none is made.
        spent: the seconds that it took.
    """

    def __init__(self, loss: Callable, key: jax.Array, *, every: int | None, begins: int, end: int):
        if every is not None and jax.process_count() > 1:
            raise FitError(
                'fit: `estimators="auto"` measures times, which are others in each process, and here are '
                f"{jax.process_count()} of them. Choose in one process (`tg.tune_estimators`), and give the dict."
            )
        self.every, self.spent = every, 0.0
        self._key, self._begins, self._end = jax.random.fold_in(key, STREAM), begins, end
        self._objective = _value_of(loss)
        self._tuner: Tuner | None = None
        self._started, self._seen, self._first = time.perf_counter(), -1, -1
        self._compiling = 0.0

    def next_after(self, done: int) -> int:
        """The next step at which it is time to choose."""
        return self._end if self.every is None else min(self._end, done - done % self.every + self.every)

    def goes_on_from(self, start: Fit) -> Fit:
        """What the run begins from; where it does not choose, from there on with the objective's own estimators."""
        if self.every is not None or not start.choices:
            return start
        return dataclasses.replace(start, choices=(*start.choices, Chosen(len(start.history), (), "kept")))

    def before_step(self, run: Run) -> None:
        """Choose for the steps that follow, where it is time to, and there is time for it."""
        if run.done >= self._end or run.ended or self._seen == run.done or not self._is_due(run):
            return
        self._seen, begun = run.done, time.perf_counter()
        if run.next_batch():
            tuner = self._begin(run) if self._tuner is None else self._tuner
            self._choose(tuner, run, begun)
        self.spent += time.perf_counter() - begun

    def _is_due(self, run: Run) -> bool:
        """Whether it is: not for a step for which it was chosen before the run was left."""
        if self.every is None:
            return False
        at_first = run.done == self._begins and not run.choices
        return (run.done % self.every == 0 or at_first) and all(chosen.step != run.done for chosen in run.choices)

    def _begin(self, run: Run) -> Tuner:
        """Look at the objective, and compile the first program, which no choice is to blame for."""
        self._compiling, _ = run.seconds()  # first, for it finds what baselines there are to learn
        try:
            self._tuner = Tuner(self._objective, run.arguments(), self._key, (0,))
        except AddressError:
            raise FitError(
                'fit: `estimators="auto"` has nothing to choose: the objective has no sample sites. Leave it out; a '
                "program that samples goes through `tg.expectation`."
            ) from None
        self.spent -= self._compiling
        return self._tuner

    def _choose(self, tuner: Tuner, run: Run, begun: float) -> None:
        budget = self._budget(run, begun)
        if budget < (0.0 if run.choices else CANDIDATES * self._compiling):
            return
        held = (run.choices[-1].sites, run.choices[-1].forks) if run.choices else None
        key = jax.random.fold_in(self._key, np.uint32(run.done))
        found = tuner.tune(run.arguments(), key, budget, held=held)
        run.choose(Chosen.at(run.done, found.sites, found.forks))
        run.seconds()  # compiles it, in the time that is counted as that of choosing

    def _budget(self, run: Run, begun: float) -> float:
        """Seconds: the share of what the run has taken and will take until the next choice, less what is spent."""
        taken, each = begun - self._started - self.spent, run.seconds()[1]
        return SHARE * (taken + each * (self.next_after(run.done) - run.done)) - self.spent

    def say_if_none(self, run: Run) -> None:
        """Warn where a run was too short for a choice."""
        if self.every is not None and not run.choices:
            warnings.warn(
                f'fit: `estimators="auto"` has {SHARE:.0%} of the time of a run, which was too short to choose in. The '
                "objective's own were used; `tg.tune_estimators` takes the time that it is given.",
                stacklevel=3,
            )


def _value_of(loss: Callable) -> Callable:
    """The value that is to be differentiated, of a key and what a step has."""

    def value(key: jax.Array, arrays: Any, batch: tuple, indices: Any, state: Any, levels: Any) -> jax.Array:
        return loss(arrays, key, batch, indices, state, levels)[0]

    return value
