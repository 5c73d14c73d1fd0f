"""Equations sorted into parts, each of which is run in one way.

What is the same in all versions, what runs lane by lane, sums over lanes, and what runs version by version depend on
each other in this order: a round of four parts is enough for most programs. A loop whose body has its versions is a
part of its own, with a round before it and one after; and what turns out to be the same in all versions though it was
run lane by lane (a length, an index) begins a new round where it is read.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Any, NamedTuple

from ..._jax import Literal
from ._value import APART, SAME
from ._ways import enters, ways_at


class Kind(enum.Enum):
    """The ways to run equations, in the order of a round."""

    ONCE = "what is the same in all versions"
    TOGETHER = "the base, and all lanes at once"
    SUM = "sums over lanes"
    EACH = "every version by itself"
    LOOP = "a loop in which lanes meet"


class Part(NamedTuple):
    """Equations that are run in one way, together."""

    kind: Kind
    eqns: list


def gather(eqns: Iterable[Any], hows: dict[Any, int]) -> list[Part]:
    """Gather equations into parts, in an order that keeps what they depend on before them."""
    rounds: list[dict[Kind, list]] = [{kind: [] for kind in Kind}]
    late: set = set()  # the same in all versions, but not known before the second part of the round has run

    def new_round():
        rounds.append({kind: [] for kind in Kind})
        late.clear()

    for eqn in eqns:
        if not late.isdisjoint(a for a in eqn.invars if not isinstance(a, Literal)):
            new_round()
        kind = _kind(eqn, hows)
        rounds[-1][kind].append(eqn)
        if kind is Kind.TOGETHER:
            late.update(v for v in eqn.outvars if hows[v] == SAME)
        if kind is Kind.LOOP:
            new_round()
    return [Part(kind, eqns) for parts in rounds for kind, eqns in parts.items() if eqns]


def _kind(eqn, hows):
    given, outs = ways_at(eqn.invars, hows), ways_at(eqn.outvars, hows)
    if all(how == SAME for how in given):
        return Kind.ONCE
    if APART not in (*given, *outs):
        return Kind.TOGETHER
    if enters(eqn, given):
        return Kind.LOOP
    return Kind.SUM if eqn.primitive.name == "reduce_sum" and APART not in given else Kind.EACH
