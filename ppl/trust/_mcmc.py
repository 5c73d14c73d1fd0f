"""Markov chains on the unconstrained space of a target, by blackjax: the check of a variational fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Key, Shaped

from .._errors import ChoiceError, DensityError
from .._extras import require
from ..auto._unconstrained import Unconstrained, starting_points, to_unconstrained
from ..core._addresses import Choices, as_arrays, paths
from ..core._arguments import count, mapping
from ..core._target import Target
from ..transforms._internal import check_key, lenient, real

STATISTICS = {
    "diverging": "is_divergent",
    "energy": "energy",
    "acceptance_rate": "acceptance_rate",
    "n_steps": "num_integration_steps",
}


class Draws(eqx.Module):
    """Draws of Markov chains.

    Attributes:
        choices: the latent choices, each stacked to (chain, draw, ...).
        statistics: by name, each of shape (chain, draw): "diverging", "energy", "acceptance_rate", "n_steps" and "lp",
            the log density on the unconstrained space in nats.
        step_size: of each chain after warmup, shape (chain,).

    Example:
        >>> import jax, tracegrad as tg
        >>> target = tg.Target(tg.gen(lambda: tg.sample("z", tg.dist.Normal(0.0, 1.0))))
        >>> found = tg.hmc(target, key=jax.random.key(0), steps=5, draws=50, warmup=50, chains=2)
        >>> found.choices["z"].shape, found.statistics["lp"].shape, found.step_size.shape
        ((2, 50), (2, 50), (2,))
    """

    choices: Choices
    statistics: dict[str, Shaped[Array, " chain draw"]]
    step_size: Float[Array, " chain"]


def _run(name: str, space: Unconstrained, keys, starts, draws: int, warmup: int, settings: dict) -> tuple:
    """Warm up and draw, one chain to a lane, with the algorithm of this name in blackjax."""
    blackjax = require("blackjax", "mcmc", f"tracegrad.{name}")
    algorithm = getattr(blackjax, name)

    def chain(key, start):
        with lenient():
            tune, run = jax.random.split(key)
            adapted, _ = blackjax.window_adaptation(algorithm, space.log_prob, **settings).run(tune, start, warmup)
            kernel = algorithm(space.log_prob, **adapted.parameters)

            def step(state, key):
                state, info = kernel.step(key, state)
                statistics = {mine: getattr(info, theirs) for mine, theirs in STATISTICS.items()}
                return state, (state.position, statistics | {"lp": state.logdensity})

            _, (points, statistics) = lax.scan(step, adapted.state, jax.random.split(run, draws))
        return jax.vmap(space.constrain)(points), statistics, adapted.parameters["step_size"]

    return jax.jit(jax.vmap(chain))(keys, starts)


def _sample(name, target, key, draws, warmup, chains, init, settings) -> Draws:
    check_key(key, name)
    draws, warmup, chains = (
        count(name, what, value) for what, value in (("draws", draws), ("warmup", warmup), ("chains", chains))
    )
    rate = settings["target_acceptance_rate"]
    real(name, "target_acceptance", rate, DensityError, "a rate between 0 and 1", lambda x: (x > 0) & (x < 1))
    space = to_unconstrained(target)
    begin, run = jax.random.split(key)
    starts = _starts(name, space, begin, chains, init)
    choices, statistics, step_size = _run(name, space, jax.random.split(run, chains), starts, draws, warmup, settings)
    if not np.isfinite(np.asarray(statistics["lp"])).all():
        raise DensityError(
            f"{name}: the log density is not finite at the draws. Give `init`, choices at which it is, stacked to "
            f"({chains}, ...)."
        )
    return Draws(choices, statistics, step_size)


def _starts(name, space, key, chains, init):
    if init is None:
        return jax.vmap(lambda k: starting_points(space, k))(jax.random.split(key, chains))
    for path, x in paths(as_arrays(mapping(name, "init", init, "of choices"))):
        if np.shape(x)[:1] != (chains,):
            raise ChoiceError(
                f"{name}: `init` holds choices for {chains} chains along a leading axis, and that at "
                f"{'/'.join(path)!r} has the shape {list(np.shape(x))}."
            )
        if not np.isfinite(np.asarray(x)).all():
            raise ChoiceError(f"{name}: `init` is not finite at {'/'.join(path)!r}: {x!r}.")
    return jax.vmap(space.unconstrain)(init)


def nuts(
    target: Target,
    *,
    key: Key[Array, ""],
    draws: int = 1000,
    warmup: int = 1000,
    chains: int = 4,
    init: Mapping | None = None,
    target_acceptance: float = 0.8,
) -> Draws:
    """The No-U-Turn sampler on the unconstrained space of a target, by blackjax.

    Step size and diagonal mass matrix are tuned in warmup by window adaptation. Chains are lanes of one `vmap`.

    Args:
        target: a `Target` with continuous latents.
        key: one typed key.
        draws: draws of each chain after warmup.
        warmup: steps that tune and are thrown away.
        chains: the number of chains.
        init: choices to start from, stacked to (chains, ...); None starts uniformly in (-2, 2) on the unconstrained
            space.
        target_acceptance: the acceptance rate to tune for; nearer to 1 where draws diverge.

    Returns:
        `Draws`: choices of shape (chain, draw, ...) and statistics of the sampler.

    Raises:
        DensityError: a discrete latent (see `to_unconstrained`); a density that is not finite at the draws.
        ImportError: blackjax is missing.

    Source: Hoffman and Gelman, The No-U-Turn Sampler, 2014; Cabezas et al., BlackJAX, 2024.

    Example:
        >>> import jax, tracegrad as tg
        >>> model = tg.gen(lambda: tg.sample("x", tg.dist.Normal(tg.sample("z", tg.dist.Normal(0.0, 1.0)), 1.0)))
        >>> target = tg.Target(model, observed={"x": 2.0})
        >>> found = tg.nuts(target, key=jax.random.key(0), draws=200, warmup=200, chains=2)
        >>> found.choices["z"].shape, bool(abs(found.choices["z"].mean() - 1.0) < 0.3)
        ((2, 200), True)
    """
    settings = {"target_acceptance_rate": target_acceptance}
    return _sample("nuts", target, key, draws, warmup, chains, init, settings)


def hmc(
    target: Target,
    *,
    key: Key[Array, ""],
    steps: int = 20,
    draws: int = 1000,
    warmup: int = 1000,
    chains: int = 4,
    init: Mapping | None = None,
    target_acceptance: float = 0.8,
) -> Draws:
    """Hamiltonian Monte Carlo with a fixed number of leapfrog steps, by blackjax; otherwise as `nuts`.

    Args:
        target: a `Target` with continuous latents.
        key: one typed key.
        steps: leapfrog steps of a proposal.
        draws: draws of each chain after warmup.
        warmup: steps that tune and are thrown away.
        chains: the number of chains.
        init: choices to start from, stacked to (chains, ...).
        target_acceptance: the acceptance rate to tune for.

    Returns:
        `Draws`.

    Raises:
        DensityError: as for `nuts`.
        ImportError: blackjax is missing.

    Source: Neal, MCMC Using Hamiltonian Dynamics, 2011.

    Example:
        >>> import jax, tracegrad as tg
        >>> model = tg.gen(lambda: tg.sample("x", tg.dist.Normal(tg.sample("z", tg.dist.Normal(0.0, 1.0)), 1.0)))
        >>> target = tg.Target(model, observed={"x": 2.0})
        >>> tg.hmc(target, key=jax.random.key(0), steps=5, draws=100, warmup=100, chains=1).choices["z"].shape
        (1, 100)
    """
    settings = {"target_acceptance_rate": target_acceptance, "num_integration_steps": count("hmc", "steps", steps)}
    return _sample("hmc", target, key, draws, warmup, chains, init, settings)


def to_arviz(draws: Draws) -> Any:
    """Draws as ArviZ holds them: InferenceData before its version 1, a DataTree from then on.

    Args:
        draws: what `nuts` or `hmc` returned.

    Returns:
        Groups `posterior` (a variable for each address, nested ones named "a.b") and `sample_stats`.

    Raises:
        ImportError: arviz is missing.

    Source: Kumar et al., ArviZ, 2019.

    Example:
        >>> import jax, tracegrad as tg
        >>> target = tg.Target(tg.gen(lambda: tg.sample("z", tg.dist.Normal(0.0, 1.0))))
        >>> data = tg.to_arviz(tg.nuts(target, key=jax.random.key(0), draws=50, warmup=100, chains=2))
        >>> data["posterior"]["z"].shape
        (2, 50)
    """
    arviz = require("arviz", "plots", "to_arviz")
    if not isinstance(draws, Draws):
        raise ChoiceError(f"to_arviz takes what `nuts` or `hmc` returned, and got {type(draws).__name__}.")
    groups = {
        "posterior": {".".join(path): np.asarray(x) for path, x in paths(draws.choices)},
        "sample_stats": {name: np.asarray(x) for name, x in draws.statistics.items()},
    }
    if int(arviz.__version__.partition(".")[0]) >= 1:
        return arviz.from_dict(groups)
    return arviz.from_dict(**groups)
