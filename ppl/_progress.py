"""A progress line on standard error: how far, some words, the rate."""

from __future__ import annotations

import sys
import time


class ProgressLine:
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

    def tell(self, done: int, words: str) -> None:
        """Show that `done` steps are done, and some words."""
        now = time.perf_counter()
        self.first = self.first or (done, now)
        if not self.show or (not self.live and done < self.total and done / self.total < self.next):
            return
        self.next = done / self.total + 0.1
        line = f"{self._bar(done)}  {words}{self._rate(done, now)}"
        end = "\n" if done == self.total or not self.live else ""
        print(f"\r{line:<100}" if self.live else line, end=end, file=sys.stderr, flush=True)

    def _bar(self, done):
        full = round(self.WIDTH * done / self.total)
        return f"[{'#' * full + '.' * (self.WIDTH - full)}] {done}/{self.total}"

    def _rate(self, done, now):
        then, begun = self.first or (done, now)
        return f"  {(done - then) / (now - begun):.4g} steps/s" if done > then else ""

    def close(self) -> None:
        """End the line of a run that stops early."""
        if self.show and self.live:
            print(file=sys.stderr)
