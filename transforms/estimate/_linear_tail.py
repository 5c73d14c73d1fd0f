"""Where credit can be split: which values are sums, or other linear functions, of values that depend on less."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .._jax import Literal, is_inexact_aval
from ..analysis import _dependence as dep
from ..program._plan import Step

SUMS = {"add", "sub", "add_any", "concatenate", "stack", "pad"}
UNARY = set(
    """neg convert_element_type reshape broadcast_in_dim transpose squeeze reduce_sum copy slice rev cumsum name reshard
    sharding_constraint""".split()
)
MIXING = {"reduce_sum", "cumsum", "dot_general", "slice", "reshape", "gather", "dynamic_slice"}


class Splitting:
    """Whether pushing the box of a value back to what it is a linear function of splits its credit.

    `env` has what each variable depends on, `made` the equation that makes it, `bodies` those of loops with samples, by
    the identity of the loop; `carries` come boxed.
    """

    def __init__(self, env: Mapping, made: Mapping, bodies: Mapping, carries: Sequence[Any]):
        self.env, self.made, self.bodies = env, made, bodies
        self.known: dict[Any, bool] = {v: True for v in carries if is_inexact_aval(v.aval) and env.get(v)}

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
        item = self.made.get(u)
        body = None if item is None else self.bodies.get(id(item))
        return body is not None and bool(body.shapes) and is_inexact_aval(u.aval)

    def _linear(self, u):
        """The operands that depend on scores, where `u` is linear in all of them together; else None."""
        item = self.made.get(u)
        if item is None or isinstance(item, Step):
            return None
        name = item.primitive.name
        varying = [a for a in item.invars if not isinstance(a, Literal) and self.env.get(a)]
        linear = (
            name in SUMS
            or name in UNARY
            or (name in ("mul", "dot_general") and len(varying) == 1)
            or (name in ("div", "gather", "dynamic_slice") and varying == [item.invars[0]])
            or (name == "select_n" and item.invars[0] not in varying)
        )
        inexact = all(is_inexact_aval(a.aval) for a in (*varying, u))
        return varying if linear and varying and inexact else None

    def _finer(self, u, operands):
        """Whether an operand depends on less than `u`, or keeps apart along an axis what `u` mixes."""
        env, item = self.env, self.made[u]
        name = item.primitive.name
        if name in SUMS and len(operands) < len(item.invars):
            return True
        if any(dep.mask_of(env[a]) != dep.mask_of(env[u]) for a in operands):
            return True
        return name in (*MIXING, *SUMS) and any(dep.apart(env[a]) > dep.apart(env[u]) for a in operands)
