"""`fit`: stochastic gradient optimisation of any objective, as one jitted loop.

The steps run inside the compiled program, many to a dispatch; between dispatches the progress is shown, the values are
checked and files are written. What a step draws, and which rows it sees, follow from the run's key and the step's
number, so a run does not depend on how its steps are grouped, nor on where it was left and taken up again.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import numpy as np
import optax
from jax import numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Key, PyTree

from .._errors import FitError
from ..transforms._internal import check_key, flag, one_of, whole
from ._arguments import (
    MOST_KEYS,
    as_arrays,
    check_optimizer,
    check_outside,
    count_of,
    ends,
    interval_of,
    trained,
)
from ._checkpoints import EVERY, KEEP, Checkpoints, begun
from ._choosing import LEGS, Choosing
from ._chosen import AUTO, applied, check_estimators
from ._loop import Now, objective_of
from ._mesh import check_mesh, everywhere
from ._plateau import WINDOW, Plateau
from ._progress import Progress
from ._result import Fit, Origin, check_goes_on, path_of
from ._run import POLICIES, Run
from ._signals import listening
from ._streams import batches_of, is_loader

MOST_STEPS = 1000
"""Steps of one dispatch at most: their objectives, and the rows of their batches, wait for its end."""
SECONDS = 0.5
"""A dispatch that took less has twice as many steps the next time."""


def _checkpoints_of(folder, every, keep, resume):
    """The folder of a run, checked; None without one."""
    if folder is None:
        for name, given in (("checkpoint_every", every), ("keep", keep)):
            if given is not None:
                raise FitError(f"fit: `{name}` is given without a folder `checkpoint`.")
        if resume:
            raise FitError("fit: `resume=True` is given without a folder `checkpoint` to go on from.")
        return None
    every = EVERY if every is None else count_of("checkpoint_every", every)
    keep = KEEP if keep is None else count_of("keep", keep)
    return Checkpoints(path_of("fit: `checkpoint`", folder), every, keep)


class _Clock:
    """How many steps a dispatch takes: more as long as they are quick, and none beyond what must be seen in between."""

    def __init__(self, most: int):
        self.most, self.count, self.began = most, 1, 0.0

    def next(self, left: int) -> int:
        """For the next dispatch, where so many steps are left until something is to be done."""
        quick = jax.process_count() > 1 or time.perf_counter() - self.began < SECONDS
        self.count = min(2 * self.count if self.began and quick else self.count, self.most)
        self.began = time.perf_counter()
        return min(self.count, left)


def _next_after(done: int, every: int | None, end: int, begun: int = 0) -> int:
    """The next step at which something is done every so often, counted from where it began."""
    return end if every is None else min(end, done - (done - begun) % every + every)


def _start_of(
    params: Any, state: Any, optimizer: optax.GradientTransformationExtraArgs, origin: Origin, *, averages: bool
) -> Fit:
    """What a run begins from, all in arrays: parameters, or an earlier fit that it may go on from."""
    earlier = params if isinstance(params, Fit) else Fit(params, jnp.zeros(0), None)
    arrays, static = trained(earlier.params)
    if isinstance(params, Fit):
        check_goes_on("the `Fit` that it was given", params, origin, eqx.filter_eval_shape(optimizer.init, arrays))
    opt_state = as_arrays(earlier.opt_state if isinstance(params, Fit) else optimizer.init(arrays), "opt_state")
    state = as_arrays(earlier.state if state is None else state, "state")
    skipped = jnp.asarray(earlier.skipped, jnp.int32)
    params = eqx.combine(arrays, static)
    average = (params if earlier.average is None else earlier.average) if averages else None
    return Fit(
        params,
        earlier.history,
        opt_state,
        state,
        skipped,
        average,
        origin,
        choices=earlier.choices,
        baselines=earlier.baselines,
    )


def _taken_up(checkpoints: Checkpoints, start: Fit, end: int, *, resume: bool) -> Fit:
    """What a run goes on from: the newest good file of its folder, or its beginning."""
    found = begun(checkpoints, start, resume=resume)
    if found is start or start.origin is None:
        return start
    whose, there = f"the newest checkpoint in {checkpoints.folder}", len(found.history)
    check_goes_on(whose, found, start.origin, start.opt_state)
    if not len(start.history) <= there <= end:
        raise FitError(
            f"fit: {whose} is at step {there}, and this run goes from step {len(start.history)} to {end}. `steps` is "
            "the number of all steps, those before it was left among them."
        )
    return found


def _plateau_of(patience: Any, window: Any) -> Plateau | None:
    if patience is None:
        if window is not None:
            raise FitError("fit: `window` is given without `patience`, the number of windows to wait.")
        return None
    window = WINDOW if window is None else whole("fit", "window", window, FitError, least=2)
    return Plateau(window, count_of("patience", patience))


def _has_settled(run: Run, plateau: Plateau | None, latest: np.ndarray, *, maximize: bool) -> bool:
    """Whether the objective has stopped getting better; the run then goes back to the step at which it had."""
    if plateau is None:
        return False
    plateau.see(-latest if maximize else latest)
    if plateau.at is not None:
        run.back_to(plateau.at)
    return plateau.at is not None


def _leg(estimators: Any, tune_every: int | None, steps: int) -> int | None:
    """The steps from one choice of estimators to the next; None where none is made."""
    if estimators != AUTO:
        return None
    return -(-steps // LEGS) if tune_every is None else tune_every


def _say_ended(signal: str, done: int, checkpoints: Checkpoints) -> None:
    warnings.warn(
        f"fit: {signal} ended the run after {done} steps, which are kept in {checkpoints.folder}. The same call with "
        "`resume=True` goes on.",
        stacklevel=3,
    )


def _say_skipped(skipped: int, steps: int) -> None:
    if skipped:
        warnings.warn(
            f"fit: {skipped} of {steps} steps were skipped, for their objective, their gradient or their update was "
            'not finite. `on_nonfinite="raise"` says where that comes from.',
            stacklevel=3,
        )


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
    mesh: Mesh | None = None,
    patience: int | None = None,
    window: int | None = None,
    average_from: int | None = None,
    estimators: Mapping | str | None = None,
    tune_every: int | None = None,
    on_nonfinite: str = "raise",
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    keep: int | None = None,
    resume: bool = False,
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
        data: a pytree of arrays with the examples along their leading axis, tables of columns (pandas, polars) among
            them, or None. Arrays that are spread over the devices of a mesh stay so in the batch; where the minibatch
            cannot be divided as they are, it says so. Of memory-mapped files (`np.memmap`) the rows of the next steps
            are read, and no more. Or a loader, any iterable of batches: it makes its own, so that there is no
            `batch_size`; a batch that is not of the size of the first is left out, with a warning; one that can be gone
            through again is, and an iterator ends the run with its last batch. A run that goes on leaves out as many
            batches as it has had.
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
        mesh: the devices to work on, of this process or of several (`jax.distributed`), on axes of either kind. The
            examples are divided over all of them, and so is the work of every step; parameters are on each. Arrays that
            are spread over several devices already stay as they are. None leaves everything where it is.
        patience: ends the run before `steps` where the objective has stopped getting better: its mean over a window of
            steps was no better than the best one, by more than the error of their difference, in so many windows in a
            row. None takes all steps.
        window: the steps of a window, 50 unless it is said; at least 2.
        average_from: the step from which on the parameters are averaged (Polyak and Ruppert); the mean of what the
            steps from there on gave is `Fit.average`. None averages nothing.
        estimators: a dict from addresses to estimators, as `with_estimators` takes it; or `"auto"`, by which the run
            measures at its first step which estimator is best at each site, and how many forks
            (`tune_estimators`), and again every so often, within 5 % of its time. What it chose is `Fit.choices`. A
            choice is made from what there is before a step, by draws of its own, so that gradients stay unbiased. None
            takes the objective as it is.
        tune_every: the steps from one choice to the next, with which `estimators` is `"auto"`; a quarter of `steps`
            unless it is said.
        on_nonfinite: what becomes of a step whose objective, parameters, optimiser's state or own state are not finite
            (where they were before): `"raise"` a `FitError` with what there was before it (`error.fit`); `"stop"`
            there, and return that, with a warning; or `"skip"` the step, leaving everything as it was. How many were
            skipped the `Fit` says, and a warning.
        checkpoint: a folder in which the run is kept: files that a run killed at any moment goes on from, to the same
            bits. With it, SIGINT (Ctrl-C) and SIGTERM end the run after the dispatch that is on its way, and what there
            is is kept and returned, with a warning; a second signal does what it always does.
        checkpoint_every: the steps from one file to the next, 1000 unless it is said; the last step always has one.
        keep: how many files stay, 3 unless it is said.
        resume: whether to go on from the newest good file in the folder, where there is one. `steps` and all other
            arguments stay those of the whole run; one of another key, direction, optimiser or size is refused. A run
            that its callback, a signal or the end of its data ended goes on, to its last step; one that `patience`
            ended has ended.

    Returns:
        A `Fit`: params, history (the objective itself at each step, shape (steps,)), opt_state, state, choices.

    Raises:
        FitError: arguments that do not fit together; or an objective or a gradient that is no longer finite, with the
            step, the operation and the sample site that it comes from, and the last good `Fit`.
        CheckpointError: files in the folder that cannot be written, or are of another run.

    Examples:
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
    check_outside(key, params, None if is_loader(data) else data, state)
    check_optimizer(optimizer)
    steps, every = count_of("steps", steps), interval_of(every, callback)
    maximize, progress = flag("fit", "maximize", maximize, FitError), flag("fit", "progress", progress, FitError)
    policy = one_of("fit", "on_nonfinite", on_nonfinite, POLICIES, FitError)
    checkpoints = _checkpoints_of(checkpoint, checkpoint_every, keep, flag("fit", "resume", resume, FitError))
    step_key, data_key = jax.random.split(key)
    tune_every = None if tune_every is None else count_of("tune_every", tune_every)
    estimators = check_estimators(estimators, tunes=tune_every is not None)
    mesh = check_mesh(mesh)
    batches = batches_of(data, batch_size, data_key, mesh)
    origin = Origin.of(key, maximize=maximize, examples=batches.examples, batch_size=batches.batch_size)
    optimizer = optax.with_extra_args_support(optimizer)
    tail = None if average_from is None else whole("fit", "average_from", average_from, FitError, least=0)
    start = everywhere(_start_of(params, state, optimizer, origin, averages=tail is not None), mesh)
    begins, plateau = len(start.history), _plateau_of(patience, window)
    end = count_of("the number of steps in all", begins + steps, MOST_KEYS)
    if checkpoints is not None:
        start = _taken_up(checkpoints, start, end, resume=resume)
    arrays, static = trained(start.params)
    loss_of = functools.partial(
        objective_of, objective, static, batches, stateful=start.state is not None, maximize=maximize
    )
    choosing = Choosing(loss_of(), key, every=_leg(estimators, tune_every, steps), begins=begins, end=end)
    start = choosing.goes_on_from(start)
    by_address = estimators if isinstance(estimators, Mapping) else None
    most = min(steps, every or steps, steps if checkpoints is None else checkpoints.every, batches.most or MOST_STEPS)
    most = min(most, MOST_STEPS)
    average = None if start.average is None else trained(start.average)[0]
    now = Now(arrays, start.opt_state, start.state, start.skipped, average, start.baselines)
    run = Run(
        objective,
        lambda chosen: loss_of(applied=applied(chosen, by_address)),
        batches,
        optimizer,
        start,
        now,
        static,
        step_key,
        most=most,
        end=end,
        policy=policy,
        tail=tail,
    )
    bar, clock = Progress(steps, show=progress), _Clock(most)
    with listening(listens=checkpoints is not None) as asked, checkpoints or contextlib.nullcontext():
        run.ended = _has_settled(run, plateau, np.asarray(start.history), maximize=maximize)
        while run.done < end and not run.ended:
            call_at = _next_after(run.done, every, end, begins)
            save_at = end if checkpoints is None else _next_after(run.done, checkpoints.every, end)
            choosing.before_step(run)
            latest = run.take(clock.next(min(call_at, save_at, choosing.next_after(run.done)) - run.done))
            run.ended |= _has_settled(run, plateau, latest, maximize=maximize)
            if len(latest):
                bar.update(run.done - begins, latest)
            if callback is not None and run.done == call_at and ends(callback, run.result()):
                run.ended = True
            if checkpoints is not None:
                signal = asked.by()
                run.ended |= signal is not None
                choosing.before_step(run)  # so that the file has it
                if run.done == save_at or run.ended:
                    checkpoints.save(run.done, run.result)
                if signal is not None:
                    _say_ended(signal, run.done, checkpoints)
    if run.ended:
        bar.close()
    result = run.result()
    choosing.say_if_none(run)
    _say_skipped(int(result.skipped), len(result.history))
    return result
