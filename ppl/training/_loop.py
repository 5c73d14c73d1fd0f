"""The compiled loop of `fit`: what changes from step to step, one step, and many of them in one dispatch.

The key of a step is folded from the run's key and the step's number, so that a run does not depend on how its steps are
grouped into dispatches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
import optax
from jax import lax
from jax import numpy as jnp

from .._errors import FitError
from ..transforms._internal import at_levels, is_inexact, lenient, stop_gradient
from ._arguments import check_next_state, check_value, names_taken
from ._kept import weakly
from ._levels import learned, means
from ._parameters import unwrap


class Now(NamedTuple):
    """What changes from step to step: the trained arrays, the two states, the steps skipped, and the arrays' mean.

    Beside them are the baselines that are learned, None where there are none.
    """

    arrays: Any
    opt_state: Any
    state: Any
    skipped: Any
    average: Any
    baselines: Any = None


def objective_of(objective, static, batches, *, stateful, maximize, applied=None):
    """The loss, and with it the objective and the next state, of the arrays among the parameters.

    It holds neither the objective nor the data, so that what is compiled of it may outlive both. `applied` makes of the
    objective another one, where that is what is to be optimised.
    """
    given = ("key", "params", "batch") if batches.has_data else ("key", "params")
    takes = names_taken(objective, given, batches.names, stateful=stateful)
    scale, behind = batches.size / batches.batch, weakly(objective)

    def loss(arrays, key, batch, indices, state, levels=None):
        named = {"scale": scale, "indices": indices, "state": state}
        named = {name: named[name] for name in takes}
        function = behind() if applied is None else applied(behind())
        function = at_levels(function, levels) if levels else function
        value = function(key, unwrap(eqx.combine(arrays, static)), *batch, **named)
        if stateful:
            if not isinstance(value, tuple) or len(value) != 2:
                raise FitError("fit: with `state`, the objective must return a pair (value, next state).")
            value, following = value
            state = stop_gradient(jax.tree.map(jnp.asarray, check_next_state(state, following)))
        value = check_value(value)
        return (-value if maximize else value), (value, state)

    return loss


def loss_at(loss: Callable, batch: tuple, key: jax.Array, step: Any, now: Now) -> Callable:
    """The loss at a step, of the arrays, and of a state and levels if others are given.

    The batch has which examples it holds.
    """
    own = means(now.baselines)

    def at(arrays, state=now.state, levels=own):
        return loss(arrays, jax.random.fold_in(key, step), *batch, state, levels)

    return at


def _as_finite_as(first: Any, now: Any) -> jax.Array:
    """Whether entries are finite wherever they were at first (a bound among the parameters may be infinite)."""
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(now), strict=True)
    every = [jnp.all(jnp.isfinite(y) | ~jnp.isfinite(x)) for x, y in pairs if is_inexact(y)]
    return jnp.all(jnp.stack(every)) if every else jnp.asarray(True)


def stays_finite(before: Now, after: Now) -> jax.Array:
    """Whether parameters, the optimiser's state and the objective's own are as finite as they were."""
    first, now = ((x.arrays, x.opt_state, x.state) for x in (before, after))
    return _as_finite_as(first, now)


def _slopes(grads):
    """The direction in which the loss rises: for a complex number the conjugate of what JAX calls its derivative."""
    return jax.tree.map(jnp.conj, grads)


def _unless_bad(now: Now, following: Now, objective: jax.Array) -> Now:
    """The next step, or this one again where something in the next is not finite."""
    good = jnp.isfinite(objective) & stays_finite(now, following)
    kept = jax.tree.map(lambda x, y: jnp.where(good, y, x), now, following)
    return kept._replace(skipped=now.skipped + jnp.where(good, 0, 1))


def _averaged(now: Now, step: Any, tail: int) -> Now:
    """With the arrays taken into their mean, that of all steps from `tail` on; before it, the arrays themselves."""
    count = (jnp.maximum(step, np.uint32(tail)) - np.uint32(tail) + 1).astype(float)
    weight = 1.0 / count

    def mean(x, new):
        return jnp.where(count == 1.0, new, x + (new - x) * weight.astype(new.dtype))

    return now._replace(average=jax.tree.map(mean, now.average, now.arrays))


def make_run(loss: Callable, take: Callable, update: Callable, *, skips: bool, tail: int | None) -> Callable:
    """The loop: `count` steps from `start`, with the objective of each.

    Args:
        loss: as `objective_of` makes it.
        take: the batch of a step of a dispatch; see `Batches`.
        update: that of the optimiser.
        skips: whether steps that are not finite are left out.
        tail: the step from which on the arrays are averaged.
    """

    def step(i, carry, key, start, fed):
        now, values = carry
        at = loss_at(loss, take(fed, i), key, start + i, now)
        both = jax.value_and_grad(lambda arrays, levels: at(arrays, levels=levels), argnums=(0, 1), has_aux=True)
        (value, (objective, state)), (grads, drift) = both(now.arrays, means(now.baselines))
        grads, levels = _slopes(grads), learned(now.baselines, drift)
        with lenient():  # optax mixes types of its own
            updates, opt_state = update(
                grads, now.opt_state, now.arrays, value=value, grad=grads, value_fn=lambda arrays: at(arrays)[0]
            )
        following = Now(optax.apply_updates(now.arrays, updates), opt_state, state, now.skipped, now.average, levels)
        following = _unless_bad(now, following, objective) if skips else following
        following = following if tail is None else _averaged(following, start + i.astype(np.uint32), tail)
        return following, values.at[i].set(objective.astype(values.dtype))

    def run(now, key, start, count, values, fed):
        return lax.fori_loop(0, count, lambda i, carry: step(i, carry, key, start, fed), (now, values))

    return run
