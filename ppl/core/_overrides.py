"""Choosing gradient estimators from outside a program, by address."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator, Mapping
from typing import Any

import equinox as eqx
from jaxtyping import Array, Key

from .._errors import AddressError
from ..transforms import Estimator, EstimatorError, sample
from ._addresses import Path, as_path, matches, paths, specificity, unmatched


class Overrides(eqx.Module):
    """Patterns with the estimators that they choose, the most specific first."""

    patterns: tuple[Path, ...] = eqx.field(static=True)
    estimators: tuple[Estimator, ...]

    def __init__(self, choice: Mapping):
        if not isinstance(choice, Mapping):
            raise EstimatorError(
                f"with_estimators takes a dict from address patterns to estimators, and got {type(choice).__name__}. "
                "Write {'z': mvd()}, or {'**': mvd()} for all."
            )
        for pattern, estimator in choice.items():
            if not isinstance(estimator, Estimator):
                raise EstimatorError(
                    f"with_estimators: {pattern!r} must be given an estimator like `mvd()`, and got {estimator!r}."
                )
        entries = [(as_path(p), e) for p, e in choice.items()]
        entries.sort(key=lambda entry: specificity(entry[0]), reverse=True)
        self.patterns = tuple(p for p, _ in entries)
        self.estimators = tuple(e for _, e in entries)

    def find(self, path: Path) -> int | None:
        """The number of the most specific pattern that matches a path."""
        return next((i for i, p in enumerate(self.patterns) if matches(p, path)), None)

    def matches(self, i: int, path: Path) -> bool:
        """Whether pattern number `i` matches a path."""
        return matches(self.patterns[i], path)


class Active:
    """Overrides in force from a path on, and which of them have been of use."""

    def __init__(self, overrides: Overrides, path: Path):
        self.overrides = overrides
        self.depth = len(path)
        self.seen: set[Path] = set()

    def choose(self, path: Path) -> Estimator | None:
        """The estimator for a path, or None."""
        self.seen.add(path[self.depth :])
        i = self.overrides.find(path[self.depth :])
        return None if i is None else self.overrides.estimators[i]

    def check_used(self, who: str, choices: Mapping) -> None:
        """Refuse patterns that matched no sample."""
        known = self.seen | {p for p, _ in paths(choices)}
        for pattern in self.overrides.patterns:
            if not any(matches(pattern, path) for path in known):
                raise AddressError(unmatched(f"with_estimators for {who}", pattern, known))


_active: contextvars.ContextVar[tuple[Active, ...]] = contextvars.ContextVar("active_overrides", default=())


@contextlib.contextmanager
def override(overrides: Overrides, path: Path) -> Iterator[Active]:
    """Put overrides in force for the visits inside."""
    active = Active(overrides, path)
    token = _active.set((*_active.get(), active))
    try:
        yield active
    finally:
        _active.reset(token)


@contextlib.contextmanager
def isolated() -> Iterator[None]:
    """Visit a program of its own: overrides around the caller do not reach into it."""
    token = _active.set(())
    try:
        yield
    finally:
        _active.reset(token)


def chosen(path: Path, default: Any) -> Any:
    """The estimator in force at a path: the outermost choice, else the one at the site."""
    found = [active.choose(path) for active in _active.get() if active.depth <= len(path)]
    return next((e for e in found if e is not None), default)


def draw_at(path: Path, key: Key[Array, ""], distribution: Any) -> Any:
    """Draw at a path, with the estimator in force there or the default one."""
    return sample(key, distribution, estimator=chosen(path, None), label=path)
