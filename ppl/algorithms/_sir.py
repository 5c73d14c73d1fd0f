"""Sampling importance resampling: the importance sampler's weights, with a proposal for one fixed target."""

from __future__ import annotations

from typing import Any

from ..core._arguments import chunk, count
from ..core._generative import GenerativeFunction
from ._importance import Importance
from ._proposal import nothing, proposal_of


def sir(
    n: int,
    proposal: GenerativeFunction,
    proposal_args: Any = (),
    *,
    chunk_size: int | None = None,
) -> Importance:
    """Draw n particles from a proposal, and take one with probability proportional to its weight gamma / q.

    Law: pi_n, which tends to pi = gamma / Z as n grows and is the proposal at n = 1; the density that `normalize`
    gives is that of pi_n. `elbo` with it as the guide is the `iwelbo` of the proposal, in expectation. The chosen index
    is a sample at the address "index" beside the latents: score function by default, and `with_estimators({"index":
    ...})` chooses another.

    Args:
        n: the number of particles.
        proposal: a generative function over all latent addresses; it may itself be a `marginal` or a `normalize`.
        proposal_args: its arguments, a tuple; what is not a tuple is the only argument. The target's observations are
            not passed: close over them, or pass them.
        chunk_size: run at most about this many particles at a time; None runs all in one `vmap`.

    Returns:
        An algorithm for `normalize`.

    Source: Rubin, Using the SIR Algorithm to Simulate Posterior Distributions, 1988; Cremer, Morris and Duvenaud,
    Reinterpreting Importance-Weighted Autoencoders, 2017; Naesseth et al., Variational SMC, 2018.

    Examples:
        >>> import jax, tracegrad as tg
        >>> model = tg.gen(lambda: tg.sample("x", tg.dist.Normal(tg.sample("z", tg.dist.Normal(0.0, 1.0)), 1.0)))
        >>> guide = tg.gen(lambda m: tg.sample("z", tg.dist.Normal(m, 1.0)))
        >>> posterior = tg.normalize(tg.Target(model, (), {"x": 2.0}), tg.sir(20, guide, (1.0,)))
        >>> logp, _ = posterior.assess({"z": 0.5}, key=jax.random.key(0))
    """
    chunk_size = chunk("sir", chunk_size)
    return Importance(count("sir", "n", n), proposal_of("sir", proposal, proposal_args, nothing), chunk_size)
