"""The gradient of an objective in all its floating-point arguments, and its moments over draws."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Key

from ..transforms import ObjectiveError
from ..transforms._internal import is_inexact, is_numeric, objective_function


def one_float(what: str, objective: Callable) -> Callable:
    """An objective that is seen to return one float, which can be differentiated."""
    objective_function(what, objective)

    @functools.wraps(objective)
    def checked(*args, **kwargs):
        value = objective(*args, **kwargs)
        if not is_numeric(value) or jnp.shape(value) != () or not is_inexact(jnp.asarray(value)):
            raise ObjectiveError(f"{what}: the objective must return one float, and returned {value!r}.")
        return value

    return checked


def gradient_of(objective: Callable, args: tuple, argnums: tuple[int, ...] | None = None):
    """A function of a key to the flat list [value, gradients ...], and the names of its entries.

    Derivatives are in all floating-point arrays, or in those of the arguments of these numbers. The
    function takes the leaves of `args` too, so that they can be operands, not constants, of what is compiled.
    """
    leaves, tree = jax.tree.flatten_with_path(args)
    leaves = [(path, jnp.asarray(x) if isinstance(x, float) else x) for path, x in leaves]
    among = range(len(args)) if argnums is None else argnums
    trained = [i for i, (path, x) in enumerate(leaves) if is_inexact(x) and path[0].idx in among]
    given = [x for _, x in leaves]

    def at(arrays, values=given):
        filled = list(values)
        for i, x in zip(trained, arrays, strict=True):
            filled[i] = x
        return jax.tree.unflatten(tree, filled)

    def run(key, objective=objective, values=given):
        value, grads = jax.value_and_grad(lambda xs: objective(key, *at(xs, values)))([values[i] for i in trained])
        return [value, *grads]

    names = ["value", *(f"args{jax.tree_util.keystr(leaves[i][0])}" for i in trained)]
    return run, names, at, [given[i] for i in trained]


def moments(run: Callable, key: Key[Array, ""], draws: int, chunk: int = 1000):
    """Mean and standard error of each entry of `run(key)` over draws."""
    chunks = max(1, draws // chunk)
    each = min(draws, chunk)

    @jax.jit
    def sums(key):
        def one(key):
            ys = jax.vmap(run)(jax.random.split(key, each))
            return [y.mean(0) for y in ys], [((y - y.mean(0, keepdims=True)) ** 2).sum(0) for y in ys]

        means, squares = lax.map(one, jax.random.split(key, chunks))
        return means, squares

    means, squares = jax.tree.map(lambda x: np.asarray(x, np.float64), sums(key))
    n = chunks * each
    out = []
    for m, s in zip(means, squares, strict=True):
        mean = m.mean(0)
        variance = (s.sum(0) + each * ((m - mean) ** 2).sum(0)) / max(n - 1, 1)
        out.append((mean, np.sqrt(variance / n)))
    return out
