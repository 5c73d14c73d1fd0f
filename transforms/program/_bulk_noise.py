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

from .._jax import DropVar, Literal, evaluate, is_key_aval, segment, trace, without_lanes
from .._pytree import size
from ._halves import Kind, early_noise, halves
from ._plan import Assign, Const, Plan, Segment, plan_of, read
from ._site import again, rebind

BATCHED_OTHERWISE = {"rbg", "unsafe_rbg"}
"""Generators of which a `vmap` over keys draws other bits than one key at a time."""

MOST = 1 << 26
"""Of more numbers than this the noise of a loop is not kept at a time."""


def scan_after_noise(loop: Any, step: Callable, init: Any, xs: Any) -> Any:
    """`loop.scan(step, init, xs)`; what can be drawn before it is."""
    if loop.length < 2:
        return loop.scan(step, init, xs)
    leaves, tree = jax.tree.flatten(xs)
    one = [jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in leaves]
    traced = trace(lambda init, *x: step(init, tree.unflatten(x)), init, *one)
    plan = plan_of(traced.jaxpr, nested=True)
    operands = dict(zip(plan.inputs[: len(traced.consts)], traced.consts, strict=True))
    steps = plan.inputs[len(plan.inputs) - len(leaves) :]
    carry = plan.inputs[len(traced.consts) : len(plan.inputs) - len(leaves)]
    early = _Early(plan, {v for v in (*operands, *steps) if _is_known(v.aval)}, loop.length)
    if not early.draws:
        return loop.scan(step, init, xs)

    def draw(*x):
        return early.run({**operands, **dict(zip(steps, x, strict=True))})

    def late(state, x):
        x, noise = x
        env = {**operands, **dict(zip(carry, jax.tree.leaves(state), strict=True)), **dict(zip(steps, x, strict=True))}
        outs = _run(traced.jaxpr, plan, env, dict(zip(early.draws, noise, strict=True)))
        return jax.tree.unflatten(jax.tree.structure(traced.out), outs)

    return loop.scan(late, init, (leaves, jax.vmap(draw)(*leaves)))


def _is_known(aval):
    """Whether an operand of a loop may say what is drawn: a key, or a number of a step."""
    return (is_key_aval(aval) and _is_regular(aval)) or jnp.issubdtype(aval.dtype, jnp.integer)


def _is_regular(aval):
    return not any(name in str(aval.dtype) for name in BATCHED_OTHERWISE)


class _Early:
    """What of a step can be run before the loop: the early halves of draws, by step, and what leads to their keys."""

    def __init__(self, plan: Plan, known: set, length: int):
        self.items: list = []
        self.draws: list[int] = []
        for at, step in enumerate(plan.steps):
            if isinstance(step, Segment):
                self._operations(step, known)
            elif isinstance(step, Assign):
                self._assign(step, known)
            elif _can_be_early(step, known, length):
                self.items.append((at, step))
                self.draws.append(at)
        self._keep_what_is_read()

    def _operations(self, step, known):
        for eqn in step.jaxpr.eqns:
            reads = [v for v in eqn.invars if not isinstance(v, Literal)]
            if reads and known.issuperset(reads) and not eqn.effects:
                known.update(eqn.outvars)
                outs = [v for v in eqn.outvars if not isinstance(v, DropVar)]
                self.items.append((None, Segment(segment(step.jaxpr, [eqn], reads, outs), reads, outs)))

    def _assign(self, step, known):
        pairs = [(r, w) for r, w in zip(step.reads, step.writes, strict=True) if _is_here(r, known)]
        if pairs:
            known.update(w for _, w in pairs)
            self.items.append((None, Assign(*map(list, zip(*pairs, strict=True)))))

    def _keep_what_is_read(self):
        """Drop what no draw comes from."""
        live: set = set()
        kept = []
        for at, step in reversed(self.items):
            if at is not None:
                live.add(step.reads[0])
            elif live.isdisjoint(step.writes):
                continue
            else:
                live.update(v for v in step.reads if not isinstance(v, Literal | Const))
            kept.append((at, step))
        self.items = kept[::-1]

    def run(self, env: dict) -> list:
        """The early halves of the draws of a step."""
        drawn = []
        for at, step in self.items:
            if at is None:
                step.run(env)
            else:
                drawn.append(_early_half(step, env[step.reads[0]]))
        return drawn


def _is_here(read, known):
    """Whether what is assigned is known early: no array of the program but a key or a number."""
    if isinstance(read, Literal | Const):
        return False
    return read in known


def _kind(step) -> Kind:
    (_, *arrays) = without_lanes([v.aval for v in step.eqn.invars], step.lanes)
    return Kind(step.site.distribution, tuple((a.shape, a.dtype) for a in arrays))


def _can_be_early(step, known, length):
    """Whether a step is noise, whole so far, whose key is known, and which has an early half that is not too large."""
    if step.name != "sample" or step.site.estimator is not None or step.site.early or step.reads[0] not in known:
        return False
    key, *arrays = without_lanes([v.aval for v in step.eqn.invars], step.lanes)
    found = halves(step.site.distribution, key, arrays)
    if found is None:
        return False
    lanes = [lane.size for lane in step.lanes if lane.mapped[0]]
    return length * size(lanes) * sum(size(v.aval.shape) for v in found.early.outvars) <= MOST


def _early_half(step, key):
    lanes = tuple(lane._replace(mapped=(True,)) for lane in step.lanes if lane.mapped[0])
    return early_noise(again(key), kind=_kind(step), lanes=lanes)


def _run(jaxpr, plan, env, noise):
    """A step of the loop with the early halves of its draws given."""
    env.update(plan.constants)
    for at, step in enumerate(plan.steps):
        if isinstance(step, Segment | Assign):
            step.run(env)
            continue
        operands = read(env, step.reads)
        if at in noise:
            values = _finished(step, operands, noise[at])
        else:
            values = _as_it_is(jaxpr, step, operands)
        env.update(zip(step.writes, values, strict=True))
    return read(env, plan.outputs)


def _as_it_is(jaxpr, step, operands):
    """What an equation with draws inside computes."""
    given = {v: x for v, x in zip(step.reads, operands, strict=True) if not isinstance(v, Literal | Const)}
    return evaluate(segment(jaxpr, [step.eqn], list(given), step.writes), *given.values())


def _finished(step, operands, given):
    """A draw, from its early half."""
    lanes = tuple(lane._replace(mapped=(*lane.mapped, *[lane.mapped[0]] * len(given))) for lane in step.lanes)
    return rebind([*operands, *given], step.site._replace(early=len(given)), lanes)
