"""Algorithms that estimate an integral, for `marginal`, `normalize` and the bounds; and what one of your own needs.

Each is a file with two functions: estimate Z, and estimate 1/Z given a sample. `Algorithm` is what they have in common.

May import: `core`. Open `_base.py` first, then `_importance.py`.
"""

from ._base import (
    Algorithm,
    Estimate,
    Retained,
    at_index,
    choose,
    each,
    effective_size,
    log_mean_exp,
    split,
)
from ._exact import exact
from ._forward_filter import forward_filter
from ._importance import importance
from ._kalman import kalman
from ._sir import sir
from ._smc import smc

__all__ = [
    # For `marginal` and `normalize`.
    "exact",
    "forward_filter",
    "importance",
    "kalman",
    "sir",
    "smc",
    # To write one.
    "Algorithm",
    "Estimate",
    "Retained",
    "split",
    "each",
    "log_mean_exp",
    "effective_size",
    "choose",
    "at_index",
]


def __dir__():
    return list(__all__)
