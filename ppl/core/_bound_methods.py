"""Modules whose methods are Python's own, so that they can be given to `jax.jit`."""

from __future__ import annotations

import equinox as eqx


class Plain(eqx.Module):
    """A module whose methods are bound as those of any object: by identity.

    Equinox makes bound methods pytrees, which `jax.jit` compares by the hash and the values of the whole module, so
    that dicts, arrays and traced values in it are in the way. `jax.jit(target.log_prob)` is to work with all of them.
    """

    __getattribute__ = object.__getattribute__
