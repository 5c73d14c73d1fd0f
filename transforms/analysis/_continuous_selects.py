"""Whether the branches of a comparison meet where it turns, as those of a maximum or a leaky ReLU do."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from .._jax import Literal, param

State = tuple[int, int]
"""Of a value: the draws it depends on continuously (bit 0: parameters), and the jumps it carries, as bits.

Of each jump the odd bit is its cliff: the value falls to minus infinity there, which its mean tells by itself. It is a
jump as soon as an operation takes infinity to something finite.
"""

BOUNDING = set("exp exp2 expm1 logistic tanh erf erfc atan max min clamp div integer_pow reduce_max reduce_min".split())
"""Operations that take infinity to something finite, or may."""


def cliffs_in(jumps: int) -> int:
    """The jumps whose cliffs are among these."""
    count = (jumps.bit_length() + 1) // 2
    return jumps >> 1 & (4**count - 1) // 3


COMPARISONS = {"gt", "ge", "lt", "le", "lt_to", "le_to"}
TESTS = {"eq", "ne", "eq_to", "is_finite"}
"""Comparisons that turn with probability zero where the values are those of analytic functions."""


def union(states: Sequence[State]) -> State:
    """What any of the values depends on and carries."""
    paths = jumps = 0
    for path, jump in states:
        paths, jumps = paths | path, jumps | jump
    return paths, jumps


SAME = {"convert_element_type", "broadcast_in_dim", "reshape", "squeeze", "copy"}
DEPTH = 6
"""How far a branch is followed back to where it vanishes: each step may be a sum or a choice of two, and doubles it."""

ODD = {"neg", "abs", "sqrt", "square", "integer_pow", "sin", "tan", "tanh", "expm1", "log1p", "erf", "reduce_sum"}


class Branches:
    """Whether the branches of a comparison meet where it turns.

    `jumps_of` gives the jumps of a comparison. Inside a branch they are none: there it has its one outcome.
    """

    def __init__(self, made: dict, look: Callable, jumps_of: Callable):
        self.made, self.look, self.jumps_of = made, look, jumps_of

    def key(self, eqn) -> tuple:
        """What a comparison compares: equal for one that is written twice."""
        return (eqn.primitive.name, *map(self.root, eqn.invars))

    def _comparison(self, atom):
        eqn = self.made.get(self.root(atom))
        return eqn if eqn is not None and eqn.primitive.name in COMPARISONS | TESTS else None

    def states(self, eqn, states) -> list[State]:
        """The states of the operands of a select or a product, without comparisons that do not make it jump."""
        states, product = list(states), eqn.primitive.name == "mul"
        for i, atom in enumerate(eqn.invars if product else eqn.invars[:1]):
            compared = self._comparison(atom) if states[i][1] else None
            if compared is None:
                continue
            key, others = self.key(compared), [k for k in range(len(states)) if k != i]
            mine = self.jumps_of(key)
            for k in others:
                states[k] = (states[k][0], states[k][1] & ~(mine | mine << 1))
            roots = [self.root(eqn.invars[k]) for k in others]
            if self._meet(key, roots, product=product):
                cliff = 0 if product else self._cliff(key, roots, mine)
                states[i] = (0, union(self.look(compared.invars))[1] | cliff)
        return states

    def _cliff(self, key, others, mine) -> int:
        """The cliff of a comparison between infinity and something that is not infinite where it turns."""
        falls = any(isinstance(o, float) and math.isinf(o) for o in others)
        return mine << 1 if falls and key[0] in COMPARISONS and not self._meet_at_infinity(key, others) else 0

    def _meet_at_infinity(self, key, others) -> bool:
        """Whether what is not infinite goes there where a comparison turns."""
        sides = key[1:]
        return any(
            sides[1 - k] == 0.0
            and all(isinstance(o, float) or self._falls(o, sides[k], (key, i), DEPTH) for i, o in enumerate(others))
            for k in (0, 1)
            if len(sides) == 2 and not isinstance(sides[k], float)
        )

    def _falls(self, value, at, taken, depth) -> bool:
        """Whether a value is surely infinite where another one is zero: the logarithm of what vanishes, and more."""
        eqn = self.made.get(value)
        if eqn is None or depth == 0:
            return False
        parts = [self.root(a) for a in eqn.invars]
        if eqn.primitive.name == "log":
            return self.vanishes(parts[0], at, taken, DEPTH)
        name = eqn.primitive.name
        return name in ("add", "sub", "neg", "reduce_sum") and any(self._falls(p, at, taken, depth - 1) for p in parts)

    def _meet(self, key, others, *, product) -> bool:
        sides = key[1:]
        if not product and all(o in sides for o in others):
            return True
        if not product and any(isinstance(o, float) and not math.isfinite(o) for o in others):
            return True
        if len(sides) != 2:
            return False
        taken = [1] if product else range(len(others))
        return any(
            sides[1 - k] == 0.0
            and all(self.vanishes(o, sides[k], (key, i), DEPTH) for i, o in zip(taken, others, strict=True))
            for k in (0, 1)
            if not isinstance(sides[k], float)
        )

    def root(self, atom):
        """A variable or a number, casts and broadcasts taken off."""
        while not isinstance(atom, Literal):
            eqn = self.made.get(atom)
            if eqn is None or eqn.primitive.name not in SAME:
                return atom
            atom = eqn.invars[0]
        return float(atom.val) if getattr(atom.val, "ndim", 0) == 0 else id(atom)

    def vanishes(self, value, at, taken, depth: int) -> bool:
        """Whether a value is surely zero where another one is, in the branch taken of a comparison."""
        if isinstance(value, float | int) or value == at:
            return value == at or value == 0.0
        eqn = self.made.get(value)
        if eqn is None or depth == 0:
            return False
        name, parts = eqn.primitive.name, [self.root(a) for a in eqn.invars]
        if name == "select_n":
            inner, parts = self._comparison(eqn.invars[0]), parts[1:]
            if inner is not None and self.key(inner) == taken[0]:
                parts = [parts[taken[1]]]

        def zero(part):
            return self.vanishes(part, at, taken, depth - 1)

        if name in ODD:
            return (name != "integer_pow" or param(eqn, "y") > 0) and zero(parts[0])
        if name == "div":
            return zero(parts[0])
        if name == "mul":
            return any(map(zero, parts))
        return name in ("add", "sub", "select_n", "max", "min") and all(map(zero, parts))
