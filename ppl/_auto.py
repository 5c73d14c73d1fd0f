"""Automatic variational families: a density on the unconstrained space of a target, as a generative function.

A family says how to draw a point of the space and how to weigh one; discrete latents of finite support get independent
categoricals. The guide maps points to choices, so its density is that of the choices: with T the map from the space,
q(T(u)) = q(u) / |det dT(u)|. A family of one's own is a subclass of `Family` with `start`, `draw` and `weigh`.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any, ClassVar

import equinox as eqx
import jax
import numpyro.distributions as dist
from jax import numpy as jnp

from ._addresses import Choices, Path, lookup, nest, show
from ._algorithm import Algorithm
from ._errors import AddressError, DensityError
from ._estimated import Estimated
from ._rules import draw_at
from ._target import Target
from ._unconstrained import Unconstrained, describe
from .transforms import check_key, log_density

POINT = "unconstrained"
"""The address, beside those of the latents, at which a guide draws the point: estimators are chosen for it there."""


class Family(eqx.Module):
    """A variational family over the latents of a target: `init(key)` gives parameters, `guide` takes them."""

    space: Unconstrained

    @abc.abstractmethod
    def start(self, key: jax.Array) -> dict:
        """Initial parameters of the point's density."""

    @abc.abstractmethod
    def draw(self, key: jax.Array, params: Mapping, path: Path) -> tuple[jax.Array, jax.Array]:
        """A point, shape (d,), and its log density."""

    @abc.abstractmethod
    def weigh(self, params: Mapping, point: jax.Array) -> jax.Array:
        """The log density of a point."""

    @property
    def name(self) -> str:
        """What messages call it."""
        return type(self).__name__.lower()

    @property
    def guide(self) -> Guide:
        """The family as a generative function of its parameters over the latent addresses."""
        return Guide(family=self, algorithm=_Exact())

    def init(self, key: jax.Array) -> dict:
        """Parameters to start a fit from: a dict of arrays, with the logits of discrete latents under "logits"."""
        check_key(key, f"{self.name}.init")
        logits = {p: jnp.zeros(site.shape, site.dtype) for p, site in self.space.sites if site.discrete}
        return self.start(key) | ({"logits": nest(logits)} if logits else {})


class _Exact(Algorithm):
    """What `Estimated` asks of an algorithm, where the density needs none."""

    indices: ClassVar[tuple[str, ...]] = (POINT,)

    def estimate(self, key, target):
        """Nothing is estimated."""
        raise NotImplementedError

    def estimate_given(self, key, target, retained):
        """Nothing is estimated."""
        raise NotImplementedError


class Guide(Estimated):
    """The generative function of a family: `guide.simulate(key, params)`, `guide.assess(choices, params)`."""

    family: Family
    algorithm: Algorithm

    @property
    def name(self) -> str:
        """The name of the family and of the program."""
        return f"{self.family.name}({self.family.space.target.function.name})"

    def draw(self, key, path, args, kwargs):
        """Draw a point and indices, and map them to choices."""
        params, space = self._params(args, kwargs), self.family.space
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
        params, space = self._params(args, kwargs), self.family.space
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
        return args[0]

    def _partial(self, path, have, lacking):
        return DensityError(
            f"{self.name} at {show(path)}: values are given at {', '.join(map(show, have))} and not at "
            f"{', '.join(map(show, lacking))}. Its latents are drawn together, so give all (it is assessed) or none "
            "(it is simulated)."
        )


def _flat(space: Unconstrained, coordinates: Choices):
    return [(p, lookup(coordinates, p)) for p, site in space.sites if not site.discrete]


# ---- normal families ------------------------------------------------------------------------------------------------


class Distributed(Family):
    """A family whose point has a distribution of numpyro's."""

    scale: float = eqx.field(static=True)

    @abc.abstractmethod
    def distribution(self, params: Mapping) -> Any:
        """The distribution of the point, event shape (d,)."""

    def draw(self, key, params, path):
        """Draw from the distribution."""
        at, q = (*path, POINT), self.distribution(params)
        point = draw_at(at, key, q)
        return point, log_density(q, point)

    def weigh(self, params, point):
        """The distribution's log density."""
        return log_density(self.distribution(params), point)

    def _loc_and_scale(self, key):
        loc = self.scale * jax.random.normal(key, (self.space.size,), self.space.dtype)
        return {"loc": loc, "log_scale": jnp.full(loc.shape, jnp.log(self.scale), loc.dtype)}


class MeanField(Distributed):
    """See `mean_field`."""

    def start(self, key):
        """Near zero, and narrow."""
        return self._loc_and_scale(key)

    def distribution(self, params):
        """Independent normals."""
        return dist.Normal(params["loc"], jnp.exp(params["log_scale"])).to_event(1)


def lower_triangular(params: Mapping) -> jax.Array:
    """The Cholesky factor of the covariance: exp(log_scale) times a unit lower triangular matrix by rows."""
    size = params["loc"].shape[0]
    unit = jnp.tril(params["lower"], -1) + jnp.eye(size, dtype=params["loc"].dtype)
    return jnp.exp(params["log_scale"])[:, None] * unit


class FullRank(Distributed):
    """See `full_rank`."""

    def start(self, key):
        """Near zero, narrow, and uncorrelated."""
        params = self._loc_and_scale(key)
        return params | {"lower": jnp.zeros((self.space.size, self.space.size), self.space.dtype)}

    def distribution(self, params):
        """A normal by its Cholesky factor."""
        return dist.MultivariateNormal(params["loc"], scale_tril=lower_triangular(params))


class LowRank(Distributed):
    """See `low_rank`."""

    rank: int = eqx.field(static=True)

    def start(self, key):
        """Near zero, narrow, with small random factors."""
        one, two = jax.random.split(key)
        factor = 0.1 * self.scale * jax.random.normal(two, (self.space.size, self.rank), self.space.dtype)
        return self._loc_and_scale(one) | {"factor": factor}

    def distribution(self, params):
        """A normal with a diagonal and a low-rank part in its covariance."""
        return dist.LowRankMultivariateNormal(params["loc"], params["factor"], jnp.exp(2.0 * params["log_scale"]))


def mean_field(target: Target, *, scale: float = 0.1) -> MeanField:
    """Independent normals on the unconstrained space, and independent categoricals for discrete latents.

    On a normal posterior with covariance S and precision P the best fit has the right mean and the standard deviations
    1 / sqrt(P_ii), too small by sqrt(S_ii P_ii).

    Args:
        target: a `Target`; its latents are continuous, or discrete of finite support.
        scale: standard deviations at the start, in unconstrained coordinates.

    Returns:
        A family: `init(key)` gives {"loc": (d,), "log_scale": (d,)} and "logits" where a latent is discrete; `guide` is
        a generative function of them. The point is drawn at the address "unconstrained", for `with_estimators`.

    Raises:
        DensityError: as for `to_unconstrained`; a discrete latent without finite support.

    Source: Kucukelbir et al., Automatic Differentiation Variational Inference, 2017.

    Example:
        >>> import jax, optax, tracegrad as tg
        >>> @tg.gen
        ... def model():
        ...     scale = tg.sample("scale", tg.dist.HalfNormal(1.0))
        ...     tg.sample("x", tg.dist.Normal(0.0, scale))
        >>> target = tg.Target(model, observed={"x": 0.5})
        >>> family = tg.auto.mean_field(target)
        >>> bound = tg.elbo(target.function, family.guide, target.observed)
        >>> result = tg.fit(
        ...     lambda key, params: bound(key, target.args, params), family.init(jax.random.key(0)), optax.adam(0.05),
        ...     key=jax.random.key(1), steps=300, maximize=True, progress=False,
        ... )
        >>> bool(family.guide.simulate(jax.random.key(2), result.params).choices["scale"] > 0.0)
        True
    """
    return MeanField(describe(target), scale)


def full_rank(target: Target, *, scale: float = 0.1) -> FullRank:
    """A normal of any covariance on the unconstrained space; d (d + 3) / 2 parameters for d coordinates.

    Args:
        target: a `Target`; discrete latents of finite support get independent categoricals.
        scale: standard deviations at the start.

    Returns:
        A family, of the parameters {"loc": (d,), "log_scale": (d,), "lower": (d, d)}: the Cholesky factor of the
        covariance is exp(log_scale) times a unit lower triangular matrix, row by row.

    Raises:
        DensityError: as for `mean_field`.

    Source: Kucukelbir et al., Automatic Differentiation Variational Inference, 2017.

    Example:
        >>> import jax, tracegrad as tg
        >>> target = tg.Target(tg.gen(lambda: tg.sample("z", tg.dist.Gamma(2.0, 1.0))))
        >>> family = tg.auto.full_rank(target)
        >>> trace = family.guide.simulate(jax.random.key(0), family.init(jax.random.key(1)))
        >>> bool(trace.choices["z"] > 0.0)
        True
    """
    return FullRank(describe(target), scale)


def low_rank(target: Target, rank: int, *, scale: float = 0.1) -> LowRank:
    """A normal with covariance W W' + D on the unconstrained space: W of shape (d, rank), D diagonal.

    Args:
        target: a `Target`; discrete latents of finite support get independent categoricals.
        rank: the number of columns of W.
        scale: standard deviations at the start.

    Returns:
        A family, of the parameters {"loc": (d,), "log_scale": (d,), "factor": (d, rank)}.

    Raises:
        DensityError: as for `mean_field`; a rank that is no positive integer.

    Source: Ong, Nott and Smith, Gaussian Variational Approximation with a Factor Covariance Structure, 2018.

    Example:
        >>> import jax, tracegrad as tg
        >>> target = tg.Target(tg.gen(lambda: tg.sample("z", tg.dist.Normal(0.0, 1.0).expand([10]))))
        >>> tg.auto.low_rank(target, 2).init(jax.random.key(0))["factor"].shape
        (10, 2)
    """
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise DensityError(f"low_rank: rank must be a positive int, and is {rank!r}.")
    return LowRank(describe(target), scale, rank)
