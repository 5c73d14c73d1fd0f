"""Coins in a row, in a loop, in lanes and in a branch, under any estimator; and the same as sums over all outcomes."""

from collections.abc import Callable
from typing import NamedTuple

import jax
from jax import lax
from jax import numpy as jnp
from unbiased_programs import BERNOULLI, first, later, mean_over

from tracegrad import dist
from tracegrad.transforms import sample


class CoinProgram(NamedTuple):
    """A program `of(estimator)`, which is `f(key, w)`; and its mean, a function of w that returns it in a tuple."""

    of: Callable
    mean: Callable


def coin(how):
    """What flips a coin with a probability, under an estimator."""

    def flip(key, p, label="b"):
        logit = jnp.log(p) - jnp.log1p(-p)
        return sample(key, dist.Bernoulli(logits=logit), estimator=how, label=(label,)).astype(float)

    return flip


def in_a_row(how):
    flip = coin(how)

    def program(key, w):
        one, two = jax.random.split(key)
        a = flip(one, first(w), "a")
        return 3.0 * w[0] + a + 2.0 * a * flip(two, later(w, a))

    return program


def in_a_row_sums(draw, w):
    a, _ = draw(first(w))
    return (3.0 * w[0] + a + 2.0 * a * draw(later(w, a))[0],)


def in_a_loop(how):
    flip = coin(how)

    def program(key, w):
        def step(total, key):
            b = flip(key, later(w, total) / (1.0 + total))
            return total + b, b * w[1]

        total, costs = lax.scan(step, jnp.zeros(()), jax.random.split(key, 3))
        return total**2 + costs.sum()

    return program


def in_a_loop_sums(draw, w):
    total, costs = 0.0, 0.0
    for _ in range(3):
        b, _ = draw(later(w, total) / (1.0 + total))
        total, costs = total + b, costs + b * w[1]
    return (total**2 + costs,)


def in_lanes(how):
    flip = coin(how)

    def program(key, w):
        p = jnp.stack([first(w), w[1], w[0] * w[1]])
        b = jax.vmap(flip)(jax.random.split(key, 3), p)
        return 2.0 + b[0] * w[0] - 3.0 * b[0] * b[1] * b[2]

    return program


def in_lanes_sums(draw, w):
    a, b, c = (draw(p)[0] for p in (first(w), w[1], w[0] * w[1]))
    return (2.0 + a * w[0] - 3.0 * a * b * c,)


def in_a_branch(how):
    """One branch draws twice, the other once: a record of the narrower one is padded."""
    flip = coin(how)

    def program(key, w):
        a, b, c = jax.random.split(key, 3)
        x = flip(a, first(w), "x")

        def two(_):
            return flip(b, w[1]) + 2.0 * flip(c, later(w, x))

        return lax.cond(x > 0.5, two, lambda _: flip(b, w[0]), None) * (1.0 + x)

    return program


def in_a_branch_sums(draw, w):
    x, _ = draw(first(w))
    b, c, other = draw(w[1])[0], draw(later(w, x))[0], draw(w[0])[0]
    return (jnp.where(x > 0.5, b + 2.0 * c, other) * (1.0 + x),)


COINS = {
    "in a row": CoinProgram(in_a_row, mean_over(in_a_row_sums, [BERNOULLI] * 2)),
    "in a loop": CoinProgram(in_a_loop, mean_over(in_a_loop_sums, [BERNOULLI] * 3)),
    "in lanes": CoinProgram(in_lanes, mean_over(in_lanes_sums, [BERNOULLI] * 3)),
    "in a branch": CoinProgram(in_a_branch, mean_over(in_a_branch_sums, [BERNOULLI] * 4)),
}
