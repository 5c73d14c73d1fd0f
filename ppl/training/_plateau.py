"""When an objective has stopped getting better: windows of steps, their means, and the errors of these."""

from __future__ import annotations

from typing import Any

import numpy as np

WINDOW = 50
"""Steps over which the loss is averaged."""
PATIENCE = 4
"""So many windows in a row without a fall of more than its error, and the loss has stopped falling."""


def has_fallen(mean: Any, error: Any, best: Any, best_error: Any) -> Any:
    """Whether a window's mean is below the best one by more than the error of their difference."""
    return mean < best - (error**2 + best_error**2) ** 0.5


class Plateau:
    """Watches the losses of a run, and says after how many steps they have stopped falling.

    It looks at whole windows, counted from the first step, so that its answer does not depend on how many losses come
    at a time. Losses that are not finite are left out.

    Attributes:
        at: the step after which they had stopped; None so far.
    """

    def __init__(self, window: int, patience: int):
        self._window, self._patience = window, patience
        self._rest = np.zeros(0)
        self._best, self._best_error, self._stale, self._seen = np.inf, 0.0, 0, 0
        self.at: int | None = None

    def see(self, losses: np.ndarray) -> None:
        """Take the next losses into account."""
        self._rest = np.concatenate([self._rest, np.asarray(losses, float)])
        while self.at is None and len(self._rest) >= self._window:
            self._take(self._rest[: self._window])
            self._rest = self._rest[self._window :]

    def _take(self, window):
        self._seen += self._window
        kept = window[np.isfinite(window)]
        mean = kept.mean() if len(kept) else np.inf
        error = kept.std() / len(kept) ** 0.5 if len(kept) else 0.0
        if has_fallen(mean, error, self._best, self._best_error):
            self._best, self._best_error, self._stale = mean, error, 0
        else:
            self._stale += 1
        if self._stale >= self._patience:
            self.at = self._seen
