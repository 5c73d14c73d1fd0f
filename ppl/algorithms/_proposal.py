"""Where an algorithm has its latents from: the program itself, or a proposal; and how every proposal is called.

A proposal is called as `proposal(*told, *args)`: first what it is told of the target, then arguments of its own, which
are a tuple, or one argument alone. It is told as much as changes from call to call:

| who calls it | tells it |
|---|---|
| `sir`, `importance_sampling`, an objective of a model and a guide | nothing: there is one target |
| `importance`, `sleep` | the observed (or kept) choices, and where it has no arguments of its own, the program's |
| `smc`, `smc_bound`, `smc_wake_phi` | the observed choices of a step, and its arguments: the carry and the input |
| `nested_vi` | the choices of the level that it moves from |
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
from jaxtyping import Array, Float, Key

from .._errors import AddressError, DensityError
from ..core._addresses import Choices, check_known, name_them, paths, show
from ..core._arguments import generative, positional
from ..core._bound_methods import Plain
from ..core._generative import GenerativeFunction
from ..core._interface import arguments
from ..core._operations import Assess, Generate, Given, Simulate
from ..core._target import Target
from ._base import Retained


class Weighed(NamedTuple):
    """Latents that were drawn, and what the target says of them.

    Attributes:
        latents: the latent choices.
        log_weight: log gamma less the log density that they were drawn with; exponentiated it averages to Z.
        log_gamma: the log density of the target.
        retval: what the program of the target returned.
    """

    latents: Choices
    log_weight: Float[Array, ""]
    log_gamma: Float[Array, ""]
    retval: Any


@contextlib.contextmanager
def explained(target: Target, who: str, drawn: Mapping) -> Iterator[None]:
    """Weigh what a guide or proposal drew; where its addresses are not those of the latents, the error says so."""
    try:
        yield
    except AddressError:
        check_latents(target, who, drawn)
        raise


def check_latents(target: Target, who: str, drawn: Mapping) -> None:
    """Refuse what a guide or proposal drew at other addresses than those of the latents."""
    have, want = ({p for p, _ in paths(choices)} for choices in (drawn, target.latents()))
    if have == want:
        return
    more, less = sorted(have - want), sorted(want - have)
    raise AddressError(
        f"{who} samples at {_some(more, have)}, and the latents of the target are {_some(less, want)}, those of "
        f"{target.function.name} that are not observed. {_remedy(who, more, less)}"
    )


def _some(first, every):
    return name_them(every, min(first, default=()))


def _remedy(who, more, less):
    if more and less:
        return "Spell the addresses alike."
    if less:
        return f"Sample {show(less[0])} there too, or observe it."
    return (
        f"If {show(more[0])} is an auxiliary variable, sum it out: `marginal({who}, latents, importance(n))` with the "
        "addresses of the target."
    )


class Source(Plain):
    """Where latents come from."""

    @abc.abstractmethod
    def weighed(self, key: Key[Array, ""], target: Target) -> Weighed:
        """Fresh latents with their weight."""

    @abc.abstractmethod
    def weight_of(self, key: Key[Array, ""] | None, target: Target, retained: Retained) -> Float[Array, ""]:
        """The log weight that retained latents have, had they been drawn here."""


class Program(Source):
    """The program of the target itself: the weight is the density of what is observed alone."""

    def weighed(self, key, target):
        """Latents drawn as the program draws them, each given what came before it."""
        out = target.visit(Generate(), key)
        return Weighed(target.without_observed(out.choices), out.weight, out.logp, out.retval)

    def weight_of(self, key, target, retained):
        """The factors of the observed, from the run that made the latents."""
        return retained.log_observed


def nothing(target: Target) -> tuple:
    """What a proposal for one target is told."""
    return ()


def observations_of(target: Target) -> tuple:
    """What a proposal for any observations is told."""
    return (target.observed,)


def all_of(target: Target) -> tuple:
    """What a proposal for any observations and arguments is told."""
    return (target.observed, *target.args)


class Proposal(Source):
    """A generative function over the latent addresses, called with what it is told and arguments of its own."""

    function: GenerativeFunction
    args: tuple
    tells: Callable[[Target], tuple] = eqx.field(static=True, default=nothing)

    def weighed(self, key, target):
        """Latents drawn by the proposal, weighed by the program."""
        propose, density = jax.random.split(key)
        drawn = self._visit(Simulate(), propose, target, None)
        with explained(target, self.function.name, drawn.choices):
            out = target.visit(Assess(), density, drawn.choices, what="the proposal's choices")
        return Weighed(drawn.choices, out.logp - drawn.logp, out.logp, out.retval)

    def weight_of(self, key, target, retained):
        """Gamma over the density of the proposal."""
        out = self._visit(Assess(), key, target, retained.latents)
        check_known(retained.latents, out.choices, self.function.name, "the latents of the target")
        return retained.log_gamma - out.logp

    def _visit(self, operation, key, target, latents):
        args = (*self.tells(target), *self.args)
        return self.function.visit(operation, key, Given(latents), target.path, args, {})


def source_of(what: str, proposal: Any, args: Any, tells: Callable[[Target], tuple]) -> Source:
    """A proposal with its arguments; None is the program itself.

    Raises:
        DensityError: what is given is no generative function.
    """
    return Program() if proposal is None else proposal_of(what, proposal, args, tells)


def proposal_of(what: str, proposal: Any, args: Any, tells: Callable[[Target], tuple]) -> Proposal:
    """A proposal, which must be there, with its arguments."""
    function = generative(what, proposal, role=" as its proposal", error=DensityError)
    known = {nothing: 0, observations_of: 1, all_of: 3}  # All that a step of a chain has: a carry and an input.
    args = positional(args, function, told=known[tells]) if tells in known else positional(args)
    return Proposal(function, arguments(args, {})[0], tells)
