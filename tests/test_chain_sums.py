"""Sums over all paths of a finite chain against a sum by hand, in double precision, of every path."""

import itertools

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from tracegrad.algorithms._chain_sums import Weights, filtered, log_filtered, log_total, needs_logs

INF = np.inf
rng = np.random.default_rng(0)


def paths(start, moves, gains):
    """The log weight of every path, and the paths."""
    k, t = len(start), len(gains)
    moves = np.broadcast_to(moves, (t, k, k))
    every = np.array(list(itertools.product(range(k), repeat=t + 1)))
    weights = start[every[:, 0]] + sum(
        moves[i, every[:, i], every[:, i + 1]] + gains[i, every[:, i + 1]] for i in range(t)
    )
    return weights, every


def by_hand(start, moves, gains):
    """The total, its derivative in each log weight, and what is filtered."""
    weights, every = paths(start, moves, gains)
    total = np.logaddexp.reduce(weights)
    p = np.exp(weights - total) if total > -INF else np.zeros(len(weights))
    onehot = np.eye(len(start))[every]
    moved = np.einsum("n,nti,ntj->tij", p, onehot[:, :-1], onehot[:, 1:])
    return total, (
        p @ onehot[:, 0],
        moved if np.ndim(moves) == 3 else moved.sum(0),
        np.einsum("n,ntj->tj", p, onehot)[1:],
    )


def normal(shape=(2, 2), k=2, t=4):
    return rng.normal(size=k), rng.normal(size=shape), 3.0 * rng.normal(size=(t, k))


def left_right(k=3, t=4):
    """Only onwards, from the first: most states cannot be reached at first."""
    moves = np.where(np.eye(k) + np.eye(k, k=1) > 0, -0.7, -INF)
    return np.where(np.arange(k) == 0, 0.0, -INF), moves, rng.normal(size=(t, k))


def of_two(start, moves, gains):
    """A chain of two states and four steps, the last ones without a gain."""
    return np.array(start), np.array(moves), np.concatenate([gains, np.zeros((4 - len(gains), 2))])


def lost_on_the_way(first):
    """The path that counts is as good as none at first and, backwards, at last: two states that never meet."""
    return of_two([0.0, first], [[0.0, -INF], [-INF, 0.0]], [[0.0, 200.0], [0.0, -120.0], [0.0, 90.0]])


CASES = {
    "any": normal(),
    "moves of each step": normal(shape=(4, 2, 2)),
    "one state": normal(shape=(1, 1), k=1),
    "one step": normal(t=1),
    "left to right": left_right(),
    "left to right, of each step": (left_right()[0], np.stack([left_right()[1]] * 4), left_right()[2]),
    "lost on the way": lost_on_the_way(first=-150.0),
    "barely there": lost_on_the_way(first=-75.0),
    "steep": of_two([0.0, 0.0], [[0.0, -130.0], [-400.0, 0.0]], [[0.0, 0.0], [-100.0, 250.0], [0.0, -300.0]]),
    "lost at last": of_two([0.0, -INF], [[0.0, -INF], [-INF, 0.0]], [[0.0, 0.0]] * 3 + [[-200.0, 0.0]]),
    "lost by a small divisor": of_two([-57.5, 0.0], [[0.0, -57.0], [-INF, 0.0]], [[0.0, -100.0], [0.0, 60.0]]),
    "ruled out": of_two([0.0, 0.0], [[0.0, 0.0], [0.0, 0.0]], [[-INF, 0.0], [0.0, -INF]]),
    "a state that none leads to": of_two([0.0, 0.0], [[0.0, -INF], [0.5, -INF]], [[0.0, 0.0]]),
    "impossible": of_two([0.0, -INF], [[0.0, -INF], [0.0, 0.0]], [[-INF, 0.0]]),
    "impossible at last": of_two([0.0, 0.0], [[0.0, 0.0], [0.0, 0.0]], [[0.0, 0.0]] * 3 + [[-INF, -INF]]),
}
VALUE_AND_GRAD = jax.jit(jax.value_and_grad(log_total))
FILTERED = jax.jit(log_filtered)


def weights(case):
    return Weights(*(jnp.asarray(x, jnp.float32) for x in case))


@pytest.mark.parametrize("name", CASES)
def test_total_and_derivative(name):
    total, derivative = by_hand(*CASES[name])
    ours, grads = VALUE_AND_GRAD(weights(CASES[name]))
    np.testing.assert_allclose(ours, total, rtol=2e-6)
    for g, d in zip(grads, derivative, strict=True):
        np.testing.assert_allclose(g, d, atol=2e-5)


@pytest.mark.parametrize("name", CASES)
def test_what_is_filtered_is_the_total_until_then(name):
    """At each step the sums over paths that end in a state, normalised; of states that count to rounding."""
    start, moves, gains = CASES[name]
    ours = FILTERED(weights(CASES[name]))
    for t in range(len(gains) + 1):
        found, every = paths(start, moves[:t] if np.ndim(moves) == 3 else moves, gains[:t])
        sums = np.array([np.logaddexp.reduce(found[every[:, -1] == i], initial=-INF) for i in range(len(start))])
        total = np.logaddexp.reduce(sums)
        wanted = np.exp(sums - total) if total > -INF else np.zeros(len(start))
        np.testing.assert_allclose(np.exp(ours[t]), wanted, atol=1e-5)


def test_second_derivatives_are_those_of_the_first():
    """A Hessian by forward over reverse and reverse over reverse, against differences of exact derivatives."""
    case = normal(t=2)

    def at(x):
        return log_total(weights(case)._replace(gains=x))

    hessians = [np.asarray(jax.jit(jax.hessian(at))(weights(case).gains))]
    hessians.append(np.asarray(jax.jit(jax.jacrev(jax.grad(at)))(weights(case).gains)))
    step = 1e-5
    for i, j in np.ndindex(2, 2):
        more, less = (case[2].copy() for _ in range(2))
        more[i, j] += step
        less[i, j] -= step
        wanted = (by_hand(*case[:2], more)[1][2] - by_hand(*case[:2], less)[1][2]) / (2.0 * step)
        for hessian in hessians:
            np.testing.assert_allclose(hessian[i, j], wanted, atol=1e-5)


@pytest.mark.parametrize("name", ["any", "lost on the way"])
def test_the_derivative_of_what_is_filtered(name):
    """log P(last state = 0) is the total with the others ruled out less the total: so is its derivative."""
    start, moves, gains = CASES[name]
    ruled = gains.copy()
    ruled[-1, 1:] = -INF
    grads = jax.jit(jax.grad(lambda w: log_filtered(w)[-1, 0]))(weights(CASES[name]))
    for g, d, e in zip(grads, by_hand(start, moves, ruled)[1], by_hand(start, moves, gains)[1], strict=True):
        np.testing.assert_allclose(g, d - e, atol=2e-5)


@pytest.mark.slow
def test_only_what_is_lost_is_done_again():
    """States that cannot be reached are no loss; those whose weight underflowed are."""
    again = {name for name, case in CASES.items() if needs_logs(weights(case), filtered(weights(case)))}
    assert {"lost on the way", "lost at last", "lost by a small divisor"} <= again
    assert again <= {"lost on the way", "lost at last", "lost by a small divisor", "barely there", "steep"}


def test_the_value_alone():
    for name in ("any", "lost on the way", "impossible"):
        np.testing.assert_allclose(log_total(weights(CASES[name])), by_hand(*CASES[name])[0], rtol=2e-6)


def test_lanes_of_both_kinds():
    """Under `vmap`, one lane that a product serves and one that it does not."""
    good, bad = lost_on_the_way(first=0.0), lost_on_the_way(first=-150.0)
    stacked = Weights(*(jnp.stack([jnp.asarray(x, jnp.float32) for x in pair]) for pair in zip(good, bad, strict=True)))
    totals, grads = jax.jit(jax.vmap(jax.value_and_grad(log_total)))(stacked)
    for i, case in enumerate((good, bad)):
        total, derivative = by_hand(*case)
        np.testing.assert_allclose(totals[i], total, rtol=2e-6)
        for g, d in zip(grads, derivative, strict=True):
            np.testing.assert_allclose(g[i], d, atol=2e-5)


def test_what_is_no_number_stays_none():
    start, moves, gains = normal()
    assert jnp.isnan(log_total(weights((start, moves, np.where(gains == gains.max(), np.nan, gains)))))
