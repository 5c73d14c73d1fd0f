"""A run as it goes: where it is, what it has so far, and how it goes on by a number of steps."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
import optax
from jax import numpy as jnp

from .._errors import FitError
from ..transforms._internal import NoLevelError
from ._chosen import Chosen
from ._data import Batches
from ._going_bad import last_good, what_went_bad
from ._kept import compiled
from ._levels import means, with_missing
from ._loop import Now, loss_at, make_run, stays_finite
from ._mesh import like_on_mesh
from ._result import Fit, Origin

POLICIES = ("raise", "skip", "stop")
TIMES = 3
"""So often is a step taken to see how long it takes: the quickest counts, for what else runs only adds."""


class Run:
    """The state of a run between two dispatches of its compiled loop.

    Attributes:
        done: how many steps are taken, those of an earlier fit among them.
        ended: whether it has come to an end before its last step.
        choices: the estimators that it has chosen, each with its first step.
    """

    def __init__(
        self,
        objective: Callable,
        loss_with: Callable[[Chosen | None], Callable],
        batches: Batches,
        optimizer: optax.GradientTransformationExtraArgs,
        earlier: Fit,
        now: Now,
        static: Any,
        key: jax.Array,
        *,
        most: int,
        end: int,
        policy: str,
        tail: int | None,
    ):
        self._batches, self._key, self._static = batches, key, static

        def program(chosen: Chosen | None) -> tuple[Callable, Callable]:
            loss = loss_with(chosen)
            loop = make_run(loss, batches.at, optimizer.update, skips=policy == "skip", tail=tail)
            return loss, compiled(loop, objective)

        self._program, self._programs = program, dict[Any, tuple[Callable, Callable]]()
        self.choices: tuple[Chosen, ...] = earlier.choices
        self._use(self.choices[-1] if self.choices else None)
        self._is_good = jax.jit(stays_finite)
        self._policy, self._most = policy, most
        self._values = jnp.zeros((most,))
        self._origin: Origin | None = earlier.origin
        self._now, self._first = now, now
        self._again: Callable[[int], Now] = lambda _: now
        self._history = [np.asarray(earlier.history)]
        self.done, self.ended = len(earlier.history), False
        self._ahead: tuple[Any, int] | None = None
        batches.begin(self.done, end)

    def choose(self, chosen: Chosen) -> None:
        """Go on with other estimators."""
        self.choices = (*self.choices, chosen)
        self._use(chosen)

    def _use(self, chosen: Chosen | None) -> None:
        """Take up a program, the one that was compiled for these estimators before if there is one."""
        name = None if chosen is None else chosen[1:]
        if name not in self._programs:
            self._programs[name] = self._program(chosen)
        self._loss, self._loop = self._programs[name]

    def next_batch(self) -> bool:
        """Fetch what the next step is fed, which is then a dispatch of its own; whether there is something."""
        if self._ahead is None:
            self._ahead = self._batches.feed(self.done, 1, self._most)
        return self._ahead[1] > 0

    def arguments(self) -> tuple:
        """What the next step has, once that is fetched: arrays, batch, which examples it holds, state, baselines."""
        return (self._now.arrays, *self._batches.at(self._fed, 0), self._now.state, means(self._now.baselines))

    @property
    def _fed(self) -> Any:
        return None if self._ahead is None else self._ahead[0]

    def seconds(self) -> tuple[float, float]:
        """What compiling takes, and what a step does: the next one is taken a few times, and forgotten."""

        def taken(count: int) -> float:
            begun = time.perf_counter()
            jax.block_until_ready(
                self._loop(self._now, self._key, np.uint32(self.done), count, self._values, self._fed)
            )
            return time.perf_counter() - begun

        try:
            first = taken(1)
        except NoLevelError:
            self._with_baselines(self._fed)
            first = taken(1)
        one, none = (min(taken(count) for _ in range(TIMES)) for count in (1, 0))
        return max(0.0, first - one), max(0.0, one - none)

    def take(self, count: int) -> np.ndarray:
        """Take so many steps; their objectives, fewer where the run ends because something is not finite.

        Raises:
            FitError: something is not finite, and the policy is to raise.
        """
        begin, loop, values = (self._now, self._key, np.uint32(self.done)), self._loop, self._values
        count = count if self._ahead is None else 1
        (fed, there), self._ahead = self._ahead or self._batches.feed(self.done, count, self._most), None
        if there < count:
            warnings.warn(f"fit: the run stops after {self.done + there} steps, where its data end.", stacklevel=3)
            self.ended = True
        if not there:
            return np.zeros(0)
        count = there

        def run(n):
            return loop(*begin, n, values, fed)  # no `self`: what it holds would outlive the run

        self._again = lambda n: run(n)[0]
        try:
            after, self._values = run(count)
        except NoLevelError:
            begin = (self._with_baselines(fed), *begin[1:])
            after, self._values = run(count)
        # A slice of it on the device would be a program for each count.
        latest = np.asarray(self._values)[:count].copy()
        words = None
        if self._policy != "skip" and not (np.isfinite(latest).all() and self._is_good(self._first, after)):
            after, latest, words = self._up_to_the_bad(self._again, latest, fed)
        self._now, self.done = after, self.done + len(latest)
        self._history.append(latest)
        if words is not None:
            self._end(words)
        return latest

    def _with_baselines(self, fed: Any) -> Now:
        """What there is, with levels for all sites whose baseline is learned."""
        loss = loss_at(self._loss, self._batches.at(fed, 0), self._key, np.uint32(self.done), self._now)
        levels = with_missing(self._now.baselines, lambda arrays: loss(arrays, levels=None)[0], self._now.arrays)
        self._now = self._now._replace(baselines=like_on_mesh(levels, self._now.skipped))
        return self._now

    def back_to(self, step: int) -> None:
        """Go back to a step that the last dispatch passed, as if it had ended there."""
        over = self.done - step
        if 0 < over <= len(self._history[-1]) and len(self._history) > 1:
            latest = self._history[-1]
            self._now, self._history[-1] = self._again(len(latest) - over), latest[: len(latest) - over]
            self.done = step

    def _up_to_the_bad(self, again, latest, fed):
        """What is there before the step that goes bad, the objectives until then, and what went bad."""
        finite = np.isfinite(latest)
        count = len(latest) if finite.all() else int(np.argmin(finite))
        n, now = last_good(again, lambda now: self._is_good(self._first, now), count)
        loss = loss_at(self._loss, self._batches.at(fed, n), self._key, self.done + n, now)
        return now, latest[:n], what_went_bad(loss, now, again(n + 1), latest[n], self.done + n)

    def _end(self, words: str) -> None:
        if self._policy == "raise":
            raise FitError(f"fit: {words}", self.result())
        warnings.warn(f"fit: the run stops. {words} What is returned is from before that step.", stacklevel=4)
        self.ended = True

    def _history_from(self, step: int) -> np.ndarray:
        """The objectives from a step on; no more of them is touched."""
        parts, begin = [np.zeros(0, self._history[0].dtype)], self.done
        for part in reversed(self._history):
            if begin <= step:
                break
            begin -= len(part)
            parts.append(part)
        return np.concatenate(parts[::-1])[max(0, step - begin) :]

    def result(self, since: int = 0) -> Fit:
        """What there is so far, with the objectives from a step on."""
        history = jax.device_put(self._history_from(since))  # `jnp.asarray` is a program for each length
        arrays, opt_state, state, skipped, average, levels = self._now
        average = None if average is None else eqx.combine(average, self._static)
        params = eqx.combine(arrays, self._static)
        origin, choices = self._origin, self.choices
        return Fit(params, history, opt_state, state, skipped, average, origin, choices=choices, baselines=levels)
