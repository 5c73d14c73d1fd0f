"""The shape of a generative function whose density is an estimate: one way to simulate, one to assess."""

from __future__ import annotations

import abc
from collections.abc import Mapping

import jax
import numpy as np
from jax import numpy as jnp
from jaxtyping import Array, Float, Key

from .._errors import ChoiceError, DensityError
from ..core._addresses import Choices, Path, lookup, nest, paths, show
from ..core._generative import GenerativeFunction
from ..core._lane_keys import own
from ..core._operations import Given, Outcome, Project, missing
from ..core._overrides import chosen
from ..transforms import RandomKeyError
from ..transforms._internal import is_boolean, is_numeric


class Estimated(GenerativeFunction):
    """A generative function with one way to simulate and one to assess; every operation is one of the two."""

    @property
    def indices(self) -> tuple[str, ...]:
        """Addresses of draws beside the choices, for which estimators may be chosen."""
        return ()

    @abc.abstractmethod
    def draw(self, key: Key[Array, ""], path: Path, args: tuple, kwargs: dict) -> tuple[Choices, Float[Array, ""]]:
        """Choices, and log w with E[1/w | choices] = 1 / density."""

    @abc.abstractmethod
    def weigh(
        self, key: Key[Array, ""] | None, choices: Choices, path: Path, args: tuple, kwargs: dict
    ) -> Float[Array, ""]:
        """Log w with E[w] = density of the choices."""

    @abc.abstractmethod
    def shapes(self, path: Path, args: tuple, kwargs: dict) -> Choices:
        """The choices as `jax.ShapeDtypeStruct`s."""

    def visit(self, operation, key, given, path, args, kwargs):
        """Simulate where nothing is given, assess where all is, refuse where some is."""
        key = own(key)
        for address in self.indices:
            chosen((*path, address), None)  # Estimators may be chosen for it even where this visit draws none.
        if not operation.exact and not any(part for part in given):
            choices, logp = self.draw(_needed(key, path), path, args, kwargs)
            return self._outcome(operation, choices, logp, {}, path, drawn=True)
        at = _Addresses(self.shapes(path, args, kwargs), given)
        taken = {p: operation.taken((*path, *p), at.given(p)) for p in at.paths}
        lacking = [p for p, value in taken.items() if value is None]
        if operation.exact and lacking:
            raise missing((*path, *lacking[0]), self.name)
        if not lacking:
            choices = nest({p: _as(value, lookup(at.shapes, p), (*path, *p)) for p, value in taken.items()})
            unasked = isinstance(operation, Project) and not any(self._weighed(operation, choices, path, drawn=False))
            known = self._known(operation, choices, path, args, kwargs)
            if known is not None:
                out = self._outcome(operation, choices, known, at.replaced(taken), path, drawn=False)
                return out._replace(records=nest({at.paths[0]: jnp.where(operation.attitude.live, known, 0.0)}))
            logp = jnp.zeros(()) if unasked else self.weigh(key, choices, path, args, kwargs)
            return self._outcome(operation, choices, logp, at.replaced(taken), path, drawn=False)
        if len(lacking) < len(taken):
            raise self._partial(path, [p for p in taken if p not in lacking], lacking)
        choices, logp = self.draw(_needed(key, path), path, args, kwargs)
        return self._outcome(operation, choices, logp, at.replaced(taken), path, drawn=True)

    def _known(self, operation, choices, path, args, kwargs):
        """The log density that is asked for at the one address there is, if it is exact: no key is needed then."""
        below = [p for p, _ in paths(choices)]
        if len(below) != 1 or not operation.asks_for((*path, *below[0])):
            return None
        try:
            return self.weigh(None, choices, path, args, kwargs)
        except RandomKeyError:
            return None

    def _outcome(self, operation, choices, logp, discarded, path, *, drawn) -> Outcome:
        counts = self._weighed(operation, choices, path, drawn=drawn)
        if len(counts) > 1:
            raise DensityError(
                f"{self.name} at {show(path)}: the operation weighs some of its choices and not others, and its "
                f"density is an estimate for all of them together. Select all or none of what is under {show(path)}."
            )
        weight = logp if counts == {True} else None
        for p in self._one_scale(operation, choices, path):
            logp, weight = operation.scaled(p, logp, weight, drawn=drawn)
        return Outcome(choices, choices, logp, jnp.zeros_like(logp) if weight is None else weight, discarded, {})

    def _one_scale(self, operation, choices, path):
        """An address whose scale is that of all; none where there are no scales."""
        if not operation.attitude.scales:
            return []
        each = [(*path, *p) for p, _ in paths(choices)]
        found = [tuple(active.at(p) for active in operation.attitude.scales) for p in each]
        if any(x is not y for other in found for x, y in zip(found[0], other, strict=True)):
            raise DensityError(
                f"{self.name} at {show(path)}: some of its choices have another scale than others, and its density is "
                f"an estimate for all of them together. Give one scale for all that is under {show(path)}."
            )
        return each[:1]

    def _weighed(self, operation, choices, path, *, drawn):
        return {operation.weighs((*path, *p), drawn=drawn) for p, _ in paths(choices)}

    def _partial(self, path, have, lacking):
        return DensityError(
            f"{self.name} at {show(path)}: values are given at {', '.join(map(show, have))} and not at "
            f"{', '.join(map(show, lacking))}. Its density is an estimate for all of them together, so give all (it is "
            "assessed) or none (it is simulated)."
        )


class _Addresses:
    """The addresses of an estimated density, and what is given at each."""

    def __init__(self, shapes: Choices, given: Given):
        self.shapes = shapes
        self.paths = [p for p, _ in paths(shapes)]
        self.all = given

    def given(self, path: Path) -> Given:
        return Given(*(None if part is None else lookup(part, path) for part in self.all))

    def replaced(self, taken: Mapping) -> Choices:
        """The previous choices that are not kept."""
        old = {p: self.given(p).previous for p in self.paths}
        return nest({p: x for p, x in old.items() if x is not None and x is not taken[p]})


def _as(value, struct, path):
    if not (is_numeric(value) or is_boolean(value)):
        raise ChoiceError(f"The choice at {show(path)} has the wrong type: expected {struct.dtype}, got {value!r}.")
    if not isinstance(value, jax.core.Tracer) and np.isnan(np.asarray(value)).any():
        raise ChoiceError(f"The choice at {show(path)} is outside the support: it is nan, {value!r}.")
    value = jnp.asarray(value)
    return value if jnp.issubdtype(value.dtype, jnp.floating) else value.astype(struct.dtype)


def _needed(key, path):
    if key is None:
        raise RandomKeyError(f"The choices at {show(path)} are drawn, so this operation needs a key.")
    return key
