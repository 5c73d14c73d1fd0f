"""Which draws a value depends on, read off the jaxpr: the analysis under causal credit.

A jaxpr is looked at once, whatever its inputs depend on: each of them is taken for a source of its own (`_sources`).
What the results depend on at a call is found by putting in what the inputs depend on there. Three lanes, for example:

    def f(x, z):            # x: (3,) is source 0, z: (3, 2) is source 1
        y = jnp.sin(x)      # on 0, whose axis is axis 0 here
        s = z.sum(1)        # on 1, whose first axis is axis 0 here; its second one is mixed
        return y * s        # on both, as y and s do

    x depends on draw 7, index by index along axis 0, and so on draw 8; z on draw 7 along axis 1.
    f(x, z) depends on draw 8 along axis 0; on draw 7 along axis 0 by y but mixed by s: mixed.

A loop is settled in this way on what is known of its body (`Control.flow`), so that the work is linear in the size of a
program, however deep its loops are nested. What was found of a jaxpr is kept as long as the jaxpr is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .._jax import inner_jaxprs, open_jaxpr
from .._per_jaxpr import once_per_jaxpr
from ..program._flow import Domain
from ..program.control import control_of
from ._dependence_rules import operation
from ._sources import NOTHING, STEP, Dependence, inputs, move, substitute, union


class Dependences(Domain[Dependence]):
    """Which sources a value depends on."""

    nothing = NOTHING

    def join(self, a, b):
        """On what either depends on."""
        return union([a, b])

    def choose(self, which, ways, axes=0):
        """Entries depend on the choice that is made for them."""
        return union([move(which, lambda a: a if a < axes else None), *ways])

    def one_step(self, state):
        """The leading axis becomes that of the steps."""
        return move(state, lambda a: a - 1)

    def next_step(self, state):
        """What was made in one step is used in any later one."""
        return move(state, lambda a: None if a == STEP else a)

    def all_steps(self, state):
        """The axis of the steps becomes the leading one."""
        return move(state, lambda a: a + 1)

    def operation(self, eqn, states):
        """By its rule; without one, everything depends on everything."""
        return operation(eqn, states)

    def after(self, eqn, states):
        """What depends on nothing is not looked into."""
        return super().after(eqn, states) if any(states) else [NOTHING] * len(eqn.outvars)

    def through(self, jaxpr, states):
        """By what is known of the jaxpr at any inputs."""
        jaxpr = open_jaxpr(jaxpr)
        given = [*[NOTHING] * len(jaxpr.constvars), *states]
        return [substitute(d, given) for d in results_of(jaxpr)]


DEPENDENCES = Dependences()


def own_inputs(jaxpr: Any) -> list[Dependence]:
    """The inputs of an open jaxpr, constants first, each as a source of its own."""
    return inputs(len(v.aval.shape) for v in (*jaxpr.constvars, *jaxpr.invars))


@once_per_jaxpr
def results_of(jaxpr: Any) -> list[Dependence]:
    """On which of its inputs, constants first, the results of an open jaxpr depend."""
    return DEPENDENCES.look(DEPENDENCES.run(jaxpr, own_inputs(jaxpr)), jaxpr.outvars)


def after(eqn: Any, given: Sequence[Dependence]) -> list[Dependence]:
    """The dependence of each output of an equation, from those of its operands."""
    return DEPENDENCES.after(eqn, given)


def inside(eqn: Any, given: Sequence[Dependence], outs: Sequence[Dependence]) -> list[tuple[Any, list[Dependence]]]:
    """The jaxprs inside an equation, each with what its inputs depend on in any step, constants left out."""
    control = control_of(eqn)
    if control is None:
        return [(inner, list(given)) for inner in inner_jaxprs(eqn)]
    found = control.inside(eqn, given, outs, DEPENDENCES)
    return [(inner, list(map(DEPENDENCES.next_step, states))) for inner, states in found]


def through(jaxpr: Any, given: Sequence[Dependence]) -> list[Dependence]:
    """The dependence of the outputs of a jaxpr, closed or open, constants left out."""
    return DEPENDENCES.through(jaxpr, given)
