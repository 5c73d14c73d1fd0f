"""Importance sampling as an algorithm: Ẑ = mean of weights, particles as lanes of one `vmap`."""

from __future__ import annotations

from typing import Any, ClassVar

import equinox as eqx
import jax
from jax import numpy as jnp

from .._errors import DensityError
from ..core._addresses import Choices, check_known
from ..core._arguments import chunk, count, generative
from ..core._generative import GenerativeFunction
from ..core._operations import Assess, Given, Operation, Outcome, Simulate
from ..core._target import Target, splat
from ._base import Algorithm, Estimate, Retained, at_index, choose, each, log_mean_exp, split


class Importance(Algorithm):
    """See `importance` and `sir`."""

    n: int = eqx.field(static=True)
    proposal: GenerativeFunction | None
    proposal_args: tuple | None
    chunk_size: int | None = eqx.field(static=True)
    sees_observed: bool = eqx.field(static=True)
    indices: ClassVar[tuple[str, ...]] = ("index",)

    def estimate(self, key: Any, target: Target) -> Estimate:
        """The mean weight of n fresh particles; a draw is one of them, by its weight."""
        latents, log_weights, log_gammas = self._fresh(split(key, self.n, target, "importance"), target)

        def draw(key):
            return at_index((latents, log_gammas), choose(key, log_weights, target))

        return Estimate(log_mean_exp(log_weights), draw)

    def estimate_given(self, key: Any, target: Target, retained: Retained) -> jax.Array:
        """The mean weight of the retained particle and n - 1 fresh ones."""
        if self.n == 1:
            return self._retained_weight(key, target, retained)
        keys = split(key, self.n, target, "importance")
        own = self._retained_weight(keys[0], target, retained)
        return log_mean_exp(jnp.concatenate([own[None], self._fresh(keys[1:], target)[1]]))

    def _fresh(self, keys, target):
        return each(lambda key: self._particle(key, target), keys, self.chunk_size)

    def _particle(self, key: jax.Array, target: Target) -> tuple[Choices, jax.Array, jax.Array]:
        """A particle, its log weight and its log gamma, with log gamma = log weight + log density of the proposal."""
        if self.proposal is None:
            return target.draw(key)
        propose, density = jax.random.split(key)
        drawn = self._propose(self.proposal, Simulate(), propose, target, None)
        out = target.visit(Assess(), density, drawn.choices, what="the proposal's choices")
        return drawn.choices, out.logp - drawn.logp, out.logp

    def _retained_weight(self, key: Any, target: Target, retained: Retained) -> jax.Array:
        """Where the prior proposes, only the factors of the observed; else gamma over the proposal's density."""
        if self.proposal is None:
            return retained.log_observed
        out = self._propose(self.proposal, Assess(), key, target, retained.latents)
        check_known(retained.latents, out.choices, self.proposal.name, "the latents of the target")
        return retained.log_gamma - out.logp

    def _propose(
        self, proposal: GenerativeFunction, operation: Operation, key: Any, target: Target, latents: Any
    ) -> Outcome:
        args = (target.args if self.sees_observed else ()) if self.proposal_args is None else self.proposal_args
        args = (target.observed, *args) if self.sees_observed else args
        return proposal.visit(operation, key, Given(latents), target.path, args, {})


def checked_proposal(what: str, proposal: Any, *, required: bool = False) -> GenerativeFunction | None:
    """Check the proposal of an algorithm."""
    if proposal is None and not required:
        return None
    return generative(what, proposal, role=" as its proposal", error=DensityError)


def importance(
    n: int,
    proposal: GenerativeFunction | None = None,
    proposal_args: Any = None,
    *,
    chunk_size: int | None = None,
) -> Importance:
    """Importance sampling with n particles: Ẑ = 1/n sum_i gamma(u_i) / r(u_i | x), u_i ~ r(. | x).

    With a retained u, which is particle 1, E[1/Ẑ | u] = 1/Z. Without a proposal, u is drawn as the program itself draws
    it, and the weight is then the density of the observed choices alone.

    Args:
        n: the number of particles.
        proposal: r, a generative function over all latent addresses, called as `proposal(observed, *args)` with the
            dict of kept (or observed) choices in front. It may itself be a `marginal` or a `normalize`.
        proposal_args: `args` of the proposal, a tuple; by default those of the function that is marginalised.
        chunk_size: run at most about this many particles at a time; None runs all in one `vmap`.

    Returns:
        An algorithm for `marginal` and `normalize`. The density is exact where u is independent of x given the
        arguments and the proposal is exact; otherwise its variance falls as 1/n.

    Source: Ranganath et al., Hierarchical Variational Models, 2016 (n = 1); Sobolev and Vetrov, Importance Weighted
    Hierarchical Variational Inference, 2019 (n > 1).

    Example:
        >>> import jax, tracegrad as tg
        >>> @tg.gen
        ... def noisy():
        ...     u = tg.sample("u", tg.dist.Normal(0.0, 1.0))
        ...     tg.sample("x", tg.dist.Normal(u, 1.0))
        >>> reverse = tg.gen(lambda kept: tg.sample("u", tg.dist.Normal(kept["x"] / 2.0, jax.numpy.sqrt(0.5))))
        >>> q = tg.marginal(noisy, "x", tg.importance(3, reverse))
        >>> logp, _ = q.assess({"x": 1.0}, key=jax.random.key(0))
        >>> bool(abs(logp - tg.dist.Normal(0.0, 2.0**0.5).log_prob(1.0)) < 1e-5)      # the exact posterior proposes
        True
    """
    chunk_size = chunk("importance", chunk_size)
    proposal = checked_proposal("importance", proposal)
    args = None if proposal_args is None else splat(proposal_args)
    return Importance(count("importance", "n", n), proposal, args, chunk_size, sees_observed=True)
