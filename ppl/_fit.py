"""`fit`: stochastic gradient optimisation of any objective, as one jitted loop.

The steps run inside the compiled program, many to a dispatch; between dispatches the progress is shown and the values
are checked. The key of a step is folded from the run's key and the step's number, and so are the minibatches, so a
run does not depend on how its steps are grouped.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import numpy as np
import optax
from jax import lax
from jax import numpy as jnp

from ._errors import FitError
from ._progress import Progress
from .transforms import check_key

MOST_STEPS = 1000
SECONDS = 0.5


class Fit(eqx.Module):
    """What `fit` returns.

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


def _objective_of(objective, static, scale, *, stateful, maximize):
    """The loss, and with it the objective and the next state, of the arrays among the parameters."""
    extra = {"scale": scale} if "scale" in inspect.signature(objective).parameters else {}

    def loss(arrays, key, batch, state):
        given = {"state": state} if stateful else {}
        value = objective(key, eqx.combine(arrays, static), *batch, **extra, **given)
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


def _make_run(loss: Callable, optimizer: optax.GradientTransformation) -> Callable:
    """The jitted loop: `count` steps from `start`, with the objective of each."""
    optimizer = optax.with_extra_args_support(optimizer)

    def step(i, carry, key, start, indices, data):
        params, opt_state, values, state = carry
        key = jax.random.fold_in(key, start + i)
        batch = () if data is None else (jax.tree.map(lambda x: x[indices[i]], data),)
        (value, (objective, after)), grads = jax.value_and_grad(loss, has_aux=True)(params, key, batch, state)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes types of its own
            updates, opt_state = optimizer.update(
                grads, opt_state, params, value=value, grad=grads, value_fn=lambda p: loss(p, key, batch, state)[0]
            )
        return optax.apply_updates(params, updates), opt_state, values.at[i].set(objective), after

    @jax.jit
    def run(params, opt_state, key, start, count, values, state, indices, data):
        return lax.fori_loop(
            0, count, lambda i, c: step(i, c, key, start, indices, data), (params, opt_state, values, state)
        )

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
) -> Fit:
    """Optimise parameters by stochastic gradients.

    Args:
        objective: `objective(key, params)`, or `objective(key, params, batch)` with data; it returns a scalar. Its
            derivative is taken with JAX, so a program that samples goes through `expectation`. An argument named
            `scale`, if it has one, receives len(data) / batch_size: what a sum over the batch is to be multiplied by.
        params: a pytree; its floating-point arrays are trained, the rest is left as it is.
        optimizer: an optax optimiser.
        key: one typed key.
        steps: the number of steps.
        data: a pytree of arrays with the examples along their leading axis, or None.
        batch_size: examples in a minibatch; None takes all data at every step. Each pass over the data has an order
            of its own, and every example is used equally often.
        state: what the objective carries from step to step (a `MovingAverage`, say), any pytree of arrays, or None.
            With it the objective takes an argument `state`, and returns `(value, next state)`; no derivative is taken
            in it.
        maximize: whether to ascend; otherwise the objective is minimised.
        progress: whether to show a line with the objective (mean and standard error over the latest steps) and the
            rate.

    Returns:
        A `Fit`: params, history (the objective itself at each step, shape (steps,)), opt_state, state.

    Raises:
        FitError: arguments that do not fit together, or an objective that is no longer finite, with the step.

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
    if not isinstance(steps, int) or steps < 1:
        raise FitError(f"fit: steps must be a positive integer, and is {steps!r}.")
    params = jax.tree.map(lambda x: jnp.asarray(x) if isinstance(x, float | np.ndarray) else x, params)
    arrays, static = eqx.partition(params, eqx.is_inexact_array)
    if not jax.tree.leaves(arrays):
        raise FitError("fit: `params` holds no floating-point array to train.")
    if data is None and batch_size is not None:
        raise FitError("fit: batch_size is given without data. Pass the arrays as `data`.")
    size = 1 if data is None else _check_data(data, batch_size)
    batch = size if batch_size is None else batch_size
    data = jax.tree.map(jnp.asarray, data)

    state = jax.tree.map(jnp.asarray, state)
    loss = _objective_of(objective, static, size / batch, stateful=state is not None, maximize=maximize)
    run, most = _make_run(loss, optimizer), min(steps, MOST_STEPS)
    opt_state, values = optimizer.init(arrays), jnp.zeros((most,))
    step_key, data_key = jax.random.split(key)
    batches = _minibatches(data_key, size, batch)
    indices = np.zeros((most, batch), np.int32)
    bar, history, done, count = Progress(steps, show=progress), np.zeros(steps), 0, 1
    while done < steps:
        count = min(count, steps - done, most)
        if data is not None:
            indices[:count] = [next(batches) for _ in range(count)]
        begun = time.perf_counter()
        arrays, opt_state, values, state = run(arrays, opt_state, step_key, done, count, values, state, indices, data)
        history[done : done + count] = latest = np.asarray(values[:count])
        _check_finite(latest, done)
        done += count
        bar.update(done, latest)
        if time.perf_counter() - begun < SECONDS:
            count *= 2
    return Fit(eqx.combine(arrays, static), jnp.asarray(history), opt_state, state)


def _check_finite(values, done):
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise FitError(
            f"fit: the objective is {values[bad[0]]} at step {done + int(bad[0])}. Look for a density at a value "
            "outside its support, a scale that reached zero, or a learning rate that is too high."
        )
