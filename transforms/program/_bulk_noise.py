"""The noise of all steps of a loop, drawn in one go before the first step.

A generator that is called at every step of a loop costs more than all else in it. What a step draws comes from a key,
and its keys are known before the loop begins: so the early halves (`_halves`) of the draws of a step, with the
operations on keys that lead to them, are run by one `vmap` over the steps, and handed to the steps one by one. Bits do
not change. An estimate's loop stays one whose draws can be told: each is still there, with its key.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import numpy as jnp

from .._jax import DropVar, Literal, fresh, is_key_aval, segment, trace, with_params, without_lanes
from .._pytree import size
from ._halves import EARLY_NOISE, Kind, early_noise, halves
from ._plan import Assign, Const, Plan, Segment, Step, plan_of, read
from ._site import again

BATCHED_OTHERWISE = {"rbg", "unsafe_rbg"}
"""Generators of which a `vmap` over keys draws other bits than one key at a time."""

MOST = 1 << 26
"""Of more numbers than this the noise of a loop is not kept at a time."""


def scan_after_noise(loop: Any, step: Callable, init: Any, xs: Any) -> Any:
    """`loop.scan(step, init, xs)`; what can be drawn before it is."""
    if loop.length < 2:
        return loop.scan(step, init, xs)
    tree: Any
    leaves, tree = jax.tree.flatten(xs)
    one = [jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in leaves]
    traced = trace(lambda init, *x: step(init, tree.unflatten(x)), init, *one)
    plan = plan_of(traced.jaxpr, nested=True)
    n, m = len(traced.consts), len(plan.inputs) - len(leaves)
    shared, carry, steps = plan.inputs[:n], plan.inputs[n:m], plan.inputs[m:]
    halved = _Halved(traced.jaxpr, plan, {v for v in (*shared, *steps) if _is_known(v.aval)}, loop.length)
    if not halved.given:
        return loop.scan(step, init, xs)
    operands = dict(zip(shared, traced.consts, strict=True))

    def early(*x):
        return halved.early(operands | dict(zip(steps, x, strict=True)))

    def late(state, x):
        x, noise = x
        values = zip((*carry, *steps), (*jax.tree.leaves(state), *x), strict=True)
        return jax.tree.unflatten(jax.tree.structure(traced.out), halved.late(operands | dict(values), noise))

    return loop.scan(late, init, (leaves, jax.vmap(early)(*leaves)))


def _is_known(aval):
    """Whether an operand of a loop may say what is drawn: a key, or a number of a step."""
    if not is_key_aval(aval):
        return jnp.issubdtype(aval.dtype, jnp.integer)
    return not any(name in str(aval.dtype) for name in BATCHED_OTHERWISE)


class _Halved:
    """A step in two: what leads to the noise of its draws, run before the loop; and all else.

    Attributes:
        before: the steps of the first half, in order, up to the draws.
        given: what the first half gives: the draws whose noise it makes, and noise that was early in an inner loop.
        after: the steps of the second half, in order.
    """

    def __init__(self, jaxpr: Any, plan: Plan, known: set, length: int):
        self.jaxpr, self.plan, self.length = jaxpr, plan, length
        self.before: list[Segment | Assign] = []
        self.given: list[Step | Segment] = []
        self.after: list[Segment | Assign | Step] = []
        for step in plan.steps:
            if isinstance(step, Segment):
                self._operations(step, known)
                continue
            if isinstance(step, Assign):
                self._assign(step, known)
            elif self._can_be_early(step, known):
                self.given.append(step)
            self.after.append(step)
        self._keep_what_is_read()

    def _operations(self, step, known):
        """What is computed of keys alone; what is noise of an inner loop is not computed once more."""
        rest = []
        for eqn in step.jaxpr.eqns:
            reads = _variables(eqn.invars)
            alone = bool(reads) and known.issuperset(reads) and not eqn.effects
            if alone:
                known.update(eqn.outvars)
            early = alone and eqn.primitive.name == EARLY_NOISE and self._is_little(eqn.outvars)
            if alone:
                (self.given if early else self.before).append(_segment(self.jaxpr, [eqn]))
            if not early:
                rest.append(eqn)
        if len(rest) < len(step.jaxpr.eqns):
            made = {v for eqn in rest for v in eqn.outvars}
            step = _segment(self.jaxpr, rest, [v for v in step.writes if v in made])
        self.after.append(step)

    def _assign(self, step, known):
        pairs = [(r, w) for r, w in zip(step.reads, step.writes, strict=True) if r in known]
        known.update(w for _, w in pairs)
        self.before.append(Assign([r for r, _ in pairs], [w for _, w in pairs]))

    def _can_be_early(self, step, known):
        """Whether a step is noise, whole so far, whose key is known, with an early half that is not too large."""
        if step.name != "sample" or step.site.estimator is not None or step.site.early or step.reads[0] not in known:
            return False
        key, *arrays = without_lanes([v.aval for v in step.eqn.invars], step.lanes)
        found = halves(step.site.distribution, key, arrays)
        if found is None:
            return False
        return self._is_little(found.early.outvars, [lane.size for lane in step.lanes if lane.mapped[0]])

    def _is_little(self, variables, lanes=()):
        """Whether the values of all steps, in lanes, are not too many to keep."""
        return self.length * size(lanes) * sum(size(v.aval.shape) for v in variables) <= MOST

    def _keep_what_is_read(self):
        """Drop what no noise comes from."""
        live = {v for step in self.given for v in _variables(step.reads[:1])}
        kept = []
        for step in reversed(self.before):
            if not live.isdisjoint(step.writes):
                live.update(_variables(step.reads))
                kept.append(step)
        self.before = kept[::-1]

    def early(self, env: dict) -> list:
        """The noise of a step, made of its keys."""
        for step in self.before:
            step.run(env)
        return [_early_half(step, env) for step in self.given]

    def late(self, env: dict, noise: list) -> list:
        """The outputs of a step, at its noise."""
        env.update(self.plan.constants)
        found = dict(zip(map(id, self.given), noise, strict=True))
        for inner in self.given:
            if isinstance(inner, Segment):
                env.update(zip(inner.writes, found[id(inner)], strict=True))
        for step in self.after:
            if isinstance(step, Segment | Assign):
                step.run(env)
            elif id(step) in found:
                draw, early = _finished(self.jaxpr, step, found[id(step)])
                env.update(early)
                draw.run(env)
            else:
                _segment(self.jaxpr, [step.eqn]).run(env)
        return read(env, self.plan.outputs)


def _variables(atoms):
    return [v for v in atoms if not isinstance(v, Literal | Const)]


def _segment(jaxpr, eqns, writes=None):
    """A segment of equations that writes all that they do, or only some of it."""
    made = [v for eqn in eqns for v in eqn.outvars if not isinstance(v, DropVar)]
    inside = set(made)
    reads = [v for v in dict.fromkeys(v for eqn in eqns for v in _variables(eqn.invars)) if v not in inside]
    writes = made if writes is None else writes
    return Segment(segment(jaxpr, eqns, reads, writes), reads, writes)


def _early_half(step, env):
    if isinstance(step, Segment):
        step.run(env)
        return read(env, step.writes)
    _, *arrays = without_lanes([v.aval for v in step.eqn.invars], step.lanes)
    kind = Kind(step.site.distribution, tuple(arrays))
    lanes = tuple(lane._replace(mapped=(True,)) for lane in step.lanes if lane.mapped[0])
    return early_noise(again(env[step.reads[0]]), kind=kind, lanes=lanes)


def _finished(jaxpr, step, noise):
    """The equation of a draw, with its early half for operands too."""
    early = [fresh(jax.typeof(x)) for x in noise]
    lanes = tuple(lane._replace(mapped=(*lane.mapped, *[lane.mapped[0]] * len(noise))) for lane in step.lanes)
    eqn = with_params(step.eqn, site=step.site._replace(early=len(noise)), lanes=lanes)
    return _segment(jaxpr, [eqn.replace(invars=[*eqn.invars, *early])]), dict(zip(early, noise, strict=True))
