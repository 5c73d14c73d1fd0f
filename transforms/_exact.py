"""The exact expectation of an estimator: its own noise replaced by all outcomes of that noise, with their weights.

What an `expectation` computes is itself a program that draws, and its draws are `noise` (see `_primitive`). So its
mean needs no statistics: find every key that is drawn from, run the program once for each combination of outcomes,
and sum.

    finite support   inverse CDF at the middle of one of `cells` equal parts of (0, 1)
    normal           location + scale * node of Gauss-Hermite quadrature
    uniform          low + (high - low) * node of Gauss-Legendre quadrature
    exponential      node of Gauss-Laguerre quadrature / rate
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

from ._arguments import objective_function, whole
from ._calls import TracedCall, trace_call
from ._errors import EstimatorError, ObjectiveError
from ._interpreter import Mode, walk
from ._jax import inner_jaxprs, trace
from ._outcomes import LAWS, Collecting, Dissolving, Outcomes, Table, draw_on, make_grid
from ._plan import Plan, plan_of, samples_in
from ._primitive import check_key
from ._pytree import stop_gradient

RAW = {"random_bits", "random_gamma", "random_unwrap", "threefry2x32"}
CHUNK = 1 << 15


def _refuse_unknown(jaxpr, what):
    """Refuse what cannot be enumerated."""
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        if name in RAW:
            raise EstimatorError(
                f"{what}: the program makes random numbers of its own (JAX primitive '{name}'), which "
                "cannot be enumerated. Draw through `sample` in a program, through `noise` in an estimator."
            )
        if name == "while" and samples_in(eqn):
            raise EstimatorError(
                f"{what}: a draw is inside a `while_loop`, whose number of draws is not known. Use "
                "`lax.scan` or `lax.fori_loop` with a fixed number of steps, or test by statistics."
            )
        for inner in inner_jaxprs(eqn):
            _refuse_unknown(inner, what)


def rewrite(call: TracedCall, mode: Mode, what: str, *, nested: bool) -> tuple[Plan, list]:
    """The plan of a call as a mode runs it, and its operands; `nested` is as for `plan_of`."""
    plan = plan_of(call.jaxpr, nested=nested)
    written = trace(lambda *xs: walk(plan, dict(zip(plan.inputs, xs, strict=True)), mode)[0], *call.operands)
    _refuse_unknown(written.jaxpr, what)
    return plan_of(written.jaxpr), [*written.consts, *call.operands]


def known(x: Any) -> np.ndarray:
    """An array that is not traced."""
    try:
        return np.asarray(x)
    except jax.errors.JAXTypeError as error:
        raise ObjectiveError(
            "exact_expectation runs on known values: call it outside `jit` and `vmap`. `jax.grad`, `jacfwd`, `jacrev` "
            "and `hessian` of it work."
        ) from error


def _tabulate(plan, operands, grid):
    """The table of keys, and the law of each noise variable."""

    @jax.jit
    def collect(*xs):
        return walk(plan, dict(zip(plan.inputs, xs, strict=True)), Collecting(functools.partial(draw_on, grid)))[1]

    record = collect(*map(stop_gradient, operands))
    if record is None:
        return Table(np.zeros((1, 1), np.uint32), np.zeros(1, int)), []
    words, about = map(known, record)
    words, where = np.unique(words, axis=0, return_inverse=True)
    laws, counts = np.zeros(len(words), int), np.zeros(len(words), int)
    for i, (count, law) in zip(where.ravel(), about, strict=True):
        if counts[i] and laws[i] != law:
            raise EstimatorError(
                f"exact_expectation: one key is drawn from twice, for {LAWS[laws[i]]} and for {LAWS[law]} noise, whose "
                "outcomes cannot be matched. Give each draw a key of its own."
            )
        laws[i], counts[i] = law, max(counts[i], count)
    return Table(words, np.cumsum(counts) - counts), np.repeat(laws, counts)


def _combinations(laws, grid, limit):
    """All combinations of outcomes, shape (combinations, noise variables), and their weights."""
    sizes = [len(grid.points[law]) for law in laws]
    total = math.prod(sizes)
    if total > limit:
        raise EstimatorError(
            f"exact_expectation: {len(sizes)} noise variables have {total} combinations of outcomes, over the limit of "
            f"{limit}. Make the program smaller, lower `cells` or `nodes`, or raise `limit`."
        )
    codes = np.stack(np.unravel_index(np.arange(total), sizes), -1) if sizes else np.zeros((1, 0), int)
    weights = np.ones(len(codes))
    for column, law in enumerate(laws):
        weights *= grid.weights[law][codes[:, column]]
    return codes, weights


def _check(off, cells):
    worst = float(known(off))
    if math.isinf(worst):
        raise EstimatorError(
            "exact_expectation: a key depends on what was drawn, so the draws are not known beforehand. Derive keys "
            "from the key alone, by `jax.random.split` and `fold_in`."
        )
    if worst > 1.0:
        raise EstimatorError(
            f"exact_expectation: a draw has probabilities that are no multiples of 1/{cells} (cells={cells}), so the "
            "sum would not be exact. Choose parameters at which they are (the derivative is still exact there), or "
            "another number of cells."
        )


def exact_expectation(fun: Callable, *, cells: int = 4, nodes: int = 16, limit: int = 1 << 20) -> Callable:
    """The exact expectation of what an estimator computes: a test of unbiasedness without statistics.

    For `g = expectation(f)`, `exact_expectation(g)(key, *args)` is the sum over all outcomes of the randomness that `g`
    uses, of `g`'s output times the probability of the outcomes; and `jax.grad` of it in the arguments is the same sum
    over the gradient estimates of `g`. If the estimator is unbiased both agree with the truth to rounding error: a
    bias of one part in a million shows at once, for which a z-test would need some 1e12 draws.

        sum_noise P(noise) g(noise, *args),        sum_noise P(noise) dg(noise, *args)

    Draws of finite support are enumerated on a grid of `cells` equal parts of the unit interval, exact where all
    probabilities are multiples of 1/cells; the derivative is taken there, so nothing is lost. Normal, uniform
    and exponential noise becomes the nodes of a quadrature, exact for polynomials up to degree 2 nodes - 1 and, for
    smooth functions, up to an error that falls geometrically in `nodes`. Use double precision (`jax.enable_x64`) for
    errors near 1e-12.

    Args:
        fun: `g(key, *args)`, an `expectation` or any function with some inside (through `jit`, `vmap`, `scan`, `cond`;
            gradients of discrete estimators, too). Its outputs are arrays, in any units.
        cells: parts of the unit interval for each element of a draw of finite support.
        nodes: quadrature nodes for each element of a continuous draw.
        limit: the largest number of combinations of outcomes to run.

    Returns:
        A function of the same arguments, whose outputs are the expectations (floats) of those of `fun`. The key says
        nothing about the result. It runs on known values: not inside `jit` or `vmap`; `grad`, `jacfwd`, `jacrev` and
        `hessian` of it work.

    Raises:
        EstimatorError: a draw cannot be enumerated: another family, a `while_loop`, too many combinations,
            probabilities off the grid, `jax.random` called directly.
        ObjectiveError: a sample is outside every `expectation`.
        RandomKeyError: the first argument is not one typed key.

    Example:
        >>> import jax, numpyro.distributions as dist
        >>> from tracegrad.transforms import exact_expectation, expectation, reinforce, sample
        >>> g = expectation(lambda key, p: 3.0 * sample(key, dist.Bernoulli(p), estimator=reinforce()) ** 2)
        >>> mean = exact_expectation(g)
        >>> round(float(mean(jax.random.key(0), 0.25)), 5), round(float(jax.grad(mean, 1)(jax.random.key(0), 0.25)), 5)
        (0.75, 3.0)
    """
    objective_function("exact_expectation", fun)
    cells, nodes, limit = (
        whole("exact_expectation", name, given, EstimatorError)
        for name, given in (("cells", cells), ("nodes", nodes), ("limit", limit))
    )
    grid = make_grid(cells, nodes)

    @functools.wraps(fun)
    def mean_of(key, *args, **kwargs):
        check_key(key, "exact_expectation")
        call = trace_call(fun, (key, *args), kwargs)
        plan, operands = rewrite(call, Dissolving(), "exact_expectation", nested=True)
        table, laws = _tabulate(plan, operands, grid)
        codes, weights = _combinations(laws, grid, limit)
        sums, off = _sum(plan, grid, table, codes, weights)(*operands)
        _check(off, cells)
        return jax.tree.unflatten(jax.tree.structure(call.out), sums)

    return mean_of


def _sum(plan, grid, table, codes, weights):
    @jax.jit
    def total(*operands):
        def run(code):
            env = dict(zip(plan.inputs, operands, strict=True))
            outs, off = walk(plan, env, Outcomes(grid, table, code))
            return [y if jnp.issubdtype(y.dtype, jnp.floating) else y.astype(float) for y in outs], off

        outs, off = lax.map(run, jnp.asarray(codes), batch_size=min(CHUNK, len(codes)))
        return [jnp.tensordot(jnp.asarray(weights, dtype=y.dtype), y, axes=1) for y in outs], jnp.max(off)

    return total
