"""The expectation of a random program and its gradient, as sums over outcomes in NumPy.

No probability, density or derivative comes from the library, nor from JAX: a path is a row of complex numbers, and the
derivative in a parameter is the imaginary part over the step (Squire and Trapp, SIAM Review 1998).
"""

from typing import NamedTuple

import numpy as np
from random_programs import FAMILIES, Branch, Call, Draw, Loop, Plate, W, after, law, meet, objective

STEP = 1e-30


class Paths(NamedTuple):
    """Paths through a program so far, one in each row; in each column, one parameter has an imaginary step."""

    weight: np.ndarray
    logp: np.ndarray
    flag: np.ndarray
    total: np.ndarray

    def at(self, rows):
        """Some of them."""
        return Paths(*(x[rows] for x in self))


def _follow(statements, w, paths):
    """The paths after some statements, and which path each comes from."""
    origin = np.arange(len(paths.flag))
    for statement in statements:
        paths, of = FOLLOW[type(statement)](statement, w, paths)
        origin = origin[of]
    return paths, origin


def _joined(parts):
    """Paths of several parts, each with where its paths come from."""
    paths, origins = zip(*parts, strict=True)
    return Paths(*map(np.concatenate, zip(*paths, strict=True))), np.concatenate(origins)


def _follow_draw(draw, w, paths):
    def outcome(z, p, logp):
        flag = paths.flag if draw.family == "normal" else np.full_like(paths.flag, min(z, 1.0))
        total = after(draw, w, z, paths.total)
        return Paths(paths.weight * p, paths.logp + logp, flag, total), np.arange(len(flag))

    return _joined([outcome(*o) for o in FAMILIES[draw.family].outcomes(law(w, paths.flag))])


def _follow_branch(branch, w, paths):
    parts = []
    for body, here in ((branch.yes, paths.flag[:, 0] > 0.5), (branch.no, paths.flag[:, 0] < 0.5)):
        rows = np.flatnonzero(here)
        after, origin = _follow(body, w, paths.at(rows))
        parts.append((after, rows[origin]))
    return _joined(parts)


def _follow_plate(plate, w, paths):
    one, of_one = _follow(plate.body, w, paths)
    start = paths.at(of_one)
    two, of_two = _follow(plate.body, w, one._replace(flag=start.flag, total=2.0 * start.total))
    return two._replace(total=meet(plate, one.total[of_two], two.total)), of_one[of_two]


FOLLOW = {
    Draw: _follow_draw,
    Branch: _follow_branch,
    Loop: lambda loop, w, paths: _follow(loop.body * 2, w, paths),
    Plate: _follow_plate,
    Call: lambda call, w, paths: _follow(call.body, w, paths),
}


def sums(program):
    """The expectation and its gradient."""
    w = W[:, None, None] + 1j * STEP * np.eye(2)[:, None, :]
    start = Paths(np.ones((1, 2), complex), np.zeros((1, 2), complex), np.zeros((1, 2)), w[0])
    paths, _ = _follow(program.statements, w, start)
    values = objective(w, paths.flag, paths.total) + program.density * paths.logp
    mean = (paths.weight * values).sum(axis=0)
    return mean.real[0], mean.imag / STEP
