"""Addresses: paths into nested choices, patterns that select them, and the nested dicts themselves.

A path is a tuple of strings. A pattern is a path, or the same written 'a/b', in which '*' stands for any one
component and '**' for any number; it selects a path when it matches it or a beginning of it, so 'sub' selects
everything under 'sub' and '*' selects everything.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import equinox as eqx
import numpy as np
from jax import numpy as jnp

from .._errors import AddressError, ChoiceError
from ..transforms._internal import as_array

WILDCARDS = ("*", "**")

Path = tuple[str, ...]
Choices = dict[str, Any]


def show(path: Path) -> str:
    """Print a path as in messages: 'a/b', in quotes."""
    return repr("/".join(path)) if path else "the outermost level"


FEW = 12
"""So many addresses are all named in a message; of more, the nearest."""


def name_them(known: Iterable[Path], wanted: Path = ()) -> str:
    """Print addresses as in messages: all of a few, else the nearest to the one that was wanted, and how many more."""
    every = sorted(set(known))
    if len(every) <= FEW:
        return ", ".join(map(show, every)) or "none"
    spelt = {"/".join(path): path for path in every}
    near = difflib.get_close_matches("/".join(wanted), spelt, n=5) or list(spelt)[:5]
    return f"{', '.join(show(spelt[name]) for name in near)} and {len(every) - len(near)} others"


def as_path(pattern: Any) -> Path:
    """Read a pattern: a string, its components split at '/', or a tuple of them."""
    parts = tuple(pattern.split("/")) if isinstance(pattern, str) else pattern
    if not (isinstance(parts, tuple) and parts and all(isinstance(p, str) and p for p in parts)):
        raise AddressError(f"An address pattern is a string like 'a/b' or a tuple of strings, and got {pattern!r}.")
    return parts


def matches(pattern: Path, path: Path) -> bool:
    """Whether a pattern matches a path or a beginning of it."""
    if not pattern:
        return True
    head, rest = pattern[0], pattern[1:]
    if head == "**":
        return any(matches(rest, path[i:]) for i in range(len(path) + 1))
    return bool(path) and head in ("*", path[0]) and matches(rest, path[1:])


def specificity(pattern: Path) -> tuple[int, int]:
    """How closely a pattern says what it selects: literal components first, then length."""
    return sum(p not in WILDCARDS for p in pattern), len(pattern)


class Selection(eqx.Module):
    """A set of addresses: see `select`. Combine with `|`, `&` and `~`."""

    patterns: tuple[Path, ...] = eqx.field(static=True, default=())
    parts: tuple[Selection, ...] = ()
    how: str = eqx.field(static=True, default="any")

    def __contains__(self, path: Any) -> bool:
        path = as_path(path)
        if self.how == "not":
            return path not in self.parts[0]
        if self.how == "all":
            return all(path in part for part in self.parts)
        return any(matches(p, path) for p in self.patterns) or any(path in part for part in self.parts)

    def literal(self) -> Iterator[Path]:
        """The patterns that it is made of."""
        yield from self.patterns
        for part in self.parts:
            yield from part.literal()

    def check(self, known: Iterable[Path], who: str) -> None:
        """Refuse a pattern, anywhere in it, that matches none of the addresses: it is misspelt.

        A selection of no patterns is nothing, and of a program without addresses '*' is everything.
        """
        known = list(known)
        for pattern in self.literal():
            wild = not known and set(pattern) <= {"*", "**"}
            if not wild and not any(matches(pattern, path) for path in known):
                raise AddressError(unmatched(who, pattern, known))

    def __or__(self, other: Selection) -> Selection:
        return Selection((), (self, other))

    def __and__(self, other: Selection) -> Selection:
        return Selection((), (self, other), "all")

    def __invert__(self) -> Selection:
        return Selection((), (self,), "not")


def unmatched(who: str, pattern: Path, known: Iterable[Path]) -> str:
    """The text about a pattern that selects nothing."""
    return (
        f"{who}: {show(pattern)} matches no sample. It samples at: {name_them(known, pattern)}. Spell the pattern as "
        "one of these, with '*' for any one part and '**' for any number."
    )


def select(*patterns: Any) -> Selection:
    """Select addresses by path and wildcard.

    Args:
        *patterns: strings like 'a', 'a/b', 'steps/*', '**/z', or tuples of strings; an address selects all beneath it.

    Returns:
        A `Selection`; `path in selection` asks, `|`, `&` and `~` combine.

    Examples:
        >>> ("steps", "z") in select("steps"), ("x",) in ~select("**/z")
        (True, True)
    """
    return Selection(tuple(map(as_path, patterns)))


def as_selection(what: Any) -> Selection:
    """A selection as it is; a pattern, or a list of them, selected."""
    if isinstance(what, Selection):
        return what
    return select(*what) if isinstance(what, list | set | frozenset) else select(what)


# ---- nested dicts of choices ----------------------------------------------------------------------------------------


def paths(choices: Mapping, prefix: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every path of nested choices with its value."""
    for address, value in choices.items():
        if isinstance(value, Mapping):
            yield from paths(value, (*prefix, address))
        else:
            yield (*prefix, address), value


def as_arrays(choices: Mapping) -> Choices:
    """Given choices as plain dicts, with lists of numbers as arrays, so that they can be mapped and scanned over.

    Raises:
        AddressError: an address that is no plain string.
        ChoiceError: None for a value.
    """
    return {_address(address): _as_array(value, address) for address, value in choices.items()}


def _address(address):
    if not isinstance(address, str) or not address:
        raise AddressError(f"Choices are dicts from addresses, which are non-empty strings, and got {address!r}.")
    if "/" in address:
        *outer, last = address.split("/")
        raise AddressError(
            f"Choices are nested dicts, one level for each part of an address, and got {address!r}. Write "
            f"{''.join(f'{{{part!r}: ' for part in outer)}{{{last!r}: value}}{'}' * len(outer)}."
        )
    return address


def _as_array(value, address):
    if isinstance(value, Mapping):
        return as_arrays(value)
    if value is None:
        raise ChoiceError(f"The choice at {address!r} is None. Leave the address out where nothing is given.")
    return jnp.asarray(value) if isinstance(value, list) and np.asarray(value).dtype != object else as_array(value)


def lookup(choices: Any, path: Path) -> Any:
    """What stands at a path, or None."""
    for address in path:
        if not isinstance(choices, Mapping) or address not in choices:
            return None
        choices = choices[address]
    return choices


def nest(flat: Mapping[Path, Any]) -> Choices:
    """Nested choices from paths."""
    out: Choices = {}
    for path, value in flat.items():
        inner = out
        for address in path[:-1]:
            inner = inner.setdefault(address, {})
        inner[path[-1]] = value
    return out


def merge(*choices: Mapping) -> Choices:
    """Merge nested choices, at every depth; `|` merges the outermost addresses only.

    Raises:
        AddressError: one of them is no dict of choices; two of them hold the same address.

    Examples:
        >>> merge({"a": {"x": 1.0}}, {"a": {"y": 2.0}, "b": 3.0})
        {'a': {'x': 1.0, 'y': 2.0}, 'b': 3.0}
    """
    out: Choices = {}
    for each in choices:
        if not isinstance(each, Mapping):
            raise AddressError(f"merge takes dicts of choices, and got {type(each).__name__}.")
        for address, value in each.items():
            if _address(address) not in out:
                out[address] = value
            elif isinstance(value, Mapping) and isinstance(out[address], Mapping):
                out[address] = merge(out[address], value)
            else:
                raise AddressError(f"Merging choices: both hold the address {address!r}. Remove it from one of them.")
    return out


def check_known(given: Mapping, visited: Mapping, who: str, what: str) -> None:
    """Refuse given addresses that the generative function does not have."""
    known = {path for path, _ in paths(visited)}
    unknown = [path for path, _ in paths(given) if path not in known]
    if unknown:
        more = f" (nor at {len(unknown) - 1} other addresses that are given)" if len(unknown) > 1 else ""
        raise AddressError(
            f"{what} for {who}: there is no sample at {show(unknown[0])}{more}. It samples at: "
            f"{name_them(known, unknown[0])}. Remove the address, or spell it as one of these."
        )


def difference(old: Mapping, visited: Mapping) -> Choices:
    """The choices of `old` at addresses that `visited` lacks."""
    known = {path for path, _ in paths(visited)}
    return nest({path: value for path, value in paths(old) if path not in known})
