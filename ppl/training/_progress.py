"""The progress line of a fit: the objective, with its error over the latest steps."""

from __future__ import annotations

import math

import numpy as np

from .._progress import ProgressLine


class Progress(ProgressLine):
    """Shows how a fit goes."""

    def update(self, done: int, values: np.ndarray) -> None:
        """Show that `done` steps are done; `values` are the objectives of the latest ones."""
        error = f" ± {np.std(values) / math.sqrt(len(values)):.2g}" if len(values) > 1 else ""
        self.tell(done, f"objective {np.mean(values):.5g}{error}")
