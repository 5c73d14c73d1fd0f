"""What forks add to an estimate: how the objective changes with each alternative, times the alternative's coefficient.

The program runs again from the forking step with the alternatives put in place: those of a group of steps (`_groups`)
by one `vmap` from the first of them on, and alternatives in lanes that do not touch each other in one run (`lanes`).
Some of the alternatives, drawn at random, are run from the first step of all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from jax import lax
from jax import numpy as jnp

from .._errors import name_of
from .._estimator import Fork
from .._jax import is_key
from .._pytree import stop_gradient
from .._samples_in import sites_in
from ..program._interpreter import walk
from ..program._noise_first import Noise
from ..program._plan import Plan
from ..program._site import again, auxiliary
from ..program._width import width
from ._by_importance import ByImportance, likely
from ._first_order_sum import fork_sum
from ._groups import groups_of
from ._numbering import alone, numbering_of_steps
from ._one_by_one import is_one_by_one
from ._replay import Lanewise, Replaying, Single
from ._stratified import some
from .lanes import versions

NONE = -1
"""The number of no alternative."""

NAMED = 4
"""How many sites a message names: as many as are read before it is clear which program is meant."""


class Forked(NamedTuple):
    """Where forks are run again from: a step of a plan, what the steps from it on take from before, and their noise."""

    at: int
    env: dict
    noise: Noise


class _Runs(NamedTuple):
    """Runs of the rest of a program.

    Attributes:
        start: from where to run.
        last: the last step that is forked.
        numbers: the alternatives, counted from the first one of the step at the start, in rows of one for each lane.
    """

    start: Forked
    last: Any
    numbers: Any


def add_forks(ys: list, plan: Plan, mode: Any, start: int, coefficients: jax.Array, sizes: jax.Array | None) -> list:
    """Add to each objective what each alternative changes, times its coefficient."""
    options = mode.options
    forked = [f._replace(env={v: stop_gradient(x) for v, x in f.env.items()}) for f in mode.forked]
    drawn = _drawn(options.forks, mode, start, coefficients.shape[0], sizes)
    if drawn is None:
        changes = list(_changes(plan, options, forked, coefficients))
    else:
        numbers, weights = drawn
        changes = [(coefficients[numbers] * weights, _alone(plan, options, _Runs(forked[0], None, numbers)))]
    who = _who(plan)
    for coefficient, replayed in changes:
        ys = [
            y + fork_sum(stop_gradient(ls) - stop_gradient(y)[None], coefficient.astype(y.dtype), mode.witness, who)
            for y, ls in zip(ys, replayed, strict=True)
        ]
    return ys


def _drawn(forks, mode, start, total, sizes):
    """The numbers of the alternatives that are drawn, and what each counts; None where all are run."""
    count = forks.k if isinstance(forks, ByImportance) else forks
    if count is None or count >= total:
        return None
    key = jax.random.fold_in(auxiliary(mode.key), start)
    if isinstance(forks, ByImportance):
        return likely(key, forks, sizes)
    return some(key, count, total), total / count


def _changes(plan, options, forked, coefficients) -> Iterator[tuple]:
    """Coefficients, and the objectives with their alternatives in place: group by group."""
    past = 0
    for start in forked:
        steps = groups_of(plan)[start.at]
        numbered = alone(steps) if is_one_by_one() else numbering_of_steps(steps)
        for numbers in numbered.values():
            run = _alone if numbers.shape[1] == 1 else _lane_by_lane
            yield coefficients[past + numbers.ravel()], run(plan, options, _Runs(start, steps[-1], numbers))
        past += sum(map(width, steps))


def _who(plan):
    """The forking sites, for a second derivative to be refused by."""
    eqns = [step.eqn for step in plan.draws]
    sites = [site for site in sites_in(eqns) if isinstance(site.prototype(), Fork)]
    names = list(dict.fromkeys(f"{site.prototype()} at {name_of(site.label)}" for site in sites))
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return (
        f"{', '.join(names[:NAMED])}{more}, which compare alternatives and give first derivatives only. For higher "
        "orders choose `reinforce()`, `reparam()` or `enum()` there."
    )


def _replayed(start):
    """The values that a run starts from once more, with the same keys."""
    return {v: again(x) if is_key(x) else x for v, x in start.env.items()}


def _replay(plan, options, start, alternative):
    """The objectives with an alternative in place."""
    mode = Replaying(options, start.noise)
    return walk(plan, _replayed(start), mode, start.at, alternative)[0][: options.objectives]


def _alone(plan, options, runs):
    """The objectives with each alternative in place, by itself."""

    def replay(number):
        return _replay(plan, options, runs.start, Single(number, runs.last))

    return _over(replay, jnp.ravel(runs.numbers), options.chunk_size)


def _lane_by_lane(plan, options, runs):
    """The same, for alternatives of which one in each lane is put in place at a time."""
    rows, lanes = runs.numbers.shape

    def program(numbers):
        return _replay(plan, options, runs.start, Lanewise(numbers, runs.last))

    def replay(row):
        return versions(program, jnp.full(lanes, NONE), jnp.full(lanes, row))

    chunk = options.chunk_size and max(1, options.chunk_size // lanes)
    return [ls.reshape(-1, *ls.shape[2:]) for ls in _over(replay, jnp.arange(rows), chunk)]


def _over(replay, numbers, chunk):
    if chunk is None or chunk >= len(numbers):
        return jax.vmap(replay)(numbers)
    return lax.map(replay, numbers, batch_size=chunk)
