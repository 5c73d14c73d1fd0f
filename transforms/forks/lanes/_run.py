"""Running a program for all its versions: its equations part by part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import numpy as jnp

from ..._jax import DropVar, Literal, evaluate, segment, trace
from ...program._plan import inline
from ._loops import run_loop
from ._parts import Kind, gather
from ._sums import sum_over
from ._value import SAME, Value, apart, laid_out, same
from ._ways import ways_at, ways_of

Code = Callable[..., list]


def _once(code: Code, values: Sequence[Value], hows: Sequence[int], lanes: int) -> list[Value]:
    """What is the same in all versions."""
    return [same(y) for y in code(*(x.base for x in values))]


def _together(code: Code, values: Sequence[Value], hows: Sequence[int], lanes: int) -> list[Value]:
    """The base, and all lanes at once."""
    base = code(*(x.base for x in values))
    varied = code(*(x.base if x.how == SAME else x.varied for x in values))
    return [same(b) if how == SAME else Value(how, b, y) for how, b, y in zip(hows, base, varied, strict=True)]


def _each(code: Code, values: Sequence[Value], hows: Sequence[int], lanes: int) -> list[Value]:
    """Every version by itself."""
    operands = [x.base if x.how == SAME else laid_out(x, lanes) for x in values]
    axes = [None if x.how == SAME else 0 for x in values]
    return [apart(y) for y in jax.vmap(code, in_axes=axes, axis_size=lanes)(*operands)]


RUN = {Kind.ONCE: _once, Kind.TOGETHER: _together, Kind.EACH: _each}
"""How to run a function, given the versions of its arguments and how its results vary."""


def run(jaxpr: Any, inputs: Sequence[Value], lanes: int) -> list[Value]:
    """The versions of the outputs of a jaxpr from those of its inputs, constants first."""
    flat = inline(jaxpr, opaque=set())
    env = dict(zip(flat.inputs, inputs, strict=True))
    env.update((v, same(x)) for v, x in flat.constants.items())
    eqns = [getattr(item, "eqn", item) for item in flat.items]
    hows = ways_of(eqns, {v: x.how for v, x in env.items()})
    for part in gather(eqns, hows):
        if part.kind in RUN:
            reads, writes = _reads(part.eqns, env), _writes(part.eqns)
            code = _code(jaxpr, part.eqns, reads, writes)
            outs = RUN[part.kind](code, [env[v] for v in reads], ways_at(writes, hows), lanes)
            env.update(zip(writes, outs, strict=True))
            continue
        for eqn in part.eqns:
            operands = _values(env, eqn.invars)
            outs = run_loop(eqn, operands, lanes, run) if part.kind is Kind.LOOP else [sum_over(eqn, *operands)]
            env.update(zip(eqn.outvars, outs, strict=True))
    return _values(env, flat.outputs)


def _code(jaxpr, eqns, reads, writes):
    part = segment(jaxpr, eqns, reads, writes)
    return lambda *values: evaluate(part, *values)


def _reads(eqns, env):
    """What equations read from before."""
    return list(dict.fromkeys(a for eqn in eqns for a in eqn.invars if not isinstance(a, Literal) and a in env))


def _writes(eqns):
    return [v for eqn in eqns for v in eqn.outvars if not isinstance(v, DropVar)]


def _values(env, atoms):
    """The versions of variables and literals."""
    return [same(_literal(a)) if isinstance(a, Literal) else env[a] for a in atoms]


def _literal(atom: Any) -> jax.Array:
    return jnp.asarray(atom.val, atom.aval.dtype)


def versions(program: Callable[[jax.Array], Any], base: jax.Array, other: jax.Array) -> list[jax.Array]:
    """The outputs of a program in each version.

    Args:
        program: a function of an array whose leading axis are lanes.
        base: its argument in the base.
        other: what the lanes have in their versions: in version j lane j has `other[j]`, all others those of `base`.

    Returns:
        The leaves of what it returns, versions along a leading axis.
    """
    traced, lanes = trace(program, base), len(base)
    inputs = [*map(same, traced.consts), Value(0, base, other)]
    return [laid_out(y, lanes) for y in run(traced.jaxpr, inputs, lanes)]
