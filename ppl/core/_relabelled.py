"""Generative functions whose choices are told under other addresses or in another order: see `relabel`."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax

from .._errors import AddressError, DensityError
from ._addresses import Path, nest, paths, show
from ._by_address import InForce
from ._docstrings import shows_wrapped
from ._generative import Around
from ._given_values import Attitude
from ._interface import P
from ._operations import At, Generate, Given, Operation
from ._overrides import isolated, retold
from ._rearrangement import Rearrangement, rearrangement
from ._trace import R


class Homes:
    """Where the values of a program stand in another telling of it, for whoever asks by path."""

    def __init__(self, who: str, path: Path, told: Rearrangement):
        self.who = who
        self.path = path
        self.told = told

    def of(self, path: Path) -> tuple[Path, ...]:
        """The new paths of an old one."""
        n = len(self.path)
        return tuple((*self.path, *home) for home in self.told.homes(path[n:]))

    def one(self, path: Path, asked: Callable[[Path], Any]) -> Any:
        """What is said of all new paths of an old one alike."""
        first, *others = ((home, asked(home)) for home in self.of(path))
        for home, answer in others:
            if answer is not first[1]:
                raise DensityError(
                    f"{self.who}: what is drawn at one address is at {show(first[0])} and at {show(home)} here, and is "
                    "selected, weighed or chosen for at one of them only. Say the same of both."
                )
        return first[1]


class Retold(InForce):
    """What is chosen from outside, by the new addresses, for a program that knows the old ones."""

    def __init__(self, active: InForce, homes: Homes):
        self.active, self.homes, self.depth = active, homes, active.depth
        self.weighs_draws = active.weighs_draws

    def at(self, path):
        """What is chosen at the new address of a path."""
        return self.homes.one(path, self.active.at)


class Elsewhere:
    """An operation in a program whose values stand elsewhere for whoever selects them: see `elsewhere`."""

    homes: Homes
    within: Operation
    attitude: Attitude

    def but(self, **attitude):
        """The same with another attitude."""
        other = copy.copy(self)
        other.within = self.within.but(**attitude)
        other.attitude = other.within.attitude
        return other

    def taken(self, path, given):
        """As at the new address."""
        return self.homes.one(path, lambda home: self.within.taken(home, given))

    def weighs(self, path, *, drawn):
        """As at the new address."""
        return self.homes.one(path, lambda home: self.within.weighs(home, drawn=drawn))

    def site(self, at: At, given: Given):
        """As at the new address."""
        value = self.taken(at.path, given)
        self.weighs(at.path, drawn=value is None)
        home, *others = self.homes.of(at.path)
        attitude = at.attitude._replace(drawn=None, weighed=None) if others else at.attitude
        return self.within.site(at._replace(path=home, attitude=attitude), given)


@functools.cache
def _class(of: type) -> type:
    return of if issubclass(of, Elsewhere) else type(of.__name__, (Elsewhere, of), {"__doc__": of.__doc__})


def elsewhere(operation: Operation, homes: Homes) -> Operation:
    """An operation of the same kind, for a program whose values stand elsewhere."""
    attitude = operation.attitude
    within = operation.but(
        known=None,  # Its leaves are those of the new telling.
        scales=tuple(Retold(each, homes) for each in attitude.scales),
        coordinates=tuple(Retold(each, homes) for each in attitude.coordinates),
    )
    other = copy.copy(within)
    other.__class__ = _class(type(operation))  # type: ignore[arg-type]
    other.homes, other.within = homes, within  # type: ignore[attr-defined]
    return other


@shows_wrapped
class Relabelled(Around[P, R]):
    """See `relabel`."""

    told: Callable = eqx.field(static=True)

    @property
    def name(self) -> str:
        """That of the function, told otherwise."""
        return f"relabel({self.function.name})"

    @property
    def origin(self) -> Any:
        """That of the function, and how it is told."""
        return "relabelled", getattr(self.told, "__code__", self.told), self.function.origin

    def visit(self, operation, key, given, path, args, kwargs):
        """Visit with what is given rearranged, and rearrange what comes out."""
        if any(True for part in given[2:] for _ in paths(part or {})):
            raise AddressError(
                f"do or condition for {self.name}: give the values to the program itself, "
                f"`relabel({self.function.name}.do(values), ...)`."
            )
        told = rearrangement(self.name, self.told, self._shapes(path, args, kwargs))
        homes = Homes(self.name, path, told)
        given = Given(*(None if x is None else told.inverse(x, self.name) for x in given[:2]))
        with retold(lambda active: Retold(active, homes)):
            out = self.function.visit(elsewhere(operation, homes), key, given, path, args, kwargs)
        return out._replace(
            choices=told(out.choices, self.name),
            discarded=told(out.discarded, self.name),
            records=self._records(told, out.records),
        )

    def _shapes(self, path, args, kwargs):
        """The choices as the function tells them."""

        def run(key):
            return self.function.visit(Generate().but(in_place=True), key, Given(), path, args, kwargs).choices

        with isolated():
            return jax.eval_shape(run, jax.random.key(0))

    def _records(self, told, records):
        """What operations wrote down of values that only have another name."""
        found = dict(paths(records))
        for path in found:
            if not _by_name(told, path):
                raise DensityError(
                    f"{self.name}: the values drawn at {show(path)} stand in another order or in several places here, "
                    f"and what is asked of each address is known of {self.function.name} alone. Ask that of it, and "
                    "rearrange what comes back."
                )
        return nest({told.homes(path)[0]: x for path, x in found.items()})


def _by_name(told, path):
    """Whether what is at a path, if it is a choice, only has another name."""
    if path in told.before:
        return all(told.leaves[home].whole for home in told.homes(path))
    return not any(p[: len(path)] == path for p in told.before)
