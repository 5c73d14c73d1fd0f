"""The errors and the warnings, as a group: one class for each kind of mistake.

All errors derive from `TracegradError`; `DiscontinuityWarning` and `SupportWarning` are warnings.
"""

from ._errors import (
    AddressError,
    CheckpointError,
    ChoiceError,
    DensityError,
    DistributionError,
    FitError,
    SupportWarning,
)
from .transforms import (
    ArgumentError,
    BiasedGradientError,
    DiscontinuityWarning,
    EstimatorError,
    HigherOrderError,
    NoRuleError,
    ObjectiveError,
    RandomKeyError,
    TracegradError,
)

__all__ = [
    "TracegradError",
    "AddressError",
    "ArgumentError",
    "BiasedGradientError",
    "CheckpointError",
    "ChoiceError",
    "DensityError",
    "DiscontinuityWarning",
    "DistributionError",
    "EstimatorError",
    "FitError",
    "HigherOrderError",
    "NoRuleError",
    "ObjectiveError",
    "RandomKeyError",
    "SupportWarning",
]


def __dir__():
    return list(__all__)
