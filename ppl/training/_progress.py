"""A progress line on standard error: how far, the objective with its error, the rate."""

from __future__ import annotations

import math
import sys
import time

import numpy as np


class Progress:
    """Shows how a run goes: one line rewritten on a terminal, about ten lines elsewhere.

    The rate is that of the steps after the first dispatch, which compiles.
    """

    WIDTH = 24

    def __init__(self, total: int, *, show: bool):
        self.total = total
        self.show = show
        self.first: tuple[int, float] | None = None
        self.live = sys.stderr.isatty()
        self.next = 0.0

    def update(self, done: int, values: np.ndarray) -> None:
        """Show that `done` steps are done; `values` are the objectives of the latest ones."""
        now = time.perf_counter()
        self.first = self.first or (done, now)
        if not self.show or (not self.live and done < self.total and done / self.total < self.next):
            return
        self.next = done / self.total + 0.1
        line = self._line(done, values) + self._rate(done, now)
        end = "\n" if done == self.total or not self.live else ""
        print(f"\r{line:<100}" if self.live else line, end=end, file=sys.stderr, flush=True)

    def _line(self, done, values):
        full = round(self.WIDTH * done / self.total)
        bar = "#" * full + "." * (self.WIDTH - full)
        error = f" ± {np.std(values) / math.sqrt(len(values)):.2g}" if len(values) > 1 else ""
        return f"[{bar}] {done}/{self.total}  objective {np.mean(values):.5g}{error}"

    def _rate(self, done, now):
        then, begun = self.first or (done, now)
        return f"  {(done - then) / (now - begun):.4g} steps/s" if done > then else ""

    def close(self) -> None:
        """End the line of a run that stops early."""
        if self.show and self.live:
            print(file=sys.stderr)
