"""A switch to the plain way, for tests: every alternative by itself, and each from its own step.

To try alternatives together, in groups of steps and in lanes, changes what an estimate costs and nothing else: a test
holds it, draw by draw, against the same estimate in the plain way.

    >>> from tracegrad.transforms.forks._one_by_one import is_one_by_one, one_by_one
    >>> with one_by_one():
    ...     is_one_by_one()
    True
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

_plain: contextvars.ContextVar[bool] = contextvars.ContextVar("one by one", default=False)


def is_one_by_one() -> bool:
    """Whether the plain way is asked for."""
    return _plain.get()


@contextlib.contextmanager
def one_by_one() -> Iterator[None]:
    """Differentiate in the plain way what is traced in this context; what JAX has traced before stays as it is."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)
