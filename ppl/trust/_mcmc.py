"""Markov chains on the unconstrained space of a target, by numpyro: the check of a variational fit."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Float, Key, Shaped
from numpyro.infer import HMC, NUTS

from .._errors import ChoiceError, DensityError
from .._progress import ProgressLine
from ..algorithms._base import at_index
from ..auto._starts import Initial, checked_initial, starting_point
from ..auto._unconstrained import Unconstrained, to_unconstrained
from ..core._addresses import Choices, as_arrays, paths
from ..core._arguments import count, mapping
from ..core._target import Target
from ..posteriors._posterior import Posterior, asked, key_of_summary
from ..posteriors._summary import Summary, summarised
from ..posteriors._visits import with_deterministics
from ..transforms._internal import check_key, flag, lenient, real

SECONDS = 0.5
"""A dispatch that takes less is followed by one of twice the steps, so that the progress line goes on."""
DEEPEST = 1023
"""Leapfrog steps of the largest tree that NUTS grows, of depth 10."""


class Draws(Posterior):
    """Draws of Markov chains: a posterior, whose draws are some of these.

    Attributes:
        choices: the latent choices, each stacked to (chain, draw, ...).
        statistics: by name, each of shape (chain, draw): "diverging", "energy", "acceptance_rate", "n_steps" and "lp",
            the log density on the unconstrained space in nats.
        step_size: of each chain after warmup, shape (chain,).
        target: the `Target`, or None where it is not known.

    Examples:
        >>> import jax, tracegrad as tg
        >>> target = tg.Target(tg.gen(lambda: tg.sample("z", tg.dist.Normal(0.0, 1.0))))
        >>> found = tg.hmc(target, key=jax.random.key(0), steps=5, draws=50, warmup=50, chains=2, progress=False)
        >>> found.choices["z"].shape, found.statistics["lp"].shape, found.step_size.shape
        ((2, 50), (2, 50), (2,))
        >>> found.sample(jax.random.key(1), 10)["z"].shape
        (10,)
    """

    choices: Choices
    statistics: dict[str, Shaped[Array, " chain draw"]]
    step_size: Float[Array, " chain"]
    target: Target | None = None

    def latents(self, key: Key[Array, ""], n: int) -> Choices:
        """Some of the draws of all chains, none twice as long as there are enough."""
        flat, n = _flat(self.choices), asked(self, "latents", key, n)
        index = jax.random.choice(key, self._size, (n,), replace=n > self._size)
        return at_index(flat, index)

    def chains(self, key: Any = None, n: int = 0) -> Choices:
        """All draws, with the deterministic values of the program; no key is needed."""
        if self.target is None:
            return self.choices
        # All latents are given, so that nothing is drawn by this key.
        made = with_deterministics(self.target, jax.random.key(0), _flat(self.choices), self._size)
        lead = jax.tree.leaves(self.choices)[0].shape[:2]
        return jax.tree.map(lambda x: x.reshape(*lead, *x.shape[1:]), made)

    def diagnostics(self) -> dict[str, Shaped[Array, "chain draw"]]:
        """The statistics."""
        return self.statistics

    def summary(self, *, key: Key[Array, ""] | None = None, n: int = 0) -> Summary:
        """As of every posterior, by all draws, with R-hat and the effective number of draws of each quantity."""
        key_of_summary(self, key)
        return summarised(repr(self), self.chains(), doubts=tuple(self._doubts()))

    def _doubts(self):
        diverging = int(np.sum(self.statistics["diverging"]))
        if diverging:
            yield (
                f"{diverging} of {self._size} draws diverged: there are corners that the chains do not reach. Raise "
                "`target_acceptance`, or non-centre what depends on a scale "
                "(`model.with_coordinates({'effects': noncentred()})`)."
            )
        cut = int(np.sum(np.asarray(self.statistics["n_steps"]) >= DEEPEST))
        if cut:
            yield f"{cut} of {self._size} draws came to the end of the largest tree, {DEEPEST} steps: mixing is slow."
        if jax.tree.leaves(self.choices)[0].shape[0] == 1:
            yield "There is one chain, so that nothing tells whether others would agree. Draw `chains=4`."

    @property
    def _size(self):
        chains, draws = jax.tree.leaves(self.choices)[0].shape[:2]
        return chains * draws

    def __repr__(self):
        chains, draws = jax.tree.leaves(self.choices)[0].shape[:2]
        what = "" if self.target is None else f" of the posterior of {self.target.function.name}"
        return f"Draws: {chains} x {draws} draws{what}"


def _flat(choices):
    return jax.tree.map(lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]), choices)


def _statistics(state) -> dict[str, Any]:
    """What numpyro's state says of a draw."""
    return {
        "diverging": state.diverging,
        "energy": state.energy,
        "acceptance_rate": state.accept_prob,
        "n_steps": jnp.asarray(state.num_steps),
        "lp": -state.potential_energy,
    }


class _Chains:
    """Chains side by side, one to a lane, that are compiled once and run on by any number of steps."""

    def __init__(self, kernel: Any, space: Unconstrained, draws: int, warmup: int):
        self.kernel, self.draws, self.warmup = kernel, draws, warmup
        self.begin = jax.jit(jax.vmap(self._begin))
        self.advance = jax.jit(jax.vmap(self._advance, in_axes=(None, 0, 0)))
        self.constrain = jax.jit(jax.vmap(jax.vmap(space.constrain)))

    def _begin(self, key, start):
        """The state of a chain, and room for what is kept of it."""
        with lenient():
            state = self.kernel.init(key, self.warmup, start, (), {})
        kept = jax.eval_shape(lambda state: (state.z, _statistics(state)), state)
        return state, jax.tree.map(lambda x: jnp.zeros((self.draws, *x.shape), x.dtype), kept)

    def _advance(self, count, state, kept):
        def step(_, carry):
            state, kept = carry
            with lenient():
                state = self.kernel.sample(state, (), {})
            at = jnp.maximum(state.i - 1 - self.warmup, 0)  # What warms up is written where the first draw will be.
            kept = jax.tree.map(lambda xs, x: xs.at[at].set(x.astype(xs.dtype)), kept, (state.z, _statistics(state)))
            return state, kept

        return lax.fori_loop(0, count, step, (state, kept))

    def run(self, keys: Any, starts: Any, *, progress: bool) -> tuple:
        """The choices, the statistics and the step sizes."""
        state, kept = self.begin(keys, starts)
        total, done = self.warmup + self.draws, 0
        bar, n = ProgressLine(total, show=progress), 1 if progress else total
        while done < total:
            n = min(n, total - done)
            clock = time.perf_counter()
            state, kept = self.advance(n, state, kept)
            done += n
            if progress:
                bar.tell(done, self._words(done, kept))
                n *= 2 if time.perf_counter() - clock < SECONDS else 1
        points, statistics = kept
        return self.constrain(points), statistics, state.adapt_state.step_size

    def _words(self, done, kept):
        if done <= self.warmup:
            jax.block_until_ready(kept)
            return "warmup"
        diverging = np.asarray(kept[1]["diverging"])[:, : done - self.warmup]
        return f"draws, {diverging.sum()} of {diverging.size} diverged"


def _sample(name, kernel, settings, target, key, draws, warmup, chains, init, initial, progress) -> Draws:
    check_key(key, name)
    draws, warmup, chains = (
        count(name, what, value) for what, value in (("draws", draws), ("warmup", warmup), ("chains", chains))
    )
    rate = settings["target_accept_prob"]
    real(name, "target_acceptance", rate, DensityError, "a rate between 0 and 1", lambda x: (x > 0) & (x < 1))
    progress = flag(name, "progress", progress, DensityError)
    space = to_unconstrained(target)
    begin, run = jax.random.split(key)
    starts = _starts(name, space, begin, chains, init, initial)
    made = kernel(potential_fn=lambda point: -space.log_prob(point), **settings)
    progress = progress and not isinstance(starts, jax.core.Tracer)
    keys = jax.random.split(run, chains)
    choices, statistics, step_size = _Chains(made, space, draws, warmup).run(keys, starts, progress=progress)
    if not isinstance(statistics["lp"], jax.core.Tracer) and not np.isfinite(np.asarray(statistics["lp"])).all():
        raise DensityError(
            f"{name}: the log density is not finite at the draws. Give `init`, choices at which it is, stacked to "
            f"({chains}, ...)."
        )
    return Draws(choices, statistics, step_size, target)


def _starts(name, space, key, chains, init, initial):
    if init is None:
        initial = checked_initial(name, space, initial)
        return jax.vmap(lambda k: starting_point(space, k, initial))(jax.random.split(key, chains))
    if initial is not None:
        raise ChoiceError(f"{name}: give `init`, a start for each chain, or `initial`, one rule for all, and not both.")
    for path, x in paths(as_arrays(mapping(name, "init", init, "of choices"))):
        if np.shape(x)[:1] != (chains,):
            raise ChoiceError(
                f"{name}: `init` holds choices for {chains} chains along a leading axis, and that at "
                f"{'/'.join(path)!r} has the shape {list(np.shape(x))}."
            )
        if not isinstance(x, jax.core.Tracer) and not np.isfinite(np.asarray(x)).all():
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
    initial: Initial = None,
    target_acceptance: float = 0.8,
    progress: bool = True,
) -> Draws:
    """The No-U-Turn sampler on the unconstrained space of a target, by numpyro.

    Step size and diagonal mass matrix are tuned in warmup by window adaptation. Chains are lanes of one `vmap`.

    Args:
        target: a `Target` with continuous latents.
        key: one typed key.
        draws: draws of each chain after warmup.
        warmup: steps that tune and are thrown away.
        chains: the number of chains.
        init: choices to start from at every latent, stacked to (chains, ...); None leaves it to `initial`.
        initial: values to start all chains from, by address ({"mu": 1.0}, the rest uniform); "prior", draws of the
            program; "uniform", the default, in (-2, 2) on the unconstrained space.
        target_acceptance: the acceptance rate to tune for; nearer to 1 where draws diverge.
        progress: whether to show a line with the number of draws that diverged, and the rate.

    Returns:
        `Draws`: a posterior, with choices of shape (chain, draw, ...) and statistics of the sampler. Its `summary()`
        has R-hat, and says in words what is not to be trusted.

    Raises:
        AddressError, ChoiceError: `init` or `initial` names no latent, or a value that it cannot have.
        DensityError: a discrete latent (see `to_unconstrained`); a density that is not finite at the draws.

    Source: Hoffman and Gelman, The No-U-Turn Sampler, 2014; Phan, Pradhan and Jankowiak, Composable Effects for
    Flexible and Accelerated Probabilistic Programming in NumPyro, 2019.

    Examples:
        >>> import jax, tracegrad as tg
        >>> model = tg.gen(lambda: tg.sample("x", tg.dist.Normal(tg.sample("z", tg.dist.Normal(0.0, 1.0)), 1.0)))
        >>> target = tg.Target(model, observed={"x": 2.0})
        >>> found = tg.nuts(target, key=jax.random.key(0), draws=200, warmup=200, chains=2, progress=False)
        >>> found.choices["z"].shape, bool(abs(found.choices["z"].mean() - 1.0) < 0.3)
        ((2, 200), True)
    """
    settings = {"target_accept_prob": target_acceptance}
    return _sample("nuts", NUTS, settings, target, key, draws, warmup, chains, init, initial, progress)


def hmc(
    target: Target,
    *,
    key: Key[Array, ""],
    steps: int = 20,
    draws: int = 1000,
    warmup: int = 1000,
    chains: int = 4,
    init: Mapping | None = None,
    initial: Initial = None,
    target_acceptance: float = 0.8,
    progress: bool = True,
) -> Draws:
    """Hamiltonian Monte Carlo with a fixed number of leapfrog steps, by numpyro; otherwise as `nuts`.

    Args:
        target: a `Target` with continuous latents.
        key: one typed key.
        steps: leapfrog steps of a proposal.
        draws: draws of each chain after warmup.
        warmup: steps that tune and are thrown away.
        chains: the number of chains.
        init: choices to start from at every latent, stacked to (chains, ...).
        initial: values by address, or a rule, as for `nuts`.
        target_acceptance: the acceptance rate to tune for.
        progress: whether to show a line with the number of draws that diverged, and the rate.

    Returns:
        `Draws`.

    Raises:
        DensityError: as for `nuts`.

    Source: Neal, MCMC Using Hamiltonian Dynamics, 2011.

    Examples:
        >>> import jax, tracegrad as tg
        >>> model = tg.gen(lambda: tg.sample("x", tg.dist.Normal(tg.sample("z", tg.dist.Normal(0.0, 1.0)), 1.0)))
        >>> target = tg.Target(model, observed={"x": 2.0})
        >>> found = tg.hmc(target, key=jax.random.key(0), steps=5, draws=100, warmup=100, chains=1, progress=False)
        >>> found.choices["z"].shape
        (1, 100)
    """
    settings = {
        "target_accept_prob": target_acceptance,
        "num_steps": count("hmc", "steps", steps),
        "trajectory_length": None,
    }
    return _sample("hmc", HMC, settings, target, key, draws, warmup, chains, init, initial, progress)
