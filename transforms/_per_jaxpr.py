"""What is worked out once for each jaxpr, and forgotten with it."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def once_per_jaxpr(work: Callable[..., T]) -> Callable[..., T]:
    """Run a function of a jaxpr, and of what else is asked of it, once for each; `cache_clear()` forgets all.

    What it gives must not hold the jaxpr, or neither is ever freed.
    """
    known: weakref.WeakKeyDictionary[Any, dict[tuple, T]] = weakref.WeakKeyDictionary()

    @functools.wraps(work)
    def of(jaxpr, *asked):
        answers = known.get(jaxpr)
        if answers is None:
            answers = known[jaxpr] = {}
        if asked not in answers:
            answers[asked] = work(jaxpr, *asked)
        return answers[asked]

    of.cache_clear = known.clear  # type: ignore[attr-defined]
    return of
