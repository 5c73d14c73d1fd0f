"""Many versions of one program, each other than the rest in one lane: run once where lanes do not touch each other.

The program has an input `on` of one entry per lane. Version j has entry j alone set; the base has none. Wherever a
value depends on `on` index by index along one of its axes (`_dependence`), version j of it is the base with entry j
of the run in which all of `on` is set, so that all versions cost two runs. Where lanes meet, the versions are laid
out along a leading axis and the rest runs under `vmap`; a sum over lanes is the base's and a difference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp

from .._jax import DropVar, Literal, evaluate, segment, trace
from ..analysis import _dependence as dep
from ..program._flow import settle
from ..program._plan import inline
from ..program.control import is_loop, loop_of

SAME, APART = -2, -1
"""How a value varies with the version: not at all; freely; or (an axis, 0 and up) index by index along that axis."""


class Value(NamedTuple):
    """The versions of a value.

    Attributes:
        how: `SAME`, `APART`, or the axis along which it varies index by index.
        base: the value of the base; None where versions are apart.
        varied: along an axis, the value with all of `on` set; apart, the versions along a leading axis.
    """

    how: int
    base: Any
    varied: Any = None


def versions(program: Callable, lanes: int) -> list:
    """The outputs of `program(on)` in each version, along a leading axis of length `lanes`."""
    none, every = jnp.zeros(lanes, bool), jnp.ones(lanes, bool)
    traced = trace(program, none)
    inputs = [*(Value(SAME, x) for x in traced.consts), Value(0, none, every)]
    return [_laid_out(y, lanes) for y in _run(traced.jaxpr, inputs, lanes)]


def _laid_out(value, lanes):
    """All versions along a leading axis."""
    if value.how == SAME:
        return jnp.broadcast_to(value.base, (lanes, *jnp.shape(value.base)))
    if value.how == APART:
        return value.varied
    return jnp.where(_diagonal(value, lanes), value.varied, value.base)


def _diagonal(value, lanes):
    """Version i at index i of the axis."""
    rank = value.base.ndim
    here = jnp.eye(lanes, dtype=bool)
    return here.reshape([lanes, *(lanes if a == value.how else 1 for a in range(rank))])


def _as(value, how, lanes):
    """A value in a form that varies no less."""
    if how == value.how or how == SAME:
        return value
    if how == APART:
        return Value(APART, None, _laid_out(value, lanes))
    return Value(how, value.base, value.base)


# ---- what varies how ------------------------------------------------------------------------------------------------


def _dependence(how, lanes):
    return {} if how == SAME else {((lanes,), (None if how == APART else how,)): 1}


def _how(dependence):
    if not dependence:
        return SAME
    ((_, (axis,)),) = dependence
    return APART if axis is None else axis


def _join(a, b):
    return b if a == SAME else a if b in (SAME, a) else APART


def _hows(eqn, hows, lanes):
    """How the outputs of an equation vary."""
    return [_how(d) for d in dep.after(eqn, [_dependence(h, lanes) for h in hows])]


def _look(table, atoms, literal):
    return [literal(a) if isinstance(a, Literal) else table[a] for a in atoms]


# ---- running --------------------------------------------------------------------------------------------------------


class _Part(NamedTuple):
    """Equations that are run in one way, together."""

    run: Callable
    eqns: list


def _sort(items, hows, lanes):
    """Gather equations into parts, in an order that keeps what they depend on before them.

    What is the same in all versions, what runs lane by lane, sums, and what runs version by version depend on each
    other in this order: four parts are enough, but for loops in which lanes meet and for what is the same after all.
    """
    parts: list[_Part] = []
    late: set = set()

    def new_round():
        parts.extend([_Part(_once, []), _Part(_lane_by_lane, []), _Part(_sums, []), _Part(_each, [])])
        late.clear()

    new_round()
    for eqn in items:
        given = _look(hows, eqn.invars, lambda a: SAME)
        outs = _hows(eqn, given, lanes)
        if not late.isdisjoint(a for a in eqn.invars if not isinstance(a, Literal)):
            new_round()
        once, alike, sums, each = parts[-4:]
        if all(h == SAME for h in given):
            once.eqns.append(eqn)
        elif APART not in (*given, *outs):
            alike.eqns.append(eqn)
            late.update(v for v, h in zip(eqn.outvars, outs, strict=True) if h == SAME)
        elif is_loop(eqn) and any(h >= 0 for h in given):
            outs = _scan_hows(eqn, given, lanes)
            parts.append(_Part(_scan, [eqn]))
            new_round()
        else:
            is_sum = eqn.primitive.name == "reduce_sum" and APART not in given
            (sums if is_sum else each).eqns.append(eqn)
            outs = [APART] * len(outs)
        hows.update(zip(eqn.outvars, outs, strict=True))
    return [part for part in parts if part.eqns]


def _run(jaxpr, inputs, lanes):
    """The versions of the outputs of a jaxpr from those of its inputs, constants first."""
    flat = inline(jaxpr, opaque=set())
    env = dict(zip(flat.inputs, inputs, strict=True))
    env.update((v, Value(SAME, x)) for v, x in flat.constants.items())
    items = [getattr(item, "eqn", item) for item in flat.items]
    hows = {v: x.how for v, x in env.items()}
    for part in _sort(items, hows, lanes):
        part.run(jaxpr, part.eqns, env, hows, lanes)
    return _look(env, flat.outputs, lambda a: Value(SAME, a.val))


def _part_of(jaxpr, eqns, env):
    """The equations as a function: what it reads, what it writes."""
    reads = dict.fromkeys(a for eqn in eqns for a in eqn.invars if not isinstance(a, Literal) and a in env)
    writes = [v for eqn in eqns for v in eqn.outvars if not isinstance(v, DropVar)]
    return segment(jaxpr, eqns, list(reads), writes), list(reads), writes


def _once(jaxpr, eqns, env, hows, lanes):
    """What is the same in all versions."""
    code, reads, writes = _part_of(jaxpr, eqns, env)
    outs = evaluate(code, *[env[v].base for v in reads])
    env.update((v, Value(SAME, x)) for v, x in zip(writes, outs, strict=True))


def _lane_by_lane(jaxpr, eqns, env, hows, lanes):
    """The base, and all lanes at once."""
    code, reads, writes = _part_of(jaxpr, eqns, env)
    base = evaluate(code, *[env[v].base for v in reads])
    varied = evaluate(code, *[env[v].base if env[v].how == SAME else env[v].varied for v in reads])
    for v, b, x in zip(writes, base, varied, strict=True):
        env[v] = Value(SAME, b) if hows[v] == SAME else Value(hows[v], b, x)


def _sums(jaxpr, eqns, env, hows, lanes):
    """Sums over the lanes."""
    for eqn in eqns:
        value, axes = env[eqn.invars[0]], eqn.params["axes"]
        parts = zip(_parts(value.base), _parts(value.varied), strict=True)
        sums = [_sum(value.how, axes, *part) for part in parts]
        env[eqn.outvars[0]] = Value(APART, None, _whole(*sums))


def _sum(how, axes, base, varied):
    """The sum of the base, and what each lane adds to it."""
    change = jnp.moveaxis(varied - base, how, 0)
    order = [a for a in range(base.ndim) if a != how]
    change = jnp.sum(change, axis=tuple(1 + order.index(a) for a in axes if a != how), dtype=change.dtype)
    return jnp.sum(base, axis=axes, dtype=change.dtype) + change


def _parts(x):
    """What is finite, and where it is not the numbers of +inf and -inf: these have differences. A nan is both."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return (x,)
    return jnp.where(jnp.isfinite(x), x, 0), (~(x < jnp.inf)).astype(int), (~(x > -jnp.inf)).astype(int)


def _whole(finite, above=0, below=0):
    """A sum from those of its parts."""
    infinite = jnp.where(above > 0, jnp.inf, 0.0) - jnp.where(below > 0, jnp.inf, 0.0)
    return jnp.where((above > 0) | (below > 0), infinite.astype(finite.dtype), finite)


def _each(jaxpr, eqns, env, hows, lanes):
    """Every version by itself."""
    code, reads, writes = _part_of(jaxpr, eqns, env)
    values = [env[v] for v in reads]
    operands = [x.base if x.how == SAME else _laid_out(x, lanes) for x in values]
    axes = [None if x.how == SAME else 0 for x in values]
    outs = jax.vmap(lambda *xs: evaluate(code, *xs), in_axes=axes, axis_size=lanes)(*operands)
    env.update((v, Value(APART, None, x)) for v, x in zip(writes, outs, strict=True))


# ---- loops in which lanes meet --------------------------------------------------------------------------------------


def _inside(how):
    """How one step of a stacked value varies; steps that are the lanes vary freely."""
    return how if how < 0 else how - 1 if how else APART


def _body_hows(loop, hows, lanes):
    """How the carries vary at any step, and how the outputs of the body do."""
    flat = inline(loop.body, opaque=set())
    consts, carry, xs = loop.split(hows)
    known = [SAME] * (len(flat.inputs) - len(hows))

    def step(carry):
        inner = dict.fromkeys(flat.constants, SAME)
        inner.update(zip(flat.inputs, [*known, *consts, *carry, *map(_inside, xs)], strict=True))
        _sort([getattr(item, "eqn", item) for item in flat.items], inner, lanes)
        return _look(inner, flat.outputs, lambda a: SAME)

    return settle(step, carry, _join)


def _scan_hows(eqn, hows, lanes):
    carry, outs = _body_hows(loop_of(eqn), list(hows), lanes)
    return [*carry, *[h if h < 0 else h + 1 for h in outs[len(carry) :]]]


def _scan(jaxpr, eqns, env, hows, lanes):
    """A loop whose body has all its versions."""
    (eqn,) = eqns
    loop = loop_of(eqn)
    operands = _look(env, eqn.invars, lambda a: Value(SAME, jnp.asarray(a.val, a.aval.dtype)))
    carried, _ = _body_hows(loop, [x.how for x in operands], lanes)
    consts, init, xs = loop.split(operands)
    known = [Value(SAME, x) for x in loop.closed]
    init = [_as(x, how, lanes) for x, how in zip(init, carried, strict=True)]
    xs = [_as(x, APART if x.how == 0 else x.how, lanes) for x in xs]
    kinds = [_inside(x.how) for x in xs]
    out_hows: list = []

    def body(carry, x):
        carry = [Value(how, *pair) for how, pair in zip(carried, carry, strict=True)]
        x = [Value(how, *pair) for how, pair in zip(kinds, x, strict=True)]
        outs = _run(loop.body, [*known, *consts, *carry, *x], lanes)
        late = [_as(y, how, lanes) for y, how in zip(outs, carried, strict=False)]
        out_hows[:] = [y.how for y in outs[len(carried) :]]
        return _pairs(late), _pairs(outs[len(carried) :])

    stacked = [(x.base, jnp.moveaxis(x.varied, 1, 0) if x.how == APART else x.varied) for x in xs]
    carry, ys = loop.scan(body, _pairs(init), stacked)
    results = [Value(how, *pair) for how, pair in zip(carried, carry, strict=True)]
    for how, (base, varied) in zip(out_hows, ys, strict=True):
        if how == APART:
            results.append(Value(APART, None, jnp.moveaxis(varied, 0, 1)))
        else:
            results.append(Value(how if how == SAME else how + 1, base, varied))
    env.update(zip(eqn.outvars, results, strict=True))


def _pairs(values):
    return [(x.base, x.varied) for x in values]
