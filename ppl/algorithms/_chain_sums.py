"""Sums over all paths of a finite chain, in matrix products: its total, what is filtered, what each term weighs in it.

A chain of K states has log weights `start` (K,) of its first state, `moves` (K, K) or, one for each later step,
(T, K, K), from row to column, and `gains` (T, K) at the later states. With M_t = exp(moves + gains_t),

    total = log sum exp(start) M_1 ... M_T.

The sums are scaled: what is filtered is a vector of probabilities, each step is a product with exp(moves - top), where
`top` is the largest of each column, and what was taken out is counted in logs. Such a sum loses what underflows. The
rule: an entry before its gain is right to rounding if, times what the step before was divided by, it is at least
K * tiny / eps: all that can have underflowed is then less than its last digit. If an entry is smaller though its state
can be reached, and only then, the sum is done again in logs, which takes K^2 exponentials a step.

The derivative of the total is the probability that the path goes where the term is: backwards,
P(z_t = i) = sum_j P(z_t = i | z_{t+1} = j) P(z_{t+1} = j), whose factors are all between 0 and 1. A weight of minus
infinity has the derivative zero. Derivatives of those are derivatives of the sum in logs.

Source: Rabiner, A Tutorial on Hidden Markov Models, 1989, section V.A.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Float

EXACT = lax.Precision.HIGHEST
"""Accelerators round the operands of a product to fewer digits where they may."""


class Weights(NamedTuple):
    """The log weights of a chain: see above."""

    start: Float[Array, " k"]
    moves: Float[Array, "*steps k k"]
    gains: Float[Array, "steps k"]

    @property
    def each(self) -> Any:
        """The moves as the inputs of a loop over the later steps: None where they are the same at all."""
        return self.moves if self.moves.ndim == 3 else None

    def at(self, move: Any) -> Any:
        """The moves of one step, from its input."""
        return self.moves if move is None else move


def _finite(x):
    return jnp.where(jnp.isfinite(x), x, 0.0)


def log_sum(x: Any, axis: int) -> Any:
    """Log sum exp along an axis, whose derivative is zero where there is nothing to sum."""
    top = lax.stop_gradient(_finite(jnp.max(x, axis)))
    total = jnp.sum(jnp.exp(x - jnp.expand_dims(top, axis)), axis)
    return jnp.where(total == 0.0, -jnp.inf, jnp.log(jnp.where(total == 0.0, 1.0, total)) + top)


# ---- in logs --------------------------------------------------------------------------------------------------------


def normalized(joint: Any) -> tuple[Any, Any]:
    """Log probabilities from log weights, and the log of their sum; weights of zero are left as they are."""
    total = log_sum(joint, 0)
    return joint - jnp.where(total == -jnp.inf, 0.0, total), total


def filtered_in_logs(start: Any, steps: Any, weigh: Callable) -> tuple[Float[Array, ""], Float[Array, "steps k"]]:
    """The total, and the log probabilities of the states given what came until then.

    Args:
        start: the log weights of the first state.
        steps: the inputs of the later steps, stacked.
        weigh: a function of one step's input to the log weights of its moves and of its states.
    """

    def body(alpha, step):
        moves, gains = weigh(step)
        alpha, total = normalized(log_sum(alpha[:, None] + moves, 0) + gains)
        return alpha, (alpha, total)

    alpha, total = normalized(start)
    _, (alphas, totals) = lax.scan(body, alpha, steps)
    return total + jnp.sum(totals), jnp.concatenate([alpha[None], alphas])


def _in_logs(weights: Weights) -> tuple[Float[Array, ""], Float[Array, "steps k"]]:
    steps = weights.each, weights.gains
    return filtered_in_logs(weights.start, steps, lambda step: (weights.at(step[0]), step[1]))


def _smoothed_in_logs(weights: Weights) -> tuple[Float[Array, ""], Weights]:
    """The total, and the probability of each state and move of the path, one for each weight."""
    total, alphas = _in_logs(weights)

    def body(state, step):
        later, moved = state
        move, alpha = step
        joint = alpha[:, None] + weights.at(move)
        here = jnp.exp(joint - _finite(log_sum(joint, 0))[None]) * later[None]
        summed, stacked = (moved + here, None) if move is None else (moved, here)
        return (jnp.sum(here, 1), summed), (later, stacked)

    last = jnp.exp(alphas[-1]), jnp.zeros_like(weights.moves if weights.each is None else weights.start)
    (first, moved), (later, stacked) = lax.scan(body, last, (weights.each, alphas[:-1]), reverse=True)
    return total, Weights(first, moved if stacked is None else stacked, later)


# ---- scaled ---------------------------------------------------------------------------------------------------------


class Scaled(NamedTuple):
    """A sum over paths in scaled products: what was multiplied, the states, and the entries before their gains."""

    factors: Any
    states: Any
    entries: Any
    total: Any
    safe: Any


def _matrices(spread: str, weights: Weights) -> str:
    return spread.replace("M", "ij" if weights.each is None else "tij")


def _apart(x):
    """Exponentials along the last axis relative to the largest, and its log."""
    top = _finite(jnp.max(x, -1))
    return jnp.exp(x - top[..., None]), top


def _shares(x):
    total = jnp.sum(x)
    return x / jnp.maximum(total, jnp.finfo(x.dtype).tiny), total


def filtered(weights: Weights) -> Scaled:
    """The scaled sum; `safe` says whether each entry is right to rounding."""
    top = _finite(jnp.max(weights.moves, -2))
    factors = jnp.exp(weights.moves - top[..., None, :])
    relative, peaks = _apart(weights.gains + jnp.broadcast_to(top, weights.gains.shape))
    start, peak = _apart(weights.start)
    start, first = _shares(start)

    def body(state, step):
        factor, gain = step
        product = jnp.dot(state, factors if factor is None else factor, precision=EXACT)
        state, _ = _shares(product * gain)
        return state, state

    _, later = lax.scan(body, start, (None if weights.each is None else factors, relative))
    states = jnp.concatenate([start[None], later])
    entries = jnp.einsum(_matrices("ti,M->tj", weights), states[:-1], factors, precision=EXACT)
    sums = jnp.concatenate([first[None], jnp.sum(entries * relative, -1)])
    total = jnp.sum(jnp.log(sums)) + peak + jnp.sum(peaks)
    checked = jnp.concatenate([entries * jnp.minimum(sums[:-1], 1.0)[:, None], jnp.full_like(start, sums[-1])[None]])
    kind = jnp.finfo(sums.dtype)
    return Scaled(factors, states, entries, total, checked >= states.shape[-1] * kind.tiny / kind.eps)


def _reachable(weights: Weights) -> Any:
    """Whether a state can be reached, before its gain, at each later step; and any at all after the last one."""

    def body(state, step):
        move, gain = step
        before = jnp.dot(state, (weights.at(move) > -jnp.inf).astype(state.dtype)) > 0.0
        return (before & (gain > -jnp.inf)).astype(state.dtype), before

    start = (weights.start > -jnp.inf).astype(weights.start.dtype)
    last, before = lax.scan(body, start, (weights.each, weights.gains))
    return jnp.concatenate([before, jnp.full(last.shape, jnp.any(last > 0.0))[None]])


def _smoothed(weights: Weights, scaled: Scaled) -> Weights:
    entries = jnp.where(scaled.entries > 0.0, scaled.entries, 1.0)

    def body(later, step):
        factor, state, entry = step
        matrix = scaled.factors if factor is None else factor
        here = state * jnp.dot(matrix, later / entry, precision=EXACT)
        return here, later

    steps = (None if weights.each is None else scaled.factors, scaled.states[:-1], entries)
    first, later = lax.scan(body, scaled.states[-1], steps, reverse=True)
    moved = (
        jnp.einsum(_matrices("ti,tj->M", weights), scaled.states[:-1], later / entries, precision=EXACT)
        * scaled.factors
    )
    return Weights(first, moved, later)


def _once(needed: Any, repair: Callable, weights: Any, otherwise: Any) -> Any:
    """`repair(weights)` where it is needed: a loop of one turn at most, left out under `vmap` if no lane needs it."""

    def body(state):
        needed, weights, _ = state
        # The weights are used up: what a loop leaves as it is may be worked out before it, and so always.
        return needed & ~needed, jax.tree.map(jnp.zeros_like, weights), repair(weights)

    return lax.while_loop(lambda s: s[0], body, (needed, weights, otherwise))[2]


def needs_logs(weights: Weights, scaled: Scaled) -> Any:
    """Whether something that counts may have underflowed."""
    suspect = ~jnp.all(scaled.safe)
    lost = _once(suspect, lambda w: jnp.any(~scaled.safe & _reachable(w)), weights, suspect & ~suspect)
    return lost | jnp.isnan(scaled.total)


def _repaired(weights: Weights, scaled: Scaled, otherwise: Any, in_logs: Callable) -> Any:
    """What the scaled sum gave, or where it is not right to rounding what the sum in logs gives."""
    return _once(needs_logs(weights, scaled), in_logs, weights, otherwise)


# ---- what is used ---------------------------------------------------------------------------------------------------


@jax.custom_jvp
def _total_and_smoothed(weights: Weights) -> tuple[Float[Array, ""], Weights]:
    """The total, and the probability of each state and move of a path in place of its log weight, summed over steps."""
    scaled = filtered(weights)
    return _repaired(weights, scaled, (scaled.total, _smoothed(weights, scaled)), _smoothed_in_logs)


@_total_and_smoothed.defjvp
def _total_and_smoothed_jvp(primals, tangents):
    return _total_and_smoothed(*primals), jax.jvp(_smoothed_in_logs, primals, tangents)[1]


@jax.custom_jvp
def log_total(weights: Weights) -> Float[Array, ""]:
    """Log of the sum over all paths."""
    scaled = filtered(weights)
    return _repaired(weights, scaled, scaled.total, lambda w: _in_logs(w)[0])


@log_total.defjvp
def _log_total_jvp(primals, tangents):
    total, found = _total_and_smoothed(*primals)
    return total, sum(jnp.sum(p * d) for p, d in zip(found, *tangents, strict=True))


@jax.custom_jvp
def log_filtered(weights: Weights) -> Float[Array, "steps k"]:
    """The log probabilities of the states at each step given what came until then."""
    scaled = filtered(weights)
    return _repaired(weights, scaled, jnp.log(scaled.states), lambda w: _in_logs(w)[1])


@log_filtered.defjvp
def _log_filtered_jvp(primals, tangents):
    return log_filtered(*primals), jax.jvp(lambda w: _in_logs(w)[1], primals, tangents)[1]
