"""Ending a run from outside: SIGINT (Ctrl-C) and SIGTERM (what a machine sends before it is taken away)."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Asked:
    """Whether a signal has asked for the end, and which."""

    def __init__(self):
        self.name: str | None = None

    def by(self) -> str | None:
        """The signal; where several processes run together, that which any of them was sent."""
        if jax.process_count() == 1:
            return self.name
        mine = -1 if self.name is None else [s.name for s in SIGNALS].index(self.name)
        found = int(np.max(multihost_utils.process_allgather(np.asarray(mine))))
        return None if found < 0 else SIGNALS[found].name


@contextlib.contextmanager
def listening(*, listens: bool) -> Iterator[Asked]:
    """While it lasts, a first signal is noted; a second one does what it did before, as all do afterwards.

    Only the main thread may listen; elsewhere, and where it is not to, signals do what they always do.
    """
    asked = Asked()
    before: dict[signal.Signals, Any] = {}

    def restore():
        for number, handler in before.items():
            signal.signal(number, handler)
        before.clear()

    def note(number: int, _: Any):
        asked.name = signal.Signals(number).name
        restore()

    if listens and threading.current_thread() is threading.main_thread():
        before = {s: signal.signal(s, note) for s in SIGNALS if signal.getsignal(s) not in (None, signal.SIG_IGN)}
    try:
        yield asked
    finally:
        restore()
