"""`fit`: stochastic gradient optimisation of any objective, as one jitted loop.

The steps run inside the compiled program, many to a dispatch; between dispatches the progress is shown and the values
are checked. The key of a step is folded from the run's key and the step's number, and the rows of a minibatch follow
from the same two, so a run does not depend on how its steps are grouped, nor on where it was left and taken up again.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
import optax
from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from .._errors import ChoiceError, FitError
from ..transforms._internal import check_key, flag, lenient, nonfinite, stop_gradient
from ._arguments import (
    MOST_KEYS,
    as_arrays,
    check_next_state,
    check_optimizer,
    check_outside,
    check_value,
    count_of,
    ends,
    interval_of,
    names_taken,
    trained,
)
from ._data import Batches
from ._parameters import unwrap
from ._progress import Progress

MOST_STEPS = 1000
SECONDS = 0.5


class Fit(eqx.Module):
    """What `fit` returns, and what it can go on from.

    Attributes:
        params: the parameters after the last step, of the structure that was given.
        history: the objective at each step, before its update; shape (steps,).
        opt_state: the optimiser's state after the last step.
        state: the objective's own state after the last step; None where it has none.

    Example:
        >>> import jax, optax, tracegrad as tg
        >>> f = tg.expectation(lambda key, m: tg.transforms.sample(key, tg.dist.Normal(m, 1.0)) ** 2)
        >>> run = tg.fit(f, 3.0, optax.sgd(0.1), key=jax.random.key(0), steps=100)
        >>> run.history.shape, bool(abs(run.params) < 1.0)
        ((100,), True)
    """

    params: PyTree
    history: Float[Array, " steps"]
    opt_state: PyTree
    state: PyTree = None


def _objective_of(objective, static, batches, *, stateful, maximize):
    """The loss, and with it the objective and the next state, of the arrays among the parameters."""
    given = ("key", "params") if batches.data is None else ("key", "params", "batch")
    takes = names_taken(objective, given, stateful=stateful, batched=batches.data is not None)

    def loss(arrays, key, batch, rows, state):
        named = {"scale": batches.size / batches.batch, "indices": batches.indices(rows), "state": state}
        named = {name: named[name] for name in takes}
        value = objective(key, unwrap(eqx.combine(arrays, static)), *batch, **named)
        if stateful:
            if not isinstance(value, tuple) or len(value) != 2:
                raise FitError("fit: with `state`, the objective must return a pair (value, next state).")
            value, following = value
            state = stop_gradient(jax.tree.map(jnp.asarray, check_next_state(state, following)))
        value = check_value(value)
        return (-value if maximize else value), (value, state)

    return loss


class _Now(NamedTuple):
    """What changes from step to step."""

    arrays: Any
    opt_state: Any
    state: Any


def _loss_at(loss, batches, key, step, now, data, rows):
    """The loss at a step, of the arrays alone."""
    batch = batches.at(data, rows)
    return lambda arrays: loss(arrays, jax.random.fold_in(key, step), batch, rows, now.state)


def _slopes(grads):
    """The direction in which the loss rises: for a complex number the conjugate of what JAX calls its derivative."""
    return jax.tree.map(jnp.conj, grads)


def _make_run(loss: Callable, batches: Batches, optimizer: optax.GradientTransformationExtraArgs) -> Callable:
    """The jitted loop: `count` steps from `start`, with the objective of each."""

    def step(i, carry, key, start, rows, data):
        now, values = carry
        at = _loss_at(loss, batches, key, start + i, now, data, None if rows is None else rows[i])
        (value, (objective, state)), grads = jax.value_and_grad(at, has_aux=True)(now.arrays)
        grads = _slopes(grads)
        with lenient():  # optax mixes types of its own
            updates, opt_state = optimizer.update(
                grads, now.opt_state, now.arrays, value=value, grad=grads, value_fn=lambda arrays: at(arrays)[0]
            )
        now = _Now(optax.apply_updates(now.arrays, updates), opt_state, state)
        return now, values.at[i].set(objective.astype(values.dtype))

    @jax.jit
    def run(now, key, start, count, values, rows, data):
        return lax.fori_loop(0, count, lambda i, carry: step(i, carry, key, start, rows, data), (now, values))

    return run


def fit(
    objective: Callable,
    params: PyTree,
    optimizer: optax.GradientTransformation,
    *,
    key: Key[Array, ""],
    steps: int,
    data: PyTree = None,
    batch_size: int | None = None,
    state: PyTree = None,
    maximize: bool = False,
    progress: bool = True,
    callback: Callable[[Fit], Any] | None = None,
    every: int | None = None,
) -> Fit:
    """Optimise parameters by stochastic gradients.

    Args:
        objective: `objective(key, params)`, or `objective(key, params, batch)` with data; it returns a scalar. Its
            derivative is taken with JAX, so a program that samples goes through `expectation`. Two further arguments
            are given by name to an objective that has them: `scale`, len(data) / batch_size, the factor of a sum over
            the batch; and `indices`, which examples the batch holds, integers of shape (batch_size,), so that what
            belongs to an example (a row of the parameters, say) meets its own.
        params: a pytree; its floating-point arrays and numbers, complex ones too, are trained, the rest is left as it
            is. Leaves may be `positive(...)` and its kin, or `frozen(...)`: the objective sees their values. Or the
            `Fit` of an earlier call, to go on from: with the same key and data, the run is the one that was never left.
        optimizer: an optax optimiser.
        key: one typed key.
        steps: the number of steps (further steps, after an earlier `Fit`).
        data: a pytree of arrays with the examples along their leading axis, or None. Arrays that are spread over the
            devices of a mesh stay so in the batch; where the minibatch cannot be divided as they are, it says so.
        batch_size: examples in a minibatch. Each pass over the data has an order of its own, and every example is
            used equally often. None gives all data at every step, in the order that it has.
        state: what the objective carries from step to step (a `MovingAverage`, say), any pytree of arrays, or None.
            With it the objective takes an argument `state`, and returns `(value, next state)`; no derivative is taken
            in it.
        maximize: whether to ascend; otherwise the objective is minimised.
        progress: whether to show a line with the objective (mean and standard error over the latest steps) and the
            rate.
        callback: called with the `Fit` so far, to look at held-out data, to save it, ...; returning True (NumPy's or
            JAX's as well) ends the run, False or None goes on, and nothing else may be returned.
        every: how many steps lie between two calls of `callback`; None calls it after the last step only.

    Returns:
        A `Fit`: params, history (the objective itself at each step, shape (steps,)), opt_state, state.

    Raises:
        FitError: arguments that do not fit together; or an objective or a gradient that is no longer finite, with the
            step, the operation and the sample site that it comes from.

    Example:
        >>> import jax, optax, tracegrad as tg
        >>> model = tg.gen(lambda: tg.sample("x", tg.dist.Normal(tg.sample("z", tg.dist.Normal(0.0, 1.0)), 1.0)))
        >>> guide = tg.gen(lambda m: tg.sample("z", tg.dist.Normal(m, 0.7)))
        >>> objective = tg.elbo(model, guide, {"x": 2.0})
        >>> result = tg.fit(
        ...     lambda key, m: objective(key, (), m), 0.0, optax.adam(0.05),
        ...     key=jax.random.key(0), steps=500, maximize=True, progress=False,
        ... )
        >>> bool(abs(result.params - 1.0) < 0.3)
        True
    """
    check_key(key, "fit")
    check_outside(key, params, data, state)
    check_optimizer(optimizer)
    steps, every = count_of("steps", steps), interval_of(every, callback)
    maximize, progress = flag("fit", "maximize", maximize, FitError), flag("fit", "progress", progress, FitError)
    earlier = params if isinstance(params, Fit) else Fit(params, jnp.zeros(0), None, None)
    begun = len(earlier.history)
    count_of("the number of steps in all", begun + steps, MOST_KEYS)
    arrays, static = trained(earlier.params)
    state = earlier.state if state is None else state
    step_key, data_key = jax.random.split(key)
    batches = Batches(data, batch_size, data_key)
    loss = _objective_of(objective, static, batches, stateful=state is not None, maximize=maximize)

    optimizer = optax.with_extra_args_support(optimizer)
    opt_state = earlier.opt_state if isinstance(params, Fit) else optimizer.init(arrays)
    now = _Now(arrays, as_arrays(opt_state, "opt_state"), as_arrays(state, "state"))
    run, most = _make_run(loss, batches, optimizer), min(steps, every or steps, MOST_STEPS)
    values, rows = jnp.zeros((most,)), np.zeros((most, batches.batch), np.int32) if batches.mini else None
    history, bar = [np.asarray(earlier.history)], Progress(steps, show=progress)
    done, end, count = begun, begun + steps, 1

    def result():
        return Fit(eqx.combine(now.arrays, static), jnp.asarray(np.concatenate(history)), now.opt_state, now.state)

    while done < end:
        call_at = end if every is None else min(end, done - (done - begun) % every + every)
        count = min(count, call_at - done, most)
        if rows is not None:
            rows[:count] = batches.rows(done, count)
        clock, begin = time.perf_counter(), (now, step_key, np.uint32(done))
        now, values = run(*begin, count, values, rows, batches.data)
        latest = np.asarray(values[:count])
        if not (np.isfinite(latest).all() and _as_finite_as(arrays, now.arrays)):
            again = functools.partial(run, *begin, values=values, rows=rows, data=batches.data)
            loss_at = functools.partial(_loss_at, loss, batches, step_key)
            raise _went_bad(again, loss_at, arrays, latest, done, rows, batches.data)
        done += count
        history.append(latest)
        bar.update(done - begun, latest)
        if time.perf_counter() - clock < SECONDS:
            count *= 2
        if callback is not None and done == call_at and ends(callback, result()):
            bar.close()
            break
    return result()


def _as_finite_as(first, now):
    """Whether entries are finite wherever they were at first (a bound among the parameters may be infinite)."""
    return all(
        (np.isfinite(np.asarray(y)) | ~np.isfinite(np.asarray(x))).all()
        for x, y in zip(jax.tree.leaves(first), jax.tree.leaves(now), strict=True)
    )


def _origin(fun, arrays) -> str:
    """Where a number that is not finite comes from, as the error says it; the data of a step are known here."""
    try:
        came = nonfinite(fun, arrays)
    except ChoiceError as error:
        return f". {error}".removesuffix(".")
    return "" if came is None else f", first in {came}"


def _went_bad(again, loss_at, first, values, done, rows, data):
    """The error for an objective or a gradient that is not finite: found by running up to it once more."""
    n = next((i for i in range(len(values)) if not np.isfinite(values[i])), len(values))
    while n and not _as_finite_as(first, again(count=n)[0].arrays):
        n -= 1
    now, step = again(count=n)[0], done + n
    loss = loss_at(step, now, data, None if rows is None else rows[n])
    if not np.isfinite(values[n]):
        came = _origin(lambda arrays: loss(arrays)[0], now.arrays)
        what = f"the objective is {values[n]}"
    else:
        came = _origin(jax.grad(lambda arrays: loss(arrays)[0]), now.arrays)
        grads = jax.grad(lambda arrays: loss(arrays)[0])(now.arrays)
        bad = [jax.tree_util.keystr(path) for path, x in jax.tree.leaves_with_path(grads) if not np.isfinite(x).all()]
        what = f"the gradient of params{bad[0]} is not finite" if bad else "the optimiser's update is not finite"
    return FitError(
        f"fit: {what} at step {step}{came}. Look for a density at a value "
        "outside its support, a scale that reached zero, or a learning rate that is too high."
    )
