"""What a type checker knows of a user's programs. It is checked by `mypy --strict`, and run as well: see test_types.py.

A line that must be an error says so by an ignore, which mypy refuses where there is none.
"""

from typing import Any, assert_type

import jax
from jax import Array

import tracegrad as tg
from tracegrad import dist


@tg.gen
def line(slope: float, x: Array, *, noise: float = 0.1) -> Array:
    """A line through the origin."""
    y: Array = tg.sample("y", dist.Normal(slope * x, noise))
    return y


@tg.gen
def twice(slope: float, x: Array) -> Array:
    """Another generative function, called at an address."""
    return assert_type(tg.sample("inner", line(slope, x)), Array) + assert_type(line.inline(slope, x), Array)


class Model:
    """A generative function that is a method."""

    scale = 2.0

    @tg.gen
    def draw(self, shift: float) -> Array:
        """Draw about a shift."""
        z: Array = tg.sample("z", dist.Normal(shift, self.scale))
        return z


def any_program(program: tg.GenerativeFunction, key: Array, *args: Any) -> Any:
    """A function of any generative function, which needs no parameters of the type."""
    return program.simulate(key, *args).retval


@tg.expectation
def loss(key: Array, slope: float, *, weight: float = 1.0) -> Array:
    """An objective."""
    return weight * line.simulate(key, slope, jax.numpy.ones(3)).retval.sum()


@tg.expectation(chunk_size=2, has_aux=True)
def pair(key: Array, slope: float) -> tuple[Array, int]:
    """An objective with options."""
    return line.simulate(key, slope, jax.numpy.ones(())).retval, 3


def known(key: Array, x: Array) -> None:
    """What survives."""
    assert_type(line.simulate(key, 1.0, x, noise=0.2).retval, Array)
    assert_type(line.simulate(key, 1.0, x), tg.Trace[Array])
    assert_type(line.propose(key, 1.0, x)[2], Array)
    assert_type(line.assess({"y": x}, 1.0, x)[1], Array)
    assert_type(line.with_estimators({"y": tg.reparam()}).simulate(key, 1.0, x).retval, Array)
    assert_type(tg.validated(line).simulate(key, 1.0, x).retval, Array)
    assert_type(tg.gen(line).simulate(key, 1.0, x).retval, Array)
    assert_type(Model().draw.simulate(key, 1.0).retval, Array)
    assert_type(loss(key, 1.0, weight=2.0), Array)
    assert_type(pair(key, 1.0), tuple[Array, int])
    assert_type(tg.with_estimators(loss, {"y": tg.reinforce()})(key, 1.0, weight=2.0), Array)
    any_program(line, key, 1.0, x)
    any_program(Model().draw, key, 1.0)


def refused(key: Array, x: Array) -> None:
    """What is an error before it runs."""
    line.simulate(key, 1.0)  # type: ignore[call-arg]
    line.simulate(key, 1.0, x, nose=0.2)  # type: ignore[call-arg]
    line(x=x)  # type: ignore[call-arg]
    line.with_estimators({}).simulate(key, "1.0", x)  # type: ignore[arg-type]
    Model().draw.simulate(key)  # type: ignore[call-arg]
    Model().draw.simulate(key, Model(), 1.0)  # type: ignore[call-arg, arg-type]
    loss(key)  # type: ignore[call-arg]
    loss(key, 1.0, wait=2.0)  # type: ignore[call-arg]
    pair(key, "1.0")  # type: ignore[arg-type]
    print(tg.transforms.whole)  # type: ignore[attr-defined]
    print(tg.objectives.pair)  # type: ignore[attr-defined]
