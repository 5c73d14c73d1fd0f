"""What forks add to an estimate: how the objective changes with each alternative, times the alternative's coefficient.

The program runs again from the forking step with the alternatives put in place: all of a step's by one `vmap`, and
alternatives in lanes that do not touch each other in one run (`_lanes`). Up to `FEW` steps are run from where they
are; the alternatives of more steps, or of some drawn at random, all from the first of them, so that the code stays
linear in the program.
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
from ..program._plan import Plan
from ..program._site import again, auxiliary
from ..program._width import width
from ._first_order_sum import fork_sum
from ._lanes import versions
from ._numbering import numbering, numbering_of_steps
from ._replay import Lanewise, Replaying, Single
from ._stratified import some

NAMED = 4
"""How many sites a message names."""

FEW = 4
"""How many forking steps are run from where they are."""


class Forked(NamedTuple):
    """A forking step of a run, and the values that the steps from it on take from before (kept for `FEW` steps)."""

    at: int
    env: dict | None


class _Group(NamedTuple):
    """Alternatives that are tried together.

    Attributes:
        start: from where to run.
        only: the one step that is forked; None where all are.
        past: how many alternatives are named before.
        numbers: the alternatives, counted from there, in rows of one for each lane.
    """

    start: Forked
    only: Any
    past: int
    numbers: Any


def _groups(plan, forked) -> Iterator[_Group]:
    steps = [plan.steps[start.at] for start in forked]
    if len(forked) > FEW:
        yield from (_Group(forked[0], None, 0, numbers) for numbers in numbering_of_steps(steps).values())
        return
    past = 0
    for start, step in zip(forked, steps, strict=True):
        yield from (_Group(start, step, past, numbers) for numbers in numbering(step).values())
        past += width(step)


def add_forks(ys: list, plan: Plan, mode: Any, start: int, coefficients: jax.Array) -> list:
    """Add to each objective what each alternative changes, times its coefficient."""
    options, total = mode.options, coefficients.shape[0]
    forked = [f._replace(env=f.env and {v: stop_gradient(x) for v, x in f.env.items()}) for f in mode.forked]
    if options.forks is not None and options.forks < total:
        some_numbers = some(jax.random.fold_in(auxiliary(mode.key), start), options.forks, total)
        weighted = coefficients[some_numbers] * (total / options.forks)
        changes = [(weighted, _alone(plan, options, _Group(forked[0], None, 0, some_numbers)))]
    else:
        changes = []
        for group in _groups(plan, forked):
            run = _alone if group.numbers.shape[1] == 1 else _lane_by_lane
            changes.append((coefficients[group.past + group.numbers.ravel()], run(plan, options, group)))
    who = _who(plan)
    for coefficient, replayed in changes:
        ys = [
            y + fork_sum(stop_gradient(ls) - stop_gradient(y)[None], coefficient.astype(y.dtype), mode.witness, who)
            for y, ls in zip(ys, replayed, strict=True)
        ]
    return ys


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
    return walk(plan, _replayed(start), Replaying(options), start.at, alternative)[0][: options.objectives]


def _alone(plan, options, group):
    """The objectives with each alternative in place, by itself."""

    def replay(number):
        return _replay(plan, options, group.start, Single(number, group.only))

    return _over(replay, jnp.ravel(group.numbers), options.chunk_size)


def _lane_by_lane(plan, options, group):
    """The same, for alternatives of which one in each lane is put in place at a time."""
    rows, lanes = group.numbers.shape

    def replay(number):
        def program(on):
            return _replay(plan, options, group.start, Lanewise(number, group.only, on))

        return versions(program, lanes)

    chunk = options.chunk_size and max(1, options.chunk_size // lanes)
    return [ls.reshape(-1, *ls.shape[2:]) for ls in _over(replay, jnp.arange(rows), chunk)]


def _over(replay, numbers, chunk):
    if chunk is None or chunk >= len(numbers):
        return jax.vmap(replay)(numbers)
    return lax.map(replay, numbers, batch_size=chunk)
