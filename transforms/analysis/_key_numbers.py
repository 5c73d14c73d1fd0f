"""Numbers for the values of a program: what is surely equal has one, however it was derived.

Keys and integers, of which keys are made, are numbered by their form: an operation, the numbers of its operands and
its parameters. A key split off and a key folded in are children of their parent, by the number of the child.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from .._jax import Literal, param, params_of
from .._pytree import size

UNCHANGED = {"squeeze", "reshape", "copy", "random_clone", "convert_element_type", "random_unwrap", "random_wrap"}
"""Operations that leave the words of keys, and integers, as they are."""


class Fact(NamedTuple):
    """What is known of a value: a number, one for equal values, and the loops (as bits) in which it may change."""

    number: int
    loops: int = 0


class Numbers:
    """The numbers given so far, and the forms that they stand for."""

    def __init__(self):
        self.forms: list[tuple] = []
        self.numbers: dict[tuple, int] = {}

    def fresh(self, loops: int = 0) -> Fact:
        """A value that is known to be equal to no other."""
        self.forms.append(("value",))
        return Fact(len(self.forms) - 1, loops)

    def known(self, form: tuple, loops: int = 0) -> Fact:
        """The value of this form: an operation, the numbers of its operands, and its parameters."""
        if form not in self.numbers:
            self.numbers[form] = len(self.forms)
            self.forms.append(form)
        return Fact(self.numbers[form], loops)

    def each(self, array: Fact, loop: int) -> Fact:
        """The entry of an array in a lane or a step."""
        match self.forms[array.number]:
            case ("broadcast_in_dim", one, ("broadcast_dimensions", ()), *_):
                return Fact(one, array.loops)
        return self.known(("each", array.number), array.loops | loop)

    def origins(self, number: int) -> Iterator[tuple[Any, int, int]]:
        """The keys that a value stands for: numbers start to stop of the family of an origin."""
        match self.forms[number]:
            case ("child", parent, i):
                yield ("child", parent), i, i + 1
            case ("each", array):
                yield from self._entries(array)
            case _:
                yield number, 0, 1

    def _entries(self, array):
        match self.forms[array]:
            case ("children", parent, start, stop):
                yield ("child", parent), start, stop
            case ("stack", *parts, ("axis", 0)):
                for part in parts:
                    yield from self.origins(part)
            case ("concatenate", *parts, ("dimension", 0)):
                for part in parts:
                    yield from self._entries(part)
            case _:
                yield ("each", array), 0, 1

    def read(self, env: dict, atom: Any) -> Fact:
        """The fact of a variable, or of a literal."""
        if isinstance(atom, Literal):
            whole = np.ndim(atom.val) == 0 and numbered(atom)
            return self.known(("literal", int(atom.val))) if whole else self.fresh()
        if atom not in env:
            env[atom] = self.fresh()
        return env[atom]

    def form(self, eqn, numbers) -> tuple | int | None:
        """What keys or integers are made of, or what they are equal to; None where that cannot be compared."""
        name = eqn.primitive.name
        if _unchanged(eqn):
            return numbers[0]
        if name == "random_fold_in" and self.forms[numbers[1]][0] == "literal":
            return ("child", numbers[0], self.forms[numbers[1]][1])
        if name == "random_split" and _counts(eqn):
            return ("children", numbers[0], 0, *param(eqn, "shape"))
        if name == "slice" and self.forms[numbers[0]][0] == "children" and param(eqn, "strides") in (None, (1,)):
            _, parent, start, _ = self.forms[numbers[0]]
            first, last = start + param(eqn, "start_indices")[0], start + param(eqn, "limit_indices")[0]
            return ("child", parent, first) if last == first + 1 else ("children", parent, first, last)
        form = (name, *numbers, *sorted(params_of(eqn).items()))
        return form if _hashable(form) and not eqn.effects else None


def union(facts: Iterable[Fact]) -> int:
    """The loops in which any of the values may change."""
    return functools.reduce(operator.or_, (f.loops for f in facts), 0)


def is_key(atom: Any) -> bool:
    """Whether a variable is a key, or an array of them."""
    return jax.dtypes.issubdtype(getattr(atom.aval, "dtype", np.dtype(float)), jax.dtypes.prng_key)


def numbered(atom: Any) -> bool:
    """Whether a value is a key, or what keys are made of."""
    dtype = getattr(atom.aval, "dtype", np.dtype(float))
    return jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key) or dtype.kind in "iub"


def _unchanged(eqn) -> bool:
    """Whether an operation leaves the words of keys, or integers, as they are."""
    if eqn.primitive.name == "broadcast_in_dim":
        return size(eqn.invars[0].aval.shape) == size(eqn.outvars[0].aval.shape)
    return eqn.primitive.name in UNCHANGED and numbered(eqn.invars[0])


def _counts(eqn) -> bool:
    """Whether a split gives what `fold_in` of 0, 1, 2, ... gives: one family of keys, however many are split off."""
    (key,), shape = eqn.invars, param(eqn, "shape")
    counts: Any = getattr(jax.config, "jax_threefry_partitionable", False)
    return len(shape) == 1 and str(key.aval.dtype) == "key<fry>" and bool(counts)


def _hashable(form) -> bool:
    try:
        hash(form)
    except TypeError:
        return False
    return True
