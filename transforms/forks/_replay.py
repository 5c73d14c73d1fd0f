"""Running a program for values alone: as it is, or with alternatives of forking sites put in place."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
from jax import lax
from jax import numpy as jnp

from .._errors import ObjectiveError
from .._estimator import Fork
from .._jax import lane_shape
from .._pytree import is_inexact
from ..program._interpreter import Mode
from ..program._share import share
from ..program._site import rebind
from ..program._site_terms import enumerated, fork, fork_shape, replace_lanes, replace_one
from ..program.control import control_of
from ._numbering import lane_axis, numbering, numbering_of


class Options(NamedTuple):
    """How an expectation is estimated.

    `objectives` is the number of leading outputs that are objectives (the rest are auxiliary); `chunk_size` bounds
    how many alternatives run at a time; `forks` draws that many alternatives at random in place of all; `credit` lets
    scores multiply only what depends on their draws.
    """

    objectives: int
    chunk_size: int | None = None
    forks: int | None = None
    credit: bool = True


def average(outs: list, probabilities: jax.Array, objectives: int) -> list:
    """Sum outputs along their leading axis with probabilities; auxiliary ones carry no derivative."""
    for y in outs:
        if not is_inexact(y):
            raise ObjectiveError(
                f"An auxiliary output of type {y.dtype} depends on a site under enum(), whose values are averaged "
                "over; only floating-point outputs can be. Return it as a float, or choose another estimator there."
            )
    sums = [jnp.sum(jax.vmap(share)(probabilities, y), axis=0) for y in outs]
    return [*sums[:objectives], *map(lax.stop_gradient, sums[objectives:])]


class Replaying(Mode):
    """Values alone, no derivative: draws are noise, and alternative number `cursor` (if any) is put in place.

    With `only`, the numbers are those of that step, and no later step is forked.
    """

    def __init__(self, options: Options, only: Any = None):
        self.options = options
        self.only = only

    def advance(self, cursor, step):
        """Nothing is forked past the only step."""
        return None if step is self.only else super().advance(cursor, step)

    def draw(self, site, operands, lanes, cursor):
        """Draw; at a forking site put the alternative in place if it is one of this site's."""
        if cursor is None or not isinstance(site.prototype(), Fork):
            n = 1 + site.distribution.count
            lanes = tuple(lane._replace(mapped=lane.mapped[:n]) for lane in lanes)
            return rebind(operands[:n], site._replace(label=(), estimator=None), lanes), None
        values, alternatives, _ = fork(site, operands, lanes)
        return self.replace(values, alternatives, fork_shape(site, operands, lanes), lane_shape(lanes), cursor), None

    def replace(self, values, alternatives, shape, lanes, cursor):
        """The values of a forking site, with an alternative in place."""
        return replace_one(values, alternatives, shape, cursor)

    def enumerate(self, site, operands, resume):
        """Sum the rest of the program over the support."""
        values, probabilities = enumerated(site, operands)
        return average(jax.vmap(resume)(values), probabilities, self.options.objectives)


class ReplayingLanes(Replaying):
    """Alternatives in place in many lanes at a time: those lanes of an axis that `on` names.

    The cursor counts the alternatives of one lane, of the sites whose lanes this is.
    """

    def __init__(self, options: Options, only: Any, on: jax.Array):
        super().__init__(options, only)
        self.on = on

    def width(self, step):
        """How many alternatives each lane has at a step."""
        return len(numbering(step).get(len(self.on), ()))

    def width_of(self, jaxpr):
        """How many alternatives each lane has in a jaxpr."""
        return len(numbering_of(jaxpr).get(len(self.on), ()))

    def control(self, step, operands, cursor):
        """Where alternatives are not numbered lane by lane (inside a branch), none is in place."""
        construct = control_of(step.eqn)
        lanewise = construct is not None and construct.lanewise
        return super().control(step, operands, cursor if lanewise else None)

    def replace(self, values, alternatives, shape, lanes, cursor):
        """Put an alternative in place in each lane that is on."""
        axis = lane_axis(lanes)
        if axis is None or lanes[axis] != len(self.on):
            return values
        return replace_lanes(values, alternatives, shape, axis, cursor, self.on)
