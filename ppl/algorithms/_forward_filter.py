"""Exact forward filtering of a discrete Markov chain: Z by a recursion over its states, in O(T K^2)."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import jax
from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Float, Key

from .._errors import DensityError
from ..core._addresses import Choices
from ..core._target import Target
from ..transforms import RandomKeyError
from ..transforms._internal import continuous
from ._base import Algorithm, Estimate, Retained, choose, split
from ._chain_sums import Weights, filtered_in_logs, log_filtered, log_total
from ._finite_chain import FiniteChain, Later, finite_chain_of, later, onto_first, path_at

LIMIT = 1 << 24
"""Weights of moves that are kept at a time: 64 megabytes. Where they are more, each step makes its own."""


class Filter(NamedTuple):
    """A chain and what its moves weigh: `weights` where those are kept, else None, and each step makes its own."""

    chain: FiniteChain
    later: Later
    start: Float[Array, " k"]
    weights: Weights | None

    def total(self) -> Float[Array, ""]:
        """Log Z."""
        return self._by_steps()[0] if self.weights is None else continuous(log_total)(self.weights)

    def filtered(self) -> Float[Array, "steps k"]:
        """At each step the log probabilities of the states given what was observed until then."""
        return self._by_steps()[1] if self.weights is None else continuous(log_filtered)(self.weights)

    def _by_steps(self):
        weigh = jax.checkpoint(lambda stacked: self.later.between(*self.later.whole(stacked)))
        return filtered_in_logs(self.start, self.later.stacked, weigh)

    @property
    def moves(self) -> Any:
        """What a loop over the later steps is given to weigh their moves."""
        return self.later.stacked if self.weights is None else self.weights.each

    def column(self, moves: Any, index: Any) -> Float[Array, " k"]:
        """The log weights of a step's moves onto a value, from what the loop was given."""
        if self.weights is None:
            return self.later.column(index, *self.later.whole(moves))
        return self.weights.at(moves)[:, index]


def _filter_of(target: Target) -> Filter:
    chain = finite_chain_of(target, "forward_filter")
    steps, start = later(chain), onto_first(chain)
    kept = not steps.changing or steps.length * steps.k**2 <= LIMIT
    return Filter(chain, steps, start, Weights(start, *steps.weights()) if kept else None)


class ForwardFilter(Algorithm):
    """See `forward_filter`."""

    indices: ClassVar[tuple[str, ...]] = ("index",)

    def estimate(self, key: Key[Array, ""] | None, target: Target) -> Estimate:
        """The recursion; a draw samples the states backwards."""
        try:
            chain = _filter_of(target)
        except RandomKeyError as error:
            raise DensityError(
                f"forward_filter: a density inside {target.function.name} is itself an estimate, and this sum is exact."
                f" Use `smc(n)`. ({error})"
            ) from error
        return Estimate(chain.total(), lambda key: _backward(chain, key, target))

    def estimate_given(self, key: Key[Array, ""] | None, target: Target, retained: Retained) -> Float[Array, ""]:
        """The same recursion: it is exact, so there is nothing to retain."""
        return self.estimate(key, target).log_z


def _backward(chain: Filter, key: Any, target: Target) -> tuple[Choices, Float[Array, ""]]:
    """Draw the states given all that was observed, the last one first, and return their choices and log gamma."""
    keys, alphas = split(key, chain.chain.chain.length, target, "forward_filter"), chain.filtered()

    def body(after, at):
        key, alpha, moves = at
        index = choose(key, alpha + chain.column(moves, after), target)
        return index, index

    last = choose(keys[0], alphas[-1], target)
    _, earlier = lax.scan(body, last, (keys[1:], alphas[:-1], chain.moves), reverse=True)
    logps, choices = path_at(chain.chain, jnp.concatenate([earlier, last[None]]))
    return target.without_observed(choices), jnp.sum(logps)


def forward_filter() -> ForwardFilter:
    """Exact forward filtering of a hidden Markov model, a `scan` whose steps choose from finite supports.

    With K joint values of a step's choices and T steps, alpha_t(j) = sum_k alpha_{t-1}(k) p(j, x_t | k), in O(T K^2):
    one `lax.scan` of products of a vector and a matrix, its densities evaluated before it. The carry of the scan must
    be a function of the step's own choices, apart from what does not vary with them. The density is exact and needs no
    key; `normalize` draws the whole path from the exact posterior, backwards, each state one sample at the address
    "index".

    Returns:
        An algorithm for `marginal(step.scan(), keep, ...)` and `normalize(Target(step.scan(), ...), ...)`.

    Raises:
        DensityError: on use, where the program is not a scan, its carry is not Markov, or a choice is not finite.

    Source: Rabiner, A Tutorial on Hidden Markov Models, 1989; Scott, Bayesian Methods for Hidden Markov Models, 2002.

    Examples:
        >>> import jax.numpy as jnp, tracegrad as tg
        >>> @tg.gen
        ... def step(state, x):
        ...     z = tg.sample("z", tg.dist.Bernoulli(probs=jnp.where(state == 1, 0.9, 0.2)))
        ...     tg.sample("y", tg.dist.Normal(2.0 * z, 1.0))
        ...     return z, None
        >>> chain = tg.marginal(step.scan(length=3), "y", tg.forward_filter())
        >>> logp, _ = chain.assess({"y": jnp.array([0.0, 2.0, 2.0])}, 0)
        >>> f"{float(logp):.3f}"
        '-4.390'
    """
    return ForwardFilter()
