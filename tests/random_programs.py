"""Random programs, small, as data.

A program is a tuple of statements on a state (flag, total): the flag is 0 or 1 and decides what comes, the total is
what is averaged. Its `repr` is its source. The total is a polynomial in the normal draws, so that both ways of
averaging, `exact_expectation` and the sums of `program_sums`, are exact. `program_runs` says the same programs in the
language and on the primitive.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jax import numpy as jnp

import tracegrad as tg
from tracegrad import dist

W = np.array([0.6, 0.3])
SPREAD = 0.5

# ---- the statements --------------------------------------------------------------------------------------------------


class Draw(NamedTuple):
    """Draw from a family whose law depends on the flag; a discrete draw becomes the flag. It changes the total."""

    family: str
    estimator: str
    slope: float


class Branch(NamedTuple):
    """One of two programs, by the flag."""

    yes: tuple
    no: tuple


class Loop(NamedTuple):
    """A program twice, in a scan."""

    body: tuple
    reverse: bool


class Plate(NamedTuple):
    """A program in two lanes, from the total and its double; the lanes meet in a sum or in a product."""

    body: tuple
    product: bool


class Call(NamedTuple):
    """A program that is called."""

    body: tuple


class Program(NamedTuple):
    """Statements, the weight of the log density in the objective, and how to estimate."""

    statements: tuple
    density: float = 0.0
    primitive: bool = False
    credit: bool = True
    forks: int | None = None
    chunk_size: int | None = None
    backward: bool = False


# ---- what is drawn ---------------------------------------------------------------------------------------------------


class Family(NamedTuple):
    """A distribution, its outcomes as (value, probability, log density), and its estimators.

    An estimator comes with the number of alternatives that it compares, and of draws of its own.
    """

    distribution: Callable
    outcomes: Callable
    estimators: dict[str, tuple[Any, int, int]]


NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(9)


def _coin(u):
    return [(z, p, np.log(p)) for z, p in ((0.0, 1.0 - u), (1.0, u))]


def _die(u):
    return [(z, p, np.log(p)) for z, p in ((0.0, u), (1.0, 0.75 - u), (2.0, 0.25 + 0.0 * u))]


def _normal(u):
    constant = np.log(SPREAD * np.sqrt(2.0 * np.pi))
    share = WEIGHTS / WEIGHTS.sum()
    return [(u + SPREAD * x, p + 0.0 * u, -0.5 * x**2 - constant) for x, p in zip(NODES, share, strict=True)]


SCORE = {"reinforce": (tg.reinforce(), 0, 0), "baseline": (tg.reinforce(baseline=0.4), 0, 0)}
FAMILIES = {
    "coin": Family(
        dist.Bernoulli,
        _coin,
        SCORE
        | {"enum": (tg.enum(), 0, 0), "mvd": (tg.mvd(), 1, 0), "local": (tg.local_expectation(), 1, 0)}
        | {"sum_and_sample": (tg.sum_and_sample(1), 2, 1), "unordered_set": (tg.unordered_set(2), 1, 1)},
    ),
    "die": Family(
        lambda u: dist.Categorical(probs=jnp.stack([u, 0.75 - u, jnp.full_like(u, 0.25)], -1)),
        _die,
        SCORE
        | {"enum": (tg.enum(), 0, 0), "mvd": (tg.mvd(), 1, 1), "local": (tg.local_expectation(), 2, 0)}
        | {"sum_and_sample": (tg.sum_and_sample(1), 2, 1), "unordered_set": (tg.unordered_set(2), 1, 1)},
    ),
    "normal": Family(lambda u: dist.Normal(u, SPREAD), _normal, {**SCORE, "reparam": (tg.reparam(), 0, 0)}),
}

# ---- what the statements mean ----------------------------------------------------------------------------------------


def law(w, flag):
    """0.36 or 0.66 at `W`."""
    return w[0] ** 2 + w[1] * flag


def after(draw, w, z, total):
    """The total after a draw."""
    return total * (1.0 + w[1] * z) + draw.slope * z * w[0] + w[1]


def meet(plate, a, b):
    """What two lanes come to."""
    return a * b if plate.product else a + b


def objective(w, flag, total):
    """What is averaged, the log density aside."""
    return (total - w[0]) ** 2 + w[1] * flag


# ---- at random -------------------------------------------------------------------------------------------------------

NODES_OF_NOISE = 10
MOST_OUTCOMES = 1 << 14


def draws_of(statements):
    """The draws of a program, each as often as it has noise of its own."""
    found = []
    for s in statements:
        if isinstance(s, Draw):
            found.append(s)
        elif isinstance(s, Branch):
            found += draws_of(s.yes) + draws_of(s.no)
        else:
            found += draws_of(s.body) * (1 if isinstance(s, Call) else 2)
    return found


def forks_in(statements):
    """How many alternatives the forking draws of a program name."""
    return sum(FAMILIES[d.family].estimators[d.estimator][1] for d in draws_of(statements))


def outcomes(program):
    """About how many combinations of outcomes the noise of a program has."""
    n = forks_in(program.statements) ** (program.forks or 0)
    for d in draws_of(program.statements):
        n *= NODES_OF_NOISE if d.family == "normal" else 4
        n *= 4 ** FAMILIES[d.family].estimators[d.estimator][2]
    return n


def random_program(chance: random.Random) -> Program:
    """A program that can be enumerated."""
    while True:
        statements = _statements(chance, budget=chance.choice([1, 2, 2, 2, 3]), inside=False)
        primitive = chance.random() < 0.4
        program = Program(
            statements,
            density=0.0 if primitive else chance.choice([0.0, 0.5]),
            primitive=primitive,
            credit=chance.random() < 0.7,
            forks=chance.choice([None, None, 1, 2]) if forks_in(statements) else None,
            chunk_size=chance.choice([None, None, 1, 2]),
            backward=chance.random() < 0.1,
        )
        if outcomes(program) <= MOST_OUTCOMES:
            return program


def _statements(chance, *, budget, inside):
    statements = []
    while not statements or (budget > 0 and chance.random() < 0.7):
        statement = _statement(chance, budget=budget, inside=inside)
        statements.append(statement)
        budget -= len(draws_of([statement]))
    return tuple(statements)


def _statement(chance, *, budget, inside):
    kinds = [Draw, Draw, Draw, Call] + [Branch, Loop, Plate] * (budget > 1)
    kind = chance.choice(kinds)
    if kind is Draw:
        family = chance.choice(["coin", "coin", "die", "normal"])
        estimators = [name for name in FAMILIES[family].estimators if name != "enum" or not inside]
        return Draw(family, chance.choice(estimators), chance.choice([1.0, -0.5, 2.0]))
    if kind is Call:
        return Call(_statements(chance, budget=budget, inside=inside))
    if kind is Branch:
        return Branch(*(_statements(chance, budget=budget - 1, inside=True) for _ in range(2)))
    body = _statements(chance, budget=budget // 2, inside=True)
    return kind(body, chance.random() < 0.5)
