"""Branches: one of several generative functions, chosen at run time."""

from __future__ import annotations

from typing import Any

from jax import numpy as jnp

from ._addresses import show
from ._combinators import visit_branch
from ._errors import AddressError, ChoiceError
from ._generative import GenerativeFunction


class Switch(GenerativeFunction):
    """One of several generative functions, by an index at run time."""

    index: Any
    branches: tuple[GenerativeFunction, ...]

    def visit(self, operation, key, given, path, args, kwargs):
        """Visit the branch that the index says."""
        if kwargs:
            raise AddressError(f"A branch at {show(path)} takes positional arguments only, and got {sorted(kwargs)}.")
        index = jnp.asarray(self.index)
        if index.shape != () or not jnp.issubdtype(index.dtype, jnp.integer):
            raise ChoiceError(
                f"The branch at {show(path)} is chosen by one integer (or, in `cond`, one boolean), and got "
                f"{index.dtype}{list(index.shape)}. For a choice in each lane, put the branch inside a `vmap`."
            )
        return visit_branch(index, [b.visit for b in self.branches], operation, key, given, path, args)


def switch(index: Any, *branches: GenerativeFunction) -> GenerativeFunction:
    """Choose one of several generative functions by an index, as in `sample("s", tg.switch(i, f, g)(x))`.

    Args:
        index: an integer scalar, clamped to the branches.
        *branches: generative functions of the same arguments, whose return values have the same structure.

    Returns:
        A generative function. Its choices are the union over the branches, zeros at the addresses of those not taken.

    Example:
        >>> import jax, tracegrad as tg
        >>> a = tg.gen(lambda: tg.sample("x", tg.dist.Normal(0.0, 1.0)))
        >>> b = tg.gen(lambda: tg.sample("y", tg.dist.Normal(5.0, 1.0)))
        >>> sorted(tg.switch(1, a, b).simulate(jax.random.key(0)).choices)
        ['x', 'y']
    """
    return Switch(index, _functions("switch", branches))


def _functions(what: str, branches: tuple) -> tuple:
    wrong = [type(b).__name__ for b in branches if not isinstance(b, GenerativeFunction)]
    if wrong or not branches:
        raise AddressError(
            f"{what} takes generative functions, and got {', '.join(wrong) or 'none'}. Their arguments come after it: "
            "`sample('s', switch(i, f, g)(args))`, `sample('c', cond(p, f, g)(args))`."
        )
    return branches


def cond(predicate: Any, true: GenerativeFunction, false: GenerativeFunction) -> GenerativeFunction:
    """Choose one of two generative functions by a predicate; see `switch`.

    Example:
        >>> import jax, tracegrad as tg
        >>> wide = tg.gen(lambda m: tg.sample("x", tg.dist.Normal(m, 9.0)))
        >>> narrow = tg.gen(lambda m: tg.sample("x", tg.dist.Normal(m, 1.0)))
        >>> sorted(tg.cond(True, wide, narrow).simulate(jax.random.key(0), 2.0).choices)
        ['x']
    """
    return Switch(jnp.where(predicate, 1, 0), _functions("cond", (false, true)))
