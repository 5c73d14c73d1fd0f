"""The program transformation: `sample`, `expectation`, and the gradient estimators.

It knows distributions only as objects with `sample(key)` and `log_prob(value)`; it knows no trace and no address.
Beside what a program needs, here is what one needs to write an estimator (`Direct`, `Fork`, `Enumerate`), a
distribution (the questions that estimators ask, `reparameterised`, `support`, `weak_derivative` and their kin), and an
objective that states its own gradient (`with_surrogate`, `scored`, `held`).

Open `_expectation.py` first, then `program/_plan.py`.
"""

from ._choose_estimators import choose_estimators
from ._describe_sites import Description, SiteReport, describe_sites
from ._distribution import (
    WeakDerivative,
    elementwise,
    log_density,
    moving_support,
    positive_support,
    probabilities,
    reparameterised,
    support,
    weak_derivative,
)
from ._errors import (
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
from ._estimator import Direct, Drawn, Enumerate, Estimator, Fork, Path
from ._expectation import expectation
from ._jax import hide_frames as _hide_frames
from ._sample import sample
from ._standard_noise import StandardNoise, standard_noise
from .estimate._leave_one_out import leave_one_out
from .estimate._stated import stated
from .estimate._surrogate import Scored, check_pathwise, detached, held, scored, with_surrogate
from .estimators._arm import arm, disarm
from .estimators._enum import enum
from .estimators._local_expectation import local_expectation
from .estimators._mvd import mvd
from .estimators._reinforce import reinforce
from .estimators._relax import rebar, relax
from .estimators._reparam import reparam
from .estimators._rsvi import Accepted, accepted_noise, rsvi
from .estimators._sum_and_sample import sum_and_sample
from .estimators._unordered_set import unordered_set
from .exact._estimator_mean import exact_expectation
from .forks._by_importance import by_importance
from .program._site import noise
from .program._site_terms import magic_box

__all__ = [
    # Programs and their expectations.
    "sample",
    "expectation",
    "exact_expectation",
    "leave_one_out",
    "by_importance",
    "choose_estimators",
    "describe_sites",
    "Description",
    "SiteReport",
    # Estimators.
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
    # To write an estimator.
    "Estimator",
    "Direct",
    "Drawn",
    "Path",
    "Fork",
    "WeakDerivative",
    "Enumerate",
    "noise",
    "log_density",
    # To write a distribution: what estimators ask it.
    "reparameterised",
    "support",
    "probabilities",
    "elementwise",
    "moving_support",
    "positive_support",
    "weak_derivative",
    "standard_noise",
    "StandardNoise",
    "accepted_noise",
    "Accepted",
    # To write an objective that states its own gradient.
    "with_surrogate",
    "held",
    "detached",
    "scored",
    "Scored",
    "magic_box",
    "stated",
    "check_pathwise",
    # Errors.
    "TracegradError",
    "ArgumentError",
    "BiasedGradientError",
    "DiscontinuityWarning",
    "EstimatorError",
    "HigherOrderError",
    "NoRuleError",
    "ObjectiveError",
    "RandomKeyError",
]


def __dir__():
    return list(__all__)


_hide_frames(__path__[0])
