"""tracegrad: probabilistic programming in JAX with programmable variational inference."""

from importlib.metadata import version as _version

import numpyro.distributions as dist  # noqa: F401  (re-exported)
from equinox import __path__ as _equinox_path

from . import _families as _families
from . import _log_densities as _log_densities
from . import _rejection as _rejection
from . import _standard_noise as _standard_noise
from . import _weak_derivatives as _weak_derivatives
from . import auto as auto
from ._addresses import merge as merge
from ._addresses import select as select
from ._baselines import MovingAverage as MovingAverage
from ._baselines import baseline_loss as baseline_loss
from ._baselines import control_loss as control_loss
from ._branching import cond as cond
from ._branching import switch as switch
from ._check import BiasReport as BiasReport
from ._check import check_unbiased as check_unbiased
from ._choice import describe_estimators as describe_estimators
from ._choice import with_estimators as with_estimators
from ._compare import Comparison as Comparison
from ._compare import compare_estimators as compare_estimators
from ._densities import marginal as marginal
from ._densities import normalize as normalize
from ._discrepancies import energy_distance as energy_distance
from ._discrepancies import mmd as mmd
from ._divergences import f_divergence as f_divergence
from ._divergences import forward_kl as forward_kl
from ._divergences import jensen_shannon as jensen_shannon
from ._divergences import log_variance as log_variance
from ._divergences import symmetric_kl as symmetric_kl
from ._divergences import trajectory_balance as trajectory_balance
from ._errors import AddressError as AddressError
from ._errors import ChoiceError as ChoiceError
from ._errors import DensityError as DensityError
from ._errors import FitError as FitError
from ._exact_sum import exact as exact
from ._fit import Fit as Fit
from ._fit import fit as fit
from ._forward_filter import forward_filter as forward_filter
from ._function import gen as gen
from ._function import sample as sample
from ._generative import GenerativeFunction as GenerativeFunction
from ._importance import importance as importance
from ._mcmc import Draws as Draws
from ._mcmc import hmc as hmc
from ._mcmc import nuts as nuts
from ._mcmc import to_arviz as to_arviz
from ._multisample import vargrad as vargrad
from ._multisample import vimco as vimco
from ._objectives import cubo as cubo
from ._objectives import elbo as elbo
from ._objectives import iwelbo as iwelbo
from ._objectives import renyi as renyi
from ._objectives import tvo as tvo
from ._pathwise import dreg as dreg
from ._pathwise import dreg_wake_phi as dreg_wake_phi
from ._pathwise import sticking_the_landing as sticking_the_landing
from ._relaxations import biased_concrete as biased_concrete
from ._relaxations import biased_straight_through as biased_straight_through
from ._sequential import nested_vi as nested_vi
from ._sequential import smc_bound as smc_bound
from ._sequential import smc_wake_phi as smc_wake_phi
from ._sir import sir as sir
from ._smc import smc as smc
from ._target import Target as Target
from ._trace import Trace as Trace
from ._unconstrained import Unconstrained as Unconstrained
from ._unconstrained import to_unconstrained as to_unconstrained
from ._wake_sleep import sleep as sleep
from ._wake_sleep import wake_phi as wake_phi
from ._wake_sleep import wake_theta as wake_theta
from ._weighted import WeightedDraws as WeightedDraws
from ._weighted import importance_sampling as importance_sampling
from .transforms import BiasedGradientError as BiasedGradientError
from .transforms import DiscontinuityWarning as DiscontinuityWarning
from .transforms import EstimatorError as EstimatorError
from .transforms import HigherOrderError as HigherOrderError
from .transforms import NoRuleError as NoRuleError
from .transforms import ObjectiveError as ObjectiveError
from .transforms import RandomKeyError as RandomKeyError
from .transforms import TracegradError as TracegradError
from .transforms import arm as arm
from .transforms import disarm as disarm
from .transforms import enum as enum
from .transforms import exact_expectation as exact_expectation
from .transforms import expectation as expectation
from .transforms import hide_frames as _hide_frames
from .transforms import leave_one_out as leave_one_out
from .transforms import local_expectation as local_expectation
from .transforms import mvd as mvd
from .transforms import rebar as rebar
from .transforms import reinforce as reinforce
from .transforms import relax as relax
from .transforms import reparam as reparam
from .transforms import rsvi as rsvi
from .transforms import sum_and_sample as sum_and_sample
from .transforms import unordered_set as unordered_set

__version__ = _version("tracegrad")

for _folder in (*__path__, *_equinox_path):  # a source line in a message is one of the user's
    _hide_frames(_folder)
