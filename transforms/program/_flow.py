"""Data flow: what is known of each value of a program, from what is known of its inputs.

A `Domain` says what can be known of a value, how two ways to a value join, and what an operation makes of what is
known of its operands. Calls, branches and loops are the business of their constructs (`control`), which ask the domain;
loops are run until nothing new is learnt. Which draws a value depends on is one domain, the jumps that it carries
another, the lanes that it varies along a third.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

from .._jax import Literal, open_jaxpr
from .control import control_of

T = TypeVar("T")


def settle(step: Callable, carry: list, join: Callable) -> tuple[list, list]:
    """Run a step of a loop until its carry knows nothing new.

    Returns:
        The carry, and all that the step gave last; `join` must be monotone in a domain of finite height.
    """
    while True:
        outs = step(carry)
        wider = [join(c, o) for c, o in zip(carry, outs, strict=False)]
        if wider == carry:
            return carry, outs
        carry = wider


class Domain(abc.ABC, Generic[T]):
    """What can be known of a value."""

    nothing: T
    """What is known of a constant."""

    @abc.abstractmethod
    def join(self, a: T, b: T) -> T:
        """What is known of a value that is one or the other."""

    @abc.abstractmethod
    def operation(self, eqn: Any, states: Sequence[T]) -> list[T]:
        """What is known of the results of an operation; equations with programs inside do not come here."""

    @abc.abstractmethod
    def choose(self, which: T, ways: Iterable[T], axes: int = 0) -> T:
        """What is known of a value that comes one of several ways, given what is known of the choice.

        The choice is made for each entry along so many leading axes.
        """

    def one_step(self, state: T) -> T:
        """What is known of one entry along the leading axis."""
        return state

    def next_step(self, state: T) -> T:
        """What is known, in a later step of a loop, of what a step has made."""
        return state

    def all_steps(self, state: T) -> T:
        """What is known of the entries of all steps laid along a leading axis."""
        return state

    def after(self, eqn: Any, states: Sequence[T]) -> list[T]:
        """What is known of the results of an equation."""
        control = control_of(eqn)
        return self.operation(eqn, states) if control is None else control.flow(eqn, states, self)

    def through(self, jaxpr: Any, states: Sequence[T]) -> list[T]:
        """What is known of the outputs of a jaxpr, closed or open; its constants are left out."""
        jaxpr = open_jaxpr(jaxpr)
        env = self.run(jaxpr, [*[self.nothing for _ in jaxpr.constvars], *states])
        return self.look(env, jaxpr.outvars)

    def run(self, jaxpr: Any, states: Sequence[T]) -> dict[Any, T]:
        """What is known of every variable of an open jaxpr, from its inputs with constants first."""
        return self.follow(dict(zip([*jaxpr.constvars, *jaxpr.invars], states, strict=True)), jaxpr.eqns)

    def follow(self, env: dict[Any, T], eqns: Iterable[Any]) -> dict[Any, T]:
        """The same, and what is known of every result of some equations, in order."""
        for eqn in eqns:
            env.update(zip(eqn.outvars, self.after(eqn, self.look(env, eqn.invars)), strict=True))
        return env

    def look(self, env: dict, atoms: Sequence[Any]) -> list[T]:
        """What is known of variables; nothing of literals."""
        return [self.nothing if isinstance(a, Literal) else env.get(a, self.nothing) for a in atoms]

    def settle(self, step: Callable, carry: list[T]) -> tuple[list[T], list[T]]:
        """Run a step of a loop until its carry knows nothing new."""
        return settle(step, carry, self.join)
