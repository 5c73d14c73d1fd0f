"""Normal families on the unconstrained space: independent, of any covariance, of low rank and a diagonal."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import numpy as np
import numpyro.distributions as dist
from jax import numpy as jnp

from .._errors import DensityError
from ..core._arguments import count
from ..core._overrides import draw_at
from ..core._target import Target
from ..transforms import log_density
from ..transforms._internal import positive
from ._family import Family
from ._unconstrained import Unconstrained, cholesky_factor, describe


def start_scale(space: Unconstrained, scale: float | None) -> float:
    """The standard deviations at the start: a tenth, or with a normal to start from those of that normal."""
    return scale if scale is not None else 0.1 if space.normal is None else 1.0


def given_scale(what: str, scale: Any) -> float | None:
    """The scale that a family is given to start from, if any: a number that is known."""
    if scale is None:
        return None
    if isinstance(scale, jax.core.Tracer) or np.ndim(scale) != 0:
        raise DensityError(f"{what}: scale, where a fit starts, must be one number that is known, and is {scale!r}.")
    return float(positive(what, "scale", scale, DensityError))


class Distributed(Family):
    """A family whose point has a distribution of numpyro's."""

    scale: float | None = eqx.field(static=True)

    @abc.abstractmethod
    def distribution(self, params: Mapping) -> Any:
        """The distribution of the point, event shape (d,)."""

    def draw(self, key, params, path):
        """Draw from the distribution."""
        at, q = self.point_at(path), self.distribution(params)
        point = draw_at(at, key, q)
        return point, log_density(q, point)

    def weigh(self, params, point):
        """The distribution's log density."""
        return log_density(self.distribution(params), point)

    def _loc_and_scale(self, key):
        scale = start_scale(self.space, self.scale)
        noise = jax.random.normal(key, (self.space.size,), self.space.dtype)
        loc = scale * noise if self.space.normal is None else jnp.zeros_like(noise)
        return {"loc": loc, "log_scale": jnp.full(loc.shape, jnp.log(scale), loc.dtype)}


TAILS, DEGREES = 0.25, 5.0
"""The share of a Student t in proposals for weights, and its degrees of freedom: weights cost at most that share."""

MATCHED = 500
"""Coordinates up to which a covariance is matched to some thousands of draws."""


class Widened(Distributed):
    """A normal family and, a quarter of the time, a Student t about it, whose tails are heavy enough for weights.

    Source: Hesterberg, Weighted Average Importance Sampling and Defensive Mixture Distributions, 1995.
    """

    normal: Distributed

    def start(self, key):
        """As of the normal."""
        return self.normal.start(key)

    def distribution(self, params):
        """The mixture."""
        loc, lower = params["loc"], cholesky_factor(params)
        shares = dist.Categorical(probs=jnp.array([1.0 - TAILS, TAILS], loc.dtype))
        parts = [dist.MultivariateNormal(loc, scale_tril=lower), dist.MultivariateStudentT(DEGREES, loc, lower)]
        return dist.MixtureGeneral(shares, parts)

    def matched(self, params, points, weights):
        """As of the normal."""
        return self.normal.matched(params, points, weights)


class Normal(Distributed):
    """A normal, by "loc", "log_scale" and perhaps "lower"; proposals for its weights may be of any covariance."""

    @property
    def widened(self):
        """With the tails of a Student t."""
        return Widened(self.space, self.scale, self)

    def matched(self, params, points, weights):
        """Their mean and covariance; the latter drawn to the present one by as many points as there are coordinates."""
        if points.shape[1] > MATCHED:
            return None
        mean = weights @ points
        apart, lower = points - mean[None], cholesky_factor(params)
        worth, size = 1.0 / jnp.sum(weights**2), points.shape[1]
        moment = (apart * weights[:, None]).T @ apart
        found = jnp.linalg.cholesky((worth * moment + size * lower @ lower.T) / (worth + size))
        diagonal = jnp.diagonal(found)
        unit = jnp.tril(found / diagonal[:, None], -1)
        return params | {"loc": mean, "log_scale": jnp.log(diagonal), "lower": unit}


class MeanField(Normal):
    """See `mean_field`."""

    def start(self, key):
        """Near zero and narrow, or at the normal to start from."""
        return self._loc_and_scale(key)

    def distribution(self, params):
        """Independent normals."""
        return dist.Normal(params["loc"], jnp.exp(params["log_scale"])).to_event(1)


class FullRank(Normal):
    """See `full_rank`."""

    def start(self, key):
        """Near zero, narrow, and uncorrelated."""
        params = self._loc_and_scale(key)
        return params | {"lower": jnp.zeros((self.space.size, self.space.size), self.space.dtype)}

    def distribution(self, params):
        """A normal by its Cholesky factor."""
        return dist.MultivariateNormal(params["loc"], scale_tril=cholesky_factor(params))


class LowRank(Distributed):
    """See `low_rank`."""

    rank: int = eqx.field(static=True)

    def start(self, key):
        """Near zero, narrow, with small random factors."""
        one, two = jax.random.split(key)
        factor = (
            0.1
            * start_scale(self.space, self.scale)
            * jax.random.normal(two, (self.space.size, self.rank), self.space.dtype)
        )
        return self._loc_and_scale(one) | {"factor": factor}

    def distribution(self, params):
        """A normal with a diagonal and a low-rank part in its covariance."""
        return dist.LowRankMultivariateNormal(params["loc"], params["factor"], jnp.exp(2.0 * params["log_scale"]))


def mean_field(target: Target, *, around: Mapping | None = None, scale: float | None = None) -> MeanField:
    """Independent normals on the unconstrained space, and independent categoricals for discrete latents.

    On a normal posterior with covariance S and precision P the best fit has the right mean and the standard deviations
    1 / sqrt(P_ii), too small by sqrt(S_ii P_ii).

    Args:
        target: a `Target`; its latents are continuous, or discrete of finite support.
        around: parameters of a normal to start from, as `auto.laplace(target).init(key)` gives them. The point is then
            counted from its mean in units of its Cholesky factor, so that one learning rate suits all coordinates; so
            are "loc" and the scales among the parameters.
        scale: standard deviations at the start, in those coordinates; None is 0.1, with `around` 1.

    Returns:
        A family: `init(key)` gives {"loc": (d,), "log_scale": (d,)} and "logits" where a latent is discrete; `guide` is
        a generative function of them. The point is drawn at the address "unconstrained", for `with_estimators`.

    Raises:
        DensityError: as for `to_unconstrained`; a discrete latent without finite support.

    Source: Kucukelbir et al., Automatic Differentiation Variational Inference, 2017.

    Examples:
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
    return MeanField(describe(target).around(around), given_scale("mean_field", scale))


def full_rank(target: Target, *, around: Mapping | None = None, scale: float | None = None) -> FullRank:
    """A normal of any covariance on the unconstrained space; d (d + 3) / 2 parameters for d coordinates.

    Args:
        target: a `Target`; discrete latents of finite support get independent categoricals.
        around: a normal to start from, as for `mean_field`.
        scale: standard deviations at the start; None is 0.1, with `around` 1.

    Returns:
        A family, of the parameters {"loc": (d,), "log_scale": (d,), "lower": (d, d)}: the Cholesky factor of the
        covariance is exp(log_scale) times a unit lower triangular matrix, row by row.

    Raises:
        DensityError: as for `mean_field`.

    Source: Kucukelbir et al., Automatic Differentiation Variational Inference, 2017.

    Examples:
        >>> import jax, tracegrad as tg
        >>> target = tg.Target(tg.gen(lambda: tg.sample("z", tg.dist.Gamma(2.0, 1.0))))
        >>> family = tg.auto.full_rank(target)
        >>> trace = family.guide.simulate(jax.random.key(0), family.init(jax.random.key(1)))
        >>> bool(trace.choices["z"] > 0.0)
        True
    """
    return FullRank(describe(target).around(around), given_scale("full_rank", scale))


def low_rank(target: Target, rank: int, *, around: Mapping | None = None, scale: float | None = None) -> LowRank:
    """A normal with covariance W W' + D on the unconstrained space: W of shape (d, rank), D diagonal.

    Args:
        target: a `Target`; discrete latents of finite support get independent categoricals.
        rank: the number of columns of W.
        around: a normal to start from, as for `mean_field`.
        scale: standard deviations at the start; None is 0.1, with `around` 1.

    Returns:
        A family, of the parameters {"loc": (d,), "log_scale": (d,), "factor": (d, rank)}.

    Raises:
        DensityError: as for `mean_field`; a rank that is no positive integer.

    Source: Ong, Nott and Smith, Gaussian Variational Approximation with a Factor Covariance Structure, 2018.

    Examples:
        >>> import jax, tracegrad as tg
        >>> target = tg.Target(tg.gen(lambda: tg.sample("z", tg.dist.Normal(0.0, 1.0).expand([10]))))
        >>> tg.auto.low_rank(target, 2).init(jax.random.key(0))["factor"].shape
        (10, 2)
    """
    rank = count("low_rank", "rank", rank)
    return LowRank(describe(target).around(around), given_scale("low_rank", scale), rank)
