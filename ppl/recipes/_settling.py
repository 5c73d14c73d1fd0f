"""When a fit ends: Adam whose rate stays until the loss has stopped falling, and then comes down to nothing.

Only a rate that comes down brings a stochastic fit to rest, so a run is not cut off where its loss looks flat: there
the descent of the rate begins, and the run ends with it. The rule is part of the optimiser's state, so that it runs in
the compiled loop.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import optax
from jax import numpy as jnp

from ..training._plateau import PATIENCE, WINDOW, has_fallen

DESCENT = 0.5
"""The share of all steps that the descent of the rate takes."""


class Settling(NamedTuple):
    """The state of the rule: steps so far, the window's sum and squares, the best window yet, and where it goes down.

    `start` is the step at which the rate begins to come down: at the latest that which leaves time for it.
    """

    taken: jax.Array
    total: jax.Array
    squares: jax.Array
    best: jax.Array
    best_error: jax.Array
    stale: jax.Array
    start: jax.Array


def descent_of(steps: int) -> int:
    """How many steps the rate takes to come down."""
    return max(1, round(DESCENT * steps))


def settling_adam(rate: float, steps: int) -> optax.GradientTransformationExtraArgs:
    """Adam at a rate that stays until the loss has stopped falling, and then goes to zero along half a cosine.

    Args:
        rate: the learning rate.
        steps: the number of steps at which it is zero at the latest.
    """
    descent = descent_of(steps)

    def init(params):
        zero, far = jnp.zeros(()), jnp.asarray(jnp.inf)
        none = jnp.zeros((), jnp.int32)
        return Settling(none, zero, zero, far, zero, none, jnp.asarray(steps - descent, jnp.int32))

    def update(updates, state, params=None, *, value, **_):
        gone = jnp.clip((state.taken - state.start).astype(float) / descent, 0.0, 1.0)
        now = -rate * 0.5 * (1.0 + jnp.cos(jnp.pi * gone))
        scaled = jax.tree.map(lambda x: (now * x).astype(x.dtype), updates)
        return scaled, _after(state, jnp.asarray(value, state.total.dtype))

    return optax.chain(optax.scale_by_adam(), optax.GradientTransformationExtraArgs(init, update))


def _after(state: Settling, value: jax.Array) -> Settling:
    """The state after a step with this loss."""
    taken, total, squares = state.taken + 1, state.total + value, state.squares + value**2
    full = taken % WINDOW == 0
    mean = total / WINDOW
    error = jnp.sqrt(jnp.maximum(squares / WINDOW - mean**2, 0.0) / WINDOW)
    fell = has_fallen(mean, error, state.best, state.best_error)
    stale = jnp.where(full, jnp.where(fell, 0, state.stale + 1), state.stale)
    better = full & fell
    return Settling(
        taken,
        jnp.where(full, 0.0, total),
        jnp.where(full, 0.0, squares),
        jnp.where(better, mean, state.best),
        jnp.where(better, error, state.best_error),
        stale,
        jnp.where(stale >= PATIENCE, jnp.minimum(state.start, taken), state.start),
    )


def rule_of(opt_state: Any) -> Settling:
    """The rule's state in the state of the optimiser."""
    return opt_state[-1]


def at_rest(opt_state: Any, steps: int) -> bool:
    """Whether the rate has come down to nothing."""
    rule = rule_of(opt_state)
    return int(rule.taken) >= int(rule.start) + descent_of(steps)


def in_words(opt_state: Any, steps: int) -> str:
    """When and why a run ended."""
    rule = rule_of(opt_state)
    begun, done = int(rule.start), int(rule.taken)
    if begun < steps - descent_of(steps):
        why = f"after {begun} it had stopped rising (no more than its error in {PATIENCE} windows of {WINDOW})"
    else:
        why = f"after {begun} it was still rising, or its noise does not tell, when the time had come"
    return f"{done} steps: {why}, and the learning rate then went down to nothing over {done - begun}."
