"""Exact filtering and smoothing of a linear-Gaussian chain: its latents integrated out, or drawn given all."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax
import numpyro.distributions as dist
from jax import numpy as jnp
from jaxtyping import Array, Float, Key

from .._errors import DensityError
from ..core._overrides import draw_at
from ..core._target import Target
from ..transforms import RandomKeyError
from ..transforms._internal import flag
from ._base import Algorithm, Estimate, Retained, split
from ._kalman_sums import State, drawn, in_parallel, one_by_one, present, updated
from ._linear_chain import linear_chain_of, matrices

NOISE = "noise"
"""The address of the standard normals from which all latents are drawn."""


class Kalman(Algorithm):
    """See `kalman`."""

    parallel: bool = eqx.field(static=True)
    indices: ClassVar[tuple[str, ...]] = (NOISE,)

    def estimate(self, key: Key[Array, ""] | None, target: Target) -> Estimate:
        """The filter; a draw is made from what it kept, backwards."""
        try:
            chain = linear_chain_of(target, "kalman")
        except RandomKeyError as error:
            raise DensityError(
                f"kalman: a density inside {target.function.name} is itself an estimate, and this integral is exact. "
                f"Use `smc(n)`. ({error})"
            ) from error
        with jax.default_matmul_precision("highest"):
            start, later, factors = matrices(chain)
            states, log_z = self._filtered(present(start), None if later is None else present(later))

        def draw(key):
            (key,) = split(key, 1, target, "kalman")
            at, shape = (*target.path, NOISE), states.mean.shape
            noise = draw_at(at, key, dist.Normal(jnp.zeros(shape, states.mean.dtype), 1.0).to_event(2))
            with jax.default_matmul_precision("highest"):
                us, logp = drawn(states, later, noise, parallel=self.parallel)
            return chain.choices(us), log_z + factors + logp

        return Estimate(log_z + factors, draw)

    def estimate_given(self, key: Key[Array, ""] | None, target: Target, retained: Retained) -> Float[Array, ""]:
        """The same filter: it is exact, so there is nothing to retain."""
        return self.estimate(key, target).log_z

    def _filtered(self, start, later):
        if later is None:
            state, logp = updated(State(start.drift, start.noise), start)
            return jax.tree.map(lambda x: x[None], state), logp
        return (in_parallel if self.parallel else one_by_one)(start, later)


def kalman(*, parallel: bool = False) -> Kalman:
    """Exact filtering and smoothing of a linear-Gaussian chain, a `scan` whose steps choose normals.

    The matrices are read off the program. In a step, the mean of each latent is affine in the carry and in the latents
    before it, the mean of each observation is affine in the latents of the step, and variances depend on neither; all
    of them may depend on the step's inputs and on parameters. The choices are `Normal` (with `to_event` or a batch) and
    `MultivariateNormal`; observations may be under `mask()` or `nan_as_missing`. The carry must be affine in the step's
    own latents, apart from what does not vary with them.

    The density is exact and needs no key, in O(T d^3) for d latent numbers a step; `normalize` draws the whole path
    from the exact posterior, backwards, from standard normals at the address "noise", differentiably.

    Args:
        parallel: whether the steps are joined by associative scans, in a number of rounds that grows with log T, where
            there is hardware to run them side by side; on one core that is more work.

    Returns:
        An algorithm for `marginal(step.scan(), keep, ...)` and `normalize(Target(step.scan(), ...), ...)`.

    Raises:
        DensityError: on use, where the program is not a scan, or not known to be linear and Gaussian; it names the
            site.

    Source: Kalman, A New Approach to Linear Filtering and Prediction Problems, 1960; Särkkä and García-Fernández,
    Temporal Parallelization of Bayesian Smoothers, 2021.

    Examples:
        >>> import jax.numpy as jnp, tracegrad as tg
        >>> @tg.gen
        ... def step(x, _):
        ...     x = tg.sample("x", tg.dist.Normal(0.9 * x, 1.0))
        ...     tg.sample("y", tg.dist.Normal(x, 0.5))
        ...     return x, None
        >>> chain = tg.marginal(step.scan(length=3), "y", tg.kalman())
        >>> logp, _ = chain.assess({"y": jnp.array([0.5, 1.0, 2.0])}, 0.0)
        >>> f"{float(logp):.3f}"
        '-3.970'
    """
    return Kalman(flag("kalman", "parallel", parallel, DensityError))
