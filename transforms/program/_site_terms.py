"""What one site contributes, by the kind of its estimator: computed in one lane, then mapped over the site's lanes.

Each function here is traced once per kind of site, not once per site.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Float

from .._distribution import held
from .._errors import EstimatorError
from .._jax import lane_shape, vary, varying_axes, vmapped, without_lanes
from .._pytree import KINDS, size, stop_gradient
from ._fork_sizes import coefficient_sizes
from ._given_noise import given_noise, with_noise
from ._halves import Kind
from ._site import Site, auxiliary, noise, site_scope


def magic_box(score: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """exp(score - stop_gradient(score)): one in value, the score function in derivative, to every order (DiCE).

    Source: Foerster et al., DiCE: The Infinitely Differentiable Monte Carlo Estimator, 2018.

    Examples:
        >>> import jax
        >>> from tracegrad.transforms import magic_box
        >>> [float(x) for x in jax.value_and_grad(lambda s: 5.0 * magic_box(s))(-3.0)]
        [5.0, 5.0]
    """
    return jnp.exp(score - lax.stop_gradient(score))


def _baseline(given, estimator, shape):
    """A baseline for each score."""
    baseline = jnp.asarray(given, dtype=float)
    try:
        return jnp.broadcast_to(baseline, shape)
    except ValueError as error:
        raise EstimatorError(
            f"{type(estimator).__name__.lower()}: the baseline has the shape {list(baseline.shape)}, and the draw has "
            f"scores of the shape {list(shape)}. Give a number, or an array that broadcasts to the shape of the draw's "
            "elements."
        ) from error


@functools.lru_cache(maxsize=KINDS)
def _direct(site: Site):
    @jax.jit
    def run(key, *arrays):
        distribution, estimator = site.restore(arrays)
        drawn = estimator.draw(key, distribution)
        score = None if drawn.score is None else jnp.asarray(drawn.score, dtype=float)
        control = None if drawn.control is None else jnp.asarray(drawn.control, dtype=float)
        if drawn.baseline is None or score is None:
            return jax.tree.leaves(drawn.value), score, None, control
        return jax.tree.leaves(drawn.value), score, _baseline(drawn.baseline, estimator, score.shape), control

    return run


@functools.lru_cache(maxsize=KINDS)
def _fork(site: Site, *, sized: bool = False):
    @jax.jit
    def run(key, *arrays):
        distribution, estimator = site.restore(arrays)
        value = stop_gradient(noise(key, held(distribution)))
        alternatives, coefficients = estimator.fork(auxiliary(key), distribution, value)
        coefficients = jnp.asarray(coefficients, dtype=float)
        leaves = jax.tree.leaves(stop_gradient(alternatives))
        zeros = coefficients - lax.stop_gradient(coefficients)
        return jax.tree.leaves(value), leaves, zeros, sizes(key, arrays, value) if sized else None

    def sizes(key, arrays, value):
        n = site.distribution.count

        def coefficients_of(own):
            distribution, estimator = site.restore([*own, *arrays[n:]])
            return jnp.asarray(estimator.fork(auxiliary(key), distribution, value).coefficients, dtype=float)

        return coefficient_sizes(coefficients_of, list(arrays[:n]), site.restore(arrays)[0])

    return run


@functools.lru_cache(maxsize=KINDS)
def _enumerated(site: Site):
    @jax.jit
    def run(key, *arrays):
        distribution, estimator = site.restore(arrays)
        values, probabilities = estimator.enumerate(distribution)
        return jax.tree.leaves(values), probabilities

    return run


def _anonymous(site: Site) -> Site:
    return site._replace(label=())


def _spread(values, operands):
    """Values that vary along the mesh axes that the operands vary along, as those of the primitive do."""
    return vary(values, varying_axes(operands))


def _after_noise(run, site: Site, operands, lanes, made):
    """What is run in a lane of a site, its operands and its lanes, noise that is `made` for its key among them."""
    if not made:
        return run, operands, lanes
    avals = tuple((a.shape, a.dtype) for a in without_lanes(operands, lanes))
    n = site.distribution.count
    arrays = tuple(jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in avals[1 : n + 1])
    return given_noise(run, Kind(site.distribution, arrays), avals), [*operands, *made], with_noise(lanes, len(made))


def direct(site: Site, operands, lanes, made=()):
    """Values, scores, baselines and controls (None where there are none) of a direct site, with its lanes in front."""
    with site_scope(site.label):
        run, reads, within = _after_noise(_direct(_anonymous(site)), site, operands, lanes, made)
        values, *rest = vmapped(run, within)(*reads)
    return (_spread(values, operands), *rest)


@functools.lru_cache(maxsize=KINDS)
def _score_shape(site: Site, avals):
    shapes = [jax.ShapeDtypeStruct(s, d) for s, d in avals]
    score = jax.eval_shape(_direct(site), *shapes)[1]
    return None if score is None else score.shape


def score_shape(site: Site, avals, lanes) -> tuple[int, ...] | None:
    """The shape of a direct site's score, lanes in front; None where it has none."""
    avals = without_lanes(avals, lanes)
    shape = _score_shape(_anonymous(site), tuple((a.shape, a.dtype) for a in avals))
    return None if shape is None else (*lane_shape(lanes), *shape)


def fork(site: Site, operands, lanes, made=(), *, sized=False):
    """Values, alternatives and zero-valued coefficients of a forking site; lanes come after the alternatives' axis.

    Last come the sizes of the coefficients (`_fork_sizes`), where they are wanted.
    """
    with site_scope(site.label):
        run, reads, within = _after_noise(_fork(_anonymous(site), sized=sized), site, operands, lanes, made)
        values, *rest = vmapped(run, within, out_axes=(0, 1, 1, 1))(*reads)
    return (_spread(values, operands), *rest)


def enumerated(site: Site, operands):
    """The support of an enumerated site, and its probabilities."""
    with site_scope(site.label):
        values, probabilities = _enumerated(_anonymous(site))(*operands)
    return _spread(values, operands), probabilities


class ForkShape(NamedTuple):
    """How many alternatives each element has, and the elements: lanes, then independent elements of the value."""

    alternatives: int
    elements: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many alternatives the site names in all."""
        return self.alternatives * size(self.elements)


@functools.lru_cache(maxsize=KINDS)
def _fork_shape(site: Site, avals):
    shapes = [jax.ShapeDtypeStruct(s, d) for s, d in avals]
    return jax.eval_shape(_fork(site), *shapes)[2].shape


def fork_shape(site: Site, avals, lanes) -> ForkShape:
    """The shape of a forking site, from the shapes of its operands with lanes."""
    avals = without_lanes(avals, lanes)
    m, *elements = _fork_shape(_anonymous(site), tuple((a.shape, a.dtype) for a in avals))
    return ForkShape(m, (*lane_shape(lanes), *elements))


def replace_one(values, alternatives, shape: ForkShape, number: Any) -> list:
    """The values with alternative `number` in its place, or as they are where it is none of this site's."""
    n = size(shape.elements)
    which = jnp.clip(number // n, 0, shape.alternatives - 1)
    here = (jnp.arange(n) == number % n).reshape(shape.elements) & (number >= 0) & (number < shape.size)

    def one(value, alternative):
        chosen = lax.dynamic_index_in_dim(alternative, which, axis=0, keepdims=False)
        mask = jnp.reshape(here, here.shape + (1,) * (value.ndim - here.ndim))
        return jnp.where(mask, chosen, value)

    return [one(v, a) for v, a in zip(values, alternatives, strict=True)]


def replace_lanes(values, alternatives, shape: ForkShape, axis: int, numbers: jax.Array) -> list:
    """The values with an alternative in place in each lane along an axis: in lane i that of number `numbers[i]`.

    A number counts the alternatives of one lane; the values are as they are where it is none of this site's.
    """
    others = [1 if i == axis else n for i, n in enumerate(shape.elements)]
    n, along = size(others), [-1 if i == axis else 1 for i in range(len(others))]
    which = jnp.clip(numbers // n, 0, shape.alternatives - 1)
    numbers = numbers.reshape(along)
    here = (jnp.arange(n).reshape(others) == numbers % n) & (numbers >= 0) & (numbers < n * shape.alternatives)

    def choose(alternative):
        if shape.alternatives == 1:
            return alternative[0]
        return jax.vmap(lambda a, i: lax.dynamic_index_in_dim(a, i, keepdims=False), (1 + axis, 0), axis)(
            alternative, which
        )

    def one(value, alternative):
        mask = here.reshape(here.shape + (1,) * (value.ndim - here.ndim))
        return jnp.where(mask, choose(alternative), value)

    return [one(v, a) for v, a in zip(values, alternatives, strict=True)]
