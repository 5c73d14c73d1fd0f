"""Proposals for hierarchies and for odd shapes: few latents by kernels, and given those the others by a normal.

Of the many latents of a field, a path or a table of effects, the posterior given the few that are scales and lengths is
mostly near a normal, whose mean and covariance move with those few. The few themselves have whatever shape: a mixture
of kernels about draws that were weighed takes it on. No one normal of all can say either.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp
from jax.scipy.linalg import cho_solve, solve_triangular

from ..core._addresses import show
from ..transforms._internal import lenient
from ._family import Family
from ._normal import DEGREES, TAILS, Normal
from ._point import hessian
from ._unconstrained import Unconstrained, cholesky_factor

OUTER, MOST = 8, 200
"""Coordinates of the smallest sites that are drawn first, together at most; of the others, whose curvature is taken."""
KERNELS = 200
"""Kernels of the mixture: enough for a shape in so few coordinates, few enough to weigh each draw by all of them."""
CURVATURES = 4
"""How often the curvature is taken on the way to the mode; the last is the one that the draws have."""
LANES, NEARBY = 200, 2**21
"""Draws at a time at most, and the numbers that the curvatures of so many hold at most."""
SHARES = (1.0, 0.5, 0.125)
"""Parts of a Newton step, of which the one that rises most is made."""


class Nested(Family):
    """Coordinates of the smallest sites by a mixture of kernels, the others given them by Laplace's approximation.

    Its parameters are "centres" (m, k) and "factor" (k, k), those of the kernels; "loc" (k,) and "whole" (k, k), of the
    one wide kernel that a share of the draws is from; and a normal of the others given the few, from which the search
    for their mode starts: "inner" (n,) at "origin" (k,), "slope" (n, k) and "precision" (n, n), a Cholesky factor.

    Source: West, Approximating Posterior Distributions by Mixtures, 1993; Tierney and Kadane, Accurate Approximations
    for Posterior Moments and Marginal Densities, 1986; Rue, Martino and Chopin, Approximate Bayesian Inference for
    Latent Gaussian Models, 2009.
    """

    def start(self, key):
        """Nothing is fitted: see `matched`."""
        few, many = len(self._outer), len(self._inner)
        shapes = {"centres": (KERNELS, few), "factor": (few, few), "loc": (few,), "whole": (few, few)}
        shapes |= {"origin": (few,), "factor_inverse": (few, few), "whole_inverse": (few, few)}
        shapes |= {"inner": (many,), "slope": (many, few), "precision": (many, many)}
        return {name: jnp.zeros(shape, self.space.dtype) for name, shape in shapes.items()}

    @property
    def lanes(self):
        """So many that their curvatures stay near."""
        return max(1, min(LANES, NEARBY // max(1, len(self._inner)) ** 2))

    def in_words(self) -> str:
        """How it draws, with the addresses of the few."""
        outer, start, few = _is_outer(self.space), 0, []
        for path, site in self.space.sites:
            few += [show(path)] * bool(outer[start])
            start += site.size
        rest = "" if outer.all() else ", and the others given them by a normal at the mode that they lead to"
        return f"Proposals draw {', '.join(few)} by kernels about draws that were weighed{rest}."

    def draw(self, key, params, path):
        """The outer coordinates, and the others given them."""
        first, second = jax.random.split(key)
        outer = _drawn(params, first)
        mode, factor = self._given(params, outer)
        noise = jax.random.normal(second, mode.shape, mode.dtype)
        inner = mode + _solved_above(factor, noise) if len(mode) else mode
        return self._point(outer, inner), _log_mixture(params, outer) + _log_normal(noise, factor)

    def weigh(self, params, point):
        """The density of the outer ones, and of the others given them."""
        outer, inner = point[self._outer], point[self._inner]
        mode, factor = self._given(params, outer)
        return _log_mixture(params, outer) + _log_normal(factor.T @ (inner - mode), factor)

    def matched(self, params, points, weights):
        """Kernels about points that are picked by weight, which together have their mean and covariance."""
        outer = points[:, self._outer]
        loc = weights @ outer
        apart = outer - loc[None]
        worth, few = 1.0 / jnp.sum(weights**2), outer.shape[1]
        moment = (apart * weights[:, None]).T @ apart
        old = params["whole"]
        whole = jnp.linalg.cholesky((worth * moment + few * old @ old.T) / (worth + few))
        width = jnp.minimum(1.0, (4.0 / (jnp.minimum(worth, KERNELS) * (few + 2.0))) ** (1.0 / (few + 4.0)))
        marks = (jnp.arange(KERNELS, dtype=loc.dtype) + 0.5) / KERNELS
        picked = jnp.minimum(jnp.searchsorted(jnp.cumsum(weights), marks), len(weights) - 1)
        # Drawn towards the mean by what the kernels' own width adds to the covariance.
        centres = loc[None] + jnp.sqrt(1.0 - width**2) * apart[picked]
        narrow = width * math.sqrt(1.0 - 2.0 / DEGREES) * whole  # of which a Student t has `width` squared of it
        inverses = {f"{name}_inverse": _inverse(x) for name, x in (("factor", narrow), ("whole", whole))}
        return params | {"centres": centres, "factor": narrow, "loc": loc, "whole": whole} | inverses

    @property
    def parts(self):
        """The indices of the outer coordinates, and those of the inner ones."""
        outer = _is_outer(self.space)
        return np.flatnonzero(outer), np.flatnonzero(~outer)

    @property
    def _outer(self):
        return self.parts[0]

    @property
    def _inner(self):
        return self.parts[1]

    def _point(self, outer, inner):
        point = jnp.zeros((self.space.size,), self.space.dtype)
        return point.at[self._outer].set(outer).at[self._inner].set(inner)

    def _given(self, params, outer):
        """The mode of the inner coordinates, and the Cholesky factor of the curvature there."""

        def loss(inner):
            return -self.space.log_prob(self._point(outer, inner))

        at = params["inner"] + params["slope"] @ (outer - params["origin"])
        factor = params["precision"]
        if not len(self._inner):
            return at, factor
        curvature = hessian(loss)

        def nearer(carry, moving):
            at, factor = carry
            found = _cholesky(curvature(at))
            factor = jnp.where(jnp.all(jnp.isfinite(found)), found, factor)
            return (jnp.where(moving, _climbed(loss, at, factor), at), factor), None

        with lenient():
            (at, factor), _ = lax.scan(nearer, (at, factor), jnp.arange(CURVATURES) < CURVATURES - 1)
        return at, factor


def _is_outer(space: Unconstrained) -> np.ndarray:
    """Which coordinates are of the smallest sites, as many of those as there is room for."""
    sizes = np.array([site.size for _, site in space.sites], int)
    order = np.argsort(sizes, kind="stable")
    first = np.zeros(len(sizes), bool)
    first[order] = np.cumsum(sizes[order]) <= OUTER
    return np.repeat(first, sizes)


# ---- the few: a mixture of Student t's ------------------------------------------------------------------------------


def _drawn(params, key):
    """From one of the kernels, or for a share from the wide one."""
    which, wide, shape, width = jax.random.split(key, 4)
    centres, few = params["centres"], params["loc"].shape[0]
    centre = centres[jax.random.randint(which, (), 0, len(centres))]
    noise = jax.random.normal(shape, (few,), centre.dtype)
    # A chi-squared number, as a sum of squares: gamma noise would be a loop.
    squares = jnp.sum(jax.random.normal(width, (int(DEGREES),), centre.dtype) ** 2)
    noise = noise * jnp.sqrt(DEGREES / squares)
    is_wide = jax.random.bernoulli(wide, TAILS)
    return jnp.where(is_wide, params["loc"] + params["whole"] @ noise, centre + params["factor"] @ noise)


def _log_mixture(params, outer):
    """The log density of that."""
    narrow = _log_student(outer[None] - params["centres"], params["factor_inverse"])
    wide = _log_student((outer - params["loc"])[None], params["whole_inverse"])[0]
    narrow = jax.nn.logsumexp(narrow) - math.log(len(params["centres"]))
    return jnp.logaddexp(math.log1p(-TAILS) + narrow, math.log(TAILS) + wide)


def _log_student(apart, inverse):
    """Log densities of Student t's at points (m, k) apart from their centres, by the inverse of their scale."""
    few = apart.shape[1]
    far = jnp.sum((apart @ inverse.T) ** 2, axis=1)
    constant = math.lgamma(0.5 * (DEGREES + few)) - math.lgamma(0.5 * DEGREES) - 0.5 * few * math.log(DEGREES * math.pi)
    return constant + jnp.sum(jnp.log(jnp.diagonal(inverse))) - 0.5 * (DEGREES + few) * jnp.log1p(far / DEGREES)


def _inverse(factor):
    """Of a triangular factor."""
    return solve_triangular(factor, jnp.eye(len(factor), dtype=factor.dtype), lower=True)


# ---- the many, given the few ----------------------------------------------------------------------------------------


def _log_normal(noise, factor):
    """The log density of a normal whose precision has this factor, at a point whose noise this is."""
    return jnp.sum(jnp.log(jnp.diagonal(factor))) - 0.5 * (noise @ noise + len(noise) * math.log(2.0 * math.pi))


# In lanes LAPACK's routines share out their lanes to threads, and where two of them run at a time on as few threads
# each waits for the other for ever (jaxlib 0.10). So what is done in lanes is done here.


def _cholesky(matrix):
    """The Cholesky factor, column by column; not a number where there is none."""
    rows = jnp.arange(len(matrix))

    def column(j, factor):
        rest = matrix[:, j] - factor @ factor[j]
        return factor.at[:, j].set(jnp.where(rows >= j, rest / jnp.sqrt(rest[j]), 0.0))

    return lax.fori_loop(0, len(matrix), column, jnp.zeros_like(matrix))


def _solved_below(factor, vector):
    """The solution x of factor x = vector."""

    def row(i, x):
        return x.at[i].set((vector[i] - factor[i] @ x) / factor[i, i])

    return lax.fori_loop(0, len(vector), row, jnp.zeros_like(vector))


def _solved_above(factor, vector):
    """The solution x of factor' x = vector."""

    def row(j, x):
        i = len(vector) - 1 - j
        return x.at[i].set((vector[i] - factor[:, i] @ x) / factor[i, i])

    return lax.fori_loop(0, len(vector), row, jnp.zeros_like(vector))


DECOMPOSITIONS = re.compile(r"\b(cholesky|triangular_solve|lu|qr|geqrf|eigh?|svd|schur|tridiagonal_solve)\[")


def _decomposes(space: Unconstrained) -> bool:
    """Whether a program calls LAPACK itself, which in lanes may wait for ever."""
    point = jax.ShapeDtypeStruct((space.size,), space.dtype)
    return DECOMPOSITIONS.search(str(jax.make_jaxpr(space.log_prob)(point))) is not None


def _climbed(loss, at, factor):
    """After a step towards the mode, by that part of it which falls most, if any does."""
    now, slope = jax.value_and_grad(loss)(at)
    tried = at - jnp.array(SHARES, at.dtype)[:, None] * _solved_above(factor, _solved_below(factor, slope))[None]
    values = jnp.nan_to_num(jax.vmap(loss)(tried), nan=jnp.inf)
    best = jnp.argmin(values)
    return jnp.where(values[best] < now, tried[best], at)


def nested(family: Family, params: Mapping) -> tuple[Nested, dict] | None:
    """The proposal and its parameters that start from a fitted normal; None where there is none.

    Latents that do not fall in two parts have none, nor has a program that decomposes matrices (see `_decomposes`).
    """
    space = family.space
    if not isinstance(family, Normal) or space.learned or any(site.discrete for _, site in space.sites):
        return None
    outer = _is_outer(space)
    if not outer.any() or (~outer).sum() > MOST or _decomposes(space):
        return None
    loc, factor = params["loc"], cholesky_factor(params)
    if space.normal is not None:
        loc, factor = space.normal[0] + space.normal[1] @ loc, space.normal[1] @ factor
    made = Nested(Unconstrained(space.target, space.sites))
    return made, _conditional(loc, factor, *made.parts)


def _conditional(loc, factor, few, many) -> dict[str, Any]:
    """What a normal says of the few, and of the many given them."""
    inverse = solve_triangular(factor, jnp.eye(len(loc), dtype=loc.dtype), lower=True)
    precision = inverse.T @ inverse
    block = jnp.linalg.cholesky(precision[np.ix_(many, many)])
    rows = factor[few]
    whole = jnp.linalg.cholesky(rows @ rows.T)
    slope = -cho_solve((block, True), precision[np.ix_(many, few)])
    return {"origin": loc[few], "whole": whole, "inner": loc[many], "slope": slope, "precision": block}
