"""The steps of a loop all at once, where none needs what the one before it computed.

The density of a state-space model is a loop as it is written: a step takes the state before. But where every choice is
given, the state that a step hands on is a function of that step's own choices, and all of them are known:

    def step(before, z):            # z: what is given for this step
        return z, log_normal(z, before)

hands on z itself. So the states before the steps are the initial one and then those handed on, shifted by one, and the
steps are lanes of one `vmap`, which costs a tenth of the loop. What of the carry needs what else of it is read off the
data flow of the step; what is handed on as it came, or counts, needs nothing. A carry that needs itself is a loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax import lax
from jax import numpy as jnp

from .._jax import Literal, Tracer, evaluate_with, inner_jaxprs, is_typed_by_mesh, segment, trace
from .._pytree import size
from ._dependence import results_of
from ._sources import bits, mask_of

LEFT_ALONE = {"cond", "while", "pure_callback", "io_callback", "ffi_call"}
"""In lanes a branch is run whether it is taken or not, and a loop runs on until the last lane is done."""

MOST = 1 << 23
"""A loop that computes more numbers than this stays one: in lanes they may be there at a time, for each particle."""


def steps_at_once(body: Callable, init: Any, xs: Any, length: int, *, reverse: bool, unroll: int) -> tuple[Any, Any]:
    """`lax.scan(body, init, xs, length)`, without a loop where it needs none.

    Outside of `jit` and its kin it is the loop, which is compiled once and not operation by operation.
    """
    leaves, tree = jax.tree.flatten((init, xs))
    carried = len(jax.tree.leaves(init))
    steps = [jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in leaves[carried:]]
    traced = trace(lambda *at: body(*jax.tree.unflatten(tree, at)), *leaves[:carried], *steps)
    loop = _Loop(traced.jaxpr, traced.consts, leaves[:carried], leaves[carried:], length, reverse)
    order = _order(loop) if _may_be_lanes(loop) else None
    if order is None:
        return lax.scan(_again(traced), init, xs, length, reverse=reverse, unroll=unroll)
    carry, ys = jax.jit(lambda *given: _in_lanes(loop.at(*given), order))(loop.consts, loop.init, loop.each)
    return jax.tree.unflatten(jax.tree.structure(traced.out), [*carry, *ys])


def _again(traced):
    """The step, from its trace."""

    def step(carry, x):
        return jax.tree.unflatten(
            jax.tree.structure(traced.out), evaluate_with(traced.jaxpr, [*traced.consts, *jax.tree.leaves((carry, x))])
        )

    return step


class _Loop(NamedTuple):
    """A loop in leaves: its step, what the step closes over, the initial carry, what each step gets of its own."""

    jaxpr: Any
    consts: list
    init: list
    each: list
    length: int
    reverse: bool

    def at(self, consts: list, init: list, each: list) -> _Loop:
        """The loop at other operands."""
        return self._replace(consts=consts, init=init, each=each)

    @property
    def carry(self) -> Sequence[Any]:
        """The variables of the carry before a step."""
        return self.jaxpr.invars[: len(self.init)]


# ---- which loops need be none ---------------------------------------------------------------------------------------


def _may_be_lanes(loop):
    operands = (*loop.consts, *loop.init, *loop.each)
    return (
        loop.length > 1
        and any(isinstance(x, Tracer) for x in operands)
        and not any(is_typed_by_mesh(v.aval) for v in (*loop.jaxpr.constvars, *loop.jaxpr.invars))
        and not loop.jaxpr.effects
        and loop.length * _numbers(loop.jaxpr) <= MOST
    )


def _numbers(jaxpr) -> float:
    """How many numbers a jaxpr computes; infinitely many where something in it is left alone."""
    total = 0.0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in LEFT_ALONE:
            return float("inf")
        total += sum(size(v.aval.shape) for v in eqn.outvars) + sum(map(_numbers, inner_jaxprs(eqn)))
    return total


def _order(loop) -> list[list[int]] | None:
    """The leaves of the carry that are computed, in rounds, each from those of the rounds before; None in a circle."""
    n, constants = len(loop.init), len(loop.jaxpr.constvars)
    found = [{i - constants for i in bits(mask_of(d))} for d in results_of(loop.jaxpr)[:n]]
    left = {i: found[i] & set(range(n)) for i in range(n) if _stride(loop, i) is None}
    rounds = []
    while left:
        ready = [i for i, needs in left.items() if needs.isdisjoint(left)]
        if not ready:
            return None
        rounds.append(ready)
        left = {i: needs for i, needs in left.items() if i not in ready}
    return rounds


def _stride(loop, i) -> Any:
    """By how much a leaf of the carry goes up at each step: zero if it is handed on as it came; None if unknown."""
    before, after = loop.carry[i], loop.jaxpr.outvars[i]
    if after is before:
        return 0
    eqn = next((e for e in loop.jaxpr.eqns if after in e.outvars), None)
    if eqn is None or eqn.primitive.name != "add" or not jnp.issubdtype(before.aval.dtype, jnp.integer):
        return None
    strides = [x.val for x in eqn.invars if isinstance(x, Literal)]
    return strides[0] if strides and any(x is before for x in eqn.invars) else None


# ---- in lanes -------------------------------------------------------------------------------------------------------


def _in_lanes(loop: _Loop, rounds: list[list[int]]) -> tuple[list, list]:
    """The carry after the last step, and the outputs of all steps."""
    n = len(loop.init)
    before, mapped, last = list(loop.init), [False] * n, list(loop.init)
    for i in range(n):
        stride = _stride(loop, i)
        if stride:
            before[i], last[i] = _counted(loop, i, stride)
            mapped[i] = True
    for ready in rounds:
        outs = _lanes(loop, [loop.jaxpr.outvars[i] for i in ready], before, mapped)
        for i, out in zip(ready, outs, strict=True):
            before[i], last[i] = _shifted(loop, i, out)
            mapped[i] = True
    return last, _lanes(loop, loop.jaxpr.outvars[n:], before, mapped)


def _counted(loop, i, stride):
    number = jnp.arange(loop.length, dtype=loop.init[i].dtype)
    number = number[::-1] if loop.reverse else number
    first, shape = loop.init[i], (loop.length, *[1] * jnp.ndim(loop.init[i]))
    return first + number.reshape(shape) * stride, first + loop.length * stride


def _shifted(loop, i, out):
    """The leaf before each step, and after the last, from what the steps hand on."""
    first = loop.init[i][None]
    if loop.reverse:
        return jnp.concatenate([out[1:], first]), out[0]
    return jnp.concatenate([first, out[:-1]]), out[-1]


def _lanes(loop, outvars, before, mapped) -> list:
    """Some results of all steps, from the carry before each."""
    part = _part(loop.jaxpr, outvars)
    axes = [*(None for _ in loop.consts), *(0 if m else None for m in mapped), *(0 for _ in loop.each)]
    run = jax.vmap(lambda _, *operands: evaluate_with(part, operands), (0, *axes))
    return run(jnp.zeros(loop.length), *loop.consts, *before, *loop.each)


def _part(jaxpr, outvars):
    """The jaxpr of some results, without what leads to the others alone."""
    needed = {v for v in outvars if not isinstance(v, Literal)}
    eqns = []
    for eqn in reversed(jaxpr.eqns):
        if not needed.isdisjoint(eqn.outvars):
            eqns.append(eqn)
            needed.update(v for v in eqn.invars if not isinstance(v, Literal))
    return segment(jaxpr, eqns[::-1], [*jaxpr.constvars, *jaxpr.invars], outvars)
