"""Coordinates of latent choices: operations that map each site to the real line and back, by numpyro's bijections."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpyro.distributions as dist
from jax import numpy as jnp

from .._errors import DensityError
from ..core._addresses import Path, lookup, show
from ..core._coordinates import bijection_at, is_learned
from ..core._finite_supports import finite_support
from ..core._operations import At, Given, Operation, Visit, missing
from ..core._target import Target
from ..transforms._internal import lenient


class Site(NamedTuple):
    """The coordinates of a latent site: their shape and type; for a discrete one those of its logits."""

    shape: tuple[int, ...]
    dtype: Any
    discrete: bool

    @property
    def size(self) -> int:
        """The number of coordinates."""
        return math.prod(self.shape)


def _is_discrete(distribution) -> bool:
    return bool(getattr(getattr(distribution, "support", None), "is_discrete", False))


def _bijection(at: At):
    """The bijection from the real line to the values of a site: the one chosen from outside, or that of its support."""
    chosen = bijection_at(at.attitude.coordinates, at.path, at.distribution)
    return bijection_of(at.path, at.distribution) if chosen is None else chosen


def bijection_of(path, distribution):
    constraint = getattr(distribution, "support", None)
    try:
        return dist.biject_to(constraint)
    except (NotImplementedError, TypeError, AttributeError) as error:
        raise DensityError(
            f"The latent at {show(path)} ({type(distribution).__name__}) has the support {constraint}, for which "
            "numpyro has no bijection from the real line. Sample it through another distribution, or observe it."
        ) from error


def _outcomes(path, distribution):
    """The values that an element of a discrete site can take, shape (k,)."""
    remedy = "there is no categorical family for it. Marginalise it, or truncate it."
    values = finite_support(path, distribution, remedy)[1]
    if values.ndim != 1:
        raise DensityError(
            f"The latent at {show(path)} ({type(distribution).__name__}) takes values that are arrays, so {remedy}"
        )
    return values


def _check_plain(at: At) -> None:
    """Refuse coordinates that were chosen for a discrete site, which has an index in their place."""
    if any(each.at(at.path) is not None for each in at.attitude.coordinates):
        raise DensityError(
            f"with_coordinates: the latent at {show(at.path)} ({type(at.distribution).__name__}) is discrete: it "
            "has no coordinates to choose. Leave the address out."
        )


class _Latents(Operation):
    """An operation that treats the latents of a target in its own way, and takes what is observed.

    No density counts in its weight; what it has to say of a latent is on record.
    """

    exact = True

    def __init__(self, target: Target):
        self.observed = target.observed
        self.depth = len(target.path)

    def weighs(self, path: Path, *, drawn: bool) -> bool:
        """Nowhere."""
        return False

    def site(self, at: At, given: Given) -> Visit:
        """Visit one site."""
        path = at.path[self.depth :]
        if lookup(self.observed, path) is not None:
            return at.take(given.constraints)._replace(weight=None)
        with lenient():
            return self.latent(at, given.constraints)._replace(weight=None)

    def latent(self, at: At, value: Any) -> Visit:
        """Visit a latent site."""
        raise NotImplementedError


class Describe(_Latents):
    """Draw every latent; on record are its coordinates there and a mark, 1 where the site is live (see `mask`)."""

    exact = False

    def __init__(self, target: Target):
        super().__init__(target)
        self.attitude = self.attitude._replace(in_place=True)
        self.discrete: dict[Path, bool] = {}
        self.learned: dict[Path, None] = {}

    def latent(self, at, value):
        """Draw the site and note what it is."""
        path = at.path[self.depth :]
        visit = at.draw()
        self.discrete[path] = _is_discrete(at.distribution)
        if self.discrete[path]:
            _check_plain(at)
            prototype = jnp.zeros((*jnp.shape(visit.value), len(_outcomes(path, at.distribution))), float)
        else:
            prototype = _bijection(at).inv(visit.value)
            if is_learned(at.attitude.coordinates, at.path):
                self.learned[path] = None
        return visit._replace(record=(prototype, jnp.asarray(at.attitude.live, float)))


class Constrain(_Latents):
    """Take every latent from its coordinates; on record is the log determinant of the map."""

    def latent(self, at, value):
        """Map the coordinates of one site to its value."""
        if value is None:
            raise missing(at.path, type(at.distribution).__name__)
        # What is given is a coordinate, not a value that a support could be asked about.
        at = at._replace(attitude=at.attitude._replace(known=None))
        if _is_discrete(at.distribution):
            return at.take(_outcomes(at.path, at.distribution)[value])
        bijection = _bijection(at)
        constrained = bijection(value)
        return at.take(constrained)._replace(record=bijection.log_abs_det_jacobian(value, constrained))


class Unconstrain(_Latents):
    """Take every latent as it is; on record are its coordinates and the log determinant of the map at them."""

    def latent(self, at, value):
        """Map the value of one site to its coordinates; the log determinant is infinite outside the support."""
        if value is None:
            raise missing(at.path, type(at.distribution).__name__)
        visit = at.take(value)
        if _is_discrete(at.distribution):
            coordinates, log_det = _index(at, visit.value)
        else:
            bijection = _bijection(at)
            coordinates = bijection.inv(visit.value)
            log_det = bijection.log_abs_det_jacobian(coordinates, visit.value)
            inside = at.distribution.support(visit.value)
            log_det = jnp.where(inside, log_det, jnp.inf)
            spread = jnp.reshape(inside, inside.shape + (1,) * (coordinates.ndim - inside.ndim))
            coordinates = jnp.where(spread, coordinates, jnp.zeros_like(coordinates))
        return visit._replace(record=(coordinates, log_det))


def _index(at, value):
    equal = value[..., None] == _outcomes(at.path, at.distribution)
    return jnp.argmax(equal, axis=-1), jnp.where(jnp.any(equal, axis=-1), 0.0, jnp.inf)
