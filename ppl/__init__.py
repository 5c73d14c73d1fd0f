"""tracegrad: probabilistic programming in JAX with programmable variational inference.

A model and a variational family are generative functions (`gen`, `sample`); an objective is a program over them whose
`expectation` has an unbiased gradient; an estimator, chosen at a site or from outside, says how.

Everything stands here under its own name. Many names stand in groups, too: `objectives`, `estimators`, `algorithms`,
`auto`, `errors`; and `transforms` is the layer beneath, which knows no generative function.
"""

from importlib.metadata import version as _version

import numpyro.distributions as dist

from . import _frames as _frames
from . import algorithms, auto, errors, estimators, objectives, transforms
from . import distributions as distributions
from .algorithms import exact, forward_filter, importance, kalman, sir, smc
from .auto._unconstrained import Unconstrained, to_unconstrained
from .core._addresses import merge, select
from .core._attitudes import validated
from .core._coordinates import noncentred
from .core._function import deterministic, factor, gen, sample
from .core._generative import GenerativeFunction
from .core._switch import cond, switch
from .core._target import Target
from .core._trace import Trace
from .densities._marginal_and_normalize import marginal, normalize
from .densities._relabel import relabel
from .distributions._missing import nan_as_missing
from .errors import (
    AddressError,
    ArgumentError,
    BiasedGradientError,
    CheckpointError,
    ChoiceError,
    DensityError,
    DiscontinuityWarning,
    DistributionError,
    EstimatorError,
    FitError,
    HigherOrderError,
    NoRuleError,
    ObjectiveError,
    RandomKeyError,
    SupportWarning,
    TracegradError,
)
from .estimators import (
    arm,
    biased_concrete,
    biased_straight_through,
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
from .objectives import (
    cubo,
    dreg,
    dreg_wake_phi,
    elbo,
    energy_distance,
    f_divergence,
    forward_kl,
    iwelbo,
    jensen_shannon,
    log_variance,
    mmd,
    nested_vi,
    renyi,
    sleep,
    smc_bound,
    smc_wake_phi,
    sticking_the_landing,
    symmetric_kl,
    trajectory_balance,
    tvo,
    vargrad,
    vimco,
    wake_phi,
    wake_theta,
)
from .posteriors._arviz import to_arviz
from .posteriors._checks import PredictiveCheck, predictive_check, shrinkage
from .posteriors._fitted import Fitted
from .posteriors._importance_sampling import WeightedDraws, importance_sampling
from .posteriors._posterior import Posterior
from .posteriors._predictive import log_likelihood, predictive
from .posteriors._summary import Summary
from .recipes._evaluate import Evaluation, evaluate
from .recipes._model_graph import ModelGraph, model_graph, plot_model
from .recipes._plot_history import plot_history
from .recipes._sbc import Calibration, sbc
from .recipes._vi import vi
from .training._baselines import MovingAverage, baseline_loss, control_loss
from .training._fit import fit
from .training._parameters import frozen, ordered, positive, scale_tril, simplex, unit_interval, unwrap
from .training._result import Fit, load_fit
from .training._signal_to_noise import signal_to_noise
from .transforms import by_importance, exact_expectation, expectation, leave_one_out
from .trust._check_unbiased import BiasReport, check_unbiased
from .trust._chosen_estimators import EstimatorChoice
from .trust._compare_estimators import Comparison, compare_estimators
from .trust._estimator_choice import describe_estimators, with_estimators
from .trust._mcmc import Draws, hmc, nuts
from .trust._tune_estimators import tune_estimators

__version__ = _version("tracegrad")

__all__ = [
    # Groups.
    "algorithms",
    "auto",
    "dist",
    "errors",
    "estimators",
    "objectives",
    "transforms",
    # Generative functions and their choices.
    "deterministic",
    "nan_as_missing",
    "noncentred",
    "factor",
    "gen",
    "sample",
    "GenerativeFunction",
    "Trace",
    "cond",
    "switch",
    "validated",
    "merge",
    "relabel",
    "select",
    # Expectations.
    "expectation",
    "exact_expectation",
    "leave_one_out",
    "by_importance",
    # Estimators, and baselines that train alongside.
    "arm",
    "biased_concrete",
    "biased_straight_through",
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
    "MovingAverage",
    "baseline_loss",
    "control_loss",
    # Objectives.
    "cubo",
    "dreg",
    "dreg_wake_phi",
    "elbo",
    "energy_distance",
    "f_divergence",
    "forward_kl",
    "iwelbo",
    "jensen_shannon",
    "log_variance",
    "mmd",
    "nested_vi",
    "renyi",
    "sleep",
    "smc_bound",
    "smc_wake_phi",
    "sticking_the_landing",
    "symmetric_kl",
    "trajectory_balance",
    "tvo",
    "vargrad",
    "vimco",
    "wake_phi",
    "wake_theta",
    # Densities that are estimates.
    "Target",
    "marginal",
    "normalize",
    "exact",
    "forward_filter",
    "importance",
    "kalman",
    "sir",
    "smc",
    # Fitting.
    "fit",
    "Fit",
    "load_fit",
    "signal_to_noise",
    "frozen",
    "ordered",
    "positive",
    "scale_tril",
    "simplex",
    "unit_interval",
    "unwrap",
    # Posteriors, and what is made of them.
    "Posterior",
    "Fitted",
    "Summary",
    "predictive",
    "log_likelihood",
    "vi",
    "evaluate",
    "Evaluation",
    "sbc",
    "Calibration",
    "predictive_check",
    "PredictiveCheck",
    "shrinkage",
    # Drawings.
    "model_graph",
    "ModelGraph",
    "plot_history",
    "plot_model",
    # Whether to believe it.
    "describe_estimators",
    "with_estimators",
    "check_unbiased",
    "BiasReport",
    "compare_estimators",
    "Comparison",
    "tune_estimators",
    "EstimatorChoice",
    "importance_sampling",
    "WeightedDraws",
    "nuts",
    "hmc",
    "Draws",
    "to_arviz",
    "to_unconstrained",
    "Unconstrained",
    # Errors.
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
    return [*__all__, "__version__"]
