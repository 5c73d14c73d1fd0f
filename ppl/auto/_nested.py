"""Proposals for hierarchies: a few latents by a normal, and given those the others by a normal at the mode they lead to.

Of the many latents of a field, a path or a table of effects, the posterior given the few that are scales and lengths is
mostly near a normal, whose mean and covariance move with those few. No one normal of all can say so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import numpyro.distributions as dist
from jax import lax
from jax import numpy as jnp
from jax.scipy.linalg import cho_solve, solve_triangular

from ..transforms import log_density
from ..transforms._internal import lenient
from ._normal import FullRank, Normal, heavy
from ._unconstrained import Unconstrained, cholesky_factor

OUTER, MOST = 8, 200
"""Coordinates of the smallest sites that are drawn first, together at most; of the others, whose curvature is taken."""
CURVATURES, CLIMBS = 3, 3
"""How often the curvature is taken on the way to the mode, and the steps that are made with each."""
SHARES = (1.0, 0.5, 0.125)
"""Parts of a Newton step, of which the one that rises most is made."""


class Nested(FullRank):
    """Coordinates of the smallest sites by a normal with wide tails, the others given them by Laplace's approximation.

    Its parameters are those of a normal of all, which says what is drawn first and where the search for the mode starts.

    Source: Tierney and Kadane, Accurate Approximations for Posterior Moments and Marginal Densities, 1986; Rue, Martino
    and Chopin, Approximate Bayesian Inference for Latent Gaussian Models, 2009.
    """

    @property
    def widened(self):
        """Itself: what is drawn first has the tails already."""
        return self

    @property
    def scratch(self):
        """The curvature of the inner coordinates."""
        many = len(self._inner)
        return jax.ShapeDtypeStruct((many, many), self.space.dtype)

    def draw(self, key, params, path):
        """The outer coordinates, and the others given them."""
        first, second = jax.random.split(key)
        outside = self._outside(params)
        outer = outside.sample(first)
        mode, factor = self._given(params, outer)
        noise = jax.random.normal(second, mode.shape, mode.dtype)
        inner = mode + solve_triangular(factor, noise, lower=True, trans=1)
        return self._point(outer, inner), log_density(outside, outer) + _normal(noise, factor)

    def weigh(self, params, point):
        """The density of the outer ones, and of the others given them."""
        outer, inner = point[self._outer], point[self._inner]
        mode, factor = self._given(params, outer)
        return log_density(self._outside(params), outer) + _normal(factor.T @ (inner - mode), factor)

    @property
    def _outer(self):
        return np.flatnonzero(_is_outer(self.space))

    @property
    def _inner(self):
        return np.flatnonzero(~_is_outer(self.space))

    def _point(self, outer, inner):
        point = jnp.zeros((self.space.size,), self.space.dtype)
        return point.at[self._outer].set(outer).at[self._inner].set(inner)

    def _outside(self, params):
        """The distribution of the outer coordinates."""
        rows = cholesky_factor(params)[self._outer]
        return heavy(params["loc"][self._outer], jnp.linalg.cholesky(rows @ rows.T))

    def _given(self, params, outer):
        """The mode of the inner coordinates, and the Cholesky factor of the curvature there."""

        def log_prob(inner):
            return self.space.log_prob(self._point(outer, inner))

        def nearer(carry, _):
            at, factor = carry
            factor = _curvature(log_prob, at, factor)
            at = lax.fori_loop(0, CLIMBS, lambda _, x: _climbed(log_prob, x, factor), at)
            return (at, factor), None

        with lenient():
            return lax.scan(nearer, self._guess(params, outer), None, length=CURVATURES)[0]

    def _guess(self, params, outer):
        """The mean and precision that the normal of all has of the inner coordinates given the outer ones."""
        factor, at = cholesky_factor(params), params["loc"]
        precision = cho_solve((factor, True), jnp.eye(len(at), dtype=at.dtype))
        block = jnp.linalg.cholesky(precision[np.ix_(self._inner, self._inner)])
        push = precision[np.ix_(self._inner, self._outer)] @ (outer - at[self._outer])
        return at[self._inner] - cho_solve((block, True), push), block


def _is_outer(space: Unconstrained) -> np.ndarray:
    """Which coordinates are of the smallest sites, as many of those as there is room for."""
    sizes = np.array([site.size for _, site in space.sites], int)
    order = np.argsort(sizes, kind="stable")
    first = np.zeros(len(sizes), bool)
    first[order] = np.cumsum(sizes[order]) <= OUTER
    return np.repeat(first, sizes)


def _normal(noise, factor):
    """The log density of a normal of that precision, at a point whose noise this is."""
    return jnp.sum(jnp.log(jnp.diagonal(factor))) - 0.5 * (noise @ noise + len(noise) * math.log(2.0 * math.pi))


def _curvature(log_prob, at, otherwise):
    """The Cholesky factor of the negative Hessian; another where it is no precision."""
    _, tangent = jax.linearize(jax.grad(log_prob), at)
    found = jnp.linalg.cholesky(-jax.vmap(tangent)(jnp.eye(len(at), dtype=at.dtype)))
    return jnp.where(jnp.all(jnp.isfinite(found)), found, otherwise)


def _climbed(log_prob, at, factor):
    """After a step towards the mode, by that part of it which rises most, if any does."""
    now, slope = jax.value_and_grad(log_prob)(at)
    tried = at + jnp.array(SHARES, at.dtype)[:, None] * cho_solve((factor, True), slope)[None]
    values = jnp.nan_to_num(jax.vmap(log_prob)(tried), nan=-jnp.inf)
    best = jnp.argmax(values)
    return jnp.where(values[best] > now, tried[best], at)


def nested(normal: Any, params: Mapping) -> tuple[Nested, dict] | None:
    """The proposal and its parameters that start from a fitted normal; None where latents do not fall in two parts."""
    space = normal.space
    if not isinstance(normal, Normal) or space.learned or any(site.discrete for _, site in space.sites):
        return None
    outer = _is_outer(space)
    if outer.all() or not outer.any() or (~outer).sum() > MOST:
        return None
    loc, factor = params["loc"], cholesky_factor(params)
    if space.normal is not None:
        loc, factor = space.normal[0] + space.normal[1] @ loc, space.normal[1] @ factor
    diagonal = jnp.diagonal(factor)
    there = {"loc": loc, "log_scale": jnp.log(diagonal), "lower": jnp.tril(factor / diagonal[:, None], -1)}
    return Nested(Unconstrained(space.target, space.sites), normal.scale), there
