"""Draws whose noise is made already: what they are, and how a program goes on from it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

from .._jax import DropVar, Literal, fresh, segment, trace, with_params, without_lanes
from .._pytree import KINDS
from ._halves import Kind, halves
from ._plan import Assign, Const, Segment, Step, plan_of, read


def kind_of(step: Step) -> Kind | None:
    """What a step draws; None where nothing of it is known from its key alone, and where that is made already."""
    site = step.site
    if site.early:
        return None
    key, *arrays = without_lanes([v.aval for v in step.eqn.invars], step.lanes)
    kind = Kind(site.distribution, tuple(arrays[: site.distribution.count]))
    return None if halves(kind.distribution, key, kind.arrays) is None else kind


def lanes_of_key(step: Step) -> tuple:
    """The lanes in which a step has a key of its own."""
    return tuple(lane for lane in step.lanes if lane.mapped[0])


def with_noise(lanes: tuple, n: int) -> tuple:
    """The lanes of a draw that has so many operands more, mapped as its key is."""
    return tuple(lane._replace(mapped=(*lane.mapped, *[lane.mapped[0]] * n)) for lane in lanes)


def run_with(jaxpr: Any, steps: list, env: dict, noise: dict[int, Sequence[Any]]) -> None:
    """Run the steps of a plan in which draws are noise, the noise of some (by their identities) made already."""
    for step in steps:
        early = noise.get(id(step))
        if isinstance(step, Step):
            draw, own = _finished(jaxpr, step, early) if early else (segment_of(jaxpr, [step.eqn]), {})
            env.update(own)
            draw.run(env)
        elif early:
            env.update(zip(step.writes, early, strict=True))
        else:
            step.run(env)


def _finished(jaxpr, step, noise):
    """The equation of a draw, with its early half for operands too."""
    early = [fresh(jax.typeof(x)) for x in noise]
    eqn = with_params(step.eqn, site=step.site._replace(early=len(noise)), lanes=with_noise(step.lanes, len(noise)))
    return segment_of(jaxpr, [eqn.replace(invars=[*eqn.invars, *early])]), dict(zip(early, noise, strict=True))


def segment_of(jaxpr: Any, eqns: list, writes: list | None = None) -> Segment:
    """A segment of equations that writes all that they do, or only some of it."""
    made = [v for eqn in eqns for v in eqn.outvars if not isinstance(v, DropVar)]
    inside = set(made)
    reads = [v for v in dict.fromkeys(v for eqn in eqns for v in variables(eqn.invars)) if v not in inside]
    writes = made if writes is None else writes
    return Segment(segment(jaxpr, eqns, reads, writes), reads, writes)


def variables(atoms: Sequence[Any]) -> list:
    """Those that are neither literals nor constants."""
    return [v for v in atoms if not isinstance(v, Literal | Const)]


# ---- the draw of an estimator ---------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=KINDS)
def given_noise(run: Callable, kind: Kind, avals: tuple) -> Callable:
    """`run(key, *arrays)`, which draws once or more, as `(key, *arrays, *noise)`: noise of this kind for its own key.

    `avals` are the shapes and types of the operands. What is drawn otherwise, or with another key, is drawn as ever.
    """
    structs = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in avals]
    traced = trace(run, *structs)
    plan = plan_of(traced.jaxpr, nested=True)
    tree: Any = jax.tree.structure(traced.out)
    draws = _draws_of_own_key(plan, plan.inputs[len(traced.consts)], kind)

    def late(*operands):
        operands, noise = operands[: len(avals)], operands[len(avals) :]
        env = dict(zip(plan.inputs, [*traced.consts, *operands], strict=True)) | plan.constants
        run_with(traced.jaxpr, plan.steps, env, dict.fromkeys(draws, noise))
        return tree.unflatten(read(env, plan.outputs))

    return jax.jit(late)


def _draws_of_own_key(plan, key, kind):
    """The identities of the draws of a kind with a key, in one lane."""
    own, found = {key}, []
    for step in plan.steps:
        pairs = list(zip(step.reads, step.writes, strict=True)) if isinstance(step, Assign) else []
        if isinstance(step, Segment):
            clones = [eqn for eqn in step.jaxpr.eqns if eqn.primitive.name == "random_clone"]
            pairs = [(eqn.invars[0], eqn.outvars[0]) for eqn in clones]
        elif isinstance(step, Step) and step.name == "sample" and step.reads[0] in own and not step.lanes:
            found += [id(step)] if kind_of(step) == kind else []
        same = {w for r, w in pairs if not isinstance(r, Literal | Const) and r in own}
        own = own.difference(step.writes) | same
    return found
