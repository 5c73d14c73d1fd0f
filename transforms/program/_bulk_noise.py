"""The noise of all steps of a loop, drawn in one go before the first step.

A generator that is called at every step of a loop costs more than all else in it. What a step draws comes from a key,
and its keys are known before the loop begins: so the early halves (`_halves`) of the draws of a step, with the
operations on keys that lead to them, are run by one `vmap` over the steps, and handed to the steps one by one; of long
loops over the steps of a block, block by block, so that they take no more memory than one. Bits do not change. An
estimate's loop stays one whose draws can be told: each is still there, with its key.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import numpy as jnp

from .._jax import Literal, is_key_aval, is_typed_by_mesh, trace
from .._pytree import size
from ._blocks import joined, scan_by_blocks
from ._given_noise import kind_of, lanes_of_key, run_with, segment_of, variables
from ._halves import EARLY_NOISE, early_noise
from ._plan import Assign, Const, Plan, Segment, Step, plan_of, read
from ._site import again

BATCHED_OTHERWISE = {"rbg", "unsafe_rbg"}
"""Generators of which a `vmap` over keys draws other bits than one key at a time."""

MOST = 1 << 20
"""Of so many numbers the noise of a loop is made at a time: that of more steps is made block by block."""


def scan_after_noise(loop: Any, step: Callable, init: Any, xs: Any) -> Any:
    """`loop.scan(step, init, xs)`; what can be drawn before it is."""
    tree: Any
    leaves, tree = jax.tree.flatten(xs)
    # Without anything of its own a step has no key of its own; and what is run again is to be kept nowhere.
    if loop.length < 2 or not leaves or loop.checkpoint is not None:
        return loop.scan(step, init, xs)
    one = [jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in leaves]
    traced = trace(lambda init, *x: step(init, tree.unflatten(x)), init, *one)
    plan = plan_of(traced.jaxpr, nested=True)
    n, m = len(traced.consts), len(plan.inputs) - len(leaves)
    shared, carry, steps = plan.inputs[:n], plan.inputs[n:m], plan.inputs[m:]
    # The halves of a draw were traced once, for arrays whose types know no mesh.
    if any(is_typed_by_mesh(v.aval) for v in plan.inputs):
        return loop.scan(step, init, xs)
    halved = _Halved(traced.jaxpr, plan, {v for v in (*shared, *steps) if is_known(v.aval)})
    if not halved.given:
        return loop.scan(step, init, xs)
    operands = dict(zip(shared, traced.consts, strict=True))

    def early(*x):
        return halved.early(operands | dict(zip(steps, x, strict=True)))

    def late(state, x):
        x, noise = x
        values = zip((*carry, *steps), (*jax.tree.leaves(state), *x), strict=True)
        return jax.tree.unflatten(jax.tree.structure(traced.out), halved.late(operands | dict(values), noise))

    def some(state, leaves):
        length = leaves[0].shape[0]
        return loop._replace(length=length).scan(late, state, (leaves, jax.vmap(early)(*leaves)))

    at_a_time = max(1, MOST // halved.numbers)
    if loop.length <= at_a_time:
        return some(init, leaves)
    state, *parts = scan_by_blocks(some, init, leaves, loop.length, at_a_time, reverse=loop.reverse)
    return state, joined(*parts)


def is_known(aval: Any) -> bool:
    """Whether what a program starts from may say what is drawn: a key, or a number (of a step)."""
    if not is_key_aval(aval):
        return jnp.issubdtype(aval.dtype, jnp.integer)
    return not any(name in str(aval.dtype) for name in BATCHED_OTHERWISE)


class _Halved:
    """A step in two: what leads to the noise of its draws, run before the loop; and all else.

    A jaxpr that is called twice is inlined twice with the same variables, which are then assigned twice: both halves
    run in the order of the program, and what is known of a variable is what was assigned last.

    Attributes:
        before: the steps of the first half, and those that give noise among them.
        given: the identities of those: draws, and segments that are noise of an inner loop.
        after: the steps of the second half, and those that were given noise among them.
        numbers: how many numbers the noise of a step is.
    """

    def __init__(self, jaxpr: Any, plan: Plan, known: set):
        self.jaxpr, self.plan, self.numbers = jaxpr, plan, 0
        self.before: list[Segment | Assign | Step] = []
        self.given: list[int] = []
        self.after: list[Segment | Assign | Step] = []
        for step in plan.steps:
            if isinstance(step, Segment):
                self._operations(step, known)
                continue
            if isinstance(step, Assign):
                self._assign(step, known)
            else:
                numbers = self._early_numbers(step, known)
                if self._is_little(numbers):
                    self._give(step, numbers)
                known.difference_update(step.writes)
            self.after.append(step)
        self._keep_what_is_read()

    def _give(self, step, numbers):
        self.given.append(id(step))
        self.before.append(step)
        self.numbers += numbers

    def _operations(self, step, known):
        """What is computed of keys alone; what is noise of an inner loop is not computed once more."""
        rest: list = []
        for eqn in step.jaxpr.eqns:
            reads = variables(eqn.invars)
            alone = known.issuperset(reads) and not eqn.effects
            (known.update if alone else known.difference_update)(eqn.outvars)
            numbers = _count(eqn.outvars) if alone and eqn.primitive.name == EARLY_NOISE else 0
            if self._is_little(numbers):
                self._give(segment_of(self.jaxpr, [eqn]), numbers)
                self.after.append(self.before[-1])
                continue
            if alone:
                self.before.append(segment_of(self.jaxpr, [eqn]))
            rest.append(eqn)
        if len(rest) < len(step.jaxpr.eqns):
            made = {v for eqn in rest for v in eqn.outvars}
            step = segment_of(self.jaxpr, rest, [v for v in step.writes if v in made])
        self.after.append(step)

    def _assign(self, step, known):
        pairs = list(zip(step.reads, step.writes, strict=True))
        here = [(r, w) for r, w in pairs if not isinstance(r, Literal | Const) and r in known]
        known.difference_update(step.writes)
        known.update(w for _, w in here)
        self.before.append(Assign([r for r, _ in here], [w for _, w in here]))

    def _early_numbers(self, step, known):
        """How many numbers a step draws early: zero where it is not noise, whole so far, whose key is known."""
        if step.name != "sample" or step.site.estimator is not None or step.reads[0] not in known:
            return 0
        kind = kind_of(step)
        if kind is None:
            return 0
        return size(lane.size for lane in lanes_of_key(step)) * _count(kind.early(step.reads[0].aval).outvars)

    def _is_little(self, numbers):
        """Whether there is noise, and not too much to keep that of two steps at a time."""
        return 0 < numbers and 2 * (self.numbers + numbers) <= MOST

    def _keep_what_is_read(self):
        """Drop what no noise comes from."""
        live: set = set()
        kept = []
        for step in reversed(self.before):
            if id(step) in self.given:
                live.update(variables(step.reads[:1]))
            elif live.isdisjoint(step.writes):
                continue
            else:
                live.difference_update(step.writes)
                live.update(variables(step.reads))
            kept.append(step)
        self.before = kept[::-1]

    def early(self, env: dict) -> list:
        """The noise of a step, made of its keys."""
        noise = []
        for step in self.before:
            if id(step) in self.given:
                noise.append(_early_half(step, env))
            elif not isinstance(step, Step):
                step.run(env)
        return noise

    def late(self, env: dict, noise: list) -> list:
        """The outputs of a step, at its noise."""
        env.update(self.plan.constants)
        run_with(self.jaxpr, self.after, env, dict(zip(self.given, noise, strict=True)))
        return read(env, self.plan.outputs)


def _count(variables):
    return sum(size(v.aval.shape) for v in variables)


def _early_half(step, env):
    if isinstance(step, Segment):
        step.run(env)
        return read(env, step.writes)
    kind: Any = kind_of(step)
    return early_noise([again(env[step.reads[0]])], kind, lanes_of_key(step))[0]
