"""The program transformation: `sample`, `expectation`, and the gradient estimators.

It knows distributions only as objects with `sample(key)` and `log_prob(value)`; it knows no trace and no address.
"""

from ._arm import arm as arm
from ._arm import disarm as disarm
from ._choice import choose_estimators as choose_estimators
from ._contributions import magic_box as magic_box
from ._describe import Description as Description
from ._describe import SiteReport as SiteReport
from ._describe import describe_sites as describe_sites
from ._describe import table as table
from ._distribution import WeakDerivative as WeakDerivative
from ._distribution import elementwise as elementwise
from ._distribution import log_density as log_density
from ._distribution import log_prob as log_prob
from ._distribution import moving_support as moving_support
from ._distribution import reparameterised as reparameterised
from ._distribution import support as support
from ._distribution import weak_derivative as weak_derivative
from ._enum import enum as enum
from ._errors import BiasedGradientError as BiasedGradientError
from ._errors import DiscontinuityWarning as DiscontinuityWarning
from ._errors import EstimatorError as EstimatorError
from ._errors import HigherOrderError as HigherOrderError
from ._errors import NoRuleError as NoRuleError
from ._errors import ObjectiveError as ObjectiveError
from ._errors import RandomKeyError as RandomKeyError
from ._errors import TracegradError as TracegradError
from ._exact import exact_expectation as exact_expectation
from ._expectation import expectation as expectation
from ._jax import hide_frames as hide_frames
from ._jax import trace_state as trace_state
from ._kinds import Direct as Direct
from ._kinds import Drawn as Drawn
from ._kinds import Enumerate as Enumerate
from ._kinds import Estimator as Estimator
from ._kinds import Fork as Fork
from ._leave_one_out import check_count as check_count
from ._leave_one_out import lanes_of as lanes_of
from ._leave_one_out import leave_one_out as leave_one_out
from ._local_expectation import local_expectation as local_expectation
from ._mvd import mvd as mvd
from ._nonfinite import nonfinite as nonfinite
from ._nonfinite import site_scope as site_scope
from ._outcome_sum import outcome_sum as outcome_sum
from ._outcomes import StandardNoise as StandardNoise
from ._outcomes import standard_noise as standard_noise
from ._own_gradient import states_gradient as states_gradient
from ._primitive import check_key as check_key
from ._primitive import noise as noise
from ._primitive import value_struct as value_struct
from ._pytree import Spec as Spec
from ._pytree import is_inexact as is_inexact
from ._pytree import partition as partition
from ._reinforce import reinforce as reinforce
from ._relax import rebar as rebar
from ._relax import relax as relax
from ._reparam import reparam as reparam
from ._rsvi import Accepted as Accepted
from ._rsvi import accepted_noise as accepted_noise
from ._rsvi import rsvi as rsvi
from ._sample import default_estimator as default_estimator
from ._sample import sample as sample
from ._stated import stated as stated
from ._sum_and_sample import sum_and_sample as sum_and_sample
from ._surrogate import check_pathwise as check_pathwise
from ._surrogate import detached as detached
from ._surrogate import held as held
from ._surrogate import scored as scored
from ._surrogate import with_surrogate as with_surrogate
from ._unordered_set import unordered_set as unordered_set

hide_frames(__path__[0])
