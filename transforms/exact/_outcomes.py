"""The outcomes of a program's noise, and the modes that find them and run at one combination of them.

One key has one outcome wherever it is used, so runs that share keys stay coupled, and a key that is used twice by
mistake shows as the bias that it is. Keys do not depend on what is drawn; where one does, it is found missing.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

from .._distribution import batch_shape, elementwise, support
from .._errors import EstimatorError, ObjectiveError, name_of
from .._jax import bits_of_key, vmapped
from .._pytree import size
from .._standard_noise import standard_noise
from ..estimators._finite_support import finite
from ..program._interpreter import Mode
from ..program._site import rebind, value_struct

LAWS = ("finite", "normal", "uniform", "exponential")


# ---- the outcomes of one draw ---------------------------------------------------------------------------------------


class Nodes(NamedTuple):
    """The points of a quadrature and their weights, which sum to one."""

    points: np.ndarray
    weights: np.ndarray


def _gauss(diagonal: np.ndarray, beside: np.ndarray) -> Nodes:
    """Gauss quadrature from the recurrence of orthonormal polynomials q, as the matrix of multiplication by x.

    The nodes are its eigenvalues, the weights 1 / sum_j q_j(x)^2 (Golub and Welsch, 1969).
    """
    points = np.linalg.eigvalsh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
    before, now, total = np.zeros_like(points), np.ones_like(points), np.ones_like(points)
    with np.errstate(over="ignore", invalid="ignore"):  # nodes so far out that their weight is nothing
        for j, (a, b) in enumerate(zip(diagonal[:-1], beside, strict=True)):
            before, now = now, ((points - a) * now - (beside[j - 1] if j else 0.0) * before) / b
            total = total + now**2
        weights = np.nan_to_num(1.0 / total)
    return Nodes(points, weights / weights.sum())


def make_nodes(n: int) -> dict[str, Nodes]:
    """`n` nodes for each law of continuous noise."""
    k = np.arange(1.0, n)
    return {
        "normal": _gauss(np.zeros(n), np.sqrt(k)),
        "uniform": _gauss(np.full(n, 0.5), 0.5 * k / np.sqrt(4.0 * k**2 - 1.0)),
        "exponential": _gauss(2.0 * np.arange(n) + 1.0, k),
    }


class Draw(NamedTuple):
    """A draw in one lane: the law of its noise, how many noise variables it takes, and its value at given noise.

    Beside the value is what a mode wants to know: the cuts of the noise, the probability of the value.
    """

    law: int
    elements: int
    at: Callable[[jax.Array], tuple[Any, jax.Array]]


def draw_from_noise(distribution: Any) -> Draw:
    """A draw as a function of standard noise, and where it jumps: the cuts of each variable, shape (elements, cuts).

    Draws of finite support are functions of uniform noise by the inverse of their distribution function.
    """
    flat = elementwise(distribution)
    if support(flat) is not None:
        return Draw(0, size(batch_shape(flat)), functools.partial(_finite, finite(distribution), value_struct(flat)))
    pushed = standard_noise(distribution)
    if pushed is None:
        raise EstimatorError(
            f"exact_expectation: the draw of a {type(distribution).__name__} cannot be enumerated: its support is not "
            "finite, and it is not known as a function of standard noise. Test such a site by statistics, or register "
            "the function with `standard_noise.register`."
        )
    n = size(pushed.shape)
    return Draw(
        LAWS.index(pushed.law), n, lambda noise: (pushed.push(jnp.reshape(noise, pushed.shape)), jnp.zeros((n, 0)))
    )


def _finite(found, struct, noise):
    """The values at uniform noise, and where they change."""
    cuts = jnp.cumsum(found.fixed, axis=0)[:-1]
    index = jnp.sum(jnp.reshape(noise, found.batch)[None] > cuts, axis=0)
    return found.values[index].astype(struct.dtype), jnp.moveaxis(
        cuts.reshape(len(cuts), math.prod(cuts.shape[1:])), 0, 1
    )


# ---- three ways to run ----------------------------------------------------------------------------------------------


class Dissolving(Mode):
    """Puts in place of each `expectation` what it computes when it is differentiated."""

    nested = True

    def expectation(self, step, operands):
        """The estimate, its draws now noise of the program around."""
        params = step.eqn.params
        return vmapped(params["program"].estimates, params["lanes"])(*operands)

    def enumerates(self, site):
        """Nothing is summed here."""
        return False

    def draw(self, site, operands, lanes, cursor):
        """Leave noise as it is."""
        if site.estimator is not None:
            raise ObjectiveError(
                f"exact_expectation: the sample at {name_of(site.label)} is outside `expectation`, so it has no "
                "gradient estimator to test. Write `exact_expectation(expectation(f))`."
            )
        return rebind(operands, site, lanes), None


class Collecting(Mode):
    """Finds the keys that are drawn from: (key words, count, law) of every draw, both sides of every branch.

    `look` says what a distribution draws, from noise of a dtype.
    """

    def __init__(self, look: Callable[[Any], Draw], dtype: Any):
        self.look = look
        self.dtype = dtype

    def draw(self, site, operands, lanes, cursor):
        """Any outcome, and a record of the keys."""
        found: list[Draw] = []

        def one(key, *arrays):
            found.append(self.look(site.restore(arrays)[0]))
            return jax.tree.leaves(found[-1].at(jnp.zeros((found[-1].elements,), self.dtype))[0])

        values = vmapped(one, lanes)(*operands)
        words = bits_of_key(operands[0])
        words = jnp.reshape(words, (-1, words.shape[-1]))
        about = jnp.array([found[-1].elements, found[-1].law])
        return values, (words, jnp.broadcast_to(about[None], (words.shape[0], 2)))

    def join(self, records):
        """All of them."""
        records = [r for r in records if r is not None]
        return jax.tree.map(lambda *xs: jnp.concatenate(xs), *records) if records else None

    def stack(self, record):
        """Those of every step."""
        return jax.tree.map(lambda x: jnp.reshape(x, (-1, x.shape[-1])), record)

    def branch(self, index, branches, operands):
        """Every branch is run; the values do not matter."""
        outs, records = zip(*[branch(*operands) for branch in branches], strict=True)
        return outs[0], self.join(list(records))


class Table(NamedTuple):
    """The distinct keys, and where the noise variables of each begin."""

    words: np.ndarray
    starts: np.ndarray


class Outcomes(Mode):
    """Runs at the middle of a box of noise; records the first cut of each variable that goes through the box.

    The record is inf where there is none, nan where a probability is nan, and -inf throughout where a key is not found.
    """

    def __init__(self, table: Table, low: jax.Array, high: jax.Array):
        self.table = table
        self.low = low
        self.high = high

    def draw(self, site, operands, lanes, cursor):
        """Look up the noise of the key."""

        def one(key, *arrays):
            hits = jnp.all(jnp.asarray(self.table.words) == bits_of_key(key)[None], axis=-1)
            drawn = draw_from_noise(site.restore(arrays)[0])
            number = jnp.asarray(self.table.starts)[jnp.argmax(hits)] + jnp.arange(drawn.elements)
            value, cuts = drawn.at(0.5 * (self.low + self.high)[number])
            first = _first(cuts, self.low[number][:, None], self.high[number][:, None])
            record = self.zero().at[number].min(first) + jnp.where(jnp.any(jnp.isnan(cuts)), jnp.nan, 0.0)
            return jax.tree.leaves(value), jnp.where(jnp.any(hits), record, -jnp.inf)

        values, record = vmapped(one, lanes)(*operands)
        return values, lax.stop_gradient(self.stack(jnp.reshape(record, (-1, len(self.low)))))

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
    margin = 16.0 * jnp.finfo(cuts.dtype).eps
    inside = (cuts > low + margin) & (cuts < high - margin)
    return jnp.min(jnp.where(inside, cuts, jnp.inf), axis=1, initial=jnp.inf)
