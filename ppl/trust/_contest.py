"""A contest of gradient estimates: variance and time of each, on the same draws, until the best one is known."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Key

from ._gradients import gradient_of

FIRST = 8
"""Pairs of gradients in the first round; each round has twice as many as the one before."""

ROUNDS = 8
"""Rounds at most: some thousand pairs, which tell a variance to a tenth where tails are light."""

CLEARLY = 2.0
"""By so many standard errors a choice must be behind to be given up."""

NOISE = 1e-10
"""A variance below this share of the squared length of the gradient is that of rounding: none."""

ALIKE = 1.1
"""Costs within this factor are a tie."""


class Pairs:
    """The sum over pairs of gradients of one objective, for all arguments of the shapes of the first ones.

    Differences of pairs are looked at: half the squared length of g1 - g2 has the variance for its mean, whatever the
    mean of the gradient, so that pairs can be added up one by one.

    Attributes:
        leaves: the names of the gradient's entries.
        text: the program that it is.
    """

    def __init__(self, objective: Callable, key: Key[Array, ""], args: tuple, argnums: tuple[int, ...] | None):
        run, names, _, given = gradient_of(objective, args, argnums)
        self.leaves = names[1:]
        static = eqx.partition(jax.tree.leaves(args), eqx.is_array)[1]

        def one(i, state, key, arrays):
            before, sums = state
            now = run(jax.random.fold_in(key, i), values=eqx.combine(arrays, static))[1:]
            by_leaf = jnp.stack([_square(a - b) / 2 for a, b in zip(before, now, strict=True)])
            size = sum(_square(a) + _square(b) for a, b in zip(before, now, strict=True)) / 2
            found = by_leaf, jnp.stack([by_leaf.sum(), by_leaf.sum() ** 2, size])
            # Gradients 0 and 1 are a pair, 2 and 3 another.
            return now, jax.tree.map(lambda x, y: x + jnp.where(i % 2, y, 0), sums, found)

        @jax.jit
        def pairs(key, start, stop, arrays):
            zero = jnp.zeros(len(self.leaves), jnp.float32), jnp.zeros(3, jnp.float32)
            none = [jnp.zeros_like(x) for x in given]
            return lax.fori_loop(2 * start, 2 * stop, lambda i, state: one(i, state, key, arrays), (none, zero))[1]

        self._pairs, self.text = pairs, pairs.lower(key, 0, 0, _arrays_of(args)).as_text()

    def __call__(self, key: Key[Array, ""], start: int, stop: int, args: tuple) -> tuple:
        """The sums over these pairs: of each entry; and of all, its square, and the squared lengths."""
        return jax.block_until_ready(self._pairs(key, start, stop, _arrays_of(args)))


def _arrays_of(args: tuple) -> list:
    return eqx.filter(jax.tree.leaves(args), eqx.is_array)


class Trial:
    """The gradient of one choice, and what has been seen of it.

    Attributes:
        choice: what is tried.
        pairs: how many pairs have been drawn.
        seconds: of one gradient, a round each.
    """

    def __init__(self, choice: Any, pairs: Pairs, args: tuple):
        self.choice, self.pairs = choice, 0
        self.seconds: list[float] = []
        self.leaves = pairs.leaves
        self._sums = np.zeros(len(self.leaves))
        self._total = np.zeros(3)
        self._run = lambda key, start, stop: pairs(key, start, stop, args)

    def draw(self, key: Key[Array, ""], pairs: int) -> None:
        """Look at so many further pairs; those of one number are the same in all trials."""
        begun = time.perf_counter()
        by_leaf, total = self._run(key, self.pairs, self.pairs + pairs)
        self.seconds.append((time.perf_counter() - begun) / (2 * pairs))
        self._sums = self._sums + np.asarray(by_leaf, np.float64)
        self._total = self._total + np.asarray(total, np.float64)
        self.pairs += pairs

    @property
    def variance(self) -> float:
        """Of the gradient, summed over its entries."""
        mean, _, size = self._total / self.pairs
        return float(mean) if not mean <= NOISE * size else 0.0

    @property
    def variance_error(self) -> float:
        """The standard error of the variance."""
        mean, square, _ = self._total / self.pairs
        return float(np.sqrt(max(square - mean**2, 0.0) / self.pairs))

    @property
    def by_leaf(self) -> dict[str, float]:
        """The variance of each parameter leaf."""
        return dict(zip(self.leaves, map(float, self._sums / self.pairs), strict=True))

    @property
    def milliseconds(self) -> float:
        """Of one gradient, in the quickest round: what else runs on the machine only adds."""
        return 1e3 * min(self.seconds)

    @property
    def milliseconds_error(self) -> float:
        """By how much the next round was slower; of one round nothing is known, and half its time stands."""
        first, *later = sorted(self.seconds)
        return 1e3 * (later[0] - first if later else first / 2)

    @property
    def cost(self) -> float:
        """Variance times milliseconds: what an answer of given precision takes."""
        return self.variance * self.milliseconds

    @property
    def cost_error(self) -> float:
        """Its standard error."""
        parts = self.variance_error * self.milliseconds, self.milliseconds_error * self.variance
        return float(np.hypot(*parts))

    def is_behind(self, other: Trial) -> bool:
        """Whether its cost is clearly larger; or its time, where neither has a variance."""
        if self.variance == other.variance == 0.0:
            return self.milliseconds > ALIKE * other.milliseconds
        if not np.isfinite(self.cost):
            return np.isfinite(other.cost)
        return self.cost - other.cost > CLEARLY * np.hypot(self.cost_error, other.cost_error)


def _square(x):
    return jnp.sum(jnp.abs(x) ** 2, dtype=jnp.float32)


def contest(trials: list[Trial], key: Key[Array, ""], seconds: float) -> Trial:
    """Draw from all trials in turn, give up those that are clearly behind, and name the winner.

    A tie goes to the one that stands first. At least one round is run, whatever the time.
    """
    end, alive, pairs = time.perf_counter() + seconds, list(trials), FIRST
    for _ in range(ROUNDS):
        for trial in alive:
            trial.draw(key, pairs)
        best = _least(alive)
        alive = [trial for trial in alive if not trial.is_behind(best)]
        if len(alive) == 1 or time.perf_counter() > end:
            break
        pairs *= 2
    best = _least(alive)
    alike = (t for t in alive if (t.cost, t.milliseconds) <= (ALIKE * best.cost, ALIKE * best.milliseconds))
    return next(alike, alive[0])  # none is like another where they are not finite


def _least(trials):
    return min(trials, key=lambda t: (np.nan_to_num(t.cost, nan=np.inf), t.milliseconds))
