"""How much of a gradient is signal, and how much noise, leaf by leaf."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Key, PyTree

from .._errors import FitError
from ..transforms._internal import check_key, whole
from ._arguments import as_arrays, check_outside, trained
from ._loop import objective_of
from ._streams import batches_of, is_loader


def signal_to_noise(
    objective: Callable,
    params: PyTree,
    *,
    key: Key[Array, ""],
    draws: int = 100,
    data: PyTree = None,
    batch_size: int | None = None,
    state: PyTree = None,
) -> PyTree:
    """The signal-to-noise ratio of the gradient of one step of `fit`, for each leaf of the parameters.

    With g the gradient in a leaf it is |E g| / sqrt(E |g - E g|^2), estimated from draws (of keys, and of minibatches),
    without the part of |mean g|^2 that is noise. Far below one, a step goes anywhere: take another estimator, more
    draws, a larger batch, or a lower rate. Far above one there is nothing to gain by them.

    Args:
        objective: as `fit` takes it.
        params: as `fit` takes them.
        key: one typed key.
        draws: how many gradients are drawn, at least 2.
        data: as `fit` takes it.
        batch_size: as `fit` takes it.
        state: as `fit` takes it; it stays as it is.

    Returns:
        A pytree of float scalars, of the structure of the parameters, None where a leaf is not trained. Without noise
        it is infinite, or as large as rounding lets it be; NaN where there is neither signal nor noise.

    Raises:
        FitError: arguments that `fit` would not take.

    Source: Rainforth et al., Tighter Variational Bounds are Not Necessarily Better, ICML 2018.

    Examples:
        >>> import jax, tracegrad as tg
        >>> def loss(key, w):
        ...     return w * (3.0 + jax.random.normal(key))
        >>> ratio = tg.signal_to_noise(loss, 1.0, key=jax.random.key(0), draws=1000)
        >>> bool(abs(ratio - 3.0) < 0.3)
        True
    """
    check_key(key, "signal_to_noise")
    check_outside(key, params, None if is_loader(data) else data, state)
    draws = whole("signal_to_noise", "draws", draws, FitError, least=2)
    (arrays, static), state = trained(params), as_arrays(state, "state")
    step_key, data_key = jax.random.split(key)
    batches = batches_of(data, batch_size, data_key, None)
    loss = objective_of(objective, static, batches, stateful=state is not None, maximize=False)
    fed, count = batches.feed(0, draws, draws)
    if count < draws:
        raise FitError(f"signal_to_noise: the data end after {count} batches, and draws is {draws}.")

    @jax.jit
    def slopes(fed, keys):
        def of(given):
            i, key = given
            return jax.grad(lambda arrays: loss(arrays, key, *batches.at(fed, i), state)[0])(arrays)

        return lax.map(of, (jnp.arange(draws), keys))

    return jax.tree.map(_ratio, slopes(fed, jax.random.split(step_key, draws)))


def _ratio(slopes: Any) -> jax.Array:
    """That of gradients along the leading axis."""
    n, mean = len(slopes), slopes.mean(0)
    noise = jnp.sum(jnp.abs(slopes - mean[None]) ** 2) / (n - 1)
    signal = jnp.maximum(jnp.sum(jnp.abs(mean) ** 2) - noise / n, 0.0)
    return jnp.sqrt(signal / noise)
