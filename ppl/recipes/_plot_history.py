"""The course of a fit, drawn."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._extras import require
from ..training._fit import Fit
from ..transforms import ArgumentError
from ._vi import Variational

WINDOWS = 50
"""So many windows of means make the line that is drawn over the values."""


def means_of(history: Any, windows: int = WINDOWS) -> tuple[np.ndarray, np.ndarray]:
    """Means over windows of a history, and the steps in their middles; values that are not finite are left out."""
    history = np.asarray(history, float)
    parts = np.array_split(np.arange(len(history)), min(windows, len(history))) if len(history) else []
    kept = [part[np.isfinite(history[part])] for part in parts]
    kept = [part for part in kept if len(part)]
    return np.array([part.mean() for part in kept]), np.array([history[part].mean() for part in kept])


def plot_history(fitted: Any, *, ax: Any = None) -> Any:
    """Draw the objective at each step of a fit, and its means over fifty windows, by matplotlib.

    Args:
        fitted: what `fit` or `vi` returned, or a history, one number for each step.
        ax: axes to draw in; by default new ones.

    Returns:
        The axes.

    Raises:
        ArgumentError: something else.

    Examples:
        >>> import jax, optax, tracegrad as tg
        >>> f = tg.expectation(lambda key, m: tg.transforms.sample(key, tg.dist.Normal(m, 1.0)) ** 2)
        >>> run = tg.fit(f, 3.0, optax.sgd(0.1), key=jax.random.key(0), steps=100)
        >>> len(tg.plot_history(run).lines[0].get_ydata())
        100
    """
    history = np.asarray(fitted.history if isinstance(fitted, Fit | Variational) else fitted)
    if history.ndim != 1 or not np.issubdtype(history.dtype, np.number) or np.iscomplexobj(history):
        raise ArgumentError(
            "plot_history takes what `fit` or `vi` returned, or a history, one number for each step, and got "
            f"{type(fitted).__name__}."
        )
    plt = require("matplotlib.pyplot", "plots", "plot_history")
    ax = plt.subplots()[1] if ax is None else ax
    ax.plot(history, linewidth=0.5, alpha=0.5)
    ax.plot(*means_of(history))
    ax.set(xlabel="step", ylabel="objective")
    return ax
