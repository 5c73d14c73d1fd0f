"""Whether a value can cross or touch zero as the draws that it depends on move: where one divides by it, a jump."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from .._distribution import positive_support
from .._jax import Literal, param, without_lanes
from .._pytree import size
from ..program.control import control_of, is_call
from ._continuous_selects import SAME

ANY, WEAK, APART, POSITIVE = range(4)
"""What is known: nothing, not below zero, not zero and of one sign, above zero."""

DEPTH = 64
"""How far a value is followed back: longer than densities and links are, and well inside of Python's recursion."""

KEPT = SAME | set("slice transpose rev gather dynamic_slice reduce_max reduce_min reduce_precision".split())
POSITIVE_OPERATIONS = {"exp", "exp2", "logistic", "cosh"}
EVEN = {"abs", "square"}
UPWARDS = {"sqrt", "log1p", "expm1", "tanh", "erf", "sinh", "atan", "cbrt"}
SUMS = {"add", "add_any", "reduce_sum", "cumsum", "dot_general"}


class Signs:
    """The signs of values, from the equations that made them; `moved` says whether a draw moves a value."""

    def __init__(self, made: dict, moved: Callable[[Any], bool]):
        self.made, self.moved = made, moved
        self.found: dict[Any, int] = {}

    def __call__(self, atom: Any, depth: int = DEPTH) -> int:
        """What is known of the sign of a value."""
        if isinstance(atom, Literal):
            return POSITIVE if getattr(atom.val, "ndim", 0) == 0 and atom.val > 0 else APART
        if atom not in self.found:
            eqn = self.made.get(atom)
            sign = ANY if eqn is None or depth == 0 else self._of(eqn, depth - 1)
            self.found[atom] = sign if sign or self.moved(atom) else APART
        return self.found[atom]

    def _of(self, eqn, depth):
        name = eqn.primitive.name
        if name == "sample":
            return POSITIVE if _draws_positive(eqn) else ANY
        if name in POSITIVE_OPERATIONS:
            return POSITIVE
        if is_call(eqn):
            return APART  # one of the functions that are known by name: a doubt is decided for silence
        if control_of(eqn) is not None or name == "iota":
            return ANY
        if name == "sub":
            return self._difference(eqn)
        signs = [self(atom, depth) for atom in eqn.invars]
        if name in KEPT or name in UPWARDS:
            return signs[0]
        if name in EVEN or name == "integer_pow" and param(eqn, "y") % 2 == 0:
            return POSITIVE if signs[0] >= APART else WEAK
        if name in ("integer_pow", "pow", "rsqrt"):
            return signs[0]
        if name in SUMS:
            return self._sum(eqn, signs)
        if name in ("mul", "div"):
            return WEAK if eqn.invars[0] is eqn.invars[-1] and signs[0] < APART else _product(signs)
        if name == "neg":
            return APART if signs[0] >= APART else ANY
        if name in ("max", "clamp"):
            return max(s if s != APART else ANY for s in signs[:2])
        if name in ("select_n", "concatenate", "stack", "min"):
            return min(signs[name == "select_n" :])
        return ANY

    def _sum(self, eqn, signs):
        """A sum of several squares vanishes at a point only, which no path crosses."""
        if ANY in signs:
            return ANY
        if eqn.primitive.name == "dot_general":
            return _product(signs) if POSITIVE in signs else min(signs)
        several = len(signs) > 1 or size(eqn.invars[0].aval.shape) > size(eqn.outvars[0].aval.shape)
        return POSITIVE if POSITIVE in signs or several and APART not in signs else min(signs)

    def _difference(self, eqn):
        """One less a probability, or less a number."""
        whole, part = eqn.invars
        made = None if isinstance(part, Literal) else self.made.get(part)
        certain = isinstance(whole, Literal) and getattr(whole.val, "ndim", 0) == 0 and whole.val >= 1
        return POSITIVE if certain and made is not None and made.primitive.name == "logistic" else ANY


def _product(signs):
    if min(signs) >= APART:
        return POSITIVE if set(signs) == {POSITIVE} else APART
    return WEAK if set(signs) <= {WEAK, POSITIVE} else ANY


def _draws_positive(eqn) -> bool:
    """Whether what a site draws is above zero."""
    site, found = param(eqn, "site"), []

    def look(_, *arrays):
        found.append(positive_support(site.restore(arrays)[0]))
        return 0

    jax.eval_shape(look, *without_lanes([v.aval for v in eqn.invars], param(eqn, "lanes")))
    return found[0]


# ---- level sets -----------------------------------------------------------------------------------------------------

ANALYTIC = (
    KEPT
    | POSITIVE_OPERATIONS
    | EVEN
    | SUMS
    | (UPWARDS - {"sqrt", "log1p"})
    | set("sub mul neg sin cos sample concatenate stack iota".split())
)
"""Operations on finite numbers whose values are finite, and equal to a number with probability zero."""


def analytic(made: dict, atom: Any, depth: int = DEPTH) -> bool:
    """Whether a value is surely finite, and equal to another one with probability zero, where draws move it."""
    eqn = None if isinstance(atom, Literal) else made.get(atom)
    if eqn is None:
        return True
    known = eqn.primitive.name in ANALYTIC or eqn.primitive.name == "integer_pow" and param(eqn, "y") > 0
    return known and depth > 0 and all(analytic(made, a, depth - 1) for a in eqn.invars)
