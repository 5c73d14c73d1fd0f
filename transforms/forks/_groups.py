"""Which forking steps are run again together: a few groups of consecutive steps, each from its first one.

An alternative of a step needs the rest of the program run again. A run of its own for every step is the least work, but
each has the code of the rest of the program, so that n steps would have code in n^2. One run for all, from the first
step, has the least code, and for steps spread over a program about twice the work. Groups are between: code of at most
`GROUPS` programs, and, by where they begin, the least work that so many can have.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from .._estimator import Enumerate
from .._pytree import size
from ..program._plan import Assign, Plan, Segment, Step
from ..program._width import width
from ..program.control import control_of
from ._numbering import numbering
from ._one_by_one import is_one_by_one

GROUPS = 4
"""How many groups a program has at most: its code is as many times longer. Past four there is little to gain: of n
equal steps spread evenly, groups run (1 + 1 / GROUPS) n^2 / 2 of them again, where n groups run n^2 / 2."""

Groups = dict[int, list[Step]]
"""The forking steps of each group, by where in the plan the first of them is."""


def groups_of(plan: Plan) -> Groups:
    """The groups of a plan. None reaches over an enumerated site, where the rest of a program has a run of its own."""
    if is_one_by_one():
        return {at: [plan.steps[at]] for section in _sections(plan) for at in section}
    if plan.groups is None:
        plan.groups = {}
        for section in _sections(plan):
            firsts = _firsts(plan, section) if len(section) > GROUPS else range(len(section))
            for first, end in itertools.pairwise([*firsts, len(section)]):
                plan.groups[section[first]] = [plan.steps[at] for at in section[first:end]]
    return plan.groups


def _sections(plan) -> list[list[int]]:
    """Where the forking steps are, between enumerated sites."""
    sections: list[list[int]] = [[]]
    for at, step in enumerate(plan.steps):
        if not isinstance(step, Step):
            continue
        if step.name == "sample" and isinstance(step.site.prototype(), Enumerate):
            sections.append([])
        elif width(step):
            sections[-1].append(at)
    return sections


def _firsts(plan, section) -> list[int]:
    """The first step of each group, by its place among the forking steps."""
    runs = [sum(map(len, numbering(plan.steps[at]).values())) for at in section]
    rest = np.cumsum([_work_of_step(step) for step in reversed(plan.steps)])[::-1]
    return cut(runs, rest[section], GROUPS)


def cut(runs: Sequence[float], rest: Sequence[float], parts: int) -> list[int]:
    """Cut a row of steps into parts, each of which is run from its first step.

    Args:
        runs: how many runs the alternatives of each step take.
        rest: the work of a run from each step on.
        parts: how many parts, no more than there are steps.

    Returns:
        The first step of each part, such that the work of all runs together is least.
    """
    n, past = len(runs), np.concatenate([[0.0], np.cumsum(runs)])
    least = (past[-1] - past[:-1]) * np.asarray(rest, float)  # from each step on, as one part
    following = []
    for more in range(1, parts):
        ways = [(past[i + 1 : n] - past[i]) * rest[i] + least[i + 1 :] for i in range(n - more)]
        following.append([i + 1 + int(np.argmin(way)) for i, way in enumerate(ways)])
        least = np.array([*(np.min(way) for way in ways), *[np.inf] * more])
    firsts = [0]
    for steps in reversed(following):
        firsts.append(steps[firsts[-1]])
    return firsts


# ---- work -----------------------------------------------------------------------------------------------------------


def _work_of_step(step) -> int:
    if isinstance(step, Assign):
        return 0
    return _work_of(step.jaxpr) if isinstance(step, Segment) else _work(step.eqn)


_works: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def _work_of(jaxpr: Any) -> int:
    """How much work a jaxpr is, in numbers that its equations read and write: enough to compare parts of a program."""
    if jaxpr not in _works:
        _works[jaxpr] = sum(map(_work, jaxpr.eqns))
    return _works[jaxpr]


def _work(eqn) -> int:
    control = control_of(eqn)
    if control is None:
        return sum(size(v.aval.shape) for v in (*eqn.invars, *eqn.outvars))
    return sum(body.times * _work_of(body.jaxpr) for body in control.bodies(eqn))
