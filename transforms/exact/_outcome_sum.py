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
from .._jax import vmapped
from .._pytree import size
from ..estimators._finite_support import finite
from ..program._interpreter import run
from ..program._plan import plan_of
from ..program._rewriting import Rewriting, plain
from ..program._share import share
from ..program._site import check_key, value_struct
from ..program._trace_call import trace_call
from ._estimator_mean import CHUNK
from ._keys import find_keys
from ._measuring import Measure, Measuring
from ._outcomes import Draw
from ._rewritten import known, rewrite

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


def _unmark(site, operands, lanes):
    """A plain draw, whatever the estimator; of a finite support, and not one that an objective has made its own."""
    if site.estimator is None:  # its gradient is kept where no sum can replace it
        raise EstimatorError(f"{WHAT}: the objective states its own gradient, so its draws are spent.")
    if support(elementwise(_family(site, operands, lanes))) is None:
        raise EstimatorError(f"{WHAT}: the support at {name_of(site.label)} is not finite.")
    return plain(site, operands, lanes)


def _family(site, operands, lanes):
    """The distribution of a site in one lane; its arrays are traced."""
    found: list = []

    def look(key, *arrays):
        found.append(site.restore(arrays)[0])
        return jnp.zeros(())

    jax.eval_shape(vmapped(look, lanes), *operands)
    return found[0]


def _check_sizes(before, now):
    """A key that is drawn from twice must be for distributions of one size."""
    if before != now:
        raise EstimatorError(f"{WHAT}: one key is drawn from for two distributions of different sizes.")


class _Probability(Measure):
    """Runs at one combination of values; records its probability, and how often each variable was drawn.

    A variable that is drawn counts n times its probability, n its number of values, so that one that is not drawn, in
    a branch not taken, counts as if all its values were alike.
    """

    def __init__(self, weigh: Weigh, sizes: np.ndarray, codes: jax.Array):
        self.weigh, self.sizes, self.codes = weigh, sizes, codes

    def at(self, distribution, start, found):
        """The value with these numbers, its probability, and which variables are its own."""
        drawn = _look(self.weigh, distribution)
        value, p = drawn.at(self.codes[start + jnp.arange(drawn.elements)])
        numbers = jnp.arange(len(self.sizes))
        mine = (numbers >= start) & (numbers < start + drawn.elements)
        # A key that was not found counts as drawn twice: it depends on what was drawn.
        return value, (p * float(drawn.law) ** drawn.elements, jnp.where(found, mine.astype(int), 2))

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

    Examples:
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
        jaxpr, operands = rewrite(call, Rewriting(_unmark), WHAT)
        table, sizes = find_keys(jaxpr, operands, functools.partial(_look, _of_site), int, _check_sizes)
        total = math.prod(sizes.tolist())
        if total > limit:
            raise EstimatorError(f"{WHAT}: {total} combinations of values are over the limit of {limit}.")
        codes = np.stack(np.unravel_index(np.arange(total), sizes), -1) if len(sizes) else np.zeros((1, 0), int)
        sums, visits = _sum(plan_of(jaxpr), weigh, table, sizes, codes)(*operands)
        if np.any(known(visits) > 1):
            raise EstimatorError(f"{WHAT}: a key is drawn from twice, or depends on what was drawn.")
        return jax.tree.unflatten(jax.tree.structure(call.out), sums), total

    return mean_of


def _sum(plan, weigh, table, sizes, codes):
    @jax.jit
    def total(*operands):
        def at(code):
            outs, (p, visits) = run(plan, operands, Measuring(table, _Probability(weigh, sizes, code)))
            return [share(p, y) for y in outs], visits

        outs, visits = lax.map(at, jnp.asarray(codes), batch_size=min(CHUNK, len(codes)))
        return [jnp.sum(y, axis=0) / len(codes) for y in outs], jnp.max(visits, axis=0)

    return total
