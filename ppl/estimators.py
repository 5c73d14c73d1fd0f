"""The gradient estimators, as a group: what `sample(..., estimator=...)` and `with_estimators` take.

Last come two relaxations, distributions whose path derivative is biased and says so in its name. What an estimator is
made of is in `tracegrad.transforms`.
"""

from .distributions._relaxations import biased_concrete, biased_straight_through
from .transforms import (
    arm,
    disarm,
    enum,
    local_expectation,
    mvd,
    rebar,
    reinforce,
    relax,
    reparam,
    rsvi,
    sum_and_sample,
    unordered_set,
)

__all__ = [
    "arm",
    "disarm",
    "enum",
    "local_expectation",
    "mvd",
    "rebar",
    "reinforce",
    "relax",
    "reparam",
    "rsvi",
    "sum_and_sample",
    "unordered_set",
    "biased_concrete",
    "biased_straight_through",
]


def __dir__():
    return list(__all__)
