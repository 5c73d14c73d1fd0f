"""How each value of a program varies with the version, found before anything is run.

By `_dependence`: all lanes are one source there, and an axis along which a value depends on it index by index is the
axis along which the value varies so. Where the analysis is unsure, versions are apart, which is always right.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..._jax import Literal
from ...analysis import _dependence as dep
from ...analysis._sources import NOTHING, source
from ...program._flow import Domain
from ...program.control import is_call, is_loop
from ._value import APART, SAME

SOURCE = (1,)
"""The shape of the source that stands for all lanes: one axis, of any length."""


class _Ways(Domain[int]):
    """How a value varies."""

    nothing = SAME

    def join(self, a, b):
        """Where both vary in different ways, freely."""
        return b if a == SAME else a if b in (SAME, a) else APART

    def operation(self, eqn, states):
        """By what it depends on."""
        return [_way(d) for d in dep.after(eqn, [_dependence(how) for how in states])]

    def choose(self, which, ways, axes=0):
        """A choice is made by an operation here."""
        raise NotImplementedError

    def one_step(self, state):
        """One axis less in front; steps that are the lanes vary freely."""
        return state if state < 0 else state - 1 if state else APART

    def all_steps(self, state):
        """One axis more in front."""
        return state if state < 0 else state + 1

    def after(self, eqn, states):
        """Lane by lane where that can be, or else freely; calls, and loops in which lanes meet, are looked into."""
        if all(how == SAME for how in states):
            return [SAME] * len(eqn.outvars)
        if is_call(eqn):
            return super().after(eqn, states)
        outs = self.operation(eqn, states)
        if APART not in (*states, *outs):
            return outs
        return super().after(eqn, states) if enters(eqn, states) else [APART] * len(eqn.outvars)


def _dependence(how):
    return NOTHING if how == SAME else source(0, SOURCE, (None if how == APART else how,))


def _way(dependence):
    if not dependence:
        return SAME
    ((_, (axis,)),) = dependence
    return axis if isinstance(axis, int) else APART


def enters(eqn: Any, given: Sequence[int]) -> bool:
    """Whether an equation is a loop whose body is run for all versions, because lanes meet in it."""
    return is_loop(eqn) and any(how >= 0 for how in given)


_WAYS = _Ways()


def ways_after(eqn: Any, given: Sequence[int]) -> list[int]:
    """How the results of an equation vary."""
    return _WAYS.after(eqn, given)


def ways_of(eqns: Iterable[Any], known: dict[Any, int]) -> dict[Any, int]:
    """How every variable varies, from what is known of those that equations read from outside."""
    hows = dict(known)
    for eqn in eqns:
        hows.update(zip(eqn.outvars, ways_after(eqn, ways_at(eqn.invars, hows)), strict=True))
    return hows


def ways_at(atoms: Iterable[Any], hows: dict[Any, int]) -> list[int]:
    """How variables vary; literals do not."""
    return [SAME if isinstance(a, Literal) else hows[a] for a in atoms]


one_step, all_steps = _WAYS.one_step, _WAYS.all_steps
