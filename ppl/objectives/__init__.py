"""Objectives: programs over densities and expectations, a dozen lines each. None is privileged.

Bounds on log p(observed), divergences between a posterior and a family, wake and sleep phases, discrepancies of
samples.

May import: `core`, `algorithms`, `densities`. Open `_bounds.py` first.
"""

from ._bounds import cubo, elbo, iwelbo, renyi, tvo
from ._discrepancies import energy_distance, mmd
from ._divergences import f_divergence, forward_kl, jensen_shannon, log_variance, symmetric_kl, trajectory_balance
from ._path_bounds import dreg, dreg_wake_phi, sticking_the_landing
from ._score_bounds import vargrad, vimco
from ._sequential import nested_vi, smc_bound, smc_wake_phi
from ._wake_sleep import sleep, wake_phi, wake_theta

__all__ = [
    "elbo",
    "iwelbo",
    "renyi",
    "cubo",
    "tvo",
    "dreg",
    "sticking_the_landing",
    "vargrad",
    "vimco",
    "smc_bound",
    "nested_vi",
    "forward_kl",
    "symmetric_kl",
    "jensen_shannon",
    "f_divergence",
    "log_variance",
    "trajectory_balance",
    "wake_theta",
    "wake_phi",
    "sleep",
    "smc_wake_phi",
    "dreg_wake_phi",
    "mmd",
    "energy_distance",
]


def __dir__():
    return list(__all__)
