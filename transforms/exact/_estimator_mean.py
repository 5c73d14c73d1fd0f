"""The exact expectation of an estimator: its own noise replaced by all outcomes of that noise, with their weights.

What an `expectation` computes is itself a program that draws, and its draws are `noise` (see `_site`). So its
mean needs no statistics: find every key that is drawn from, run the program once for each combination of outcomes,
and sum.

    finite support   inverse CDF at the middle of each part of (0, 1) on which no draw changes
    normal           location + scale * node of Gauss-Hermite quadrature
    uniform          low + (high - low) * node of Gauss-Legendre quadrature
    exponential      node of Gauss-Laguerre quadrature / rate
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

from .._arguments import objective_function, whole
from .._errors import EstimatorError, ObjectiveError, name_of
from .._jax import param, vmapped
from .._pytree import stop_gradient
from ..program._interpreter import run
from ..program._plan import plan_of
from ..program._rewriting import Rewriting
from ..program._site import check_key, rebind
from ..program._trace_call import trace_call
from ._keys import find_keys
from ._measuring import Measure, Measuring
from ._outcomes import LAWS, Nodes, draw_from_noise, make_nodes
from ._rewritten import known, rewrite

CHUNK = 1 << 15
"""How many boxes of noise are run at a time: what memory bounds."""

FEW = 1 << 8
"""How many where there are few, so that a small program does not run mostly empty places. There are two sizes and no
more, because each is compiled."""

MANY = 16 * FEW
"""Up to so many boxes are run by `FEW`, in sixteen calls at most; with more, a chunk is an eighth full or better."""

MARGIN = 16.0
"""Cuts are told apart to so many units of rounding error."""


def _leave(site, operands, lanes):
    """Noise as it is."""
    if site.estimator is not None:
        raise ObjectiveError(
            f"exact_expectation: the sample at {name_of(site.label)} is outside `expectation`, so it has no "
            "gradient estimator to test. Write `exact_expectation(expectation(f))`."
        )
    return rebind(operands, site, lanes)


def _dissolve(step, operands):
    """What an `expectation` computes when it is differentiated, its draws now noise of the program around."""
    return vmapped(param(step.eqn, "program").estimates, step.lanes)(*operands)


def _check_laws(before, now):
    """A key that is drawn from twice must be for one law."""
    if before[1] != now[1]:
        raise EstimatorError(
            f"exact_expectation: one key is drawn from twice, for {LAWS[before[1]]} and for {LAWS[now[1]]} noise, "
            "whose outcomes cannot be matched. Give each draw a key of its own."
        )


class _Cuts(Measure):
    """Runs at the middle of a box of noise; records the first cut of each variable that goes through the box.

    The record is inf where there is none, nan where a probability is nan, and -inf throughout where a key is not found.
    """

    def __init__(self, low: jax.Array, high: jax.Array):
        self.low = low
        self.high = high

    def at(self, distribution, start, found):
        """The value at the middle, and the cuts of its own variables."""
        drawn = draw_from_noise(distribution)
        low, high = (lax.dynamic_slice_in_dim(x, start, drawn.elements) for x in (self.low, self.high))
        value, cuts = drawn.at(0.5 * (low + high))
        first = _first(cuts, low[:, None], high[:, None])
        record = lax.dynamic_update_slice_in_dim(self.zero(), first, start, 0)
        record = jnp.where(jnp.any(jnp.isnan(cuts)), jnp.nan, record)
        return value, lax.stop_gradient(jnp.where(found, record, -jnp.inf))

    def zero(self):
        """No cut."""
        return jnp.full(self.low.shape, jnp.inf)

    def join(self, records):
        """The first ones."""
        return functools.reduce(jnp.minimum, [r for r in records if r is not None], self.zero())

    def stack(self, record):
        """The first ones."""
        return jnp.min(record, axis=0, initial=jnp.inf)


def _first(cuts, low, high):
    """The first cut between two bounds, to rounding error; shape (elements,)."""
    margin = MARGIN * jnp.finfo(cuts.dtype).eps
    inside = (cuts > low + margin) & (cuts < high - margin)
    return jnp.min(jnp.where(inside, cuts, jnp.inf), axis=1, initial=jnp.inf)


class _Boxes(NamedTuple):
    """Boxes of noise, the bounds of each along each variable, and the weight of what is not uniform noise in it."""

    low: np.ndarray
    high: np.ndarray
    weight: np.ndarray

    def take(self, rows) -> _Boxes:
        """Some of them."""
        return _Boxes(*(x[rows] for x in self))

    def join(self, *others) -> _Boxes:
        """These and others."""
        return _Boxes(*map(np.concatenate, zip(self, *others, strict=True)))


def _start(laws, nodes, limit):
    """Each combination of the nodes of quadratures, and the whole of all uniform noise that finite draws stand on."""
    here = [nodes[LAWS[law]] if law else Nodes(np.zeros(1), np.ones(1)) for law in laws]
    _check_limit(len(laws), math.prod(len(node.points) for node in here), limit)
    boxes = _Boxes(np.zeros((1, 0)), np.zeros((1, 0)), np.ones(1))
    for law, node in zip(laws, here, strict=True):
        rows, codes = (x.ravel() for x in np.indices((len(boxes.low), len(node.points))))
        low, high, weight = boxes.take(rows)
        point = node.points[codes][:, None]
        boxes = _Boxes(np.hstack([low, point]), np.hstack([high, point + (law == 0)]), weight * node.weights[codes])
    return boxes


def _check_limit(variables, total, limit):
    if total > limit:
        raise EstimatorError(
            f"exact_expectation: {variables} noise variables have {total} combinations of outcomes or more, over the "
            f"limit of {limit}. Make the program smaller, lower `nodes`, or raise `limit`."
        )


def _split(boxes, cuts, limit, done):
    """Both sides of every cut."""
    for variable in range(cuts.shape[1]):
        rows = np.isfinite(cuts[:, variable])
        upper = boxes.take(rows)
        upper.low[:, variable] = boxes.high[rows, variable] = cuts[rows, variable]
        boxes, cuts = boxes.join(upper), np.concatenate([cuts, cuts[rows]])
        _check_limit(cuts.shape[1], done + len(cuts), limit)
    return boxes


def _mean(visit, boxes, limit):
    """The sum over boxes in which no draw changes: split wherever the run at their middle meets a cut."""
    sums, done = None, 0
    while len(boxes.low):
        here, cuts = visit(boxes)
        sums = here if sums is None else jax.tree.map(jnp.add, sums, here)
        if np.any(cuts == -np.inf):
            raise EstimatorError(
                "exact_expectation: a key depends on what was drawn, so the draws are not known beforehand. Derive "
                "keys from the key alone, by `jax.random.split` and `fold_in`."
            )
        if np.any(np.isnan(cuts)):
            raise EstimatorError("exact_expectation: a draw of finite support has probabilities that are nan.")
        whole = np.all(cuts == np.inf, axis=1)
        done += np.sum(whole)
        boxes = _split(boxes.take(~whole), cuts[~whole], limit, done)
    return sums


def exact_expectation(fun: Callable, *, nodes: int = 16, limit: int = 1 << 20, cells: int | None = None) -> Callable:
    """The exact expectation of what an estimator computes: a test of unbiasedness without statistics.

    For `g = expectation(f)`, `exact_expectation(g)(key, *args)` is the sum over all outcomes of the randomness that `g`
    uses, of `g`'s output times the probability of the outcomes; and `jax.grad` of it in the arguments is the same sum
    over the gradient estimates of `g`. If the estimator is unbiased both agree with the truth to rounding error: a
    bias of one part in a million shows at once, for which a z-test would need some 1e12 draws.

        sum_noise P(noise) g(noise, *args),        sum_noise P(noise) dg(noise, *args)

    Draws of finite support are enumerated with their own probabilities: runs that share a key share its uniform noise,
    and the unit interval is cut wherever a draw of any of them changes. Normal, uniform and exponential noise becomes
    the nodes of a quadrature, exact for polynomials up to degree 2 nodes - 1 and, for smooth functions, up to an error
    that falls geometrically in `nodes`. Use double precision (`jax.enable_x64`) for errors near 1e-12.

    Args:
        fun: `g(key, *args)`, an `expectation` or any function with some inside (through `jit`, `vmap`, `scan`, `cond`;
            gradients of discrete estimators, too). Its outputs are arrays, in any units.
        nodes: quadrature nodes for each element of a continuous draw.
        limit: the largest number of combinations of outcomes to run.
        cells: of no effect; older versions needed probabilities on a grid of so many parts.

    Returns:
        A function of the same arguments, whose outputs are the expectations (floats) of those of `fun`. The key says
        nothing about the result. It runs on known values: not inside `jit` or `vmap`; `grad`, `jacfwd`, `jacrev` and
        `hessian` of it work.

    Raises:
        EstimatorError: a draw cannot be enumerated: another family, a `while_loop`, too many combinations,
            probabilities that are nan, `jax.random` called directly.
        ObjectiveError: a sample is outside every `expectation`; the function returns nothing, or complex numbers.
        RandomKeyError: the first argument is not one typed key.

    Examples:
        >>> import jax, numpyro.distributions as dist
        >>> from tracegrad.transforms import exact_expectation, expectation, reinforce, sample
        >>> g = expectation(lambda key, p: 3.0 * sample(key, dist.Bernoulli(p), estimator=reinforce()) ** 2)
        >>> mean = exact_expectation(g)
        >>> round(float(mean(jax.random.key(0), 0.25)), 5), round(float(jax.grad(mean, 1)(jax.random.key(0), 0.25)), 5)
        (0.75, 3.0)
    """
    objective_function("exact_expectation", fun)
    for name, given in (("nodes", nodes), ("limit", limit), ("cells", cells)):
        if given is not None or name != "cells":
            whole("exact_expectation", name, given, EstimatorError)
    known_nodes = make_nodes(nodes)

    @functools.wraps(fun)
    def mean_of(key, *args, **kwargs):
        check_key(key, "exact_expectation")
        call = trace_call(fun, (key, *args), kwargs)
        kinds = [x.dtype for x in jax.tree.leaves(call.out)]
        if not kinds or any(jnp.issubdtype(kind, jnp.complexfloating) for kind in kinds):
            came = ", ".join(map(str, kinds)) or "nothing"
            raise ObjectiveError(
                f"exact_expectation takes a function that returns real arrays, and this returns {came}."
            )
        jaxpr, operands = rewrite(call, Rewriting(_leave, nested=_dissolve), "exact_expectation")
        table, laws = find_keys(jaxpr, operands, draw_from_noise, float, _check_laws)
        sums = _mean(_visitor(plan_of(jaxpr), table, laws, operands), _start(laws, known_nodes, limit), limit)
        return jax.tree.unflatten(jax.tree.structure(call.out), sums)

    return mean_of


def _visitor(plan, table, laws, operands):
    """The function from boxes to the sum over those that no cut goes through, and the cuts through all of them.

    The run at the middle of a box is one of the program's whatever goes through the box, so that the sum and the cuts
    are found by one compiled program.
    """

    @jax.jit
    def sums_of(low, high, weights, *xs):
        def at(low, high):
            return run(plan, xs, Measuring(table, _Cuts(low, high)))

        outs, cuts = jax.vmap(at)(low, high)
        weights = jnp.where(jnp.all(cuts == jnp.inf, axis=1), weights, 0.0)
        return [_weighted(weights, y) for y in outs], cuts

    def part(boxes, size):
        n = len(boxes.low)
        widths = np.where(np.asarray(laws) == 0, boxes.high - boxes.low, 1.0)
        weights = np.pad(boxes.weight * np.prod(widths, axis=1), (0, size - n))
        low, high = (np.pad(x, ((0, size - n), (0, 0)), mode="edge") for x in (boxes.low, boxes.high))
        sums, cuts = sums_of(*(jnp.asarray(x, dtype=float) for x in (low, high, weights)), *operands)
        return sums, known(stop_gradient(cuts))[:n].astype(float)

    def visit(boxes):
        size = FEW if len(boxes.low) <= MANY else CHUNK
        parts = [part(boxes.take(slice(i, i + size)), size) for i in range(0, len(boxes.low), size)]
        sums, cuts = zip(*parts, strict=True)
        return [sum(ys[1:], ys[0]) for ys in zip(*sums, strict=True)], np.concatenate(cuts)

    return visit


def _weighted(weights, y):
    y = y if jnp.issubdtype(y.dtype, jnp.floating) else y.astype(float)
    return jnp.tensordot(weights.astype(y.dtype), y, axes=1)
