"""Estimating with causal credit: every score multiplies only what depends on its draw (see `_credit_plan`)."""

from __future__ import annotations

import itertools
from typing import Any

from jax import numpy as jnp

from .._jax import Literal, vary, varying_axes
from ..analysis import _dependence as dep
from ..analysis._dependence import Dependence
from ..forks._replay import Options
from ..program._interpreter import walk
from ..program._plan import read
from ..program._site_terms import magic_box
from ..program.control import is_loop, loop_of
from ._credit_plan import CreditPlan
from ._estimate import Estimating, estimate


class Crediting(Estimating):
    """Collects the scores of a plan's draws one by one, and boxes its frontier with them.

    `sources` are the score terms so far, those given from outside first; `boxed` holds values that come boxed already.
    """

    def __init__(self, options: Options, key: Any, witness: list, plan: CreditPlan, sources=(), boxed=None):
        super().__init__(options, key, witness)
        self.plan = plan
        self.sources = list(sources)
        self.boxed = dict(boxed or {})
        self.sums: dict = {}
        self.boxes: dict = {}

    def finish(self, plan, env, start, cursor):
        """The estimate of the rest of the program, given the scores so far."""
        rest = Crediting(self.options, self.key, self.witness, self.plan, self.sources, self.boxed)
        return estimate(plan, env, start, rest)

    def control(self, step, operands, cursor):
        """Loops are credited inside; any other control flow is one node with one score."""
        if is_loop(step.eqn):
            return self._loop(step, operands, loop_of(step.eqn))
        values, record = Estimating(self.options, self.key, self.witness).control(step, operands, cursor)
        self.sources.append(jnp.zeros((), float) if record.score is None else record.score)
        return values, record._replace(score=None)

    def draw(self, site, operands, lanes, cursor):
        """Draw, and keep the score apart."""
        values, score, record = self.contribution(site, operands, lanes)
        if score is not None:
            self.sources.append(score)
        return values, record

    def complete(self, plan, env):
        """The outputs, those of the tail from boxed values."""
        outs = read(env, plan.outputs)
        tail = iter(self.tail(plan, env))
        return [next(tail) if b else y for y, b in zip(outs, plan.boxed, strict=True)]

    def tail(self, plan: CreditPlan, env: dict) -> list:
        """Run the linear tail on boxed values."""
        inner = {
            v: self.boxed[v] if d is None else self.box(env[v], d)
            for v, d in zip(plan.tail.inputs, plan.frontier, strict=True)
        }
        for step in plan.tail.steps:
            step.run(inner)
        return read(inner, plan.tail.outputs)

    # ---- boxes ----

    def box(self, x: Any, dependence: Dependence) -> Any:
        """A value times the box of the scores that it depends on."""
        if not dependence:
            return x
        groups = (x.ndim, *dependence.items())
        if groups not in self.boxes:
            scores = [self._aligned(key, mask, x.ndim) for key, mask in dependence.items()]
            self.boxes[groups] = magic_box(sum(scores[1:], scores[0]))
        return x * self.boxes[groups].astype(x.dtype)

    def _aligned(self, key, mask, rank):
        """The summed scores of a group, laid along the axes of a value of this rank."""
        shape, axes = key
        total = self.total(mask)
        total = jnp.sum(total, axis=tuple(i for i, a in enumerate(axes) if a is None))
        kept = [a for a in axes if a is not None]
        order = sorted(range(len(kept)), key=kept.__getitem__)
        total = jnp.transpose(total, order)
        lengths = dict(zip(sorted(kept), total.shape, strict=True))
        return jnp.reshape(total, [lengths.get(a, 1) for a in range(rank)])

    def total(self, mask: int) -> Any:
        """The sum of sources; a sum is built on the latest one that is a part of it, so that chains stay linear."""
        if mask not in self.sums:
            latest = itertools.islice(reversed(self.sums), 32)
            part = next((m for m in latest if m & ~mask == 0), 0)
            terms = [self.sums[part]] if part else []
            terms += [self.sources[b] for b in dep.bits(mask & ~part)]
            self.sums[mask] = sum(terms[1:], terms[0])
        return self.sums[mask]

    # ---- loops ----

    def boxed_start(self, variable, value, dependence):
        """The boxed initial carry of a loop."""
        known = not isinstance(variable, Literal) and variable in self.boxed
        return self.boxed[variable] if known else self.box(jnp.asarray(value), dependence)

    def _loop(self, step, operands, loop):
        credit, n, m = self.plan.scans[id(step)], loop.num_consts, loop.num_carry
        consts, init, xs = loop.split(operands)
        body, is_boxed = credit.body, credit.body.boxed
        outer = [self.total(dep.mask_of(d)) for d in credit.outer]
        carries = body.inputs[len(body.inputs) - len(operands) + n :][:m]
        linked = credit.carries
        start = [self.boxed_start(step.reads[n + i], init[i], credit.inits[i]) for i in linked]
        past = [jnp.zeros(shape, float) for shape in credit.shapes]
        axes = varying_axes(operands, outer, start)

        def run(carry, xs):
            raw, past, boxed = carry
            given = dict(zip([carries[i] for i in linked], boxed, strict=True))
            mode = _Body(self.options, self.key, self.witness, body, [*outer, *past], given)
            env = dict(zip(body.inputs, [*loop.closed, *consts, *raw, *xs], strict=True))
            (outs, tail), record = walk(body, env, mode, top=False)
            now = mode.sources[len(outer) + len(past) :]
            late = len(linked)
            past = [p + s for p, s in zip(past, now, strict=True)]
            return (outs[:m], *vary((past, tail[:late]), axes)), (outs[m:], tail[late:], now, record)

        state, (ys, tail_ys, now, record) = loop.scan(run, (init, *vary((past, start), axes)), xs)
        self.sources.extend(now)
        outs = [*state[0], *ys]
        for v, b, y in zip(step.writes, is_boxed, _spread(is_boxed, [*state[2], *tail_ys]), strict=True):
            if b:
                self.boxed[v] = y
        return outs, self.stack(record)


class _Body(Crediting):
    """Crediting in the body of a scan: the outputs as they are, and those of the tail beside them."""

    def complete(self, plan, env):
        """The outputs, and the outputs of the tail."""
        return read(env, plan.outputs), self.tail(plan, env)


def _spread(flags, values):
    values = iter(values)
    return [next(values) if flag else None for flag in flags]
