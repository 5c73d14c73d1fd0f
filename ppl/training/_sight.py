"""All that a function sees when it is called: its code, what it closes over, the globals that it names, and so on.

A program that was compiled from a function is right as long as the function sees the same. `sight` writes down what
that is, in a form that two calls can compare: arrays of JAX by identity, for they do not change; arrays of NumPy,
lists, dicts and attributes of objects by what they hold, for they do. Where something cannot be told (a generator, a
file, a traced value), the answer is None, and nothing may be kept.

What JAX, NumPy, Python's own library and the like are made of is taken not to change.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import io
import random
import sys
import types
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

LIBRARIES = frozenset(("equinox", "jax", "jaxlib", "jaxtyping", "numpy", "numpyro", "optax", "tracegrad"))
"""Packages whose functions read no globals that change, as those of Python's own library do not."""
MOST_THINGS = 20_000
"""Of more than so many things that a function sees, nothing is kept: comparing them would take longer than it saves."""
MOST_BYTES = 2**26
"""Arrays of NumPy that are larger are not read through at each call."""

PLAIN = (type(None), bool, int, str, bytes, types.CodeType, type(Ellipsis), np.dtype, np.ufunc, range)
BY_VALUE = (jax.sharding.Sharding, jax.sharding.Mesh, jax.sharding.PartitionSpec)
UNTOLD = (jax.core.Tracer, Iterator, io.IOBase, random.Random, np.memmap)
BUILT_IN = (types.BuiltinFunctionType, types.MethodWrapperType, types.WrapperDescriptorType, types.MethodDescriptorType)


class _Untold(Exception):
    """Something whose state cannot be told."""


class _Same:
    """Equal to what is the same object, which it does not keep alive."""

    def __init__(self, thing: Any):
        try:
            self._ref = weakref.ref(thing)
        except TypeError:
            raise _Untold from None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self._ref() is not None and self._ref() is other._ref()

    __hash__ = None  # type: ignore[assignment]


def sight(thing: Any) -> list | None:
    """What a thing sees, to be compared with what it sees at another time; None if that cannot be told."""
    look = _Look()
    try:
        look.at(thing)
    except _Untold:
        return None
    return look.found


@functools.lru_cache
def _is_library(module: str | None) -> bool:
    package = (module or "").partition(".")[0]
    return package in LIBRARIES or package in sys.stdlib_module_names


@functools.lru_cache(maxsize=4096)
def _names_in(code: types.CodeType) -> frozenset[str]:
    """The names of globals and attributes in a function, and in those that it defines."""
    inner = (x for x in code.co_consts if isinstance(x, types.CodeType))
    return frozenset(code.co_names).union(*map(_names_in, inner))


class _Look:
    """One look at a thing and at all that is behind it."""

    def __init__(self) -> None:
        self.found: list[Any] = []
        self._met: dict[int, tuple[int, Any]] = {}  # things are held, so that no other one has their id
        self._modules: set[tuple[int, frozenset[str]]] = set()

    def at(self, x: Any) -> None:
        """Write down a thing and what is behind it, once."""
        if isinstance(x, PLAIN):
            self.found.append((type(x).__name__, x))
        elif isinstance(x, float | complex | enum.Enum | np.generic):
            self.found.append((type(x).__qualname__, repr(x)))
        elif id(x) in self._met:
            self.found.append(self._met[id(x)][0])
        elif len(self._met) == MOST_THINGS or isinstance(x, UNTOLD):
            raise _Untold
        else:
            self._met[id(x)] = (len(self._met), x)
            self._at_new(x)

    def _at_all(self, *things: Any) -> None:
        for x in things:
            self.at(x)

    def _at_new(self, x: Any) -> None:
        match x:
            case jax.Array():
                self.found.append(_Same(x))
            case np.ndarray():
                self._at_array(x)
            case types.FunctionType():
                self._at_function(x)
            case functools.partial():
                self._at_all("partial", x.func, x.args, x.keywords)
            case types.MethodType():
                self._at_all("method", x.__func__, x.__self__)
            case weakref.ref():
                self.at(x())
            case types.ModuleType():
                self.found.append(x.__name__)
            case type():
                self._at_class(x)
            case staticmethod() | classmethod():
                self.at(x.__func__)
            case property():
                self._at_all(x.fget, x.fset)
            case set() | frozenset():
                self._at_set(x)
            case list() | tuple() | dict() | types.MappingProxyType():
                self._at_items(x)
            case _ if isinstance(x, BY_VALUE):
                self.found.append(x)
            case _ if isinstance(x, BUILT_IN):
                self._at_all(x.__qualname__, getattr(x, "__self__", None))
            case _:
                self._at_object(x)

    def _at_array(self, x: np.ndarray) -> None:
        if type(x) is not np.ndarray or x.dtype.hasobject or x.nbytes > MOST_BYTES:
            raise _Untold
        self.found.append((x.shape, x.dtype, hashlib.blake2b(np.ascontiguousarray(x).view(np.uint8).data).digest()))

    def _at_set(self, x: Any) -> None:
        if not all(isinstance(each, PLAIN) for each in x):
            raise _Untold  # they come in no order
        self.found.append(frozenset((type(each).__name__, each) for each in x))

    def _at_items(self, x: Any) -> None:
        self._at_all(type(x), len(x))
        if isinstance(x, Mapping):
            self._at_all(*x.keys(), *x.values())
        else:
            self._at_all(*x)

    def _at_function(self, f: types.FunctionType) -> None:
        self._at_all(f.__code__, f.__defaults__, f.__kwdefaults__, vars(f))
        for cell in f.__closure__ or ():
            try:
                self.at(cell.cell_contents)
            except ValueError:  # not filled yet
                self.found.append("empty")
        if not _is_library(f.__globals__.get("__name__")):
            self._at_named(f.__globals__, _names_in(f.__code__))

    def _at_named(self, there: Mapping[str, Any], names: frozenset[str]) -> None:
        """What the names stand for; of a module that is no library's, what it has under names of the same function."""
        for name in sorted(names & there.keys()):
            x = there[name]
            self._at_all(name, x)
            inside = (id(x), names)
            if isinstance(x, types.ModuleType) and not _is_library(x.__name__) and inside not in self._modules:
                self._modules.add(inside)
                self._at_named(vars(x), names)

    def _at_class(self, kind: type) -> None:
        """Which it is; and of one that is no library's the functions and the plain values that it has."""
        self.found.append(_Same(kind))
        for each in kind.__mro__ if not _is_library(kind.__module__) else ():
            told = (*PLAIN, float, jax.Array, np.ndarray, types.FunctionType, property, staticmethod, classmethod)
            if not _is_library(each.__module__):
                self._at_all(*(x for x in vars(each).values() if isinstance(x, told)))

    def _at_object(self, x: Any) -> None:
        """Its attributes are its state; those of what is written in C are what it wraps, if it wraps a function."""
        wraps, slots, state = getattr(x, "__wrapped__", None), _slots_of(type(x)), getattr(x, "__dict__", None)
        if wraps is not None:
            self.found.append(_Same(x))
        elif state is None and not slots:
            raise _Untold
        self._at_all(type(x), wraps, state, *(getattr(x, name, None) for name in slots))


def _slots_of(kind: type) -> list[str]:
    """The slots of a class and of those above it."""
    found = [getattr(each, "__slots__", ()) for each in kind.__mro__ if "__slots__" in vars(each)]
    names = [name for slots in found for name in ((slots,) if isinstance(slots, str) else slots)]
    return [name for name in names if name not in ("__dict__", "__weakref__")]
