"""Running a program for values alone: as it is, or with alternatives of forking sites put in place."""

from __future__ import annotations

from typing import NamedTuple

import jax
from jax import lax
from jax import numpy as jnp

from .._errors import ObjectiveError
from .._estimator import Fork
from .._jax import lane_shape
from .._pytree import is_inexact
from ..program._alternative import Alternative
from ..program._bulk_noise import scan_after_noise
from ..program._interpreter import Mode
from ..program._noise_first import Noise
from ..program._rewriting import plain
from ..program._share import share
from ..program._site_terms import enumerated, fork, fork_shape, replace_lanes, replace_one
from ..program._width import width, width_of
from ._by_importance import ByImportance
from ._numbering import lane_axis, numbering, numbering_of


class Options(NamedTuple):
    """How an expectation is estimated.

    `objectives` is the number of leading outputs that are objectives (the rest are auxiliary); `chunk_size` bounds
    how many alternatives run at a time; `forks` draws that many alternatives at random in place of all; `credit` lets
    scores multiply only what depends on their draws.
    """

    objectives: int
    chunk_size: int | None = None
    forks: int | ByImportance | None = None
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
    """Values alone, no derivative: draws are noise, and the alternative (if any) is put in place.

    `noise` is what was drawn before the program.
    """

    def __init__(self, options: Options, noise: Noise | None = None):
        self.options = options
        self.noise = noise or {}

    def scan(self, loop, step, init, xs):
        """With the noise of all steps drawn before the first."""
        return scan_after_noise(loop, step, init, xs)

    def draw(self, step, operands, alternative):
        """Draw; at a forking site put the alternative in place if it is one of this site's."""
        site, lanes = step.site, step.lanes
        made = self.noise.get(id(step), ())
        if alternative is None or not isinstance(site.prototype(), Fork):
            return plain(site, operands, lanes, made), None
        values, alternatives, *_ = fork(site, operands, lanes, made)
        return alternative.put(values, alternatives, fork_shape(site, operands, lanes), lane_shape(lanes)), None

    def enumerate(self, step, operands, resume):
        """Sum the rest of the program over the support."""
        values, probabilities = enumerated(step.site, operands)
        return average(jax.vmap(resume)(values), probabilities, self.options.objectives)


class Single(Alternative):
    """One alternative of all lanes and elements, by itself."""

    def at(self, number):
        """Another one."""
        return Single(number, self.last)

    def width(self, step):
        """All of a step's."""
        return width(step)

    def width_of(self, jaxpr):
        """All of a body's."""
        return width_of(jaxpr)

    def put(self, values, alternatives, shape, lanes):
        """In its place."""
        return replace_one(values, alternatives, shape, self.number)


class Lanewise(Alternative):
    """An alternative in each lane of an axis: `number` has one for each, counted among those of its lane."""

    def at(self, number):
        """Others, in the same lanes."""
        return Lanewise(number, self.last)

    def width(self, step):
        """How many alternatives each lane has at a step."""
        return len(numbering(step).get(len(self.number), ()))

    def width_of(self, jaxpr):
        """How many alternatives each lane has in a body."""
        return len(numbering_of(jaxpr).get(len(self.number), ()))

    def inside(self, construct):
        """None where alternatives are not numbered lane by lane (in a branch)."""
        return self if construct.lanewise else None

    def put(self, values, alternatives, shape, lanes):
        """Each in its lane, where the site has this axis."""
        axis = lane_axis(lanes)
        if axis is None or lanes[axis] != len(self.number):
            return values
        return replace_lanes(values, alternatives, shape, axis, self.number)
