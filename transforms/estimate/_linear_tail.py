"""Where credit can be split: which values are sums, or other linear functions, of values that depend on less."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from .._jax import Literal, is_inexact_aval
from ..analysis._sources import Dependence, apart, mask_of

SUMS = {"add", "sub", "add_any", "concatenate", "stack", "pad"}
UNARY = set(
    """neg convert_element_type reshape broadcast_in_dim transpose squeeze reduce_sum copy slice rev cumsum name reshard
    sharding_constraint""".split()
)
MIXING = {"reduce_sum", "cumsum", "dot_general", "slice", "reshape", "gather", "dynamic_slice"}


class Splitting:
    """Whether pushing the box of a value back to what it is a linear function of splits its credit.

    `on` says what a variable depends on, `made` has the equation that makes it, `scored` the loops with scores inside,
    by their identity; `carries` come boxed.
    """

    def __init__(self, on: Callable[[Any], Dependence], made: Mapping, scored: Collection[int], carries: Sequence[Any]):
        self.on, self.made, self.scored = on, made, scored
        self.known: dict[Any, bool] = {v: True for v in carries if is_inexact_aval(v.aval) and on(v)}

    def __call__(self, v) -> bool:
        trail = [v]
        while trail:
            u = trail[-1]
            operands = None if u in self.known else self._linear(u)
            if operands is None:
                self.known.setdefault(u, self._splits_inside(u))
                trail.pop()
            elif waiting := [w for w in operands if w not in self.known]:
                trail.extend(waiting)
            else:
                self.known[u] = self._finer(u, operands) or any(self.known[w] for w in operands)
                trail.pop()
        return self.known[v]

    def _splits_inside(self, u):
        return id(self.made.get(u)) in self.scored and is_inexact_aval(u.aval)

    def _linear(self, u):
        """The operands that depend on scores, where `u` is linear in all of them together; else None."""
        eqn = self.made.get(u)
        if eqn is None:
            return None
        name = eqn.primitive.name
        varying = [a for a in eqn.invars if not isinstance(a, Literal) and self.on(a)]
        linear = (
            name in SUMS
            or name in UNARY
            or (name in ("mul", "dot_general") and len(varying) == 1)
            or (name in ("div", "gather", "dynamic_slice") and varying == [eqn.invars[0]])
            or (name == "select_n" and eqn.invars[0] not in varying)
        )
        inexact = all(is_inexact_aval(a.aval) for a in (*varying, u))
        return varying if linear and varying and inexact else None

    def _finer(self, u, operands):
        """Whether an operand depends on less than `u`, or keeps apart along an axis what `u` mixes."""
        eqn, here, before = self.made[u], self.on(u), list(map(self.on, operands))
        name = eqn.primitive.name
        if name in SUMS and len(operands) < len(eqn.invars):
            return True
        if any(mask_of(d) != mask_of(here) for d in before):
            return True
        return name in (*MIXING, *SUMS) and any(apart(d) > apart(here) for d in before)
