"""Other coordinates for the latents of a program, chosen from outside: where samplers and automatic families move.

A program in other coordinates is the same program, with the same addresses, choices and density. What changes is its
unconstrained space (`to_unconstrained`, `auto`, `nuts`): where a normal or a chain fits badly in the coordinates of the
support alone, as in the funnel of a hierarchical scale, it may fit in others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import numpyro.distributions as dist
from jax import numpy as jnp
from numpyro.distributions import constraints

from .._errors import AddressError, DensityError
from ..distributions._supports import differ, is_real, support_of
from ..transforms._internal import real
from ._addresses import Path, as_path, show
from ._by_address import ByAddress, InForce

LEARNED = "learned"
"""A centring that is a parameter of the family, with these coordinates or those as a fit finds them best."""

HALFWAY = 0.5
"""Where a learned centring is looked at before it has a value: shapes do not depend on it."""


class Noncentred(eqx.Module):
    """See `noncentred`."""

    centring: Any

    @property
    def is_learned(self) -> bool:
        """Whether the centring is a parameter."""
        return isinstance(self.centring, str)

    def bijection(self, path: Path, distribution: Any) -> Any:
        """The map from the coordinates to the value, by the location and scale that the site has now."""
        base = _unwrapped(distribution)
        if hasattr(base, "scale_tril"):
            return self._of_vector(path, base)
        loc, scale = getattr(base, "loc", None), getattr(base, "scale", None)
        if loc is None or scale is None or base.support is not constraints.real:
            raise DensityError(
                f"noncentred() at {show(path)}: a {type(base).__name__} is no family of a location and a scale on the "
                "real line (Normal, StudentT, Laplace, Cauchy, MultivariateNormal, ...). Leave the address out, or "
                "give a transform of numpyro's."
            )
        shape = distribution.batch_shape + distribution.event_shape
        if not self.is_learned and not _spreads_to(jnp.shape(self.centring), shape):
            raise DensityError(
                f"noncentred(centring) at {show(path)}: a centring of the shape {jnp.shape(self.centring)} does not "
                f"broadcast to a value of the shape {shape}."
            )
        centring = HALFWAY if self.is_learned else self.centring
        scale = jnp.broadcast_to(scale, shape) ** (1.0 - centring)
        return dist.transforms.AffineTransform(jnp.broadcast_to(loc, shape) * (1.0 - scale * centring), scale)

    def _of_vector(self, path, base):
        if not (isinstance(self.centring, float) and self.centring == 0.0):
            raise DensityError(
                f"noncentred(centring) at {show(path)}: a {type(base).__name__} is non-centred or centred as a whole. "
                "Write `noncentred()`."
            )
        return dist.transforms.LowerCholeskyAffine(base.loc, base.scale_tril)


def _spreads_to(given, shape) -> bool:
    try:
        return jnp.broadcast_shapes(given, shape) == shape
    except ValueError:
        return False


def _unwrapped(distribution):
    """The distribution beneath `to_event`, `expand` and `mask`."""
    while isinstance(distribution, dist.Independent | dist.ExpandedDistribution | dist.MaskedDistribution):
        distribution = distribution.base_dist
    return distribution


def noncentred(centring: Any = 0.0) -> Noncentred:
    """Coordinates of a site of a location-scale family, counted from its location in units of its scale.

    With `centring` c the coordinate is u = c loc + (value - loc) / scale^(1 - c): at 0 the noise of the site, whose
    prior does not depend on location and scale, at 1 the value itself, between the two a compromise.

    Args:
        centring: from 0, non-centred, to 1, centred; a float, or an array that broadcasts to the value. "learned" makes
            it a parameter of the families of `auto` that are fitted: in `params["centring_logits"]`, its logit by
            address, 0 at the start; the gradient of the objective goes through the coordinates.

    Returns:
        Coordinates, for `with_coordinates`.

    Raises:
        DensityError: a centring outside of 0 and 1; on use, a site of another family.

    Source: Papaspiliopoulos, Roberts and Skold, A General Framework for the Parametrization of Hierarchical Models,
    2007; Gorinova, Moore and Hoffman, Automatic Reparameterisation of Probabilistic Programs, 2020.

    Examples:
        >>> import jax.numpy as jnp, tracegrad as tg
        >>> @tg.gen
        ... def model():
        ...     scale = tg.sample("scale", tg.dist.LogNormal(0.0, 1.0))
        ...     tg.sample("z", tg.dist.Normal(1.0, scale))
        >>> space = tg.to_unconstrained(tg.Target(model.with_coordinates({"z": tg.noncentred()})))
        >>> found = space.constrain(jnp.array([jnp.log(3.0), 0.5]))  # z = 1 + 3 * 0.5
        >>> round(float(found["z"]), 4)
        2.5
    """
    if isinstance(centring, str) and centring == LEARNED:
        return Noncentred(LEARNED)
    real("noncentred", "centring", centring, DensityError, "from 0 to 1", _is_share, scalar=False)
    return Noncentred(float(centring) if isinstance(centring, int | float) else centring)


def _is_share(x):
    return (x >= 0) & (x <= 1)


class Bijected(eqx.Module):
    """Coordinates by a transform of numpyro's, from the real line to the support of a site."""

    transform: Any

    def bijection(self, path: Path, distribution: Any) -> Any:
        """The transform, which must lead from all that is real to all of the support, and to nothing else."""
        start, end, support = self.transform.domain, self.transform.codomain, support_of(distribution)
        axes = len(distribution.batch_shape + distribution.event_shape)
        if not is_real(start) or differ(end, support) or end.event_dim > axes:
            raise DensityError(
                f"with_coordinates at {show(path)}: a {type(self.transform).__name__} leads from {start} to {end}, and "
                f"the values of a {type(distribution).__name__} there, of {axes} axes, are {support}. Give a transform "
                "from the real line to that support, or `noncentred()`."
            )
        return self.transform


def coordinates_of(choice: Any) -> ByAddress:
    """Coordinates by address, checked."""
    if not isinstance(choice, Mapping):
        raise AddressError(
            f"with_coordinates takes a dict from address patterns to coordinates, and got {type(choice).__name__}. "
            "Write {'theta': noncentred()}."
        )
    return ByAddress({pattern: _coordinates(as_path(pattern), x) for pattern, x in choice.items()})


def _coordinates(pattern, given):
    if isinstance(given, Noncentred):
        return given
    if isinstance(given, dist.transforms.Transform):
        return Bijected(given)
    raise DensityError(
        f"with_coordinates: {show(pattern)} must be given `noncentred()` or a transform of numpyro's "
        f"(`numpyro.distributions.transforms`), and got {given!r}."
    )


def coordinates_at(in_force: tuple[InForce, ...], path: Path) -> Any:
    """The coordinates that are chosen at a path, by whoever is furthest outside; None where none are."""
    return next((x for x in [each.at(path) for each in in_force] if x is not None), None)


def bijection_at(in_force: tuple[InForce, ...], path: Path, distribution: Any) -> Any:
    """The bijection that is chosen at a path; None where none is."""
    found = coordinates_at(in_force, path)
    return None if found is None else found.bijection(path, distribution)


def is_learned(in_force: tuple[InForce, ...], path: Path) -> bool:
    """Whether the coordinates at a path have a parameter to learn."""
    found = coordinates_at(in_force, path)
    return isinstance(found, Noncentred) and found.is_learned
