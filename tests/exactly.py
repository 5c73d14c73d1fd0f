"""What tests without statistics share: keys that are cheap to compile, and values with their derivatives from one run.

`exact_expectation` puts all noise in place of the draws, so that a key has only to be another one than the others.
JAX's own keys are hashed in twenty rounds, a third of what XLA compiles for a small program.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from jax.extend.random import define_prng_impl

# ---- keys ------------------------------------------------------------------------------------------------------------

GOLDEN = 0x9E3779B9
"""2^32 over the golden ratio: its multiples are far apart."""


def _mixed(x):
    """A permutation of the 32-bit words."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    return x ^ (x >> 15)


def _fold_in(key, number):
    first = _mixed(key[0] + number.astype(jnp.uint32) * jnp.uint32(GOLDEN) + jnp.uint32(1))
    return jnp.stack([first, _mixed(key[1] ^ first)])


def _split(key, shape):
    numbers = jnp.arange(math.prod(shape), dtype=jnp.uint32) + jnp.uint32(1 << 31)
    return jax.vmap(_fold_in, (None, 0))(key, numbers).reshape(*shape, 2)


def _seed(number):
    return _fold_in(jnp.zeros(2, jnp.uint32), number)


def _bits(key, width, shape):
    """Bits to have some value by, where a test looks at no number; statistics are not to rest on them."""
    numbers = jnp.arange(math.prod(shape), dtype=jnp.uint32).reshape(shape)
    low, high = (_mixed(word + numbers * jnp.uint32(GOLDEN)) for word in key)
    if width == 64:
        return low.astype(jnp.uint64) | high.astype(jnp.uint64) << jnp.uint64(32)
    return (low ^ high).astype(f"uint{width}")


IMPLEMENTATION = define_prng_impl(
    key_shape=(2,), seed=_seed, split=_split, random_bits=_bits, fold_in=_fold_in, name="distinct", tag="dk"
)


def exact_key(seed: int = 0) -> jax.Array:
    """A key that can be split, folded into and compared; what is drawn by it is random in looks only."""
    return jax.random.key(seed, impl=IMPLEMENTATION)


# ---- keys for statistics ---------------------------------------------------------------------------------------------


def _hashed(a, b, c):
    """Three words, each of which depends on every bit of all three: pcg3d.

    Source: Jarzynski and Olano, Hash Functions for GPU Rendering, Journal of Computer Graphics Techniques 2020.
    """
    a, b, c = (x * jnp.uint32(1664525) + jnp.uint32(1013904223) for x in (a, b, c))
    a = a + b * c
    b = b + c * a
    c = c + a * b
    a, b, c = (x ^ (x >> 16) for x in (a, b, c))
    a = a + b * c
    b = b + c * a
    return a, b, c + a * b


def _hashed_split(key, shape):
    numbers = jnp.arange(math.prod(shape), dtype=jnp.uint32) + jnp.uint32(1 << 31)
    return jnp.stack(_hashed(*key, numbers)[:2], -1).reshape(*shape, 2)


def _hashed_fold_in(key, number):
    return jnp.stack(_hashed(*key, number.astype(jnp.uint32))[:2])


def _hashed_bits(key, width, shape):
    numbers = jnp.arange(math.prod(shape), dtype=jnp.uint32).reshape(shape)
    low, _, high = _hashed(key[0] ^ jnp.uint32(GOLDEN), key[1], numbers)
    if width == 64:
        return low.astype(jnp.uint64) | high.astype(jnp.uint64) << jnp.uint64(32)
    return high.astype(f"uint{width}")


STATISTICAL = define_prng_impl(
    key_shape=(2,),
    seed=lambda number: _hashed_fold_in(jnp.zeros(2, jnp.uint32), number),
    split=_hashed_split,
    random_bits=_hashed_bits,
    fold_in=_hashed_fold_in,
    name="hashed",
    tag="hk",
)


def quick_key(seed: int = 0) -> jax.Array:
    """A key for means over many draws: a tenth of the work of JAX's own. `jax.random.poisson` takes JAX's own alone."""
    return jax.random.key(seed, impl=STATISTICAL)


# ---- derivatives -----------------------------------------------------------------------------------------------------


def forward(f: Callable, w: jax.Array) -> tuple[Any, Any]:
    """The value of a pytree of arrays and its derivative, with the axes of `w` last: as `jax.jacfwd`, in one run."""

    def twice(w):
        y = f(w)
        return y, y

    derivative, value = jax.jacfwd(twice, has_aux=True)(w)
    return value, derivative


def backward(f: Callable, w: jax.Array) -> tuple[Any, Any]:
    """The same in reverse mode, as `jax.jacrev`, which prints all that it keeps to find the name of a function."""
    value, pull = jax.vjp(f, w)
    leaves, tree = jax.tree.flatten(value)
    sizes = np.cumsum([y.size for y in leaves])
    rows = jax.vmap(lambda row: pull(_as(row, leaves, tree, sizes))[0])(jnp.eye(sizes[-1], dtype=w.dtype))
    parts = jnp.split(rows, sizes[:-1])
    return value, tree.unflatten([part.reshape(*y.shape, *w.shape) for part, y in zip(parts, leaves, strict=True)])


def _as(row, leaves, tree, sizes):
    """A vector as the pytree of these leaves."""
    parts = jnp.split(row, sizes[:-1])
    return tree.unflatten([part.reshape(y.shape).astype(y.dtype) for part, y in zip(parts, leaves, strict=True)])
