"""`check_unbiased`: is the mean of a gradient right?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ._gradients import gradient_of, moments
from .transforms import EstimatorError, check_key, choose_estimators, enum, is_inexact, reinforce, table


@dataclass(frozen=True)
class BiasReport:
    """What `check_unbiased` found.

    Attributes:
        passed: whether no entry is off.
        max_abs_z: the largest distance from the reference in standard errors.
        reference: what the estimates were compared with.
        draws: how many draws were made.
        rows: for the value and each parameter leaf: name, estimate, reference, standard error (all at the entry that is
            furthest off), and z.
    """

    passed: bool
    max_abs_z: float
    reference: str
    draws: int
    rows: tuple[tuple[str, float, float, float, float], ...]

    def __bool__(self):
        return self.passed

    def __str__(self):
        head = ("entry", "estimate", "reference", "std. error", "z")
        rows = [(name, *(f"{x:.5g}" for x in numbers[:3]), f"{numbers[3]:.2f}") for name, *numbers in self.rows]
        verdict = "passed" if self.passed else "FAILED: biased"
        return f"{verdict}, {self.draws} draws against {self.reference}\n{table(head, rows)}"


def check_unbiased(objective: Callable, *args, key: jax.Array, exact: Any = None, draws: int = 100_000) -> BiasReport:
    """Test whether the value and the gradient of an objective have the right means.

    Estimates over many draws are compared with a reference, entry by entry, in two stages: within 4 standard errors at
    `draws`, else with a fresh key and 16 times as many within 5. A right estimator fails about once in 1e6 entries; a
    bias of 7 standard errors at the first stage is seen nearly always.

    The reference is `exact` if given; else exact enumeration, where every site has a finite support and none is in a
    loop, a branch or a plate; else the score function at every site that allows it, which is unbiased wherever the
    densities are smooth in the parameters.

    Args:
        objective: `objective(key, *args) -> scalar`, an `expectation` or a function of one.
        *args: its arguments; derivatives are taken in all floating-point arrays among them.
        key: one typed key.
        exact: a function of `*args` that returns the exact expectation; or the pair of its value and its gradients, a
            tuple of the structure of `args`.
        draws: how many draws the first stage makes.

    Returns:
        A `BiasReport`: passed, max_abs_z, rows; it prints as a table and is true when it passed.

    Example:
        >>> import jax, tracegrad as tg
        >>> coin = tg.gen(lambda p: tg.sample("b", tg.dist.Bernoulli(p), estimator=tg.reinforce()))
        >>> f = tg.expectation(lambda key, p: 4.0 * coin.simulate(key, p).retval)
        >>> tg.check_unbiased(f, 0.25, key=jax.random.key(0), draws=10_000).passed
        True
    """
    check_key(key, "check_unbiased")
    run, names, at, point = gradient_of(objective, args)
    first, second, other = jax.random.split(key, 3)
    name, expected = _reference(objective, run, at, point, args, exact, other, draws)
    report = _compare(names, moments(run, first, draws), expected, name, draws, limit=4.0)
    if not report.passed:
        if exact is None and name == SCORE:
            expected = _reference(objective, run, at, point, args, exact, jax.random.fold_in(other, 1), 16 * draws)[1]
        report = _compare(names, moments(run, second, 16 * draws), expected, name, 16 * draws, limit=5.0)
    return report


SCORE = "the score function at every site"


def _reference(objective, run, at, point, args, exact, key, draws):
    if exact is not None:
        if callable(exact):
            value, grads = jax.value_and_grad(lambda xs: exact(*at(xs)))(point)
        else:
            value, grads = exact
            grads = [g for g, x in zip(jax.tree.leaves(grads), jax.tree.leaves(args), strict=True) if _trains(x)]
        return "given values", [(np.asarray(y, np.float64), 0.0) for y in (value, *grads)]
    enumerated = choose_estimators(objective, lambda label, present: enum())
    try:
        values = jax.jit(lambda k: run(k, enumerated))(key)
        return "exact enumeration", [(np.asarray(y, np.float64), 0.0) for y in values]
    except EstimatorError:
        pass

    def score(label, present):
        return reinforce() if not isinstance(present, type(enum())) else None

    scored = choose_estimators(objective, score, keep_refused=True)
    return SCORE, moments(lambda k: run(k, scored), key, draws)


def _trains(x):
    return isinstance(x, float) or is_inexact(x)


def _compare(names, found, expected, reference, draws, *, limit):
    rows = []
    for name, (mean, error), (truth, doubt) in zip(names, found, expected, strict=True):
        off = np.ravel(mean - truth)
        scale = np.ravel(np.sqrt(error**2 + np.asarray(doubt) ** 2) + np.zeros_like(mean))
        rounding = 1e-5 * np.ravel(np.maximum(np.abs(truth), np.abs(mean)) + np.zeros_like(mean)) + 1e-7
        z = off / np.sqrt(scale**2 + rounding**2)
        i = int(np.argmax(np.abs(z)))
        truth = np.ravel(truth + np.zeros_like(mean))
        rows.append((name, float(np.ravel(mean)[i]), float(truth[i]), float(scale[i]), float(z[i])))
    worst = max(abs(z) if np.isfinite(z) else np.inf for *_, z in rows)
    return BiasReport(worst <= limit, worst, reference, draws, tuple(rows))
