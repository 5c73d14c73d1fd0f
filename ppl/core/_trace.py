"""Traces: one run of a generative function, as a pytree."""

from __future__ import annotations

from typing import Any, Generic

import equinox as eqx
import jax
from jaxtyping import Array, Float
from typing_extensions import TypeVar

from ._addresses import Choices

R = TypeVar("R", default=Any)
"""What a generative function returns, to a type checker."""


class Trace(eqx.Module, Generic[R]):
    """One run of a generative function: what it was given, what it chose, what it returned, and how likely that was.

    Attributes:
        function: the generative function.
        args: its arguments.
        kwargs: its keyword arguments.
        choices: the choices, a nested dict of arrays.
        retval: the return value.
        logp: log p(choices; args), a float scalar in nats; an estimate where the function's density is one.

    A trace is a pytree, so it goes through `jit`, `vmap` and `tree_map`; what is no array or number among the arguments
    (an activation function inside a network, say) is static in it.

    Examples:
        >>> import jax, tracegrad as tg
        >>> coin = tg.gen(lambda p: 2 * tg.sample("heads", tg.dist.Bernoulli(p)))
        >>> trace = coin.simulate(jax.random.key(0), 0.5)
        >>> trace.args, bool(trace.retval == 2 * trace.choices["heads"]), round(float(trace.logp), 3)
        ((0.5,), True, -0.693)
    """

    choices: Choices
    logp: Float[Array, ""]
    _rest: tuple

    def __init__(self, function: Any, args: tuple, kwargs: dict, choices: Choices, retval: Any, logp):
        self.choices = choices
        self.logp = logp
        self._rest = _hold((function, args, kwargs, retval))

    @property
    def function(self) -> Any:
        """The generative function whose run this is."""
        return _release(self._rest[0])

    @property
    def args(self) -> tuple:
        """Its arguments."""
        return _release(self._rest[1])

    @property
    def kwargs(self) -> dict:
        """Its keyword arguments."""
        return _release(self._rest[2])

    @property
    def retval(self) -> R:
        """The return value."""
        return _release(self._rest[3])

    @property
    def logps(self) -> Choices:
        """The log density of each address, in nats; see `GenerativeFunction.logps`. Of stacked traces under `vmap`."""
        return self.function.logps(self.choices, *self.args, **self.kwargs)

    def __repr__(self):
        name = self._rest[0].name
        return f"Trace({name}, choices={eqx.tree_pformat(self.choices)}, logp={eqx.tree_pformat(self.logp)})"


class _Held(eqx.Module):
    """A leaf that JAX cannot take, made static."""

    value: Any = eqx.field(static=True)


def _hold(tree):
    return jax.tree.map(lambda x: x if eqx.is_array_like(x) else _Held(x), tree)


def _release(tree):
    return jax.tree.map(lambda x: x.value if _is_held(x) else x, tree, is_leaf=_is_held)


def _is_held(x):
    return isinstance(x, _Held)
