"""What `smc`, `forward_filter` and `kalman` ask of a target: that its program is a `scan`, taken apart into steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import lax
from jax import numpy as jnp

from .._errors import DensityError
from ..core._addresses import Choices, Path, paths
from ..core._combinators import Scan
from ..core._generative import Around, Combined, GenerativeFunction
from ..core._operations import Given, Operation, Outcome
from ..core._target import Target


class Chain(NamedTuple):
    """A target over `step.scan()(init, xs)`: what each step is given is stacked along a leading axis."""

    step: GenerativeFunction
    path: Path
    init: Any
    xs: Any
    observed: Choices
    length: int

    @property
    def stacked(self) -> tuple[Any, Choices]:
        """What differs between steps: the inputs and the observed choices."""
        return self.xs, self.observed

    def visit(self, operation: Operation, key: Any, given: Given, carry: Any, x: Any) -> Outcome:
        """Visit one step; what it returns is the next carry."""
        out = self.step.visit(operation, key, given, self.path, (carry, x), {})
        return out._replace(retval=out.retval[0])

    def target(self, carry: Any, x: Any, observed: Choices) -> Target:
        """One step as a target of its own."""
        return Target(self.step, (carry, x), observed, path=self.path)


def chain_of(target: Target, what: str) -> Chain:
    """Take a target over a scan apart."""
    function = target.function
    if not (isinstance(function, Combined) and isinstance(function.combinator, Scan)) or function.combinator.reverse:
        raise DensityError(
            f"{what} is for a forward `scan`, and got {function.name}. Marginalise the scan itself, and sample that in "
            f"the program around it: `sample('steps', marginal(step.scan(), keep, {what}(...))(init, xs))`."
        )
    shapes = target.latents()
    init, xs = (*target.args, None)[:2]
    length = next(x.shape[0] for _, x in (*paths(shapes), *paths(target.observed)))
    if not length:
        raise DensityError(f"{what}: {function.name} has no steps, so there is nothing to weigh. Leave it out.")
    return Chain(function.function, target.path, jax.tree.map(jnp.asarray, init), xs, target.observed, length)


class Recorded(Around):
    """A step of a chain that puts on record its log density, its weight and the carry after it."""

    def visit(self, operation, key, given, path, args, kwargs):
        """Visit the step and record it."""
        out = self.function.visit(operation, key, given, path, args, kwargs)
        after = out.retval[0] if isinstance(out.retval, tuple) else None  # `scan` refuses the other.
        return out._replace(records={"step": (out.logp, out.weight, after)})


def recorded(
    function: GenerativeFunction, operation: Operation, key: Any, given: Given, path: Path, args: tuple, kwargs: dict
) -> tuple[Outcome, Any]:
    """Visit a scan; with the outcome, each step's log density, weight and carry, stacked. Of no scan there are none."""
    if not (isinstance(function, Combined) and isinstance(function.combinator, Scan)):
        return function.visit(operation, key, given, path, args, kwargs), None
    chain = Combined(Recorded(function.function), function.combinator)
    out = chain.visit(operation, key, given, path, args, kwargs)
    return out, out.records["step"]


def first(stacked: Any) -> Any:
    """What the first step is given."""
    return jax.tree.map(lambda x: x[0], stacked)


def later(stacked: Any) -> Any:
    """What the steps after the first are given."""
    return jax.tree.map(lambda x: x[1:], stacked)


def handed_on(after: Callable, length: int, carry: list, fixed: list[bool], inputs: list) -> list:
    """What the carry is before each step, in leaves: by a loop, but once where `fixed`.

    Args:
        after: a function of the leaves of the carry and of a step's inputs to the leaves of the next carry.
        length: the number of steps.
        carry: the leaves of the initial carry.
        fixed: which of them are taken to stay as they are.
        inputs: the leaves of the inputs, stacked.
    """
    if all(fixed):
        return carry

    def body(carry, x):
        return [y if f else z for y, z, f in zip(carry, after(carry, x), fixed, strict=True)], carry

    _, before = lax.scan(body, carry, inputs, length)
    return [y if f else x for x, y, f in zip(before, carry, fixed, strict=True)]
