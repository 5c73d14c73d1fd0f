"""The folder in which a run keeps what it has: the latest files, and which of them a run goes on from.

Of the history a file has what is since the last full block (`_history.py`); blocks are never taken away.
Files are written by a thread while the run goes on: what it writes are arrays that do not change. At most one is being
written; who asks for the next waits for it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import jax
import numpy as np
from jax.experimental import multihost_utils

from .._errors import CheckpointError, FitError
from ._history import Blocks
from ._result import Fit, restored, write_fit

EVERY = 1000
"""Steps from one file to the next, unless it is said."""
KEEP = 3
"""Files that stay, unless it is said: a damaged one has others behind it."""
NAME = re.compile(r"step-(\d+)\.fit")


class Checkpoints:
    """The files of one run, in one folder; a context in which they are written, at whose end all are there."""

    def __init__(self, folder: Path, every: int, keep: int):
        self.folder, self.every, self.keep = folder, every, keep
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if jax.process_index() == 0:
                for part in folder.glob(".*-*.fit.*.part"):  # what a run that was killed had half written
                    part.unlink(missing_ok=True)
        except OSError as error:
            raise CheckpointError(f"fit: `checkpoint`, {folder}, cannot be made a folder: {error.strerror}.") from error
        self._thread = ThreadPoolExecutor(1, "tracegrad checkpoints")
        self._writing: Future | None = None
        self._blocks = Blocks(folder)

    def files(self) -> list[Path]:
        """Those that are there, the newest first."""
        found = [path for path in self.folder.iterdir() if NAME.fullmatch(path.name)]
        return sorted(found, key=_step_of, reverse=True)

    def newest(self, like: Fit) -> Fit | None:
        """The newest fit that is not damaged; None where there is none. It warns of those that are.

        Raises:
            CheckpointError: the newest good file is of something else.
        """
        for path in self.files():
            try:
                found = restored(path, like)
            except CheckpointError as error:
                if not error.damaged:
                    raise
                warnings.warn(f"fit: a checkpoint is left aside. {error}", stacklevel=3)
                continue
            if len(found.history) != _step_of(path):
                text = f"{path} holds {len(found.history)} steps, which its name does not say. It was renamed."
                warnings.warn(f"fit: a checkpoint is left aside. {text}", stacklevel=3)
                continue
            return found
        return None

    def save(self, step: int, since: Callable[[int], Fit]) -> None:
        """Begin to write the file of a step, once the one before is there; `since(n)` has the objectives from n on."""
        self.wait()
        if jax.process_index() == 0:
            self._writing = self._thread.submit(self._write, step, since(self._blocks.steps))

    def _write(self, step: int, fit: Fit) -> None:
        latest = self._blocks.take(np.asarray(fit.history))
        fit = dataclasses.replace(fit, history=jax.device_put(latest))
        write_fit(self.folder / f"step-{step:012d}.fit", fit, self._blocks)
        with contextlib.suppress(OSError):  # what cannot be taken away stays; what cannot be written is an error
            for path in self.files()[self.keep :]:
                path.unlink(missing_ok=True)

    def wait(self) -> None:
        """Until nothing is being written; what went wrong with it is raised here."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            self._thread.shutdown()


def _step_of(path: Path) -> int:
    found = NAME.fullmatch(path.name)
    return int(found[1]) if found else -1


def begun(checkpoints: Checkpoints, like: Fit, *, resume: bool) -> Fit:
    """What a run goes on from: the newest good file, or what it was given.

    Raises:
        FitError: there are files, and it was not said that the run goes on from them.
    """
    _together()  # the first process, which writes, is done with what it wrote before
    there = checkpoints.files()
    if there and not resume:
        raise FitError(
            f"fit: the folder `checkpoint`, {checkpoints.folder}, holds a run already, at step {_step_of(there[0])}. "
            "Write `resume=True` to go on with it, or give another folder."
        )
    found = checkpoints.newest(like) if there else None
    _together()  # and writes no more until all have read
    return like if found is None else found


def _together() -> None:
    """Wait for the other processes, where several run together."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("tracegrad checkpoints")
