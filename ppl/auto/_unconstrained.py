"""The unconstrained space of a target's latents: every continuous one on the real line, by numpyro's bijections.

The bijection of a site is chosen while the program is visited, from the support that the site has there: a support may
depend on other choices, and sites inside `vmap`, `scan` and `repeat` are stacked as their choices are. A discrete
latent of finite support has an index in place of a coordinate; only families use those.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax import numpy as jnp
from jaxtyping import Array, Float, Key

from .._errors import AddressError, ChoiceError, DensityError
from ..core._addresses import Choices, Path, check_known, lookup, merge, nest, paths, show
from ..core._arguments import mapping
from ..core._bound_methods import Plain
from ..core._coordinates import noncentred
from ..core._overrides import isolated
from ..core._target import Target, checked_target
from ..transforms._internal import check_key, finite_real, partial_run
from ._coordinates import Constrain, Describe, Site, Unconstrain

OF_NO_POINT = ("logits", "centring_logits")
"""Parameters of a family that say nothing of the point."""


class Unconstrained(Plain):
    """A target on the unconstrained space of its latents; see `to_unconstrained`. A point is a vector (size,).

    Examples:
        >>> import jax.numpy as jnp, tracegrad as tg
        >>> space = tg.to_unconstrained(tg.Target(tg.gen(lambda: tg.sample("s", tg.dist.Exponential(1.0)))))
        >>> space.size, float(space.constrain(jnp.array([0.0]))["s"]), float(space.log_prob(jnp.array([0.0])))
        (1, 1.0, -1.0)
    """

    target: Target
    sites: tuple[tuple[Path, Site], ...] = eqx.field(static=True)
    normal: tuple[Float[Array, " d"], Float[Array, " d d"]] | None = None
    """A mean and a Cholesky factor: a point is then counted from that mean, in units of that factor."""
    learned: tuple[Path, ...] = eqx.field(static=True, default=())
    """The latents whose centring is a parameter; see `noncentred`."""

    @property
    def size(self) -> int:
        """The number of coordinates."""
        return sum(site.size for _, site in self.sites if not site.discrete)

    @property
    def dtype(self) -> Any:
        """The type of a point."""
        found = [site.dtype for _, site in self.sites if not site.discrete]
        return jnp.result_type(*found) if found else jnp.zeros((), float).dtype

    def unravel(self, point: Float[Array, " d"]) -> Choices:
        """The coordinates of a point by address, a nested dict."""
        finite_real("The unconstrained space", "a point", point, ChoiceError, scalar=False)
        if jnp.shape(point) != (self.size,):
            raise ChoiceError(
                f"A point of the unconstrained space is a vector of {self.size} real coordinates, and got {point!r}."
            )
        if self.normal is not None:
            point = self.normal[0] + self.normal[1] @ point
        out, start = {}, 0
        for path, site in self.sites:
            if not site.discrete:
                out[path] = jnp.reshape(point[start : start + site.size], site.shape).astype(site.dtype)
                start += site.size
        return nest(out)

    def ravel(self, coordinates: Mapping) -> Float[Array, " d"]:
        """A point from coordinates by address.

        Raises:
            AddressError, ChoiceError: the coordinates are not those of the sites.
        """
        sites = [(p, s) for p, s in self.sites if not s.discrete]
        check_known(merge(coordinates), nest(dict(self.sites)), "the unconstrained space", "the coordinates")
        parts = [_flat(lookup(coordinates, p), p, s).astype(self.dtype) for p, s in sites]
        point = jnp.concatenate(parts) if parts else jnp.zeros((0,), self.dtype)
        if self.normal is None:
            return point
        return jax.scipy.linalg.solve_triangular(self.normal[1], point - self.normal[0], lower=True)

    def log_prob(self, point: Float[Array, " d"]) -> Float[Array, ""]:
        """Log gamma(T(point)) + log |det dT|, a scalar in nats."""
        _, log_gamma, log_det = self.forward(self.unravel(point))
        return log_gamma + log_det

    def constrain(self, point: Float[Array, " d"]) -> Choices:
        """The choices T(point) at the latent addresses."""
        return self.forward(self.unravel(point))[0]

    def unconstrain(self, choices: Mapping) -> Float[Array, " d"]:
        """The point of given choices at the latent addresses."""
        return self.ravel(self.backward(choices)[0])

    def forward(self, coordinates: Mapping) -> tuple[Choices, Float[Array, ""], Float[Array, ""]]:
        """Choices, log gamma and log |det dT| at coordinates (and indices) by address."""
        out = self._visit(Constrain(self.target), coordinates)
        return self.target.without_observed(out.choices), out.logp, _total(out.records) + self._log_det

    def backward(self, choices: Mapping) -> tuple[Choices, Float[Array, ""]]:
        """Coordinates (and indices) by address, and log |det dT| at them."""
        out = self._visit(Unconstrain(self.target), choices)
        coordinates, log_dets = _apart(out.records)
        return coordinates, _total(log_dets) + self._log_det

    @property
    def _log_det(self) -> Any:
        return 0.0 if self.normal is None else jnp.sum(jnp.log(jnp.diagonal(self.normal[1])))

    def around(self, params: Mapping | None) -> Unconstrained:
        """The space counted from the mean of a normal, in units of its Cholesky factor; of None the space itself.

        Args:
            params: as of `auto.laplace`, `auto.full_rank` or `auto.mean_field`: "loc" and "log_scale", both (d,), and
                perhaps "lower", (d, d).
        """
        if params is None:
            return self
        given = mapping("auto", "around", params, "of parameters")
        params = self._normal({name: x for name, x in given.items() if name not in OF_NO_POINT})
        return Unconstrained(self.target, self.sites, (params["loc"], cholesky_factor(params)), self.learned)

    def centred(self, logits: Mapping) -> Unconstrained:
        """The space at these logits of the centrings that are learned."""
        chosen = {p: noncentred(jax.nn.sigmoid(jnp.asarray(lookup(logits, p), float))) for p in self.learned}
        t = self.target
        target = Target(t.function.with_coordinates(chosen), t.args, t.observed, t.kwargs, t.path)
        return Unconstrained(target, self.sites, self.normal)

    def _normal(self, params):
        """The parameters of a normal on the coordinates, checked."""
        wanted = {"loc": (self.size,), "log_scale": (self.size,), "lower": (self.size,) * 2}
        found = {name: np.shape(x) for name, x in params.items()}
        if {"loc", "log_scale"} - set(found) or found.items() - wanted.items():
            raise DensityError(
                f"`around` is the parameters of a normal on these {self.size} coordinates, {{'loc': ({self.size},), "
                f"'log_scale': ({self.size},)}} and 'lower' where it is correlated, and got the shapes {found}. Write "
                "`around=auto.laplace(target).init(key)`."
            )
        for name, x in params.items():
            finite_real("`around`", f"params[{name!r}]", x, DensityError, scalar=False)
        return {name: jnp.asarray(x, self.dtype) for name, x in params.items()}

    def _visit(self, operation, latents):
        with isolated():
            return self.target.visit(operation, None, latents)


def _flat(value, path, site):
    if value is None:
        raise AddressError(f"The coordinates of {show(path)} are missing. Give all of the unconstrained space.")
    finite_real("The unconstrained space", f"the coordinates of {show(path)}", value, ChoiceError, scalar=False)
    if jnp.shape(value) != site.shape:
        raise ChoiceError(f"The coordinates of {show(path)} have the shape {site.shape}, and got {jnp.shape(value)}.")
    return jnp.ravel(value)


def cholesky_factor(params: Mapping) -> Float[Array, " d d"]:
    """The Cholesky factor of a covariance: exp(log_scale) times a unit lower triangular matrix, row by row."""
    unit = jnp.eye(params["loc"].shape[0], dtype=params["loc"].dtype)
    if "lower" in params:
        unit = unit + jnp.tril(params["lower"], -1)
    return jnp.exp(params["log_scale"])[:, None] * unit


def describe(target: Target) -> Unconstrained:
    """The space of a target, discrete latents with it, by one trace of the program.

    Raises:
        DensityError: a latent without a bijection; one whose density is an estimate; one that is not always sampled.
    """
    checked_target("The unconstrained space", target, DensityError)
    operation, latents = Describe(target), target.latents()
    with isolated():
        # The draws are traced for their shapes, and not compiled.
        described = lambda key: _apart(target.visit(operation, key).records)  # noqa: E731
        (protos, _), marks = partial_run(described, lambda both: both[1], jax.random.key(0))
    missed = [p for p, _ in paths(latents) if lookup(protos, p) is None]
    if missed:
        raise DensityError(
            f"The latents at {', '.join(map(show, missed))} belong to a density that is an estimate (`marginal`, "
            "`normalize`), which has no unconstrained space. Give the joint program as the target."
        )
    _check_always(marks)
    sites = [(p, Site(x.shape, x.dtype, operation.discrete[p])) for p, x in paths(protos)]
    return Unconstrained(target, tuple(sites), learned=tuple(operation.learned))


def _apart(records):
    """Two nested dicts from one whose entries are pairs."""
    pairs = list(paths(records))
    return nest({p: first for p, (first, _) in pairs}), nest({p: second for p, (_, second) in pairs})


def _total(log_dets):
    return sum((jnp.sum(x) for _, x in paths(log_dets)), jnp.zeros((), float))


def _check_always(marks):
    """Refuse latents in a branch that may not be taken: nothing then says what their density is."""
    if any(isinstance(x, jax.core.Tracer) for _, x in paths(marks)):
        return
    unsampled = [show(p) for p, x in paths(marks) if not bool(jnp.all(x == 1.0))]
    if unsampled:
        raise DensityError(
            f"The latents {', '.join(unsampled)} are not sampled on every run (a `cond`, `switch` or `mask` leaves "
            "them out), so the unconstrained space has no density for them. Sample them outside the branch."
        )


def to_unconstrained(target: Target) -> Unconstrained:
    """The density of a target on R^d: every latent site mapped from the real line by numpyro's bijection.

    With T the map from a point to the choices, log_prob(point) = log gamma(T(point)) + log |det dT(point)|. The sites
    and their shapes are found by tracing the program once; the support of a site may depend on other choices.

    Args:
        target: a `Target` whose latents are all continuous.

    Returns:
        An object with `size` (d), `log_prob(point)` (a scalar in nats), `constrain(point)` (the choices),
        `unconstrain(choices)` (the point), and `unravel` and `ravel` between a point, shape (d,), and its coordinates
        by address. It can be used under `jit`, `grad` and `vmap`.

    Raises:
        DensityError: a discrete latent; a support without a bijection; a density that is an estimate; a latent in a
            branch that may not be taken.

    Source: Kucukelbir et al., Automatic Differentiation Variational Inference, 2017, section 2.3.

    Examples:
        >>> import jax.numpy as jnp, tracegrad as tg
        >>> @tg.gen
        ... def model():
        ...     scale = tg.sample("scale", tg.dist.HalfNormal(1.0))
        ...     tg.sample("x", tg.dist.Normal(0.0, scale))
        >>> space = tg.to_unconstrained(tg.Target(model, observed={"x": 0.5}))
        >>> space.size, float(space.constrain(jnp.zeros(1))["scale"])
        (1, 1.0)
    """
    space = describe(target)
    if space.learned:
        raise DensityError(
            f"to_unconstrained: the centring of {', '.join(map(show, space.learned))} is learned, and there is nothing "
            "to learn it here. Fit a family that has it among its parameters (`auto.mean_field`, `full_rank`, "
            "`low_rank`, `flow`), or write `noncentred(c)` with a number."
        )
    discrete = [show(path) for path, site in space.sites if site.discrete]
    if discrete:
        raise DensityError(
            f"to_unconstrained: the latents at {', '.join(discrete)} are discrete, and have no unconstrained "
            "coordinates. Marginalise them (`marginal(model, keep, exact())`), or give them a categorical family "
            "(`auto.mean_field(target)`)."
        )
    return space


def starting_points(
    space: Unconstrained, key: Key[Array, ""], *, radius: float = 2.0, tries: int = 20
) -> Float[Array, " d"]:
    """A point drawn uniformly from (-radius, radius)^d, the first of several at which the density is finite."""
    check_key(key, "starting_points")
    points = jax.random.uniform(key, (tries, space.size), space.dtype, -radius, radius)
    finite = jnp.isfinite(jax.lax.map(space.log_prob, points))
    return points[jnp.argmax(finite)]
