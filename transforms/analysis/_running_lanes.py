"""A `while_loop` under `vmap` whose condition differs from lane to lane: which draws are those of lanes still running.

JAX runs the body in all lanes while any of them goes on, and keeps the state of those that are done. What is drawn in
a lane that is done is thrown away, so its score must not count either: its key may be drawn with again after the loop,
and at a state past the end a density need not be defined. Which axis of a draw is which axis of the condition is read
off the data flow from the state to the key of the draw.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
from jax import numpy as jnp

from .._errors import NoRuleError, name_of
from .._jax import open_jaxpr, param
from .._samples_in import samples_in
from ..program.control import control_of
from . import _dependence as dep
from ._sources import NOTHING, Axes, Dependence, Part, source


class Running(NamedTuple):
    """The lanes of a loop that go on.

    Attributes:
        lanes: true where a lane does; its axes are the leading ones of the state.
        axes: for each draw inside, by the identity of its equation, the axes of its lanes that these are.
    """

    lanes: jax.Array
    axes: dict[int, Axes]

    def keep(self, term: Any, eqn: Any) -> Any:
        """A term of a draw, lanes in front, where its lane goes on; zero elsewhere."""
        axes = self.axes.get(id(eqn), ())
        if term is None or not axes:
            return term
        if any(a is None or isinstance(a, Part) for a in axes):
            raise NoRuleError(
                f"The sample at {name_of(param(eqn, 'site').label)} is in a `while_loop` under a `vmap` in which lanes "
                "end apart, and its key mixes the lanes, so that it is not known which are still drawing. Derive its "
                "key from the lane's own state, or write the bounded loop: `lax.scan` with the steps past the end "
                "masked."
            )
        return jnp.where(along(self.lanes, axes, term.ndim), term, 0.0)


def along(mask: jax.Array, axes: Axes, rank: int) -> jax.Array:
    """A mask laid along these axes, in order, of an array of this rank."""
    lengths = dict(zip(axes, mask.shape, strict=True))
    return jnp.reshape(mask, [lengths.get(a, 1) for a in range(rank)])


def running(lanes: jax.Array, loop: Any) -> Running:
    """The lanes that go on, for the draws in the body of a loop, an equation."""
    control: Any = control_of(loop)
    turn = control.turn(loop, loop.invars)
    consts, jaxpr = len(turn.shared), open_jaxpr(turn.jaxpr)
    states = [source(0, lanes.shape)] * (len(jaxpr.invars) - consts)
    return Running(lanes, dict(_follow(jaxpr, [*[NOTHING] * (len(jaxpr.constvars) + consts), *states])))


def _follow(jaxpr, inputs: list[Dependence]):
    """The axes of each draw in a jaxpr, at any depth."""
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], inputs, strict=True))
    for eqn in jaxpr.eqns:
        given = dep.DEPENDENCES.look(env, eqn.invars)
        outs = dep.after(eqn, given)
        env.update(zip(eqn.outvars, outs, strict=True))
        if eqn.primitive.name == "sample":
            for _, axes in given[0]:
                yield id(eqn), axes
        elif samples_in(eqn):
            for inner, operands in dep.inside(eqn, given, outs):
                consts = [NOTHING] * (len(inner.constvars) + len(inner.invars) - len(operands))
                yield from _follow(inner, [*consts, *operands])
