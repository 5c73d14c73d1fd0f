"""The mean of a program of finite draws as a plain sum over all their values, wherever in the program they are.

Each element of each draw is a variable: plates, loops and branches are run at every combination of the values of all
variables, and the results summed with the probabilities. No estimator takes part, so the sum and its derivative are
what an estimator can be held against.
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

from .._distribution import batch_shape, elementwise, support
from .._errors import EstimatorError, name_of
from .._jax import bits_of_key, vmapped
from .._pytree import size, stop_gradient
from ..estimators._finite_support import finite
from ..program._interpreter import Mode, walk
from ..program._share import share
from ..program._site import check_key, rebind, value_struct
from ..program._trace_call import trace_call
from ._estimator_mean import CHUNK, known, rewrite
from ._outcomes import Collecting, Draw, Table

WHAT = "enumeration"


Weigh = Callable[[Any, jax.Array], jax.Array]
"""From a distribution and its support (k, *event_shape) to probabilities, shape (k, *batch_shape)."""


def _of_site(distribution, values):
    return finite(distribution).p


def _look(weigh: Weigh, distribution: Any) -> Draw:
    """A draw by the numbers of its values; in place of a law it has how many there are."""
    flat = elementwise(distribution)
    values: Any = support(flat)  # finite: the program was looked through before
    return Draw(values.shape[0], size(batch_shape(flat)), functools.partial(_at, weigh, flat, values))


def _at(weigh, flat, values, codes):
    """The values at these numbers, one for each element, and their probability."""
    index = jnp.reshape(codes, batch_shape(flat))
    p = jnp.take_along_axis(jnp.asarray(weigh(flat, values), dtype=float), index[None], axis=0)
    return values[index].astype(value_struct(flat).dtype), jnp.prod(p)


class _Plain(Mode):
    """Puts plain draws in place of the sites, whatever their estimators."""

    def draw(self, site, operands, lanes, cursor):
        """A draw that an objective has made its own already keeps its gradient there, where no sum can replace it."""
        if site.estimator is None:
            raise EstimatorError(f"{WHAT}: the objective states its own gradient, so its draws are spent.")
        if support(elementwise(_family(site, operands, lanes))) is None:
            raise EstimatorError(f"{WHAT}: the support at {name_of(site.label)} is not finite.")
        n = 1 + site.distribution.count
        lanes = tuple(lane._replace(mapped=lane.mapped[:n]) for lane in lanes)
        return rebind(operands[:n], site._replace(label=(), estimator=None), lanes), None

    def enumerates(self, site):
        """Nothing is summed here."""
        return False


def _family(site, operands, lanes):
    """The distribution of a site in one lane; its arrays are traced."""
    found: list = []

    def look(key, *arrays):
        found.append(site.restore(arrays)[0])
        return jnp.zeros(())

    jax.eval_shape(vmapped(look, lanes), *operands)
    return found[0]


class _Weighing(Mode):
    """Runs at one combination of values; records its probability, and how often each variable was drawn.

    A variable that is drawn counts n times its probability, n its number of values, so that one that is not drawn, in
    a branch not taken, counts as if all its values were alike.
    """

    def __init__(self, weigh: Weigh, table: Table, sizes: np.ndarray, codes: jax.Array):
        self.weigh, self.table, self.sizes, self.codes = weigh, table, sizes, codes

    def draw(self, site, operands, lanes, cursor):
        """Look up the values of the key."""

        def one(key, *arrays):
            hits = jnp.all(jnp.asarray(self.table.words) == bits_of_key(key)[None], axis=-1)
            drawn = _look(self.weigh, site.restore(arrays)[0])
            start = jnp.asarray(self.table.starts)[jnp.argmax(hits)]
            value, p = drawn.at(self.codes[start + jnp.arange(drawn.elements)])
            mine = (jnp.arange(len(self.sizes)) >= start) & (jnp.arange(len(self.sizes)) < start + drawn.elements)
            # A key that was not found counts as drawn twice: it depends on what was drawn.
            visits = jnp.where(jnp.any(hits), mine.astype(int), 2)
            return jax.tree.leaves(value), p * float(drawn.law) ** drawn.elements, visits

        values, p, visits = vmapped(one, lanes)(*operands)
        return values, (jnp.prod(p), jnp.sum(jnp.reshape(visits, (-1, len(self.sizes))), axis=0))

    def zero(self):
        """Certain, and nothing drawn."""
        return jnp.ones((), float), jnp.zeros((len(self.sizes),), int)

    def join(self, records):
        """Probabilities multiply."""
        records = [self.zero(), *(r for r in records if r is not None)]
        p, visits = zip(*records, strict=True)
        return functools.reduce(jnp.multiply, [x.astype(float) for x in p]), sum(visits[1:], visits[0])

    def stack(self, record):
        """So they do from step to step."""
        return jnp.prod(record[0]), jnp.sum(record[1], axis=0)


def _variables(plan, operands):
    """The keys that are drawn from, with the numbers of their variables, and how many values each variable has."""

    @jax.jit
    def collect(*xs):
        return walk(plan, dict(zip(plan.inputs, xs, strict=True)), Collecting(functools.partial(_look, _of_site), int))[
            1
        ]

    record = collect(*map(stop_gradient, operands))
    if record is None:
        return Table(np.zeros((1, 1), np.uint32), np.zeros(1, int)), np.zeros(0, int)
    words, about = map(known, record)
    words, where = np.unique(words, axis=0, return_inverse=True)
    counts, values = np.zeros(len(words), int), np.zeros(len(words), int)
    for i, found in zip(where.ravel(), about, strict=True):
        if counts[i] and (counts[i], values[i]) != tuple(found):
            raise EstimatorError(f"{WHAT}: one key is drawn from for two distributions of different sizes.")
        counts[i], values[i] = found
    return Table(words, np.cumsum(counts) - counts), np.repeat(values, counts)


def outcome_sum(fun: Callable, *, limit: int = 1 << 16, weigh: Weigh = _of_site) -> Callable:
    """The exact mean of a program whose draws have finite supports, by a sum over all their values.

        E f = sum over values v of all draws of p(v; args) f(v; args)

    Its derivative is that of the sum: exact, whatever the estimators at the sites.

    Args:
        fun: `f(key, *args)`, sampling, with or without an `expectation`; a float scalar or a pytree of floats.
        limit: the largest number of combinations of values.
        weigh: the probabilities of a distribution at its support; those of the estimators where none are given.

    Returns:
        A function of the same arguments that returns the mean and the number of combinations, an int. It runs on known
        keys: not inside `jit` or `vmap`.

    Raises:
        EstimatorError: a support is not finite; there are more combinations than `limit`; a draw is in a `while_loop`;
            keys depend on draws or are used twice; the program calls `jax.random` itself; the objective states its own
            gradient (`leave_one_out`, `vimco`, ...), and so has no draws left.

    Example:
        >>> import jax, numpyro.distributions as dist
        >>> from tracegrad.transforms import sample
        >>> from tracegrad.transforms._internal import outcome_sum
        >>> def f(key, p):
        ...     return jax.vmap(lambda k: sample(k, dist.Bernoulli(p)))(jax.random.split(key, 3)).sum() ** 2.0
        >>> mean, outcomes = outcome_sum(f)(jax.random.key(0), 0.5)
        >>> float(mean), outcomes
        (3.0, 8)
    """

    def mean_of(key, *args, **kwargs):
        check_key(key, "outcome_sum")
        call = trace_call(fun, (key, *args), kwargs)
        plan, operands = rewrite(call, _Plain(), WHAT, nested=False)
        table, sizes = _variables(plan, operands)
        total = math.prod(sizes.tolist())
        if total > limit:
            raise EstimatorError(f"{WHAT}: {total} combinations of values are over the limit of {limit}.")
        codes = np.stack(np.unravel_index(np.arange(total), sizes), -1) if len(sizes) else np.zeros((1, 0), int)
        sums, visits = _sum(plan, weigh, table, sizes, codes)(*operands)
        if np.any(known(visits) > 1):
            raise EstimatorError(f"{WHAT}: a key is drawn from twice, or depends on what was drawn.")
        return jax.tree.unflatten(jax.tree.structure(call.out), sums), total

    return mean_of


def _sum(plan, weigh, table, sizes, codes):
    @jax.jit
    def total(*operands):
        def run(code):
            env = dict(zip(plan.inputs, operands, strict=True))
            outs, (p, visits) = walk(plan, env, _Weighing(weigh, table, sizes, code))
            return [share(p, y) for y in outs], visits

        outs, visits = lax.map(run, jnp.asarray(codes), batch_size=min(CHUNK, len(codes)))
        return [jnp.sum(y, axis=0) / len(codes) for y in outs], jnp.max(visits, axis=0)

    return total
