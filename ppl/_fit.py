"""`fit`: stochastic gradient optimisation of any objective, as one jitted loop.

The steps run inside the compiled program, many to a dispatch; between dispatches the progress is shown and the values
are checked. The key of a step is folded from the run's key and the step's number, and so are the minibatches, so a
run does not depend on how its steps are grouped, nor on where it was left and taken up again.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
import optax
from jax import lax
from jax import numpy as jnp

from ._errors import ChoiceError, FitError
from ._progress import Progress
from .transforms import check_key, nonfinite

MOST_STEPS = 1000
SECONDS = 0.5


class Fit(eqx.Module):
    """What `fit` returns, and what it can go on from.

    Attributes:
        params: the parameters after the last step, of the structure that was given.
        history: the objective at each step, before its update; shape (steps,).
        opt_state: the optimiser's state after the last step.
        state: the objective's own state after the last step; None where it has none.
    """

    params: Any
    history: jax.Array
    opt_state: Any
    state: Any = None


def _minibatches(key: jax.Array, size: int, batch: int) -> Iterator[np.ndarray]:
    """Indices of minibatches: passes over the data, each in its own order, one running into the next."""
    seed = np.asarray(jax.random.key_data(key)).ravel().tolist()
    left, epoch = np.zeros(0, np.int32), 0
    while True:
        while len(left) < batch:
            order = np.random.default_rng([*seed, epoch]).permutation(size).astype(np.int32)
            left, epoch = np.concatenate([left, order]), epoch + 1
        yield left[:batch]
        left = left[batch:]


def _check_data(data, batch_size):
    sizes = {jnp.shape(x)[0] if jnp.ndim(x) else -1 for x in jax.tree.leaves(data)}
    if len(sizes) != 1 or -1 in sizes:
        came = sorted("none" if n < 0 else str(n) for n in sizes)
        raise FitError(f"fit: the arrays of `data` must have one leading size, and have {came}.")
    (size,) = sizes
    if not 0 < (batch_size or size) <= size:
        raise FitError(f"fit: batch_size must be between 1 and the number of examples, {size}, and is {batch_size}.")
    return size


def _objective_of(objective, static, scale, given, *, stateful, maximize):
    """The loss, and with it the objective and the next state, of the arrays among the parameters.

    The first `given` arguments of the objective are the key, the parameters and the batch, whatever their names.
    """
    extra = {"scale": scale} if "scale" in list(inspect.signature(objective).parameters)[given:] else {}

    def loss(arrays, key, batch, state):
        own = {"state": state} if stateful else {}
        value = objective(key, eqx.combine(arrays, static), *batch, **extra, **own)
        if stateful:
            if not isinstance(value, tuple) or len(value) != 2:
                raise FitError("fit: with `state`, the objective must return a pair (value, next state).")
            value, state = value
            state = jax.tree.map(lax.stop_gradient, state)
        if jnp.shape(value) != ():
            raise FitError(
                f"fit: the objective must return a scalar, and returned the shape {list(jnp.shape(value))}. Take the "
                "mean over the batch."
            )
        return (-value if maximize else value), (value, state)

    return loss


class _Now(NamedTuple):
    """What changes from step to step."""

    arrays: Any
    opt_state: Any
    state: Any


def _make_run(loss: Callable, optimizer: optax.GradientTransformationExtraArgs) -> Callable:
    """The jitted loop: `count` steps from `start`, with the objective of each."""

    def step(i, carry, key, start, indices, data):
        now, values = carry
        at = _call(loss, key, start + i, now, indices[i], data)
        (value, (objective, state)), grads = jax.value_and_grad(at, has_aux=True)(now.arrays)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes types of its own
            updates, opt_state = optimizer.update(
                grads, now.opt_state, now.arrays, value=value, grad=grads, value_fn=lambda arrays: at(arrays)[0]
            )
        return _Now(optax.apply_updates(now.arrays, updates), opt_state, state), values.at[i].set(objective)

    @jax.jit
    def run(now, key, start, count, values, indices, data):
        return lax.fori_loop(0, count, lambda i, carry: step(i, carry, key, start, indices, data), (now, values))

    return run


def fit(
    objective: Callable,
    params: Any,
    optimizer: optax.GradientTransformation,
    *,
    key: jax.Array,
    steps: int,
    data: Any = None,
    batch_size: int | None = None,
    state: Any = None,
    maximize: bool = False,
    progress: bool = True,
    callback: Callable[[Fit], Any] | None = None,
    every: int | None = None,
) -> Fit:
    """Optimise parameters by stochastic gradients.

    Args:
        objective: `objective(key, params)`, or `objective(key, params, batch)` with data; it returns a scalar. Its
            derivative is taken with JAX, so a program that samples goes through `expectation`. A further argument
            named `scale`, if it has one, receives len(data) / batch_size: the factor of a sum over the batch.
        params: a pytree; its floating-point arrays are trained, the rest is left as it is. Or the `Fit` of an earlier
            call, to go on from: with the same key and data, the run is the one that was never left.
        optimizer: an optax optimiser.
        key: one typed key.
        steps: the number of steps (further steps, after an earlier `Fit`).
        data: a pytree of arrays with the examples along their leading axis, or None.
        batch_size: examples in a minibatch; None takes all data at every step. Each pass over the data has an order
            of its own, and every example is used equally often.
        state: what the objective carries from step to step (a `MovingAverage`, say), any pytree of arrays, or None.
            With it the objective takes an argument `state`, and returns `(value, next state)`; no derivative is taken
            in it.
        maximize: whether to ascend; otherwise the objective is minimised.
        progress: whether to show a line with the objective (mean and standard error over the latest steps) and the
            rate.
        callback: called with the `Fit` so far, to look at held-out data, to save it, ...; returning True ends the run.
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
    _check_counts(steps, callback, every)
    earlier = params if isinstance(params, Fit) else None
    params = params if earlier is None else earlier.params
    params = jax.tree.map(lambda x: jnp.asarray(x) if isinstance(x, float | np.ndarray) else x, params)
    arrays, static = eqx.partition(params, eqx.is_inexact_array)
    if not jax.tree.leaves(arrays):
        raise FitError("fit: `params` holds no floating-point array to train.")
    if data is None and batch_size is not None:
        raise FitError("fit: batch_size is given without data. Pass the arrays as `data`.")
    size = 1 if data is None else _check_data(data, batch_size)
    batch = size if batch_size is None else batch_size
    data = jax.tree.map(jnp.asarray, data)

    optimizer = optax.with_extra_args_support(optimizer)
    if earlier is None:
        now = _Now(arrays, optimizer.init(arrays), jax.tree.map(jnp.asarray, state))
    else:
        now = _Now(arrays, earlier.opt_state, earlier.state if state is None else jax.tree.map(jnp.asarray, state))
    given = 2 if data is None else 3
    loss = _objective_of(objective, static, size / batch, given, stateful=now.state is not None, maximize=maximize)
    run, most = _make_run(loss, optimizer), min(steps, every or steps, MOST_STEPS)
    values, indices = jnp.zeros((most,)), np.zeros((most, batch), np.int32)
    begun = 0 if earlier is None else len(earlier.history)
    step_key, data_key = jax.random.split(key)
    batches = itertools.islice(_minibatches(data_key, size, batch), begun if data is not None else 0, None)
    history = np.concatenate([np.zeros(0) if earlier is None else earlier.history, np.zeros(steps)])
    bar, done, end, count = Progress(steps, show=progress), begun, begun + steps, 1

    def result():
        return Fit(eqx.combine(now.arrays, static), jnp.asarray(history[:done]), now.opt_state, now.state)

    while done < end:
        call_at = end if every is None else min(end, done - (done - begun) % every + every)
        count = min(count, call_at - done, most)
        if data is not None:
            indices[:count] = [next(batches) for _ in range(count)]
        clock, before = time.perf_counter(), now
        now, values = run(before, step_key, done, count, values, indices, data)
        history[done : done + count] = latest = np.asarray(values[:count])
        if not (np.isfinite(latest).all() and _as_finite_as(arrays, now.arrays)):
            again = functools.partial(run, before, step_key, done, values=values, indices=indices, data=data)
            raise _went_bad(again, functools.partial(_call, loss, step_key), arrays, latest, done, indices, data)
        done += count
        bar.update(done - begun, latest)
        if time.perf_counter() - clock < SECONDS:
            count *= 2
        if callback is not None and done == call_at and callback(result()) is True:
            bar.close()
            break
    return result()


def _check_counts(steps, callback, every):
    for name, given in (("steps", steps), ("every", every)):
        if given is not None and (not isinstance(given, int) or given < 1):
            raise FitError(f"fit: {name} must be a positive integer, and is {given!r}.")
    if every is not None and callback is None:
        raise FitError("fit: `every` is given without a `callback` to call.")


def _as_finite_as(first, now):
    """Whether entries are finite wherever they were at first (a bound among the parameters may be infinite)."""
    return all(
        (np.isfinite(np.asarray(y)) | ~np.isfinite(np.asarray(x))).all()
        for x, y in zip(jax.tree.leaves(first), jax.tree.leaves(now), strict=True)
    )


def _call(loss, key, step, now, indices, data):
    """The loss of the arrays at a step."""
    batch = () if data is None else (jax.tree.map(lambda x: x[indices], data),)
    return lambda arrays: loss(arrays, jax.random.fold_in(key, step), batch, now.state)


def _origin(fun, arrays) -> str:
    """Where a number that is not finite comes from, as the error says it; the data of a step are known here."""
    try:
        came = nonfinite(fun, arrays)
    except ChoiceError as error:
        return f". {error}".removesuffix(".")
    return "" if came is None else f", first in {came}"


def _went_bad(again, loss_at, first, values, done, indices, data):
    """The error for an objective or a gradient that is not finite: found by running up to it once more."""
    n = next((i for i in range(len(values)) if not np.isfinite(values[i])), len(values))
    while n and not _as_finite_as(first, again(count=n)[0].arrays):
        n -= 1
    now, step = again(count=n)[0], done + n
    loss = loss_at(step, now, indices[n], data)
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
