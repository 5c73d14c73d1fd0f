"""Automatic variational families: a density on the unconstrained space of a target, as a generative function.

A family says how to draw a point of the space and how to weigh one; discrete latents of finite support get independent
categoricals. The guide maps points to choices, so its density is that of the choices: with T the map from the space,
q(T(u)) = q(u) / |det dT(u)|. A family of one's own is a subclass of `Family` with `start`, `draw` and `weigh`.
"""

from __future__ import annotations

import abc
import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import numpyro.distributions as dist
from jax import numpy as jnp
from jaxtyping import Array, Float, Key

from .._errors import AddressError, DensityError
from ..core._addresses import Choices, Path, lookup, name_them, nest, paths, show
from ..core._arguments import mapping
from ..core._bound_methods import Plain
from ..core._overrides import draw_at
from ..densities._estimated import Estimated
from ..posteriors._fitted import Fitted
from ..transforms import log_density
from ..transforms._internal import check_key, finite_real
from ._unconstrained import Unconstrained

POINT = "unconstrained"
"""The address, beside those of the latents, at which a guide draws the point: estimators are chosen for it there."""


NAMED = 5
"""So many of the latents that a point is made of are named."""


class _PointName(str):
    """`POINT`, which in the names of operations, and so in errors, is followed by the latents that the point is of."""

    latents: str

    def __str__(self):
        return f"{POINT}, the coordinates of {self.latents}"


class Family(Plain):
    """A variational family over the latents of a target: `init(key)` gives parameters, `guide` takes them.

    Examples:
        >>> import jax, tracegrad as tg
        >>> target = tg.Target(tg.gen(lambda: tg.sample("s", tg.dist.Exponential(1.0))))
        >>> family = tg.auto.mean_field(target)
        >>> isinstance(family, tg.auto.Family), sorted(family.init(jax.random.key(0)))
        (True, ['loc', 'log_scale'])
    """

    space: Unconstrained

    @abc.abstractmethod
    def start(self, key: Key[Array, ""]) -> dict:
        """Initial parameters of the point's density."""

    @abc.abstractmethod
    def draw(self, key: Key[Array, ""], params: Mapping, path: Path) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        """A point, shape (d,), and its log density."""

    @abc.abstractmethod
    def weigh(self, params: Mapping, point: Float[Array, " d"]) -> Float[Array, ""]:
        """The log density of a point."""

    @property
    def name(self) -> str:
        """What messages call it."""
        return type(self).__name__.lower()

    def point_at(self, path: Path) -> Path:
        """The path of the point that a guide draws, where the guide is at a path."""
        name, latents, start = _PointName(POINT), [], 0
        for at, site in ((at, site) for at, site in self.space.sites if not site.discrete and site.size):
            last = start + site.size - 1
            latents.append(f"{'/'.join(at)} at {start}" + (f" to {last}" if last > start else ""))
            start += site.size
        more = [f"{len(latents) - NAMED} more"] if latents[NAMED:] else []
        name.latents = ", ".join(latents[:NAMED] + more)
        return (*path, name)

    @property
    def widened(self) -> Family:
        """A family of the same parameters with heavier tails, of which importance weights are taken; here itself."""
        return self

    @property
    def lanes(self) -> int | None:
        """How many draws are made at a time; None for as many as fit."""
        return None

    def matched(self, params: Mapping, points: Float[Array, "n d"], weights: Float[Array, " n"]) -> Mapping | None:
        """Parameters with the moments of weighted points, starting from others; None where a family has none such."""
        return None

    @property
    def guide(self) -> Guide:
        """The family as a generative function of its parameters over the latent addresses."""
        return Guide(self)

    def posterior(self, params: Mapping) -> Fitted:
        """The posterior that the family is at these parameters, those of a fit.

        Raises:
            DensityError: they are not those that `init(key)` gives: of other names or shapes, or not finite.
        """
        self._check(params)
        return Fitted(self.space.target, self.guide, (params,))

    def _check(self, params):
        """Refuse parameters of other names or shapes than `init` gives."""
        what = f"{self.name}.posterior"
        given = dict(paths(mapping(what, "params", params, "of parameters, as `init(key)` gives it", DensityError)))
        wanted = dict(paths(jax.eval_shape(self.init, jax.random.key(0))))
        for path in (given.keys() - wanted.keys()) | (wanted.keys() - given.keys()):
            state = "unknown" if path in given else "missing"
            raise DensityError(f"{what}: params has the entries {name_them(wanted)}, and {path[-1]!r} is {state}.")
        for path, like in wanted.items():
            if isinstance(like, jax.ShapeDtypeStruct):
                finite_real(what, f"params at {show(path)}", given[path], DensityError, scalar=False)
                if jnp.shape(given[path]) != like.shape:
                    raise DensityError(
                        f"{what}: params at {show(path)} has the shape {like.shape}, and got {jnp.shape(given[path])}."
                    )

    def __repr__(self):
        shapes = jax.eval_shape(self.init, jax.random.key(0))
        latents = ", ".join(f"{'/'.join(p)} {site.size}" for p, site in self.space.sites)
        numbers = sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))
        kind = re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()
        return (
            f"{kind} family for {self.space.target.function.name}: {self.space.size} coordinates ({latents}), "
            f"{numbers} parameters ({', '.join(shapes)})"
        )

    def init(self, key: Key[Array, ""]) -> dict:
        """Parameters to start a fit from: a dict of arrays, discrete latents' logits under "logits"."""
        check_key(key, f"{self.name}.init")
        logits = {p: jnp.zeros(site.shape, site.dtype) for p, site in self.space.sites if site.discrete}
        learned = {p: jnp.zeros((), self.space.dtype) for p in self.space.learned}
        more = {"logits": nest(logits)} if logits else {}
        return self.start(key) | more | ({"centring_logits": nest(learned)} if learned else {})

    def _at(self, params: Mapping) -> Unconstrained:
        """The space, its coordinates those of the parameters where they are learned."""
        return self.space.centred(params["centring_logits"]) if self.space.learned else self.space


class Guide(Estimated):
    """The generative function of a family: `guide.simulate(key, params)`, `guide.assess(choices, params)`."""

    family: Family

    @property
    def indices(self):
        """The point's."""
        return (POINT,)

    @property
    def name(self) -> str:
        """The name of the family and of the program."""
        return f"{self.family.name}({self.family.space.target.function.name})"

    @property
    def origin(self) -> Any:
        """The family, over the target's program."""
        return type(self.family), self.family.space.target.function.origin

    def draw(self, key, path, args, kwargs):
        """Draw a point and indices, and map them to choices."""
        params = self._params(args, kwargs)
        space = self.family._at(params)
        key, rest = jax.random.split(key)
        point, logq = self.family.draw(key, params, path)
        coordinates = dict(_flat(space, space.unravel(point)))
        for i, (p, q) in enumerate(self._categoricals(params)):
            at = (*path, *p)
            site = jax.random.fold_in(rest, i)
            coordinates[p] = draw_at(at, site, q)
            logq = logq + jnp.sum(log_density(q, coordinates[p]))
        choices, _, log_det = space.forward(nest(coordinates))
        return choices, logq - log_det

    def weigh(self, key, choices, path, args, kwargs):
        """Map the choices to a point and indices, and weigh them."""
        params = self._params(args, kwargs)
        space = self.family._at(params)
        coordinates, log_det = space.backward(choices)
        logq = self.family.weigh(params, space.ravel(coordinates))
        for p, q in self._categoricals(params):
            logq = logq + jnp.sum(log_density(q, lookup(coordinates, p)))
        return logq - log_det

    def shapes(self, path, args, kwargs):
        """The shapes of the latent choices."""
        return self.family.space.target.latents()

    def _categoricals(self, params):
        sites = [p for p, site in self.family.space.sites if site.discrete]
        return [(p, dist.CategoricalLogits(lookup(params["logits"], p))) for p in sites]

    def _params(self, args, kwargs):
        if len(args) != 1 or kwargs:
            raise AddressError(
                f"{self.name} takes one argument, the parameters that `init(key)` gives, and got {len(args)} arguments."
            )
        self._check_finite(args[0])
        return args[0]

    def _check_finite(self, params):
        """Refuse parameters of the point that are known and not finite, by the addresses whose coordinates they are."""
        space = self.family.space
        for name, x in paths(params if isinstance(params, Mapping) else {}):
            if isinstance(x, jax.core.Tracer) or np.shape(x)[:1] != (space.size,) or np.all(np.isfinite(x)):
                continue
            bad = np.ravel(~np.isfinite(np.reshape(x, (space.size, -1))).all(axis=1))
            sites = [p for p, site in space.sites if not site.discrete for _ in range(site.size)]
            at = ", ".join(dict.fromkeys(show(p) for p, is_bad in zip(sites, bad, strict=True) if is_bad))
            raise DensityError(
                f"{self.name}: {show(name)} among its parameters is not finite for the coordinates of {at}. Look "
                "at the fit that they come from: a learning rate that is too high, or a density that is not finite."
            )

    def _partial(self, path, have, lacking):
        return DensityError(
            f"{self.name} at {show(path)}: values are given at {', '.join(map(show, have))} and not at "
            f"{', '.join(map(show, lacking))}. Its latents are drawn together, so give all (it is assessed) or none "
            "(it is simulated)."
        )


def _flat(space: Unconstrained, coordinates: Choices):
    return [(p, lookup(coordinates, p)) for p, site in space.sites if not site.discrete]
