"""Random small programs, their gradients by every estimator against sums over all outcomes."""

from typing import NamedTuple

import jax
import numpy as np
import numpyro.distributions as dist
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax import lax
from jax import numpy as jnp
from unbiased_programs import KEY, W, later, precisely

import tracegrad as tg
from tracegrad.transforms import sample

ESTIMATORS = [tg.reinforce(), tg.reinforce(baseline=0.4), tg.mvd(), tg.local_expectation(), tg.enum()]
INSIDE = len(ESTIMATORS) - 1  # all but enum() go inside loops, branches and plates


class Site(NamedTuple):
    """Draw a coin that depends on the flag; it becomes the flag, and adds to the total."""

    estimator: int
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
    """A program in two lanes from the same state; the totals add up, and the flag is the last lane's."""

    body: tuple


def width(program):
    """How many coins a program has, both sides of a branch counted."""
    return sum(
        1 if isinstance(s, Site) else width(s.yes) + width(s.no) if isinstance(s, Branch) else 2 * width(s.body)
        for s in program
    )


@st.composite
def programs(draw, budget=5, depth=0):
    """A program of at most `budget` coins, never empty."""
    statements = []
    while budget > 0 and len(statements) < 3:
        kinds = ["site", "site"] + ["branch", "loop", "plate"] * (depth < 2 and budget > 1)
        kind = draw(st.sampled_from(kinds))
        if kind == "site":
            estimator = draw(st.integers(0, INSIDE - 1 if depth else INSIDE))
            statements.append(Site(estimator, draw(st.sampled_from([1.0, -0.5, 2.0]))))
        elif kind == "branch":
            yes = draw(programs(budget=budget - 1, depth=depth + 1))
            no = draw(programs(budget=budget - width(yes), depth=depth + 1))
            statements.append(Branch(yes, no))
        else:
            body = draw(programs(budget=budget // 2, depth=depth + 1))
            statements.append(Loop(body, draw(st.booleans())) if kind == "loop" else Plate(body))
        budget -= width(statements[-1:])
        if not draw(st.booleans()):
            break
    return tuple(statements)


# ---- as a JAX program ----


def execute(program, key, w, state):
    """Run a program that samples: the state is (flag, total)."""
    for i, statement in enumerate(program):
        state = EXECUTE[type(statement)](statement, jax.random.fold_in(key, i), w, state)
    return state


def _site(site, key, w, state):
    flag, total = state
    estimator = ESTIMATORS[site.estimator]
    z = sample(key, dist.Bernoulli(later(w, flag)), estimator=estimator).astype(float)
    return z, _after(site, w, z, total)


def _after(site, w, z, total):
    return total * (1.0 + w[1] * z) + site.slope * z * w[0] + w[1]


def _branch(branch, key, w, state):
    return lax.cond(
        state[0] > 0.5, lambda s: execute(branch.yes, key, w, s), lambda s: execute(branch.no, key, w, s), state
    )


def _loop(loop, key, w, state):
    keys = jax.random.split(key, 2)
    return lax.scan(lambda s, k: (execute(loop.body, k, w, s), None), state, keys, reverse=loop.reverse)[0]


def _plate(plate, key, w, state):
    flags, totals = jax.vmap(lambda k: execute(plate.body, k, w, state))(jax.random.split(key, 2))
    return flags[1], totals.sum()


EXECUTE = {Site: _site, Branch: _branch, Loop: _loop, Plate: _plate}


# ---- as sums over outcomes ----


def total_of(program, w, flag, total, rest):
    """E[rest(flag, total)] after a program, by recursion over the outcomes; the flag is a Python number."""
    if not program:
        return rest(flag, total)
    statement, *tail = program

    def go_on(flag, total):
        return total_of(tail, w, flag, total, rest)

    if isinstance(statement, Site):
        p = later(w, flag)
        ys = [go_on(z, _after(statement, w, z, total)) for z in (0.0, 1.0)]
        return (1.0 - p) * ys[0] + p * ys[1]
    if isinstance(statement, Branch):
        return total_of(statement.yes if flag > 0.5 else statement.no, w, flag, total, go_on)
    if isinstance(statement, Loop):
        return total_of(statement.body * 2, w, flag, total, go_on)

    def second_lane(_, first):
        return total_of(statement.body, w, flag, total, lambda f, t: go_on(f, first + t))

    return total_of(statement.body, w, flag, total, second_lane)


def objective(flag, total, w):
    return (total - w[0]) ** 2 + flag


def check(program):
    """Value and gradient, exactly."""

    @tg.expectation
    def g(key, w):
        flag, total = execute(program, key, w, (jnp.zeros(()), w[0]))
        return objective(flag, total, w)

    def mean(w):
        return total_of(program, w, 0.0, w[0], lambda flag, total: objective(flag, total, w))

    w = jnp.asarray(W)
    value, gradient = jax.value_and_grad(tg.exact_expectation(g), argnums=1)(KEY, w)
    expected, expected_gradient = jax.jit(jax.value_and_grad(mean))(w)
    np.testing.assert_allclose(value, expected, rtol=1e-9)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-9, atol=1e-9)


QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=12, derandomize=True, database=None, deadline=None, suppress_health_check=QUIET)
@given(programs())
def test_random_programs(program):
    with precisely():
        check(program)


@pytest.mark.slow
@settings(max_examples=20, derandomize=True, database=None, deadline=None, suppress_health_check=QUIET)
@given(programs(budget=6))
def test_many_random_programs(program):
    with precisely():
        check(program)
