"""What `fit` takes: each argument is checked once, here, and what does not fit is refused before anything runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax import numpy as jnp

from .._errors import FitError
from ..core._generative import GenerativeFunction
from ..transforms._internal import function as check_function
from ..transforms._internal import is_boolean, whole
from ._parameters import is_trained

MOST_KEYS = 2**32


def count_of(name: str, given: Any, most: int | None = None) -> int:
    """A positive integer, Python's or an array's."""
    count = whole("fit", name, given, FitError)
    if most is not None and count > most:
        raise FitError(f"fit: {name} must be at most {most}, the number of keys that one key has, and is {given}.")
    return count


def interval_of(every: Any, callback: Any) -> int | None:
    """How many steps lie between two calls of a callback that is there; None for all of them."""
    if callback is not None and not callable(callback):
        raise FitError(f"fit: `callback` must be a function of the `Fit` so far, and is {callback!r}.")
    if callback is not None:
        check_function("fit: `callback`", "a function of the `Fit` so far", callback, FitError)
    if every is None:
        return None
    if callback is None:
        raise FitError("fit: `every` is given without a `callback` to call.")
    return count_of("every", every)


def check_outside(*trees: Any) -> None:
    """Refuse values that are traced: `fit` looks at its results while it runs."""
    if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(trees)):
        raise FitError(
            "fit: an argument is traced, so that this is inside `jit`, `grad` or `vmap`. `fit` compiles its own loop "
            "and looks at the values between its dispatches: call it outside."
        )


def check_optimizer(optimizer: Any) -> None:
    """Refuse what has no `init` and `update`, such as the function that makes an optimiser."""
    if callable(getattr(optimizer, "init", None)) and callable(getattr(optimizer, "update", None)):
        return
    name = getattr(optimizer, "__name__", None)
    came = repr(optimizer) if name is None else f"the function {name!r}; call it, as in `optax.adam(1e-3)`"
    raise FitError(f"fit: `optimizer` must be an optax optimiser, such as `optax.adam(1e-3)`, and is {came}.")


def names_taken(objective: Any, given: tuple[str, ...], there: set[str], *, stateful: bool) -> set[str]:
    """Which arguments an objective takes by name, after those that it is given by place, whatever their names.

    Raises:
        FitError: it is no function, or one of other arguments.
    """
    if isinstance(objective, GenerativeFunction):
        raise FitError(
            f"fit: the objective is the generative function {objective.name!r}, which has no value to optimise. Write "
            "one, such as `tg.elbo(model, guide, observed)`, as a function of (key, params)."
        )
    if not callable(objective):
        raise FitError(f"fit: the objective must be a function of (key, params), and is {objective!r}.")
    check_function("fit: the objective", "a function of (key, params)", objective, FitError)
    always = {"state"} if stateful else set()
    try:
        signature = inspect.signature(objective)
    except (TypeError, ValueError):  # a builtin, which has none
        return always
    takes = always | (there & set(list(signature.parameters)[len(given) :]))
    try:
        signature.bind(*given, **dict.fromkeys(takes))
    except TypeError as error:
        call = ", ".join((*given, *(f"{name}=" for name in sorted(takes))))
        raise FitError(f"fit: the objective is called as objective({call}), and cannot be: {error}.") from None
    return takes


def named_leaves(tree: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The leaves of a pytree, each with what messages call it."""
    for path, x in jax.tree_util.tree_leaves_with_path(tree):
        yield name + jax.tree_util.keystr(path), x


def as_array(name: str, x: Any) -> jax.Array:
    """The array with the type of its own that it would have after a step: none is weak."""
    if isinstance(x, np.ma.MaskedArray):
        raise FitError(
            f"fit: {name} is a masked array, whose mask would be lost. Pass its values (`.filled(...)`) and its mask "
            "as two arrays, and use the mask in the objective."
        )
    try:
        if isinstance(x, str | bytes):  # which JAX might read as the name of a type
            raise TypeError
        array = jnp.asarray(x)
    except (TypeError, ValueError):
        kind = f"an array of {x.dtype}" if isinstance(x, np.ndarray) else f"of type {type(x).__name__}"
        raise FitError(f"fit: {name} must be an array of numbers, and is {kind}.") from None
    return array if jnp.issubdtype(array.dtype, jax.dtypes.extended) else jnp.asarray(array, array.dtype)


def as_arrays(tree: Any, name: str) -> Any:
    """The pytree with every leaf such an array, so that a loop over it is compiled once."""
    return jax.tree_util.tree_map_with_path(lambda path, x: as_array(name + jax.tree_util.keystr(path), x), tree)


def trained(params: Any) -> tuple[Any, Any]:
    """The floating-point arrays of the parameters, and the rest of them."""
    inexact = (float, complex, np.ndarray, np.generic, jax.Array)
    params = jax.tree_util.tree_map_with_path(
        lambda path, x: as_array("params" + jax.tree_util.keystr(path), x) if isinstance(x, inexact) else x, params
    )
    arrays, static = eqx.partition(params, is_trained(params))
    if not jax.tree.leaves(arrays):
        raise FitError("fit: `params` holds no floating-point array to train.")
    return arrays, static


def check_value(value: Any) -> jax.Array:
    """Refuse what an objective must not return."""
    if isinstance(value, tuple) and len(value) == 2:
        raise FitError(
            "fit: the objective returned a pair, and only one that is given a `state` does. Pass `state=`, or return "
            "the scalar alone."
        )
    if not isinstance(value, float | int | complex | np.generic | np.ndarray | jax.Array):
        raise FitError(f"fit: the objective must return a scalar, and returned {_came(value)}.")
    if jnp.shape(value) != ():
        raise FitError(
            f"fit: the objective must return a scalar, and returned the shape {list(jnp.shape(value))}. Take the mean "
            "over the batch."
        )
    if not jnp.issubdtype(jnp.result_type(value), jnp.floating):
        raise FitError(f"fit: the objective must return a real floating-point number, and returned {_came(value)}.")
    return jnp.asarray(value)


def _came(value):
    if value is None:
        return "None; is a `return` missing?"
    dtype = getattr(value, "dtype", None)
    return f"an object of type {type(value).__name__}" if dtype is None else f"one of type {dtype}"


def check_next_state(state: Any, following: Any) -> Any:
    """Refuse a next state that is not of the structure, the shapes and the types of the one before."""
    before: Any = jax.tree.structure(state)
    after: Any = jax.tree.structure(following)
    if before != after:
        raise FitError(f"fit: the next state must be of the structure of `state`, {before}, and is {after}.")
    for (name, x), y in zip(named_leaves(state, "state"), jax.tree.leaves(following), strict=True):
        shape, dtype = jnp.shape(y), y.dtype if hasattr(y, "dtype") else jnp.result_type(y)
        if (shape, dtype) != (x.shape, x.dtype):
            raise FitError(
                f"fit: the next state must have the shapes and types of `state`: {name} is {x.dtype}{list(x.shape)}, "
                f"and comes back as {dtype}{list(shape)}."
            )
    return following


def ends(callback: Callable, so_far: Any) -> bool:
    """Whether a callback ends the run: it returns a true or false scalar of whatever library, or None."""
    returned = callback(so_far)
    if returned is None or (is_boolean(returned) and np.ndim(returned) == 0):
        return bool(returned)
    raise FitError(
        f"fit: `callback` returns True to end the run, and False or None to go on; it returned {returned!r}."
    )
