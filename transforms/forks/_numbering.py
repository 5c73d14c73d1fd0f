"""Which alternatives of forking sites can be tried at once: one in each lane, where lanes do not touch each other.

The alternatives of a program are numbered in the order of its sites: loop steps, then alternatives, then lanes and
elements. A numbering sorts the numbers by the length of the axis of lanes that they lie along: for each length, an
array whose rows can be run together, one alternative in each lane. Length 1 stands for alternatives alone: those of
sites without lanes, and of branches.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .._estimator import Fork
from .._jax import lane_shape, open_jaxpr, scan_parts
from ..program._interpreter import width
from ..program._plan import Step, plan_of, samples
from ..program._site_terms import fork_shape

Numbering = dict[int, np.ndarray]


def lane_axis(lanes: tuple[int, ...]) -> int | None:
    """The axis of lanes along which alternatives are tried at once: the longest one."""
    longest = max(lanes, default=1)
    return lanes.index(longest) if longest > 1 else None


def numbering(step: Step) -> Numbering:
    """The alternatives of a step, from 0."""
    if step.numbering is None:
        step.numbering = NUMBERINGS.get(step.name, _alone)(step)
    return step.numbering


def numbering_of(jaxpr: Any) -> Numbering:
    """The alternatives of a jaxpr."""
    jaxpr = open_jaxpr(jaxpr)
    if not samples(jaxpr):
        return {}
    return numbering_of_steps([step for step in plan_of(jaxpr).steps if isinstance(step, Step)])


def numbering_of_steps(steps: list[Step]) -> Numbering:
    """The alternatives of steps in order."""
    rows: dict[int, list] = {}
    past = 0
    for step in steps:
        if width(step):
            for length, numbers in numbering(step).items():
                rows.setdefault(length, []).append(numbers + past)
            past += width(step)
    return {length: np.concatenate(parts) for length, parts in rows.items()}


def _alone(step):
    return {1: np.arange(width(step))[:, None]} if width(step) else {}


def _sample(step):
    params = step.eqn.params
    if not isinstance(params["site"].prototype(), Fork):
        return {}
    shape = fork_shape(params["site"], [v.aval for v in step.eqn.invars], params["lanes"])
    axis = lane_axis(lane_shape(params["lanes"]))
    if axis is None:
        return _alone(step)
    numbers = np.arange(shape.size).reshape(shape.alternatives, *shape.elements)
    length = shape.elements[axis]
    return {length: np.moveaxis(numbers, 1 + axis, -1).reshape(-1, length)}


def _scan(step):
    if not width(step):
        return {}
    scan = scan_parts(step.eqn)
    past = width(step) // scan.length * np.arange(scan.length)
    return {length: np.concatenate([numbers + t for t in past]) for length, numbers in numbering_of(scan.body).items()}


def _body(step):
    return numbering_of(step.eqn.params["jaxpr"])


NUMBERINGS = {"sample": _sample, "scan": _scan, "checkpoint": _body, "remat2": _body, "remat": _body}
