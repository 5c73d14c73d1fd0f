"""The interface of a control-flow construct, and the table of those that there are."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

from ..._errors import NoRuleError
from ..._jax import closed_consts, open_jaxpr
from ._loop import Loop


class Body(NamedTuple):
    """A program inside an equation.

    Attributes:
        jaxpr: the program, opened.
        consts: the constants that came with it.
        where: what a report calls the place; empty for a call, which is no place.
        times: how often it runs at most, where that is known.
    """

    jaxpr: Any
    consts: list
    where: str = ""
    times: int = 1


def body(jaxpr: Any, where: str = "", times: int = 1) -> Body:
    """A body from a jaxpr among the parameters of an equation, closed or open."""
    return Body(open_jaxpr(jaxpr), closed_consts(jaxpr), where, times)


class Turn(NamedTuple):
    """One turn of a construct that runs one program again and again.

    Attributes:
        jaxpr: the program; its operands are these three, in order.
        shared: what is known of the operands that all turns share.
        carry: what is known of those that are carried, at first.
        each: what is known of those of which each turn gets one entry.
        times: how many turns there are; None where that is not known.
        what: the construct in words.
    """

    jaxpr: Any
    shared: list
    carry: list
    each: list
    times: int | None
    what: str


class Control(abc.ABC):
    """One construct: an equation with programs inside."""

    names: ClassVar[tuple[str, ...]]
    """The JAX primitives that it is."""

    functions: ClassVar[tuple[str, ...]] = ()
    """The functions of JAX that make it, if draws may be inside."""

    lanewise: ClassVar[bool] = False
    """Whether alternatives of forks inside it are tried lane by lane."""

    plain: ClassVar[bool] = False
    """Whether it is no more than a call."""

    exclusive: ClassVar[bool] = False
    """Whether its first operand says which one of its bodies runs, on the other operands."""

    def __init_subclass__(cls):
        _TABLE.update(dict.fromkeys(cls.names, cls()))

    @abc.abstractmethod
    def bodies(self, eqn: Any) -> list[Body]:
        """The programs inside."""

    def loop(self, eqn: Any) -> Loop | None:
        """The loop that it is, if its steps are known in number; scores are then kept apart by steps (`estimate`)."""
        return None

    def turn(self, eqn: Any, states: Sequence[Any]) -> Turn | None:
        """One turn of it, if it repeats a program, from what is known of its operands."""
        return None

    @abc.abstractmethod
    def run(self, step: Any, operands: list, mode: Any, alternative: Any) -> tuple[list, Any]:
        """Run it where a draw is inside: its values, and the record of the draws. Bodies run by `mode.inner`."""

    @abc.abstractmethod
    def flow(self, eqn: Any, states: Sequence[Any], domain: Any) -> list:
        """What is known of its results from what is known of its operands (see `_flow`)."""

    def inside(self, eqn: Any, states: Sequence[Any], outs: Sequence[Any], domain: Any) -> list[tuple[Any, list]]:
        """The jaxprs inside, each with what is known of its inputs, constants left out; `outs` are what `flow` gave."""
        return [(body.jaxpr, list(states)) for body in self.bodies(eqn)]

    def width(self, eqn: Any, width_of: Callable[[Any], int]) -> int:
        """How many alternatives the forks inside name, from a function of a body's jaxpr."""
        return sum(body.times * width_of(body.jaxpr) for body in self.bodies(eqn))

    def enter(self, eqn: Any, operands: list, is_bad: Callable[[Any], bool]) -> tuple[Any, list] | None:
        """The jaxpr of the body that first makes a bad number at known operands, and its inputs; None if none does."""
        bodies = self.bodies(eqn)
        if len(bodies) != 1 or len(bodies[0].jaxpr.invars) != len(operands):
            return None
        return bodies[0].jaxpr, [*bodies[0].consts, *operands]


_TABLE: dict[str, Control] = {}


def control_of(eqn: Any) -> Control | None:
    """The construct that an equation is; None for an operation."""
    return _TABLE.get(eqn.primitive.name)


def loop_in(eqn: Any) -> Loop | None:
    """The loop that an equation is; None for anything else."""
    control = control_of(eqn)
    return None if control is None else control.loop(eqn)


def no_rule(what: str, name: str) -> NoRuleError:
    """The error for a sample inside an equation that has no rule for one."""
    rules = ", ".join(sorted(function for control in set(_TABLE.values()) for function in control.functions))
    return NoRuleError(
        f"A sample inside {what} (JAX primitive '{name}') has no rule under `expectation`. Draw the value outside "
        f"it and pass it in; rules exist for: {rules}, sample, vmap."
    )
