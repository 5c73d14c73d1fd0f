"""The key that a lane draws with: that of all lanes, with the lane's number put into its words."""

from __future__ import annotations

import jax
from jax import numpy as jnp

from .._jax import lane_shape, make_primitive, vmapped
from ._site import again

WITH_RELATED_KEYS = "threefry2x32"
"""The generator whose streams are independent for keys of which one is the other with a few bits changed (Salmon et
al., Parallel Random Numbers: As Easy as 1, 2, 3, 2011; JAX's own `key(0)`, `key(1)`, ... are such keys)."""


def _in_lane(key, number):
    generator = jax.random.key_impl(key)
    if str(generator) != WITH_RELATED_KEYS:
        return [jax.random.fold_in(key, number)]
    words = jax.random.key_data(key) ^ jnp.stack([jnp.zeros_like(number), number])
    return [jax.random.wrap_key_data(words, impl=generator)]


def _run(*operands, lanes):
    return vmapped(_in_lane, lanes)(*operands)


def _shapes(avals, lanes):
    return [(lane_shape(lanes), avals[0].dtype)]


_bind = make_primitive("key_in_lane", run=_run, shapes=_shapes, jvp=lambda *_: None, check_lane=lambda _: None)


def key_in_lane(key: jax.Array, number: jax.Array) -> jax.Array:
    """The key of lane `number`, an unsigned integer: no call of the generator, where the generator allows that.

    It is one operation, so that nobody takes it for the reading of a key's words.
    """
    return again(_bind(key, number)[0])
