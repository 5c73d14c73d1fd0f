"""Importance sampling as an algorithm: Ẑ = mean of weights, particles as lanes of one `vmap`."""

from __future__ import annotations

from typing import Any, ClassVar

import equinox as eqx
from jax import numpy as jnp
from jaxtyping import Array, Float, Key

from ..core._arguments import chunk, count
from ..core._generative import GenerativeFunction
from ..core._target import Target
from ._base import Algorithm, Estimate, Retained, at_index, choose, each, log_mean_exp, split
from ._proposal import Source, all_of, observations_of, source_of


class Importance(Algorithm):
    """See `importance` and `sir`."""

    n: int = eqx.field(static=True)
    source: Source
    chunk_size: int | None = eqx.field(static=True)
    indices: ClassVar[tuple[str, ...]] = ("index",)

    def estimate(self, key: Key[Array, ""] | None, target: Target) -> Estimate:
        """The mean weight of n fresh particles; a draw is one of them, by its weight."""
        latents, log_weights, log_gammas = self._fresh(split(key, self.n, target, "importance"), target)

        def draw(key):
            return at_index((latents, log_gammas), choose(key, log_weights, target))

        return Estimate(log_mean_exp(log_weights), draw)

    def estimate_given(self, key: Key[Array, ""] | None, target: Target, retained: Retained) -> Float[Array, ""]:
        """The mean weight of the retained particle and n - 1 fresh ones."""
        if self.n == 1:
            return self.source.weight_of(key, target, retained)
        keys = split(key, self.n, target, "importance")
        own = self.source.weight_of(keys[0], target, retained)
        return log_mean_exp(jnp.concatenate([own[None], self._fresh(keys[1:], target)[1]]))

    def _fresh(self, keys, target):
        """Latents, log weights and log gammas; what the program returns need not be an array."""
        return each(lambda key: self.source.weighed(key, target)[:3], keys, self.chunk_size)


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
        proposal_args: `args` of the proposal, a tuple; what is not a tuple is the only argument. By default those of
            the function that is marginalised.
        chunk_size: run at most about this many particles at a time; None runs all in one `vmap`.

    Returns:
        An algorithm for `marginal` and `normalize`. The density is exact where u is independent of x given the
        arguments and the proposal is exact; otherwise its variance falls as 1/n.

    Source: Ranganath et al., Hierarchical Variational Models, 2016 (n = 1); Sobolev and Vetrov, Importance Weighted
    Hierarchical Variational Inference, 2019 (n > 1).

    Examples:
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
    args, tells = ((), all_of) if proposal_args is None else (proposal_args, observations_of)
    return Importance(count("importance", "n", n), source_of("importance", proposal, args, tells), chunk_size)
