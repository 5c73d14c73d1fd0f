"""Choosing gradient estimators from outside a program, by address."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jaxtyping import Array, Key

from ..transforms import Estimator, EstimatorError, sample
from ._addresses import Path
from ._by_address import ByAddress, InForce


def estimators_of(choice: Any) -> ByAddress:
    """Estimators by address, checked."""
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
    return ByAddress(choice)


_active: contextvars.ContextVar[tuple[InForce, ...]] = contextvars.ContextVar("active_overrides", default=())


@contextlib.contextmanager
def override(estimators: ByAddress, path: Path) -> Iterator[InForce]:
    """Put overrides in force for the visits inside."""
    active = InForce("with_estimators", estimators, path)
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


@contextlib.contextmanager
def retold(telling: Callable[[InForce], InForce]) -> Iterator[None]:
    """Visit a program that tells its addresses in another way."""
    token = _active.set(tuple(map(telling, _active.get())))
    try:
        yield
    finally:
        _active.reset(token)


def chosen(path: Path, default: Any) -> Any:
    """The estimator in force at a path: the outermost choice, else the one at the site."""
    found = [active.at(path) for active in _active.get() if active.depth <= len(path)]
    return next((e for e in found if e is not None), default)


def draw_at(path: Path, key: Key[Array, ""], distribution: Any) -> Any:
    """Draw at a path, with the estimator in force there or the default one."""
    return sample(key, distribution, estimator=chosen(path, None), label=path)
