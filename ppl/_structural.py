"""Modules that hash, so that their methods can be given to `jax.jit`."""

from __future__ import annotations

import equinox as eqx
import jax


class Structural(eqx.Module):
    """A module whose hash is that of its structure, without the arrays in it.

    Equality is by structure and arrays. `jax.jit(target.log_prob)` keeps what it compiled under the hash of the bound
    method, so a module with dicts or arrays in it must have one, the same for the same module.
    """

    def __hash__(self):
        return hash(jax.tree.structure(self))
