"""`check_unbiased`: is the mean of a gradient right?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Key

from ..transforms import EstimatorError, choose_estimators, enum, reinforce
from ..transforms._internal import check_key, is_inexact, outcome_sum, states_gradient, table, whole
from ._gradients import gradient_of, moments, one_float
from ._reference_probabilities import own_probabilities


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

    Examples:
        >>> import jax, tracegrad as tg
        >>> f = tg.expectation(lambda key, p: 4.0 * tg.transforms.sample(key, tg.dist.Bernoulli(p)))
        >>> report = tg.check_unbiased(f, 0.25, key=jax.random.key(0), draws=10_000)
        >>> report.passed, report.reference, [row[0] for row in report.rows]
        (True, 'exact enumeration of 2 outcomes', ['value', 'args[0]'])
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


def check_unbiased(
    objective: Callable, *args, key: Key[Array, ""], exact: Any = None, draws: int = 100_000, limit: int = 1 << 16
) -> BiasReport:
    """Test whether the value and the gradient of an objective have the right means.

    Estimates over many draws are compared with a reference, entry by entry, in two stages: within 4 standard errors at
    `draws`, else with a fresh key and 16 times as many within 5. A right estimator fails about once in 1e6 entries; a
    bias of 7 standard errors at the first stage is seen nearly always.

    The reference is `exact` if given; else exact enumeration, where every site has a finite support, in loops, plates
    and branches too, as far as there are no more outcomes than `limit`, with probabilities apart from those that
    estimators use; else the score function at every site that allows it, which is unbiased wherever the densities are
    smooth in the parameters. The report names the reference, and why it is not the enumeration.

    Args:
        objective: `objective(key, *args) -> scalar`, an `expectation` or a function of one.
        *args: its arguments; derivatives are taken in all floating-point arrays among them.
        key: one typed key.
        exact: a function of `*args` that returns the exact expectation; or the pair of its value and its gradients, a
            tuple of the structure of `args`.
        draws: how many draws the first stage makes.
        limit: the largest number of outcomes, all draws together, that the enumeration sums over.

    Returns:
        A `BiasReport`: passed, max_abs_z, rows; it prints as a table and is true when it passed.

    Raises:
        EstimatorError: the objective states its own gradient (`leave_one_out`, `vimco`, `dreg`, ...), so that nothing
            but `exact` can be its reference.

    Examples:
        >>> import jax, tracegrad as tg
        >>> coin = tg.gen(lambda p: tg.sample("b", tg.dist.Bernoulli(p), estimator=tg.reinforce()))
        >>> f = tg.expectation(lambda key, p: 4.0 * coin.simulate(key, p).retval)
        >>> tg.check_unbiased(f, 0.25, key=jax.random.key(0), draws=10_000).passed
        True
    """
    check_key(key, "check_unbiased")
    objective = one_float("check_unbiased", objective)
    draws = whole("check_unbiased", "draws", draws, EstimatorError, least=2)
    limit = whole("check_unbiased", "limit", limit, EstimatorError)
    run, names, at, point = gradient_of(objective, args)
    first, second, other = jax.random.split(key, 3)
    if exact is None:
        name, reference = _reference(objective, run, at, point, other, draws, limit)
    else:
        name, reference = "given values", _given(exact, at, point, args)
    report = _compare(names, moments(run, first, draws), reference(1), name, draws, limit=4.0)
    if not report.passed:
        report = _compare(names, moments(run, second, 16 * draws), reference(16), name, 16 * draws, limit=5.0)
    return report


def _given(exact, at, point, args):
    if callable(exact):
        exact = one_float("check_unbiased: `exact`", exact)
        value, grads = jax.value_and_grad(lambda xs: exact(*at(xs)))(point)
    else:
        value, grads = _pair(exact)
        grads = [g for g, x in zip(jax.tree.leaves(grads), jax.tree.leaves(args), strict=True) if _trains(x)]
    return _fixed([value, *grads])


def _pair(exact):
    if not (isinstance(exact, tuple | list) and len(exact) == 2):
        raise EstimatorError(
            "check_unbiased: `exact` is a function of the arguments that returns the exact expectation, or the pair of "
            f"its value and its gradients, and got {exact!r}."
        )
    return exact


def _fixed(values):
    """A reference without error, however many draws it is compared with."""
    found = [(np.asarray(y, np.float64), 0.0) for y in values]
    return lambda times: found


def _reference(objective, run, at, point, key, draws, limit):
    """The name of the reference, and from how many times the draws to its values with their standard errors."""
    if states_gradient(lambda key, xs: objective(key, *at(xs)), key, point):
        raise EstimatorError(
            "check_unbiased: the objective states its own gradient (as leave_one_out, vimco, dreg and vargrad do), so "
            "other estimators cannot be put in its place. Give what it should be: "
            "`exact=lambda *args: ...`, the exact expectation, or the pair of its value and gradients."
        )
    try:
        mean = outcome_sum(objective, limit=limit, weigh=own_probabilities)
        (value, outcomes), grads = jax.value_and_grad(lambda xs: mean(key, *at(xs)), has_aux=True)(point)
        return f"exact enumeration of {outcomes} outcomes", _fixed([value, *grads])
    except EstimatorError as error:
        why = str(error)
    scored = choose_estimators(objective, _score, keep_refused=True)

    def found(times):
        return moments(lambda k: run(k, scored), jax.random.fold_in(key, times), times * draws)

    return f"the score function at every site ({why.rstrip('.')})", found


def _score(label, present):
    return reinforce() if not isinstance(present, type(enum())) else None


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
