"""What each operation of the generative function interface does at one sample site.

Every operation is one visit of the program; it differs from the others only in where the value of a site comes from
and in what the site adds to the weight. Let p(site) be the density of the value at that site.

| operation | value | adds to the weight |
|---|---|---|
| simulate, propose | drawn | nothing |
| assess | given | log p(site) |
| generate | given, else drawn | log p(site) where given |
| update | given, else kept, else drawn | log p(site) unless drawn |
| regenerate | drawn where selected or new, else kept | log p(site) where kept |
| project | given | log p(site) where selected |
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Self

import jax
from jax import numpy as jnp

from .._errors import AddressError, DensityError, DistributionError
from ..distributions._supports import feasible, support_of, usable
from ..transforms import TracegradError, log_density, sample
from ..transforms._internal import site_scope
from ._addresses import Choices, Path, Selection, show
from ._given_values import Attitude, conform, kind, struct
from ._scales import scale_at, scaled


class Given(NamedTuple):
    """What is brought to an address.

    Attributes:
        constraints: given choices.
        previous: the choices of a previous trace.
        fixed: values put in place of sites.
        observed: choices that are given for good.
    """

    constraints: Any = None
    previous: Any = None
    fixed: Any = None
    observed: Any = None

    def at(self, address: str) -> Given:
        """What is given at an address below."""
        return Given(*(_below(part, address) for part in self))


def _below(choices, address):
    return choices.get(address) if isinstance(choices, Mapping) else None


class Outcome(NamedTuple):
    """What a visit gives back.

    Attributes:
        retval: what the program returned.
        choices: the value at every address.
        logp: their log density.
        weight: what the operation makes of the densities; see the table above.
        discarded: the choices of a previous trace that were replaced.
        records: by address, what an operation of its own kind wrote down of a site (coordinates, a support), else {}.
    """

    retval: Any
    choices: Choices
    logp: Any
    weight: Any
    discarded: Choices
    records: Choices


class Visit(NamedTuple):
    """What a visit of one site gives back; the program goes on with the value, or with another where it is masked."""

    value: Any
    logp: Any
    weight: Any = None
    discarded: Any = None
    masked: Any = None
    record: Any = None

    @property
    def goes_on_with(self) -> Any:
        """The value that the program sees."""
        return self.value if self.masked is None else self.masked


class At(NamedTuple):
    """A site as an operation sees it: where it is, its distribution, its estimator, and a key when it asks for one."""

    path: Path
    distribution: Any
    estimator: Any
    key: Callable[[], jax.Array]
    attitude: Attitude = Attitude()

    def draw(self) -> Visit:
        """Draw a value."""
        try:
            value = sample(self.key(), self.distribution, estimator=self.estimator, label=self.path)
        except NotImplementedError as error:
            if isinstance(error, TracegradError):
                raise
            if self.attitude.in_place:
                return Visit(some_value(self.distribution), jnp.zeros(()))
            raise _without_sampler(self.path, self.distribution) from error
        if self.attitude.drawn is not None:
            self.attitude.drawn.note(self.path, self.distribution)
        return Visit(value, log_density(self.distribution, value, inside=True))

    def take(self, value: Any) -> Visit:
        """Take a given value, after checking that the distribution could have made it; its density is the weight."""
        value = conform(self.path, self.distribution, value, self.attitude)
        if self.attitude.weighed is not None:
            self.attitude.weighed.compare(self.path, self.distribution)
        counted = usable(self.distribution, self.attitude.live, value)
        logp = log_density(self.distribution, counted)
        return Visit(value, logp, logp, masked=counted)


def some_value(distribution: Any) -> Any:
    """A value of the shape, type and, where one is known, the support of what a distribution would draw."""
    like, support = struct(distribution), support_of(distribution)
    zeros = jnp.zeros(like.shape, like.dtype)
    return zeros if support is None else feasible(support, zeros)


class Operation:
    """What to do at a site: one row of the table above, as the answers to two questions."""

    exact: bool = False
    """Whether every value is given, so that no key is needed."""

    keeps_densities: bool = False
    """Whether the log density of each address, with its scale, is put on record."""

    attitude = Attitude()

    def but(self, **attitude: Any) -> Self:
        """The same operation with another attitude."""
        other = copy.copy(self)
        other.attitude = self.attitude._replace(**attitude)
        return other

    def taken(self, path: Path, given: Given) -> Any:
        """The value that is taken at a path, or None where one is drawn."""
        return given.constraints

    def weighs(self, path: Path, *, drawn: bool) -> bool:
        """Whether the log density at a path adds to the weight."""
        return not drawn

    def note(self, path: Path, value: Any) -> Any:
        """What is put on record of a `deterministic` value; None for nothing."""
        return None

    def factor(self, path: Path, logp: Any, what: str = "a factor") -> Any:
        """The term of a `factor`, a part of the density that belongs to no choice; or of a choice given for good."""
        return logp

    def asks_for(self, path: Path) -> bool:
        """Whether the log density at a path is to be on record, of a program with one density for all it samples."""
        return False

    def scaled(self, path: Path, logp: Any, weight: Any, *, drawn: bool) -> tuple[Any, Any]:
        """A log density and what it adds to the weight, both with the scale in force at a path.

        Where a value was drawn, from p itself, the weight is that of p^scale against p.
        """
        scale = scale_at(self.attitude.scales, path)
        if scale is None or logp is None:
            return logp, weight
        both = scaled(logp, scale)
        if drawn and not self.exact:
            return both, scaled(logp, scale - 1.0)
        return both, None if weight is None else both

    def site(self, at: At, given: Given) -> Visit:
        """Visit one site."""
        value = self.taken(at.path, given)
        if value is None and self.exact:
            raise missing(at.path, kind(at.distribution))
        with site_scope(at.path):
            visit = at.draw() if value is None else at.take(value)
        replaced = given.previous is not None and value is not given.previous
        return visit._replace(
            weight=visit.logp if self.weighs(at.path, drawn=value is None) else None,
            discarded=given.previous if replaced else None,
        )


def missing(path: Path, kind: str) -> AddressError:
    """The error for a choice that an operation must be given."""
    return AddressError(
        f"assess: the choice at {show(path)} is missing ({kind}). Every sampled address needs a value; to leave some "
        "to be drawn use `generate`."
    )


def _without_sampler(path: Path, distribution: Any) -> DistributionError:
    """The error for a draw from a distribution that has none."""
    return DistributionError(
        f"The choice at {show(path)} cannot be drawn: {kind(distribution)} has a density and no sampler. Give its "
        f"value (`assess`, or `generate` with a choice at {show(path)}), or sample it from a distribution that can be "
        "drawn."
    )


class Simulate(Operation):
    """Draw every value."""

    def factor(self, path: Path, logp: Any, what: str = "a factor") -> Any:
        """Refused: the density would not be that of the draws."""
        raise _unnormalised(path, what)

    def scaled(self, path: Path, logp: Any, weight: Any, *, drawn: bool) -> tuple[Any, Any]:
        """Refused where there is a scale, as factors are, but for one that weighs the terms of a bound."""
        scales = self.attitude.scales
        if scale_at(tuple(x for x in scales if not x.weighs_draws), path) is not None:
            raise _unnormalised(path, "a scale")
        terms = scale_at(tuple(x for x in scales if x.weighs_draws), path)
        return logp if terms is None or logp is None else scaled(logp, terms), weight

    def taken(self, path: Path, given: Given) -> Any:
        """Nothing."""
        return None


def _unnormalised(path, what):
    return DensityError(
        f"simulate: the program has {what} at {show(path)}, so the density of what is drawn is not known. As a model, "
        "give it to `Target`, `importance_sampling` or `predictive`; a guide is a distribution: write what weighs its "
        "choices into the model."
    )


class Assess(Operation):
    """Take every value."""

    exact = True


class AssessEach(Assess):
    """Take every value, and keep the log densities apart."""

    keeps_densities = True


class Generate(Operation):
    """Take what is given, draw the rest."""


class Update(Operation):
    """Change some values of a trace, keep the rest."""

    def taken(self, path: Path, given: Given) -> Any:
        """The new value, else the old."""
        return given.previous if given.constraints is None else given.constraints


class Regenerate(Operation):
    """Draw the selected values of a trace again, keep the rest."""

    def __init__(self, selection: Selection):
        self.selection = selection

    def scaled(self, path: Path, logp: Any, weight: Any, *, drawn: bool) -> tuple[Any, Any]:
        """Refused where what is drawn has a scale: the old value's share of the weight is not known."""
        if drawn and scale_at(self.attitude.scales, path) is not None:
            raise DensityError(
                f"regenerate: the choice at {show(path)} is drawn anew and its density has a scale. Draw a value and "
                "write `update(key, trace, values, ...)`."
            )
        return super().scaled(path, logp, weight, drawn=drawn)

    def taken(self, path: Path, given: Given) -> Any:
        """The old value, unless it is selected."""
        return None if path in self.selection else given.previous


class Project(Operation):
    """The log density of the selected values of a trace."""

    exact = True

    def __init__(self, selection: Selection):
        self.selection = selection

    def weighs(self, path: Path, *, drawn: bool) -> bool:
        """Where selected."""
        return path in self.selection
