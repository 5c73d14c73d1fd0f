"""The number of an alternative, on its way through a program to the forking site that it is one of.

At each site the number is counted from this site's first alternative: steps, lanes and turns of loops further on
subtract what they are past. Where it is below zero or too large, it is none of this site's.
"""

from __future__ import annotations

import abc
from typing import Any

import jax


class Alternative(abc.ABC):
    """An alternative that is to be put in place, by its number from here on.

    `last` is the last step at which it may be; None where any may be.
    """

    def __init__(self, number: jax.Array, last: Any = None):
        self.number = number
        self.last = last

    @abc.abstractmethod
    def at(self, number: jax.Array) -> Alternative:
        """Another number, counted in the same way."""

    @abc.abstractmethod
    def width(self, step: Any) -> int:
        """How many numbers a step takes."""

    @abc.abstractmethod
    def width_of(self, jaxpr: Any) -> int:
        """How many numbers a body takes."""

    @abc.abstractmethod
    def put(self, values: list, alternatives: list, shape: Any, lanes: tuple[int, ...]) -> list:
        """The values of a forking site, this alternative in place if it is one of them."""

    def inside(self, construct: Any) -> Alternative | None:
        """The alternative in the bodies of a construct; None where it can be none of theirs."""
        return self

    def past(self, step: Any) -> Alternative | None:
        """The alternative after a forking step; None where nothing further on is forked."""
        return None if step is self.last else self.at(self.number - self.width(step))

    def turn(self, t: jax.Array, jaxpr: Any) -> Alternative:
        """The alternative in turn `t` of a loop over this body."""
        return self.at(self.number - t * self.width_of(jaxpr))
