"""Branches: one of several generative functions, chosen at run time."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from .._errors import AddressError, ChoiceError
from ..transforms._internal import is_boolean, is_numeric
from ._addresses import show
from ._combinators import visit_branch
from ._generative import GenerativeFunction


class Switch(GenerativeFunction):
    """One of several generative functions, by an index at run time."""

    index: Any
    branches: tuple[GenerativeFunction, ...]

    @property
    def origin(self) -> Any:
        """Those of the branches, whichever is taken."""
        return type(self), *(branch.origin for branch in self.branches)

    def visit(self, operation, key, given, path, args, kwargs):
        """Visit the branch that the index says."""
        if kwargs:
            raise AddressError(f"A branch at {show(path)} takes positional arguments only, and got {sorted(kwargs)}.")
        index = jnp.asarray(self.index) if is_numeric(self.index) else None
        if index is None or index.shape != () or not jnp.issubdtype(index.dtype, jnp.integer):
            got = repr(self.index) if index is None else f"{index.dtype}{list(index.shape)}"
            raise ChoiceError(
                f"The branch at {show(path)} is chosen by one integer (or, in `cond`, one boolean), and got {got}. For "
                "a choice in each lane, put the branch inside a `vmap`."
            )
        return visit_branch(index, [b.visit for b in self.branches], operation, key, given, path, args)


def switch(index: Any, *branches: GenerativeFunction) -> GenerativeFunction:
    """Choose one of several generative functions by an index, as in `sample("s", tg.switch(i, f, g)(x))`.

    Args:
        index: an integer scalar from 0. One that is traced and out of range is clamped, as by `jax.lax.switch`.
        *branches: generative functions of the same arguments, whose return values have the same structure.

    Raises:
        AddressError: a branch that is no generative function.
        ChoiceError: a known index out of range.

    Returns:
        A generative function. Its choices are the union over the branches, zeros at the addresses of those not taken.

    Examples:
        >>> import jax, tracegrad as tg
        >>> a = tg.gen(lambda: tg.sample("x", tg.dist.Normal(0.0, 1.0)))
        >>> b = tg.gen(lambda: tg.sample("y", tg.dist.Normal(5.0, 1.0)))
        >>> sorted(tg.switch(1, a, b).simulate(jax.random.key(0)).choices)
        ['x', 'y']
    """
    _functions("switch", branches)
    return Switch(_in_range(index, len(branches)), branches)


def _in_range(index, n):
    """The index, after a known one has been checked."""
    if isinstance(index, int | np.ndarray | np.integer | jax.Array) and not isinstance(index, jax.core.Tracer):
        number = np.asarray(index)
        if np.issubdtype(number.dtype, np.integer) and np.any((number < 0) | (number >= n)):
            raise ChoiceError(f"switch takes the number of one of its {n} branches, 0 to {n - 1}, and got {index}.")
    return index


def _functions(what: str, branches: tuple) -> tuple:
    wrong = [type(b).__name__ for b in branches if not isinstance(b, GenerativeFunction)]
    if wrong or not branches:
        raise AddressError(
            f"{what} takes generative functions, and got {', '.join(wrong) or 'none'}. Their arguments come after it: "
            "`sample('s', switch(i, f, g)(args))`, `sample('c', cond(p, f, g)(args))`."
        )
    return branches


def _counts(predicate) -> bool:
    """Whether it is an integer, and if it is known, 0 or 1."""
    if not is_numeric(predicate) or not jnp.issubdtype(jnp.result_type(predicate), jnp.integer):
        return False
    return isinstance(predicate, jax.core.Tracer) or bool(np.all((np.asarray(predicate) >> 1) == 0))


def cond(predicate: Any, true: GenerativeFunction, false: GenerativeFunction) -> GenerativeFunction:
    """Choose one of two generative functions by a predicate; see `switch`.

    Raises:
        ChoiceError: a predicate that is neither a boolean nor an integer 0 or 1.

    Examples:
        >>> import jax, tracegrad as tg
        >>> wide = tg.gen(lambda m: tg.sample("x", tg.dist.Normal(m, 9.0)))
        >>> narrow = tg.gen(lambda m: tg.sample("x", tg.dist.Normal(m, 1.0)))
        >>> sorted(tg.cond(True, wide, narrow).simulate(jax.random.key(0), 2.0).choices)
        ['x']
    """
    if not (is_boolean(predicate) or _counts(predicate)):
        raise ChoiceError(f"cond takes a predicate, one boolean (or an integer 0 or 1), and got {predicate!r}.")
    return Switch(jnp.where(predicate, 1, 0), _functions("cond", (false, true)))
