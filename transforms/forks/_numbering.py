"""Which alternatives of forking sites can be tried at once: one in each lane, where lanes do not touch each other.

The alternatives of a program are numbered in the order of its sites: loop steps, then alternatives, then lanes and
elements. A numbering sorts the numbers by the length of the axis of lanes that they lie along: for each length, an
array whose rows can be run together, one alternative in each lane. Length 1 stands for alternatives alone: those of
sites without lanes, and of branches.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .._jax import lane_shape
from .._samples_in import samples
from ..program._plan import Step, plan_of
from ..program._site_terms import fork_shape
from ..program._width import width
from ..program.control import control_of

Numbering = dict[int, np.ndarray]


def lane_axis(lanes: tuple[int, ...]) -> int | None:
    """The axis of lanes along which alternatives are tried at once: the longest one."""
    longest = max(lanes, default=1)
    return lanes.index(longest) if longest > 1 else None


def numbering(step: Step) -> Numbering:
    """The alternatives of a step, from 0."""
    if step.numbering is None:
        step.numbering = _numbering(step) if width(step) else {}
    return step.numbering


def numbering_of(jaxpr: Any) -> Numbering:
    """The alternatives of an open jaxpr."""
    return numbering_of_steps(plan_of(jaxpr).draws) if samples(jaxpr) else {}


def alone(steps: list[Step]) -> Numbering:
    """The alternatives of steps in order, each in a run of its own."""
    return {1: np.arange(sum(map(width, steps)))[:, None]}


def numbering_of_steps(steps: list[Step]) -> Numbering:
    """The alternatives of steps in order."""
    rows: dict[int, list] = {}
    past = 0
    for step in steps:
        for length, numbers in numbering(step).items():
            rows.setdefault(length, []).append(numbers + past)
        past += width(step)
    return {length: np.concatenate(parts) for length, parts in rows.items()}


def _numbering(step):
    if step.name == "sample":
        return _sample(step)
    control: Any = control_of(step.eqn)
    if not control.lanewise:
        return alone([step])
    (body,) = control.bodies(step.eqn)
    past = width(step) // body.times * np.arange(body.times)
    return {length: np.concatenate([rows + t for t in past]) for length, rows in numbering_of(body.jaxpr).items()}


def _sample(step):
    shape = fork_shape(step.site, [v.aval for v in step.eqn.invars], step.lanes)
    axis = lane_axis(lane_shape(step.lanes))
    if axis is None:
        return alone([step])
    numbers = np.arange(shape.size).reshape(shape.alternatives, *shape.elements)
    length = shape.elements[axis]
    return {length: np.moveaxis(numbers, 1 + axis, -1).reshape(-1, length)}
