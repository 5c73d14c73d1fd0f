"""tracegrad: probabilistic programming in JAX with programmable variational inference."""

from importlib.metadata import version as _version

import numpyro.distributions as dist  # noqa: F401  (re-exported)

from . import _families as _families
from . import _rejection as _rejection
from . import _standard_noise as _standard_noise
from . import _weak_derivatives as _weak_derivatives
from ._addresses import merge as merge
from ._addresses import select as select
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
from ._generative import Trace as Trace
from ._generative import cond as cond
from ._generative import switch as switch
from ._importance import importance as importance
from ._objectives import cubo as cubo
from ._objectives import elbo as elbo
from ._objectives import iwelbo as iwelbo
from ._objectives import renyi as renyi
from ._objectives import tvo as tvo
from ._sequential import nested_vi as nested_vi
from ._sequential import smc_bound as smc_bound
from ._sequential import smc_wake_phi as smc_wake_phi
from ._sir import sir as sir
from ._smc import smc as smc
from ._target import Target as Target
from ._wake_sleep import sleep as sleep
from ._wake_sleep import wake_phi as wake_phi
from ._wake_sleep import wake_theta as wake_theta
from .transforms import BiasedGradientError as BiasedGradientError
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
