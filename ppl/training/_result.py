"""What `fit` returns, what it says of the run that it is from, and how it is kept in a file."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import optax
from jax import numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from .._errors import CheckpointError, FitError
from ._arguments import as_arrays, check_optimizer, named_leaves, trained
from ._chosen import Chosen, chosen_of
from ._file import read, told, write
from ._history import Blocks, read_blocks
from ._levels import empty_levels

WORDS = 4
"""Words of 32 bits by which a key is recognised; it is not told by them."""


class Origin(eqx.Module):
    """By what a run that goes on is recognised: its key, its direction, and how its data come.

    Arrays, so that fits of several runs are of one structure and can be stacked.
    """

    key: np.ndarray
    maximize: np.ndarray
    examples: np.ndarray
    batch_size: np.ndarray

    @classmethod
    def of(cls, key: jax.Array, *, maximize: bool, examples: int | None, batch_size: int | None) -> Origin:
        """That of a run with these arguments; None counts as 0."""
        text = f"{jax.random.key_impl(key)} {np.asarray(jax.random.key_data(key)).tolist()}"
        words = np.frombuffer(hashlib.sha256(text.encode()).digest()[: 4 * WORDS], "<u4").astype(np.uint32)
        counts = [np.asarray(n or 0, np.int64) for n in (examples, batch_size)]
        return cls(words, np.asarray(maximize), *counts)

    def said(self) -> dict[str, Any]:
        """In plain values, for a manifest."""
        return {
            "key": "".join(f"{int(word):08x}" for word in self.key),
            "direction": "up" if self.maximize else "down",
            "examples": int(self.examples),
            "batch_size": int(self.batch_size),
        }


DIFFERS = {
    "key": "another `key`",
    "direction": "the other direction (`maximize`)",
    "examples": "data of another size",
    "batch_size": "another `batch_size`",
}


def check_goes_on(whose: str, earlier: Fit, origin: Origin, opt_state: Any) -> None:
    """Refuse to go on from a fit of another run: its draws, its batches or its optimiser would be others.

    Raises:
        FitError: with what is different, and what came.
    """
    now = origin.said()
    before = now if earlier.origin is None else earlier.origin.said()
    for name, words in DIFFERS.items():
        if before[name] != now[name]:
            came = "" if name == "key" else f": {before[name]} then, {now[name]} now"
            raise FitError(
                f"fit: {whose} is of a run with {words}{came}. Give what it was given to go on with it, or begin a new "
                "run from its parameters, `fitted.params`."
            )
    found, expected = ({name: _shape(x) for name, x in named_leaves(t, "")} for t in (earlier.opt_state, opt_state))
    wrong = next((name for name in (*expected, *found) if found.get(name) != expected.get(name)), None)
    if wrong is not None:
        was, is_ = (shapes.get(wrong, "nothing") for shapes in (found, expected))
        raise FitError(
            f"fit: {whose} is of a run with another `optimizer` or other parameters: at opt_state{wrong} it has {was}, "
            f"and here is {is_}. Give the optimiser that it was given, or begin a new run from its parameters, "
            "`fitted.params`."
        )


def _shape(x):
    return f"{x.dtype}{list(x.shape)}" if hasattr(x, "shape") and hasattr(x, "dtype") else repr(x)


def path_of(what: str, path: Any) -> Path:
    """A path, of whatever kind."""
    try:
        return Path(os.fspath(path))
    except TypeError:
        raise FitError(f"{what} must be a path, and is {path!r}.") from None


class Fit(eqx.Module):
    """What `fit` returns, and what it can go on from.

    Attributes:
        params: the parameters after the last step, of the structure that was given.
        history: the objective at each step, before its update; shape (steps,).
        opt_state: the optimiser's state after the last step.
        state: the objective's own state after the last step; None where it has none.
        skipped: how many steps were left out because they were not finite, an integer; see `on_nonfinite`.
        average: the mean of the parameters over the last steps, of their structure; None without `average_from`.
        origin: by what the run is recognised when it goes on.
        baselines: the baselines that were learned for `reinforce(baseline="auto")`, a dict from the names of sites to
            running means (`.mean`); None where there are none.
        choices: the estimators that `fit(..., estimators="auto")` chose, tuples (step, sites, forks): from that step on
            the objective was `with_estimators(objective, dict(sites), forks=forks)`.

    Examples:
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
    skipped: Int[Array, ""] | int = 0
    average: PyTree = None
    origin: Origin | None = None
    choices: tuple[Chosen, ...] = eqx.field(static=True, default=())
    baselines: PyTree = None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Keep it in one file, all of it or nothing; `load_fit` reads it, and sees when it was altered.

        Args:
            path: where; a file that is there is replaced.

        Raises:
            CheckpointError: it cannot be written.

        Examples:
            >>> import jax, optax, pathlib, tempfile, tracegrad as tg
            >>> path = pathlib.Path(tempfile.mkdtemp()) / "run.fit"
            >>> run = tg.fit(lambda key, x: x**2, 3.0, optax.adam(0.1), key=jax.random.key(0), steps=5, progress=False)
            >>> run.save(path)
            >>> bool(tg.load_fit(path, like=run).params == run.params)
            True
        """
        write_fit(path_of("Fit.save: path", path), self)


def load_fit(
    path: str | os.PathLike[str],
    like: PyTree,
    *,
    optimizer: optax.GradientTransformation | None = None,
    state: PyTree = None,
) -> Fit:
    """A `Fit` from the file that `Fit.save`, or `fit` with a `checkpoint`, wrote.

    The file holds arrays and no code; the structure, and leaves that are no arrays, such as functions, are taken from
    `like`. Arrays are placed as those of `like` are.

    Args:
        path: the file.
        like: a `Fit` of the same structure; or, with `optimizer`, parameters as `fit` was given them.
        optimizer: the optimiser that the run had.
        state: a state like the one that the objective carried, where it carried one.

    Raises:
        CheckpointError: a file that is cut short, altered, foreign, of a newer version, or of another structure, with
            the leaf and what is wrong with it. Nothing is loaded in part.

    Examples:
        >>> import jax, optax, pathlib, tempfile, tracegrad as tg
        >>> path, adam = pathlib.Path(tempfile.mkdtemp()) / "run.fit", optax.adam(0.1)
        >>> run = tg.fit(lambda key, x: x**2, 3.0, adam, key=jax.random.key(0), steps=5, progress=False)
        >>> run.save(path)
        >>> bool(tg.load_fit(path, like=0.0, optimizer=adam).params == run.params)
        True
    """
    if not isinstance(like, Fit):
        if optimizer is None:
            raise CheckpointError(
                "load_fit: `like` must be a `Fit`, or parameters together with the `optimizer` of the run. Write "
                "`load_fit(path, like=params, optimizer=optax.adam(...))`."
            )
        check_optimizer(optimizer)
        arrays, static = trained(like)
        opt_state = as_arrays(optax.with_extra_args_support(optimizer).init(arrays), "opt_state")
        like = Fit(eqx.combine(arrays, static), jnp.zeros(0), opt_state, as_arrays(state, "state"))
    elif optimizer is not None or state is not None:
        raise CheckpointError("load_fit: a `Fit` as `like` has its optimiser's state and its own: pass it alone.")
    return restored(path_of("load_fit: path", path), like)


def write_fit(path: Path, fit: Fit, before: Blocks | None = None) -> None:
    """Write the file of a fit; its history goes on from blocks that are written before, if there are some."""
    steps = len(fit.history) + (0 if before is None else before.steps)
    words = {"steps": steps, "opt_state": str(jax.tree.structure(fit.opt_state))}
    words |= {} if fit.origin is None else fit.origin.said()
    words |= {} if fit.baselines is None else {"baselines": {n: list(x.total.shape) for n, x in fit.baselines.items()}}
    words |= {"choices": [chosen.said() for chosen in fit.choices]} if fit.choices else {}
    words |= {} if before is None or not before.steps else {"before": before.said()}
    write(path, _as_kept(fit, fit.origin), words)


def restored(path: Path, like: Fit) -> Fit:
    """The fit of a file, with an origin if it has one, and with the history that is in blocks beside it."""
    some = Origin.of(jax.random.key(0), maximize=False, examples=None, batch_size=None)
    run = told(path)
    levels = empty_levels(run["baselines"]) if "baselines" in run else None
    like = dataclasses.replace(_as_kept(like, some if "key" in run else None), baselines=levels)
    fit = read(path, like, growing=("history",))
    fit = dataclasses.replace(fit, choices=chosen_of(path, run.get("choices", [])))
    if "before" not in run:
        return fit
    latest = np.asarray(fit.history)
    history = np.concatenate([read_blocks(path, run["before"], latest), latest])
    return dataclasses.replace(fit, history=jax.device_put(history))


def _as_kept(fit: Fit, origin: Origin | None) -> Fit:
    """With a count that is an array, and this origin."""
    return dataclasses.replace(fit, skipped=jnp.asarray(fit.skipped, jnp.int32), origin=origin)
