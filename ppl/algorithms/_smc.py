"""Sequential Monte Carlo over a scan: Ẑ = prod_t mean_k w_t^k, particles as lanes of one `vmap` in one `lax.scan`."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Float, Key

from .._errors import DensityError
from ..core._addresses import Choices
from ..core._arguments import chunk, count
from ..core._generative import GenerativeFunction
from ..core._overrides import draw_at
from ..core._target import Target
from ..transforms._internal import one_of, real
from ._base import Algorithm, Estimate, Retained, at_index, choose, each, effective_size, log_mean_exp, split
from ._chain import Chain, chain_of, first, later, recorded
from ._proposal import Source, all_of, source_of
from ._resampling import RESAMPLING


class Particles(NamedTuple):
    """Particles after a step: carries, log gamma so far, log weight since resampling, choices of the step."""

    carries: Any
    log_gammas: Float[Array, " n"]
    log_weights: Float[Array, " n"]
    choices: Choices


class Smc(Algorithm):
    """See `smc`."""

    n: int = eqx.field(static=True)
    source: Source
    resampling: str = eqx.field(static=True)
    ess_threshold: float | None = eqx.field(static=True)
    chunk_size: int | None = eqx.field(static=True)
    indices: ClassVar[tuple[str, ...]] = ("index", "ancestor")

    def visit(self, function, operation, key, given, path, args, kwargs):
        """The visit, step by step on record."""
        return recorded(function, operation, key, given, path, args, kwargs)

    def estimate(self, key: Key[Array, ""] | None, target: Target) -> Estimate:
        """The product of mean weights; a draw is one particle at the end, with its ancestors."""
        chain = chain_of(target, "smc")
        last, history = self._run(key, target, chain, None)
        log_z = log_mean_exp(last.log_weights) + (0.0 if history is None else history[1].sum())
        return Estimate(log_z, lambda key: _trace_back(key, target, last, history))

    def estimate_given(self, key: Key[Array, ""] | None, target: Target, retained: Retained) -> Float[Array, ""]:
        """Conditional SMC: the same with the retained path as particle 0, which always survives."""
        if self.resampling != "multinomial":
            raise DensityError(
                f"smc: with {self.resampling} resampling the estimate of Z is unbiased, but with a retained path 1/Ẑ "
                "is not one of 1/Z. Use resampling='multinomial' where a density is needed."
            )
        last, history = self._run(key, target, chain_of(target, "smc"), (retained.latents, retained.record))
        return log_mean_exp(last.log_weights) + (0.0 if history is None else history[1].sum())

    def _run(self, key, target, chain: Chain, kept: tuple[Choices, Any] | None):
        """All steps: the particles after the last, and of those before (choices, log mean weights, ancestors)."""
        start, rest = split(key, 2, target, "smc")
        steps = (*chain.stacked, kept)
        carries = jax.tree.map(lambda x: jnp.broadcast_to(x, (self.n, *x.shape)), chain.init)
        zeros = jnp.zeros((self.n,))
        particles = self._advance(start, chain, carries, zeros, zeros, first(steps))
        if chain.length == 1:
            return particles, None

        def body(particles, at):
            key, step = at
            move, pick = jax.random.split(key)
            ancestors, log_mean, log_weights = self._selected(pick, target, particles, fixed=kept is not None)
            carries, log_gammas = at_index((particles.carries, particles.log_gammas), ancestors)
            past = particles.choices, log_mean, ancestors
            return self._advance(move, chain, carries, log_gammas, log_weights, step), past

        particles = jax.tree.map(jnp.asarray, particles)
        return lax.scan(body, particles, (jax.random.split(rest, chain.length - 1), later(steps)))

    def _selected(self, key, target, particles: Particles, *, fixed):
        """Ancestors, the factor of Ẑ that is complete with them, and the weights that are carried on; all logs."""
        log_weights = particles.log_weights
        log_mean, none = log_mean_exp(log_weights), jnp.zeros_like(log_weights)
        if self.ess_threshold is None:
            return self._ancestors(key, target, log_weights, fixed=fixed), log_mean, none
        low = effective_size(log_weights) < self.ess_threshold * self.n
        # Where none are needed they are drawn evenly, which has no score.
        drawn = self._ancestors(key, target, jnp.where(low, log_weights, none), fixed=fixed)
        same = jnp.arange(self.n, dtype=drawn.dtype)
        return jnp.where(low, drawn, same), jnp.where(low, log_mean, 0.0), jnp.where(low, none, log_weights)

    def _ancestors(self, key, target, log_weights, *, fixed):
        path = (*target.path, "ancestor")
        law = RESAMPLING[self.resampling](log_weights)
        if not fixed:
            return draw_at(path, key, law)
        zero = jnp.zeros((1,), int)
        if self.n == 1:
            return zero
        law = law.base_dist.expand((self.n - 1,))
        return jnp.concatenate([zero, draw_at(path, key, law)])

    def _advance(self, key, chain, carries, log_gammas, log_weights, step) -> Particles:
        """Move every particle by one step; the retained one, if any, is the first."""
        x, observed, kept = step
        keys = jax.random.split(key, self.n)
        moves = []
        if kept is not None:
            own = self._keep(keys[0], chain, first(carries), x, observed, kept)
            moves.append(jax.tree.map(lambda x: x[None], own))
            keys, carries = later((keys, carries))
        if keys.shape[0]:

            def move(at):
                return self._move(at[0], at[1], chain, x, observed)

            moves.append(each(move, (keys, carries), self.chunk_size))
        after, logp, gained, choices = jax.tree.map(lambda *xs: jnp.concatenate(xs), *moves)
        return Particles(after, log_gammas + logp, log_weights + gained, choices)

    def _move(self, key, carry, chain, x, observed):
        """A fresh draw of one step: the next carry, log gamma, log weight and choices."""
        latents, log_weight, log_gamma, (after, _) = self.source.weighed(key, chain.target(carry, x, observed))
        return after, log_gamma, log_weight, latents

    def _keep(self, key, chain, carry, x, observed, kept):
        """The same of the retained step, as it was made: a density in it may be an estimate."""
        choices, (log_gamma, log_observed, after) = kept
        step = Retained(choices, log_gamma, log_observed)
        return after, log_gamma, self.source.weight_of(key, chain.target(carry, x, observed), step), choices


def _trace_back(key, target, last: Particles, history):
    """One particle by its last weight, and the choices of its ancestors."""
    index = choose(key, last.log_weights, target)
    end = at_index(last.choices, index)
    if history is None:
        return jax.tree.map(lambda x: x[None], end), last.log_gammas[index]

    def body(index, step):
        choices, _, ancestors = step
        index = ancestors[index]
        return index, at_index(choices, index)

    _, choices = lax.scan(body, index, history, reverse=True)
    return jax.tree.map(lambda xs, x: jnp.concatenate([xs, x[None]]), choices, end), last.log_gammas[index]


def smc(
    n: int,
    proposal: GenerativeFunction | None = None,
    proposal_args: Any = (),
    *,
    resampling: str = "multinomial",
    ess_threshold: float | None = None,
    chunk_size: int | None = None,
) -> Smc:
    """Sequential Monte Carlo with n particles over a `scan`, resampling at every step or where it is due.

    w_t^k = gamma_t(z_t^k | z_{t-1}) / r(z_t^k | z_{t-1}), and Ẑ = prod_t 1/n sum_k w_t^k with E[Ẑ] = Z. With a retained
    path (conditional SMC) E[1/Ẑ | path] = 1/Z. Without a proposal each step is drawn as the program draws it, and
    weighed by its observed choices (the bootstrap filter). Ancestors are samples at the address "ancestor" beside those
    of the steps, and the path that `normalize` returns is one at "index": score function by default, so the derivative
    of log Ẑ is that of its expectation, ancestors included. Densities inside a step may be estimates themselves.

    Args:
        n: the number of particles.
        proposal: r for one step, a generative function over the step's latent addresses, called as
            `proposal(observed, carry, x, *proposal_args)` with the step's observed choices in front.
        proposal_args: its arguments, a tuple; what is not a tuple is the only argument.
        resampling: "multinomial", or "systematic", which has less variance and no conditional form: Ẑ is unbiased, and
            a density that would need a retained path is refused.
        ess_threshold: resample only where the effective sample size (sum w)^2 / sum w^2 is below this share of n, and
            else carry the weights on; between 0 (never: importance sampling of paths) and 1; None resamples at every
            step. Both laws hold, as the rule sees the weights alone. The rule is a step in the weights, so where those
            have reparameterised values in them a derivative through it is not of the expectation, and a
            `DiscontinuityWarning` says so: give such steps `reinforce()`, or leave it None.
        chunk_size: run at most about this many particles at a time; None runs all in one `vmap`.

    Returns:
        An algorithm for `marginal(step.scan(), keep, ...)` and `normalize(Target(step.scan(), ...), ...)`.

    Raises:
        DensityError: on use, where the program is not a scan or the density asked for is not to be had.

    Source: Gordon, Salmond and Smith, 1993 (bootstrap filter); Andrieu, Doucet and Holenstein, Particle Markov Chain
    Monte Carlo Methods, 2010 (conditional SMC); Del Moral, Doucet and Jasra, On Adaptive Resampling Strategies, 2012.

    Examples:
        >>> import jax, jax.numpy as jnp, tracegrad as tg
        >>> @tg.gen
        ... def step(z, x):
        ...     z = tg.sample("z", tg.dist.Normal(z, 1.0))
        ...     tg.sample("y", tg.dist.Normal(z, 1.0))
        ...     return z, None
        >>> walk = tg.marginal(step.scan(length=3), "y", tg.smc(10))
        >>> logp, _ = walk.assess({"y": jnp.array([0.0, 1.0, 2.0])}, 0.0, key=jax.random.key(0))
    """
    one_of("smc", "resampling", resampling, RESAMPLING, DensityError)
    chunk_size = chunk("smc", chunk_size)
    source = source_of("smc", proposal, proposal_args, all_of)
    if ess_threshold is not None:
        share = "a share of n between 0 and 1"
        real("smc", "ess_threshold", ess_threshold, DensityError, share, lambda x: (x >= 0) & (x <= 1))
    return Smc(count("smc", "n", n), source, resampling, ess_threshold, chunk_size)
