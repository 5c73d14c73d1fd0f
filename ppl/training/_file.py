"""The file that a fit is kept in: a line that says what it is, a manifest, and the bytes of the arrays.

    tracegrad fit <version> <length of the manifest> <sha256 of the version, a space and the manifest>
    {"run": {...}, "leaves": [{"at": "params['w']", "shape": [3], "dtype": "float32", "sha256": "..."}, ...]}
    <the bytes of each array after the other, little-endian, in C order>

Nothing in it is code: it is read without pickle. A file is written beside its place and put there in one step, so that
whoever reads finds all of it or none; and each part has its hash, so that what was altered is refused by its name.
Leaves that are no arrays (numbers, names, functions) come from the pytree that is to be like it. Plain ones stand in
the manifest, and must be the same.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import jax
import numpy as np
from jax import numpy as jnp

from .._errors import CheckpointError

MAGIC = "tracegrad fit"
VERSION = 1
HEAD = 200
"""The first line is shorter than this: of a foreign file no more is read to see that it is one."""
PLAIN = (bool, int, float, complex, str)


# ---- leaves ---------------------------------------------------------------------------------------------------------


def _name(path) -> str:
    return jax.tree_util.keystr(path).removeprefix(".")


def _is_key(x: Any) -> bool:
    return isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _raw(x: Any) -> Any:
    """The bytes of an array."""
    if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
        raise CheckpointError(
            f"A file holds what one process has, and an array of shape {list(x.shape)} is spread over several "
            "processes. Gather it (`jax.experimental.multihost_utils.process_allgather`), or keep it whole on each."
        )
    array = np.asarray(jax.random.key_data(x) if _is_key(x) else x)
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _is_kept(x: Any) -> bool:
    return isinstance(x, jax.Array | np.ndarray | np.generic)


def _kind(x: Any) -> dict[str, Any]:
    """What the manifest says of a leaf, but for its hash."""
    if not _is_kept(x):
        return {"value": repr(x)} if isinstance(x, PLAIN) else {"is": type(x).__qualname__}
    kind = {"shape": list(x.shape), "dtype": str(x.dtype)}
    return kind | {"key": str(jax.random.key_impl(x))} if _is_key(x) else kind


def _in_words(kind: dict[str, Any]) -> str:
    if "value" in kind:
        return kind["value"]
    return kind["is"] if "is" in kind else f"{kind['dtype']}{kind['shape']}"


def _hash(version: int, manifest: bytes) -> str:
    """That of the manifest and of the version: a version that was altered is no newer one."""
    return hashlib.sha256(f"{version} ".encode() + manifest).hexdigest()


# ---- writing --------------------------------------------------------------------------------------------------------


def write(path: Path, tree: Any, run: dict[str, Any]) -> None:
    """Write a pytree, with words about the run; the file is there in full or not at all.

    Raises:
        CheckpointError: it cannot be written.
    """
    leaves: list[dict[str, Any]] = []
    arrays: list[Any] = []  # their bytes
    for at, x in jax.tree_util.tree_leaves_with_path(tree):
        leaf = {"at": _name(at), **_kind(x)}
        if _is_kept(x):
            arrays.append(_raw(x))
            leaf["sha256"] = hashlib.sha256(arrays[-1]).hexdigest()
        leaves.append(leaf)
    manifest = json.dumps({"run": run, "leaves": leaves}).encode() + b"\n"
    head = f"{MAGIC} {VERSION} {len(manifest)} {_hash(VERSION, manifest)}\n".encode()
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            for piece in (head, manifest, *arrays):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise CheckpointError(f"{path} could not be written: {error}.") from error


def _sync_folder(folder: Path) -> None:
    """Make the new name last, where the system has a way to say so."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


# ---- reading --------------------------------------------------------------------------------------------------------


def _damaged(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path} {why}", damaged=True)


def _head(path: Path, file: BinaryIO) -> tuple[int, int, str]:
    """The version, and the length and the hash of the manifest."""
    line = file.readline(HEAD)
    magic, *rest = line.rsplit(b" ", 3)
    if not line.startswith(MAGIC.encode()):
        raise _damaged(path, "is not a file that `Fit.save` wrote, or its beginning is altered.")
    words = [word.decode("ascii", "replace") for word in rest]
    if len(words) != 3 or magic != MAGIC.encode() or not (words[0].isdecimal() and words[1].isdecimal()):
        raise _damaged(path, "is damaged: its first line is altered.")
    return int(words[0]), int(words[1]), words[2]


def _manifest(path: Path, file: BinaryIO) -> dict[str, Any]:
    version, length, sha = _head(path, file)
    text = file.read(min(length, path.stat().st_size))
    if f"{_hash(version, text)}\n" != sha:
        raise _damaged(path, "is damaged: its manifest is cut short or altered.")
    if version != VERSION:
        raise CheckpointError(
            f"{path} is of version {version} of the format, and this version of tracegrad reads version {VERSION}. "
            "Read it with the version that wrote it."
        )
    try:
        manifest = json.loads(text)
        return {"run": dict(manifest["run"]), "leaves": [dict(leaf, at=str(leaf["at"])) for leaf in manifest["leaves"]]}
    except (KeyError, TypeError, ValueError):
        raise _damaged(path, "is not a file that `Fit.save` wrote: its manifest has another form.") from None


def told(path: Path) -> dict[str, Any]:
    """What a file says of its run, without reading its arrays."""
    with _opened(path) as file:
        return _manifest(path, file)["run"]


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error


def _array(path: Path, file: BinaryIO, leaf: dict[str, Any], like: Any) -> Any:
    """The next array of a file, of the kind that `like` is."""
    key, dtype = leaf.get("key"), jnp.dtype("uint32" if "key" in leaf else leaf["dtype"])
    inner = jax.random.key_data(like).shape[like.ndim :] if key else ()
    shape = (*leaf["shape"], *inner)
    length = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    data = file.read(min(length, path.stat().st_size))
    if len(data) != length:
        raise _damaged(path, f"is damaged: it ends within {leaf['at']}, of which {len(data)} bytes are there.")
    if hashlib.sha256(data).hexdigest() != leaf["sha256"]:
        raise _damaged(path, f"is damaged: {leaf['at']} is altered (its bytes have another hash).")
    array = np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype).reshape(shape)
    if not isinstance(like, jax.Array):
        return array if isinstance(like, np.ndarray) else array[()]
    placed = jax.random.wrap_key_data(jnp.asarray(array), impl=key) if key else jnp.asarray(array, dtype)
    same = placed.shape == like.shape and like.committed
    return jax.device_put(placed, like.sharding) if same else placed


def read(path: Path, like: Any, *, growing: tuple[str, ...] = ()) -> Any:
    """A pytree from a file, of the structure of another; `growing` leaves may be of any length.

    Raises:
        CheckpointError: the file is foreign, damaged, of another version or of another structure: which leaf, and why.
    """
    with _opened(path) as file:
        leaves = _manifest(path, file)["leaves"]
        paths, structure = jax.tree_util.tree_flatten_with_path(like)
        expected = {_name(at): x for at, x in paths}
        _check_names(path, [leaf["at"] for leaf in leaves], list(expected))
        found = dict(_leaves(path, file, leaves, expected, growing))
        if file.read(1):
            raise _damaged(path, "is damaged: it goes on after its last array.")
    return jax.tree.unflatten(structure, [found[name] for name in expected])


def _check_names(path: Path, there: list[str], expected: list[str]) -> None:
    for name in there:
        if name not in expected:
            raise CheckpointError(f"{path} has {name}, which is not in what it is to be like. It is of another fit.")
    for name in expected:
        if name not in there:
            raise CheckpointError(f"{path} has no {name}, which is in what it is to be like. It is of another fit.")
    if len(there) != len(expected):
        raise _damaged(path, "names a leaf twice. It is not a file that `Fit.save` wrote.")


def _leaves(path, file, leaves, expected, growing) -> Iterator[tuple[str, Any]]:
    """All leaves of a file by name, each of the shape and the type that is expected."""
    for leaf in leaves:
        name, kind = leaf["at"], {key: value for key, value in leaf.items() if key not in ("at", "sha256")}
        like = expected[name]
        mine = _kind(like)
        if name in growing and _is_kept(like) and "shape" in kind:
            mine = mine | {"shape": [*kind["shape"][:1], *mine["shape"][1:]]}
        if kind != mine:
            raise CheckpointError(
                f"{path}: {name} is {_in_words(kind)}, and {_in_words(mine)} in what it is to be like. It is of "
                "another fit."
            )
        yield name, _array(path, file, leaf, like) if _is_kept(like) else like
