"""`tune_estimators`: which gradient estimator at which site, by measurement."""

from __future__ import annotations

import time
from collections.abc import Callable

import jax
from jaxtyping import Array, Key

from ..transforms import EstimatorError
from ..transforms._internal import check_key, positive, whole
from ._chosen_estimators import EstimatorChoice
from ._gradients import one_float
from ._tuner import Tuner


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
    begun = time.perf_counter()
    tuner = Tuner(one_float("tune_estimators", objective), args, key, _numbers(argnums, args))
    return tuner.tune(args, key, float(budget), begun=begun)


def _numbers(argnums, args) -> tuple[int, ...] | None:
    if argnums is None:
        return None
    given = argnums if isinstance(argnums, tuple) else (argnums,)
    return tuple(
        whole("tune_estimators", "argnums", n, EstimatorError, least=0, most=max(len(args) - 1, 0)) for n in given
    )
