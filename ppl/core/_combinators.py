"""Combinators: ways to visit a generative function many times, in a loop, by choice, or under a mask.

Each is one method, `visit`, given the visit of what is combined; every operation of the interface follows from it.
Choices of `vmap`, `scan` and `repeat` are stacked along a leading axis. Those of a branch are the union over the
branches, with zeros at the addresses of the branches not taken.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jax import lax
from jax import numpy as jnp

from .._errors import AddressError, ChoiceError
from ..transforms._internal import Spec, flag, is_boolean, joined, lenient, partition, steps_at_once, whole
from ._addresses import Path, nest, paths, show
from ._chunks import lanes_by_chunks, steps_by_blocks
from ._lane_keys import lane_keys, own
from ._operations import Given, Operation, Outcome, Regenerate, Update


class Combinator(eqx.Module):
    """How to visit a generative function; `inner(operation, key, given, path, args, kwargs)` visits it once."""

    def visit(self, inner: Callable, operation: Operation, key: Any, given: Given, path: Path, args: tuple) -> Outcome:
        """Visit as often as the combinator says."""
        raise NotImplementedError


def _total(x):
    return jnp.sum(x, axis=0)


def _joined(whole: Outcome, left: Outcome | None) -> Outcome:
    """The outcome of all lanes or steps, from that of whole blocks of them and of those that are left, if any are."""
    logp, weight = (jnp.sum(x, axis=(0, 1)) for x in (whole.logp, whole.weight))
    if left is not None:
        logp, weight = logp + _total(left.logp), weight + _total(left.weight)
    return joined(whole, left)._replace(logp=logp, weight=weight)


def _split(key, n):
    return None if key is None else jax.random.split(own(key), n)


def _check_stacked(given: Given, path: Path, n: int) -> None:
    for below, value in (entry for part in given for entry in paths(part or {})):
        for shape in map(jnp.shape, jax.tree.leaves(value)):
            if not shape or shape[0] != n:
                raise ChoiceError(
                    f"The choice at {show((*path, *below))} is stacked over {n} lanes or steps, so its leading axis "
                    f"must be {n}; got the shape {list(shape)}."
                )


def _type_of(x) -> str:
    return f"{x.dtype}{list(x.shape)}"


def _types_of(tree) -> str:
    """The types of a pytree's leaves, in its structure, as messages print them."""
    return str(jax.tree.map(_type_of, tree)).replace("'", "")


def _same_structure(one: Any, other: Any) -> bool:
    structure: Any = jax.tree.structure(one)
    return structure == jax.tree.structure(other)


def _freeze(in_axes: Any) -> Spec:
    """Axes as a hashable: a trace that went through `jit` carries them."""
    return partition(jax.tree.map(lambda x: whole("vmap", "in_axes", x, ChoiceError, least=None), in_axes))[1]


def _length(what: str, name: str, least: int = 0) -> Callable:
    return lambda n: None if n is None else whole(what, name, n, ChoiceError, least=least)


class Vmap(Combinator):
    """Visit under `jax.vmap`: lanes are independent given the arguments."""

    in_axes: Any = eqx.field(static=True, converter=_freeze)
    axis_size: int | None = eqx.field(static=True, converter=_length("vmap", "axis_size"))
    chunk: int | None = eqx.field(static=True, converter=_length("vmap", "chunk", least=1), default=None)

    def visit(self, inner, operation, key, given, path, args):
        """One visit in each lane, with a key of its own."""
        axes = self._axes(args, path)
        n = self._size(axes, args, path)
        _check_stacked(given, path, n)

        def lane(key, given, *args):
            return inner(operation, key, given, path, args, {})

        keys, mapped = lane_keys(key, n)
        in_axes, operands = (mapped, 0, *axes), (keys, given, *args)
        if self.chunk is None or self.chunk >= n:
            out = jax.vmap(lane, in_axes=in_axes, axis_size=n)(*operands)
            return out._replace(logp=_total(out.logp), weight=_total(out.weight))
        return _joined(*lanes_by_chunks(lane, in_axes, operands, n, self.chunk))

    def _axes(self, args, path):
        """One entry of `in_axes` for each argument."""
        axes = self.in_axes.combine(())
        axes = tuple(axes) if isinstance(axes, tuple | list) else (axes,) * len(args)
        if len(axes) != len(args):
            raise ChoiceError(
                f"vmap at {show(path)}: in_axes has {len(axes)} entries for {len(args)} arguments; give one for each."
            )
        return axes

    def _size(self, axes, args, path):
        sizes: dict[int, Any] = {} if self.axis_size is None else {self.axis_size: "axis_size"}

        def note(i, axis, arg):
            for x in () if axis is None else jax.tree.leaves(arg):
                shape = getattr(x, "shape", ())
                if not -len(shape) <= axis < len(shape):
                    raise ChoiceError(
                        f"vmap at {show(path)}: argument {i} is mapped along axis {axis}, and has a leaf without it, "
                        f"{_type_of(x) if shape else repr(x)}. Write None for it in in_axes."
                    )
                sizes.setdefault(shape[axis], f"argument {i}")

        for i, (axis, arg) in enumerate(zip(axes, args, strict=True)):
            jax.tree.map(functools.partial(note, i), axis, arg, is_leaf=lambda a: a is None)
        if len(sizes) != 1:
            came = ", ".join(f"{n} ({whose})" for n, whose in sizes.items()) or "no mapped argument"
            raise ChoiceError(
                f"vmap at {show(path)} needs mapped arguments of one size, and got {came}. Say which are mapped with "
                "in_axes, or write `repeat(n)` for independent copies."
            )
        return next(iter(sizes))


class Scan(Combinator):
    """Visit in `jax.lax.scan`: `(carry, x) -> (carry, y)`."""

    length: int | None = eqx.field(static=True, converter=_length("scan", "length"))
    reverse: bool = eqx.field(static=True, converter=lambda x: flag("scan", "reverse", x, ChoiceError))
    unroll: int = eqx.field(static=True, converter=lambda x: whole("scan", "unroll", x, ChoiceError))
    checkpoint: int | None = eqx.field(static=True, converter=_length("scan", "checkpoint", least=1), default=None)

    def visit(self, inner, operation, key, given, path, args):
        """One visit for each step, with a key of its own."""
        if len(args) not in (1, 2):
            raise ChoiceError(f"scan at {show(path)} takes (init, xs), and got {len(args)} arguments.")
        init, xs = (*args, None)[:2]
        n = self._length(xs, path)
        _check_stacked(given, path, n)

        def body(carry, step):
            key, given, x = step
            out = inner(operation, key, given, path, (carry, x), {})
            if not (isinstance(out.retval, tuple) and len(out.retval) == 2):
                came = f"a tuple of {len(out.retval)}" if isinstance(out.retval, tuple) else "one value"
                raise ChoiceError(
                    f"scan at {show(path)}: the step must return a pair (carry, output), and returned {came}. Write "
                    "`return carry, None` where there is no output."
                )
            carry, y = out.retval
            return carry, out._replace(retval=y)

        steps = (_split(key, n), given, xs)
        init = _settle(body, init, steps, path)
        how: dict[str, Any] = {"reverse": self.reverse, "unroll": self.unroll}
        if self.checkpoint is not None and n:
            carry, *parts = steps_by_blocks(body, init, steps, n, self.checkpoint, **how)
            out = _joined(*parts)
            return out._replace(retval=(carry, out.retval))
        # Without a key all choices are given, and the state before a step may be known without the step before.
        loop = lax.scan if key is not None else steps_at_once
        carry, out = loop(body, init, steps, n, **how)
        return out._replace(retval=(carry, out.retval), logp=_total(out.logp), weight=_total(out.weight))

    def _length(self, xs, path):
        shapes = [jnp.shape(x) for x in jax.tree.leaves(xs)]
        if () in shapes:
            raise ChoiceError(
                f"scan at {show(path)}: xs holds a scalar, which has no axis to step along. Give arrays with one entry "
                "for each step; what is the same at every step goes into the carry or a closure."
            )
        sizes = {shape[0] for shape in shapes} | ({self.length} if self.length is not None else set())
        if len(sizes) != 1:
            raise ChoiceError(
                f"scan at {show(path)} needs one length, from `length` or the leading axis of xs, and got "
                f"{sorted(sizes) or 'none'}."
            )
        return sizes.pop()


def _settle(body, init, steps, path):
    """Promote the initial carry to the type that the step returns (False to an integer, say), where that is wider."""
    first = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x)[1:], jnp.asarray(x).dtype), steps)
    init = jax.tree.map(jnp.asarray, init)
    out = jax.eval_shape(lambda c, s: body(c, s)[0], init, first)
    if _same_structure(out, init):
        init = jax.tree.map(_promote, init, out)
        if all(jax.tree.leaves(jax.tree.map(lambda x, y: (x.shape, x.dtype) == (y.shape, y.dtype), init, out))):
            return init
    raise ChoiceError(
        f"scan at {show(path)}: the carry comes in as {_types_of(init)} and goes out as {_types_of(out)}. Return a "
        "carry of the structure, shapes and types of the initial one."
    )


def _promote(x, y):
    if not (_number(x) and _number(y)):
        return x
    with lenient():
        wider = jnp.result_type(x, y.dtype)
    return x.astype(wider) if wider == y.dtype else x


def _number(x):
    return jnp.issubdtype(x.dtype, jnp.number) or x.dtype == bool


class Repeat(Combinator):
    """Visit independently with the same arguments."""

    n: int = eqx.field(static=True)

    def visit(self, inner, operation, key, given, path, args):
        """One visit for each copy."""
        return Vmap(None, self.n).visit(inner, operation, key, given, path, args)


class Masked(Combinator):
    """Visit, and count the choices only where the first argument, a flag, is true.

    Where it is not, a given choice may be anything, NaN too: the program goes on with another value in its place.
    """

    def visit(self, inner, operation, key, given, path, args):
        """The visit, its densities switched by the flag."""
        flag, *rest = args
        if jnp.shape(flag) != ():
            raise ChoiceError(
                f"mask at {show(path)} takes one flag as its first argument, and got the shape "
                f"{list(jnp.shape(flag))}. For a flag in each lane write `f.mask().vmap()(flags, xs)`."
            )
        live = operation.attitude.live if _holds(flag) else jnp.asarray(flag, bool) & operation.attitude.live
        out = inner(operation.but(live=live), key, given, path, tuple(rest), {})
        records = out.records
        if operation.keeps_densities:  # What is put on record adds up to the log density.
            records = jax.tree.map(lambda x: jnp.where(flag, x, jnp.zeros_like(x)), records)
        logp, weight = (jnp.where(flag, x, 0.0) for x in (out.logp, out.weight))
        return out._replace(logp=logp, weight=weight, records=records)


class While(Combinator):
    """Visit `state -> state` as long as a condition of the state holds: a scan whose steps past the end are masked."""

    condition: Callable = eqx.field(static=True)
    max_steps: int = eqx.field(static=True, converter=lambda n: whole("while_loop", "max_steps", n, ChoiceError))

    def visit(self, inner, operation, key, given, path, args):
        """At most so many visits; past the end the state stays, and choices count for nothing."""
        if len(args) != 1:
            raise ChoiceError(f"while_loop at {show(path)} takes the initial state, and got {len(args)} arguments.")

        def step(operation, key, given, path, args, kwargs):
            (going, state), _ = args
            going = going & self._goes_on(state, path)
            out = Masked().visit(inner, operation, key, given, path, (going, state))
            if not _same_structure(out.retval, state):
                raise ChoiceError(
                    f"while_loop at {show(path)}: the state comes in as {_types_of(state)} and goes out as "
                    f"{_types_of(jax.tree.map(jnp.asarray, out.retval))}. Return the next state, of the same structure."
                )
            with lenient():
                after = jax.tree.map(lambda new, old: jnp.where(going, new, old), out.retval, state)
            return out._replace(retval=((going, after), None))

        loop = Scan(self.max_steps, reverse=False, unroll=1)
        out = loop.visit(step, operation, key, given, path, ((jnp.ones((), bool), args[0]),))
        going, state = out.retval[0]
        self._say_if_cut(going, state, path)
        return out._replace(retval=state)

    def _say_if_cut(self, going, state, path):
        """Warn of a run that would go on, where that is known: not inside `jit` or `vmap`."""
        if _holds(going) and _holds(self._goes_on(state, path)):
            warnings.warn(
                f"while_loop at {show(path)} was cut off after max_steps={self.max_steps}: its condition still holds "
                "of the state that it returns. Raise `max_steps`, or where the cut is meant put it in the condition.",
                stacklevel=2,
            )

    def _goes_on(self, state, path):
        going = self.condition(state)
        if not (is_boolean(going) and jnp.ndim(going) == 0):
            raise ChoiceError(
                f"while_loop at {show(path)}: the condition must return one bool, and returned {going!r}. Reduce it "
                "with `jnp.any` or `jnp.all`."
            )
        return going


def _holds(flag) -> bool:
    """Whether a flag is known to be true."""
    return not isinstance(flag, jax.core.Tracer) and bool(flag)


def visit_branch(index: jax.Array, inners: list, operation: Operation, key: Any, given: Given, path: Path, args: tuple):
    """Visit one of several generative functions."""
    arrays, spec = partition(args)

    def visit(inner):
        return lambda key, given, *arrays: inner(operation, key, given, path, spec.combine(arrays), {})

    def taken(inner):
        def run(*operands):
            out = visit(inner)(*operands)
            return out._replace(
                choices=_widen(out.choices, union),
                discarded=_widen(out.discarded, dropped),
                records=_widen(out.records, recorded),
            )

        return run

    # Each branch sees of what is given only its own addresses, so a first look finds out what they are.
    views = [jax.eval_shape(visit(inner), key, given, *arrays) for inner in inners]
    union, dropped, recorded = (
        _union(parts, path) for parts in zip(*((v.choices, v.discarded, v.records) for v in views), strict=True)
    )
    _check_alike([v.retval for v in views], path)
    names = [{p for p, _ in paths(v.choices)} for v in views]
    if isinstance(operation, Update | Regenerate) and given.previous is not None and any(n != names[0] for n in names):
        raise AddressError(
            f"update and regenerate at {show(path)}: the branches sample at different addresses, and a trace does not "
            "say which was taken. Give both branches the same addresses, or simulate anew."
        )
    return lax.switch(index, [taken(inner) for inner in inners], key, given, *arrays)


def _check_alike(retvals, path):
    """Refuse branches whose return values differ in structure, shape or type."""

    def alike(x, y):
        return x.shape == y.shape and (x.dtype == y.dtype or x.weak_type or y.weak_type)

    for i, retval in enumerate(retvals):
        same = _same_structure(retval, retvals[0])
        if not (same and all(jax.tree.leaves(jax.tree.map(alike, retvals[0], retval)))):
            raise ChoiceError(
                f"The branches at {show(path)} return different values: branch 0 {_types_of(retvals[0])}, branch {i} "
                f"{_types_of(retval)} (of a cond, branch 0 is the false one). Return the same structure, shapes and "
                "types from each."
            )


def _union(trees, path):
    flat: dict = {}
    for tree in trees:
        for below, leaf in paths(tree):
            other = flat.setdefault(below, leaf)
            if _types_of(other) != _types_of(leaf):
                raise AddressError(
                    f"The branches at {show(path)} share the address {show(below)} with different values: "
                    f"{_types_of(other)} and {_types_of(leaf)}. Rename one of them."
                )
    for below in flat:
        for above in (below[:n] for n in range(1, len(below))):
            if above in flat:
                raise AddressError(
                    f"The branches at {show(path)} share the address {show(above)}, which is one value in one of them "
                    f"and holds {show(below)} in another. Rename one of them."
                )
    return flat


def _widen(choices, union):
    have = dict(paths(choices))

    def zeros(value):
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), value)

    return nest({p: have[p] if p in have else zeros(value) for p, value in union.items()})
