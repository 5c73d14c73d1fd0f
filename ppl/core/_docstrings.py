"""Docstrings of instances: `help(model)` begins with what the author of the model wrote."""

from __future__ import annotations

from typing import Any, TypeVar

C = TypeVar("C", bound=type)


class Docstring:
    """A class's own docstring; for an instance that of what it wraps, where that has one."""

    def __init__(self, of_class: str | None):
        self.of_class = of_class

    def __get__(self, instance: Any, owner: Any = None) -> str | None:
        wrapped = None if instance is None else instance.__wrapped__.__doc__
        return wrapped or self.of_class


def shows_wrapped(cls: C) -> C:
    """A class whose instances have the docstring of their `__wrapped__`."""
    cls.__doc__ = Docstring(cls.__doc__)  # type: ignore[assignment]
    return cls
