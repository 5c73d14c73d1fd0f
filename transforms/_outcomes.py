"""The outcomes of a program's noise, and the modes that find them and run at one combination of them.

One key has one outcome wherever it is used, so runs that share keys stay coupled, and a key that is used twice by
mistake shows as the bias that it is. Keys do not depend on what is drawn; where one does, it is found missing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

from ._distribution import batch_shape, elementwise, log_density_at_support, support
from ._errors import EstimatorError, ObjectiveError, name_of
from ._interpreter import Mode
from ._jax import bits_of_key, vmapped
from ._primitive import rebind, value_struct
from ._pytree import size

LAWS = ("finite", "normal", "uniform", "exponential")


class StandardNoise(NamedTuple):
    """A draw as a function of standard noise: `push` maps noise of `shape` to a value.

    `law` is "normal", "uniform" or "exponential", all standard.
    """

    law: str
    shape: tuple[int, ...]
    push: Callable[[jax.Array], jax.Array]


@functools.singledispatch
def standard_noise(distribution: Any) -> StandardNoise | None:
    """How a draw of a continuous distribution comes from standard noise, or None where that is not known."""
    return None


# ---- the outcomes of one draw ---------------------------------------------------------------------------------------


class Grid(NamedTuple):
    """The points and weights that stand for each law, in the order of `LAWS`."""

    points: tuple[np.ndarray, ...]
    weights: tuple[np.ndarray, ...]


def make_grid(cells: int, nodes: int) -> Grid:
    """`cells` equal parts of the unit interval, and `nodes` nodes of each quadrature."""
    normal, normal_weights = np.polynomial.hermite_e.hermegauss(nodes)
    uniform, uniform_weights = np.polynomial.legendre.leggauss(nodes)
    exponential, weights = np.polynomial.laguerre.laggauss(nodes)
    return Grid(
        ((np.arange(cells) + 0.5) / cells, normal, (uniform + 1.0) / 2.0, exponential),
        (np.full(cells, 1.0 / cells), normal_weights / normal_weights.sum(), uniform_weights / 2.0, weights),
    )


class Draw(NamedTuple):
    """A draw in one lane: the law of its noise, how many noise variables it takes, and its value at codes of them."""

    law: int
    elements: int
    at: Callable[[jax.Array], tuple[Any, jax.Array]]


def draw_on(grid: Grid, distribution: Any) -> Draw:
    """A draw by cells of the unit interval or nodes of a quadrature."""
    flat = elementwise(distribution)
    values = support(flat)
    if values is not None:
        return Draw(0, size(batch_shape(flat)), functools.partial(_finite, flat, values, grid.points[0]))
    pushed = standard_noise(distribution)
    if pushed is None:
        raise EstimatorError(
            f"exact_expectation: the draw of a {type(distribution).__name__} cannot be enumerated: its support is not "
            "finite, and it is not known as a function of standard noise. Test such a site by statistics, or register "
            "the function with `standard_noise.register`."
        )
    law = LAWS.index(pushed.law)

    def at(codes):
        noise = jnp.asarray(grid.points[law], dtype=float)[codes]
        return pushed.push(jnp.reshape(noise, pushed.shape)), jnp.zeros((), float)

    return Draw(law, size(pushed.shape), at)


def _finite(flat, values, points, codes):
    """The values at cells of the unit interval, and how far their probabilities are from a whole number of cells."""
    logp = lax.stop_gradient(log_density_at_support(flat, values))
    probabilities = jnp.exp(logp)
    batch, n = batch_shape(flat), len(points)
    u = jnp.asarray(points, dtype=logp.dtype)[jnp.reshape(codes, batch)]
    index = jnp.sum(u[None] > jnp.cumsum(probabilities, axis=0)[:-1], axis=0)
    off = jnp.max(jnp.abs(probabilities * n - jnp.round(probabilities * n)))
    tolerance = 1e3 * jnp.finfo(logp.dtype).eps
    return values[index].astype(value_struct(flat).dtype), (off / tolerance).astype(float)


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

    `look` says what a distribution draws.
    """

    def __init__(self, look: Callable[[Any], Draw]):
        self.look = look

    def draw(self, site, operands, lanes, cursor):
        """Any outcome, and a record of the keys."""
        found: list[Draw] = []

        def one(key, *arrays):
            found.append(self.look(site.restore(arrays)[0]))
            return jax.tree.leaves(found[-1].at(jnp.zeros((found[-1].elements,), int))[0])

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
    """Runs at one combination of outcomes; records how far it is from exact (1 is too far, inf a key not found)."""

    def __init__(self, grid: Grid, table: Table, codes: jax.Array):
        self.grid = grid
        self.table = table
        self.codes = codes

    def draw(self, site, operands, lanes, cursor):
        """Look up the outcomes of the key."""

        def one(key, *arrays):
            hits = jnp.all(jnp.asarray(self.table.words) == bits_of_key(key)[None], axis=-1)
            drawn = draw_on(self.grid, site.restore(arrays)[0])
            start = jnp.asarray(self.table.starts)[jnp.argmax(hits)]
            value, off = drawn.at(self.codes[start + jnp.arange(drawn.elements)])
            return jax.tree.leaves(value), jnp.where(jnp.any(hits), off, jnp.inf)

        values, off = vmapped(one, lanes)(*operands)
        return values, lax.stop_gradient(jnp.max(off))

    def zero(self):
        """Exact."""
        return jnp.zeros((), float)

    def join(self, records):
        """The worst."""
        return functools.reduce(jnp.maximum, [r for r in records if r is not None], self.zero())

    def stack(self, record):
        """The worst."""
        return jnp.max(record, initial=0.0)
