"""Random programs, small: as data, in the language, on the primitive, and as sums over outcomes in NumPy.

A program is a tuple of statements on a state (flag, total): the flag is 0 or 1 and decides what comes, the total is
what is averaged. Its `repr` is its source. All probabilities are a half or quarters at `W`, and the total is a
polynomial in the normal draws, so that both ways of averaging, `exact_expectation` and the sums here, are exact.

The sums take no probability, density or derivative from the library, nor from JAX: a path is a row of complex numbers,
and the derivative in a parameter is the imaginary part over the step (Squire and Trapp, SIAM Review 1998).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp
from jax.extend import random as custom

import tracegrad as tg
from tracegrad import dist
from tracegrad.transforms import sample

W = np.array([0.5, 0.25])
SPREAD = 0.5
STEP = 1e-30

# ---- the statements -------------------------------------------------------------------------------------------------


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


# ---- what is drawn --------------------------------------------------------------------------------------------------


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
    "normal": Family(
        lambda u: dist.Normal(u, SPREAD), _normal, {**SCORE, "reparam": (tg.reparam(), 0, 0)}
    ),
}


def _law(w, flag):
    """A quarter or a half at `W`."""
    return w[0] ** 2 + w[1] * flag


def _after(draw, w, z, total):
    return total * (1.0 + w[1] * z) + draw.slope * z * w[0] + w[1]


def _meet(plate, a, b):
    return a * b if plate.product else a + b


def _objective(w, flag, total):
    return (total - w[0]) ** 2 + w[1] * flag


# ---- as sums over outcomes ------------------------------------------------------------------------------------------


class Paths(NamedTuple):
    """Paths through a program so far, one in each row; in each column, one parameter has an imaginary step."""

    weight: np.ndarray
    logp: np.ndarray
    flag: np.ndarray
    total: np.ndarray

    def at(self, rows):
        """Some of them."""
        return Paths(*(x[rows] for x in self))


def _follow(statements, w, paths):
    """The paths after some statements, and which path each comes from."""
    origin = np.arange(len(paths.flag))
    for statement in statements:
        paths, of = FOLLOW[type(statement)](statement, w, paths)
        origin = origin[of]
    return paths, origin


def _joined(parts):
    """Paths of several parts, each with where its paths come from."""
    paths, origins = zip(*parts, strict=True)
    return Paths(*map(np.concatenate, zip(*paths, strict=True))), np.concatenate(origins)


def _follow_draw(draw, w, paths):
    def outcome(z, p, logp):
        flag = paths.flag if draw.family == "normal" else np.full_like(paths.flag, min(z, 1.0))
        total = _after(draw, w, z, paths.total)
        return Paths(paths.weight * p, paths.logp + logp, flag, total), np.arange(len(flag))

    return _joined([outcome(*o) for o in FAMILIES[draw.family].outcomes(_law(w, paths.flag))])


def _follow_branch(branch, w, paths):
    parts = []
    for body, here in ((branch.yes, paths.flag[:, 0] > 0.5), (branch.no, paths.flag[:, 0] < 0.5)):
        rows = np.flatnonzero(here)
        after, origin = _follow(body, w, paths.at(rows))
        parts.append((after, rows[origin]))
    return _joined(parts)


def _follow_plate(plate, w, paths):
    one, of_one = _follow(plate.body, w, paths)
    start = paths.at(of_one)
    two, of_two = _follow(plate.body, w, one._replace(flag=start.flag, total=2.0 * start.total))
    return two._replace(total=_meet(plate, one.total[of_two], two.total)), of_one[of_two]


FOLLOW = {
    Draw: _follow_draw,
    Branch: _follow_branch,
    Loop: lambda loop, w, paths: _follow(loop.body * 2, w, paths),
    Plate: _follow_plate,
    Call: lambda call, w, paths: _follow(call.body, w, paths),
}


def sums(program):
    """The expectation and its gradient."""
    w = W[:, None, None] + 1j * STEP * np.eye(2)[:, None, :]
    start = Paths(np.ones((1, 2), complex), np.zeros((1, 2), complex), np.zeros((1, 2)), w[0])
    paths, _ = _follow(program.statements, w, start)
    values = _objective(w, paths.flag, paths.total) + program.density * paths.logp
    mean = (paths.weight * values).sum(axis=0)
    return mean.real[0], mean.imag / STEP


# ---- in the language ------------------------------------------------------------------------------------------------


def _function(statements):
    @tg.gen
    def program(w, flag, total):
        for i, statement in enumerate(statements):
            flag, total = SAY[type(statement)](statement, f"{_name(statement)}{i}", w, flag, total)
        return flag, total

    return program


def _name(statement):
    """An address that says what is there, so that branches share those alone that hold the same."""
    return statement.family if isinstance(statement, Draw) else type(statement).__name__.lower()


def _new_state(draw, w, z, flag, total):
    z = z.astype(float)
    return (flag if draw.family == "normal" else jnp.minimum(z, 1.0)), _after(draw, w, z, total)


def _say_draw(draw, address, w, flag, total):
    family = FAMILIES[draw.family]
    estimator, _, _ = family.estimators[draw.estimator]
    z = tg.sample(address, family.distribution(_law(w, flag)), estimator=estimator)
    return _new_state(draw, w, z, flag, total)


def _say_loop(loop, address, w, flag, total):
    body = _function(loop.body)
    step = tg.gen(lambda state, _: ((w, *body.inline(*state)), None))
    return tg.sample(address, step.scan(2, reverse=loop.reverse)((w, flag, total), None))[0][1:]


def _say_plate(plate, address, w, flag, total):
    lanes = _function(plate.body).vmap(in_axes=(None, None, 0))
    flags, totals = tg.sample(address, lanes(w, flag, jnp.stack([total, 2.0 * total])))
    return flags[1], _meet(plate, totals[0], totals[1])


SAY = {
    Draw: _say_draw,
    Branch: lambda b, address, w, flag, total: tg.sample(
        address, tg.cond(flag > 0.5, _function(b.yes), _function(b.no))(w, flag, total)
    ),
    Loop: _say_loop,
    Plate: _say_plate,
    Call: lambda call, address, w, flag, total: tg.sample(address, _function(call.body)(w, flag, total)),
}

# ---- on the primitive -----------------------------------------------------------------------------------------------


def _run(statements, key, w, flag, total):
    for i, statement in enumerate(statements):
        flag, total = RUN[type(statement)](statement, jax.random.fold_in(key, i), w, flag, total)
    return flag, total


def _run_draw(draw, key, w, flag, total):
    family = FAMILIES[draw.family]
    estimator, _, _ = family.estimators[draw.estimator]
    return _new_state(draw, w, sample(key, family.distribution(_law(w, flag)), estimator=estimator), flag, total)


def _run_branch(branch, key, w, flag, total):
    sides = [lambda f, t, side=side: _run(side, key, w, f, t) for side in (branch.yes, branch.no)]
    return lax.cond(flag > 0.5, *sides, flag, total)


def _run_loop(loop, key, w, flag, total):
    keys = jax.random.split(key, 2)
    step = lambda state, k: (_run(loop.body, k, w, *state), None)  # noqa: E731
    return lax.scan(step, (flag, total), keys, reverse=loop.reverse)[0]


def _run_plate(plate, key, w, flag, total):
    lanes = jax.vmap(lambda k, t: _run(plate.body, k, w, flag, t))
    flags, totals = lanes(jax.random.split(key, 2), jnp.stack([total, 2.0 * total]))
    return flags[1], _meet(plate, totals[0], totals[1])


RUN = {
    Draw: _run_draw,
    Branch: _run_branch,
    Loop: _run_loop,
    Plate: _run_plate,
    Call: lambda call, key, w, flag, total: jax.jit(lambda *xs: _run(call.body, *xs))(key, w, flag, total),
}


def estimate(program):
    """The program as an `expectation`, a function of a key and the parameters."""

    def f(key, w):
        if program.primitive:
            return _objective(w, *_run(program.statements, key, w, jnp.zeros(()), w[0]))
        tr = _function(program.statements).simulate(key, w, jnp.zeros(()), w[0])
        return _objective(w, *tr.retval) + program.density * tr.logp

    return tg.expectation(f, credit=program.credit, forks=program.forks, chunk_size=program.chunk_size)


# ---- keys that compile quickly --------------------------------------------------------------------------------------


def _mix(x):
    x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
    return x ^ (x >> 16)


def _fold_in(key, data):
    a = _mix(key[0] ^ _mix(data.astype(np.uint32) + np.uint32(0x9E3779B9)))
    return jnp.stack([a, _mix(key[1] + a)])


def _split(key, shape):
    numbers = jnp.arange(np.prod(shape), dtype=np.uint32) + np.uint32(77)
    return jax.vmap(lambda i: _fold_in(key, i))(numbers).reshape(*shape, 2)


def _no_bits(key, width, shape):
    raise NotImplementedError("Keys of these programs name outcomes; no bits are drawn from them.")


def quick_key():
    """A key of a generator whose code is a few multiplications: the compiler is done with it in half the time."""
    generator = custom.define_prng_impl(
        key_shape=(2,),
        seed=lambda seed: jnp.stack([_mix(jnp.asarray(seed).astype(np.uint32)), jnp.uint32(1)]),
        split=_split,
        random_bits=_no_bits,
        fold_in=_fold_in,
        name="quick",
        tag="quick",
    )
    return jax.random.key(0, impl=generator)

# ---- at random ------------------------------------------------------------------------------------------------------

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


def alternatives(statements):
    """How many alternatives the forking draws of a program name."""
    return sum(FAMILIES[d.family].estimators[d.estimator][1] for d in draws_of(statements))


def cells(program):
    """Into how many parts the unit interval goes: twelve where something is drawn from what is left."""
    own = any(FAMILIES[d.family].estimators[d.estimator][2] for d in draws_of(program.statements))
    return 12 if own or program.forks else 4


def outcomes(program):
    """How many combinations of outcomes the noise of a program has."""
    n = cells(program) ** (program.forks or 0)
    for d in draws_of(program.statements):
        own = FAMILIES[d.family].estimators[d.estimator][2]
        n *= cells(program) ** own * (NODES_OF_NOISE if d.family == "normal" else cells(program))
    return n


def random_program(chance: random.Random) -> Program:
    """A program that can be enumerated."""
    while True:
        statements = _statements(chance, budget=chance.choice([2, 3, 3, 4]), inside=False)
        primitive = chance.random() < 0.4
        program = Program(
            statements,
            density=0.0 if primitive else chance.choice([0.0, 0.5]),
            primitive=primitive,
            credit=chance.random() < 0.7,
            forks=chance.choice([None, None, 1, 2]) if _fit_the_grid(alternatives(statements)) else None,
            chunk_size=chance.choice([None, None, 1, 2]),
            backward=chance.random() < 0.2,
        )
        if outcomes(program) <= MOST_OUTCOMES:
            return program


def _fit_the_grid(forks):
    return forks > 0 and 12 % forks == 0


def _statements(chance, *, budget, inside):
    statements = []
    while not statements or (budget > 0 and chance.random() < 0.7):
        statement = _statement(chance, budget=budget, inside=inside)
        statements.append(statement)
        budget -= len(draws_of([statement]))
    return tuple(statements)


def _statement(chance, *, budget, inside):
    kinds = [Draw, Draw, Call] + [Branch, Loop, Plate] * (budget > 1)
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
