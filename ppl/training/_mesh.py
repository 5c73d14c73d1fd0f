"""Where the arrays of `fit` are: the data and its minibatches in pieces, the parameters on every device.

The work is divided by JAX, along Auto axes. On Explicit axes it is for the program to say how each of its results is
divided, which objectives do not: arrays on such a mesh are taken to be on the same mesh with Auto axes.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import jax
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from .._errors import FitError


def check_mesh(mesh: Any) -> Mesh | None:
    """The mesh with Auto axes; None where none is given."""
    if mesh is None:
        return None
    if not isinstance(mesh, Mesh):
        raise FitError(
            f"fit: `mesh` must be a `jax.sharding.Mesh`, such as `jax.make_mesh((8,), ('i',))`, and is {mesh!r}."
        )
    return _with_auto_axes(mesh)


def _with_auto_axes(mesh: Mesh) -> Mesh:
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names))


def on_auto_axes(x: Any) -> Any:
    """The array where it is, on axes along which JAX divides the work by itself."""
    sharding = getattr(x, "sharding", None)
    if not isinstance(sharding, NamedSharding) or AxisType.Explicit not in sharding.mesh.axis_types:
        return x
    mesh = sharding.mesh
    return jax.device_put(x, NamedSharding(_with_auto_axes(mesh), sharding.spec)) if isinstance(mesh, Mesh) else x


def _is_spread(x: Any) -> bool:
    return isinstance(x, jax.Array) and isinstance(x.sharding, NamedSharding) and len(x.sharding.device_set) > 1


def in_pieces(data: Any, mesh: Mesh | None, batch: int | None) -> Any:
    """The data with the examples divided over a mesh; every device has all where they cannot be.

    Raises:
        FitError: what comes to a step cannot be divided.
    """
    if mesh is None:
        return data
    size = jax.tree.leaves(data)[0].shape[0]
    name, count = ("the number of examples", size) if batch is None else ("batch_size", batch)
    if count % mesh.size:
        raise FitError(f"fit: {name} must be a multiple of the {mesh.size} devices of `mesh`, and is {count}.")
    spec = PartitionSpec(mesh.axis_names) if size % mesh.size == 0 else PartitionSpec()
    return jax.tree.map(lambda x: x if _is_spread(x) else jax.device_put(x, NamedSharding(mesh, spec)), data)


def everywhere(tree: Any, mesh: Mesh | None) -> Any:
    """Arrays on every device of a mesh, but for those that are spread over several already."""

    def put(x):
        if mesh is None or not isinstance(x, jax.Array) or _is_spread(x):
            return on_auto_axes(x)
        return jax.device_put(x, NamedSharding(mesh, PartitionSpec()))

    return jax.tree.map(put, tree)


def like_on_mesh(tree: Any, other: jax.Array) -> Any:
    """Arrays on every device, where another one is on every device of a mesh."""
    if not isinstance(other.sharding, NamedSharding):
        return tree
    return jax.device_put(tree, NamedSharding(other.sharding.mesh, PartitionSpec()))


def sharding_of_batch(x: jax.Array, batch: int, mesh: Mesh | None) -> NamedSharding | None:
    """Where the rows of a minibatch from an array go; None where that is no matter."""
    if mesh is not None and x.sharding.is_fully_replicated:
        return NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    return _like_the_array(x, batch)


def rows_of(x: jax.Array, rows: jax.Array, sharding: NamedSharding | None) -> jax.Array:
    """The rows of an array, where they are to be."""
    return x[rows] if sharding is None else lax.with_sharding_constraint(x[rows], sharding)


def _like_the_array(x: jax.Array, batch: int) -> NamedSharding | None:
    """That of the array, where a batch can be divided as it is; None where each device has all."""
    if x.sharding.is_fully_replicated:
        return None
    if not isinstance(x.sharding, NamedSharding):
        _warn_of_whole_batches(x.sharding, batch, "its sharding is not a NamedSharding")
        return None
    mesh, (first, *rest) = x.sharding.mesh, (*x.sharding.spec, None)[: x.ndim]
    parts = math.prod(mesh.shape[axis] for axis in ((first,) if isinstance(first, str) else first or ()))
    if batch % parts == 0:
        return x.sharding
    _warn_of_whole_batches(x.sharding, batch, f"batch_size is no multiple of the {parts} parts of the data")
    return NamedSharding(mesh, PartitionSpec(None, *rest))


def _warn_of_whole_batches(sharding: Sharding, batch: int, why: str) -> None:
    warnings.warn(
        f"fit: the data is spread over {len(sharding.device_set)} devices, and each of them computes the whole of "
        f"every minibatch of {batch}, for {why}.",
        stacklevel=2,
    )
