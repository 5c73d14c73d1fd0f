"""`reinforce(baseline="auto")`: a level that leaves the gradient alone, and learns what credit leaves."""

import itertools

import jax
import numpy as np
import pytest
from jax import lax
from jax import numpy as jnp

import tracegrad as tg
from tracegrad import dist
from tracegrad.transforms import choose_estimators, sample
from tracegrad.transforms._internal import AutoReinforce

KEY = jax.random.key(0)
W = jnp.array([0.3, -0.7])


def at_level(objective, level):
    """The objective with a level at its automatic baselines."""
    return choose_estimators(objective, lambda _, e: e.at(level) if isinstance(e, AutoReinforce) else None)


def draw(key, logits, label):
    return sample(key, dist.Bernoulli(logits=logits), estimator=tg.reinforce(baseline="auto"), label=label).astype(
        float
    )


@tg.expectation
def straight(key, w):
    one, two = jax.random.split(key)
    a = draw(one, w[0], ("a",))
    b = draw(two, w[1] + a, ("b",))
    return 3.0 + a + 2.0 * a * b


@tg.expectation
def in_a_loop(key, w):
    def step(total, key):
        b = draw(key, w[0] + 0.5 * total, ("b",))
        return total + b, b * w[1]

    total, costs = lax.scan(step, 0.0, jax.random.split(key, 3))
    return total**2 + costs.sum()


@tg.expectation
def in_lanes(key, w):
    b = jax.vmap(lambda key, w: draw(key, w, ("b",)))(jax.random.split(key), w)
    return 2.0 + b[0] - 3.0 * b[0] * b[1]


@tg.expectation
def in_a_branch(key, w):
    one, two = jax.random.split(key)
    a = draw(one, w[0], ("a",))
    b = lax.cond(a > 0.5, lambda k: draw(k, w[1], ("b",)), lambda _: 0.5, two)
    return 3.0 * b + a * b


PROGRAMS = {"straight": straight, "in a loop": in_a_loop, "in lanes": in_lanes, "in a branch": in_a_branch}


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("level", [0.0, 2.5])
def test_whatever_the_level_the_expected_gradient_is_that_of_the_sum_over_all_draws(name, level):
    program = PROGRAMS[name]
    exact = jax.grad(tg.exact_expectation(tg.with_estimators(program, {"**": tg.mvd()})), argnums=1)(KEY, W)
    levelled = tg.exact_expectation(at_level(program, jnp.array(level)))
    np.testing.assert_allclose(jax.grad(levelled, argnums=1)(KEY, W), exact, atol=2e-6)


def test_the_derivative_in_the_level_is_how_far_it_is_from_the_mean_of_what_credit_leaves():
    """All four outcomes by hand: at `a` credit leaves a + 2ab, the constant gone; at `b` it leaves 2ab."""
    level = jnp.array(0.4)
    found = jax.grad(lambda c: tg.exact_expectation(at_level(straight, c))(KEY, W))(level)
    p = jax.nn.sigmoid(W[0])
    mean = 0.0
    for a, b in itertools.product((0.0, 1.0), repeat=2):
        q = jax.nn.sigmoid(W[1] + a)
        mean += (p if a else 1 - p) * (q if b else 1 - q) * ((a + 2 * a * b) + 2 * a * b)
    np.testing.assert_allclose(found, mean - 2 * level, rtol=1e-6)


def test_without_a_level_it_is_plain_reinforce():
    plain = tg.with_estimators(straight, {"**": tg.reinforce()})
    grads = [jax.grad(f, argnums=1)(KEY, W) for f in (straight, plain)]
    np.testing.assert_array_equal(*grads)
    assert str(tg.describe_estimators(straight, KEY, W)[0].estimator) == "reinforce(baseline='auto')"


def test_another_word_is_refused():
    with pytest.raises(tg.EstimatorError, match="baseline must be a number or an array, and is 'automatic'"):
        tg.reinforce(baseline="automatic")
