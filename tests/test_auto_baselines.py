"""`reinforce(baseline="auto")`: levels that leave the gradient alone, and learn what credit leaves."""

import jax
import numpy as np
import pytest
from coin_programs import COINS
from jax import lax
from jax import numpy as jnp
from unbiased_programs import KEY, W, precisely

import tracegrad as tg
from tracegrad import dist
from tracegrad.transforms import Drawn, sample
from tracegrad.transforms._internal import at_levels, level_shapes
from tracegrad.transforms.estimators._reinforce import AutoReinforce

AUTO = tg.reinforce(baseline="auto")
SHAPES = {
    "in a row": {"a": (), "b": ()},
    "in a loop": {"b": (3,)},
    "in lanes": {"b": (3,)},
    "in a branch": {"x": (), "b": ()},
}


@pytest.fixture(autouse=True)
def double_precision():
    with precisely():
        yield


def program(name, how=AUTO):
    return tg.expectation(COINS[name].of(how))


def uneven(shapes):
    """Levels that are all different, and far from any mean."""
    return {n: (2.5 - jnp.arange(float(np.prod(s))).reshape(s), jnp.zeros(s)) for n, s in shapes.items()}


def gradients(name, how=AUTO):
    """That of the estimator at uneven levels, its noise replaced by all of its outcomes, and the true one."""
    mean = tg.exact_expectation(at_levels(program(name, how), uneven(SHAPES[name])))
    w = jnp.asarray(W)
    return jax.grad(mean, argnums=1)(KEY, w), jax.grad(lambda w: COINS[name].mean(w)[0])(w)


# ---- the estimator ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COINS)
def test_whatever_the_levels_the_mean_of_the_gradient_is_that_of_the_sum_over_all_draws(name):
    np.testing.assert_allclose(*gradients(name), rtol=1e-9)


class Sees(AutoReinforce):
    """A mutant: the level is another one where the coin shows heads."""

    def draw(self, key, distribution):
        drawn = super().draw(key, distribution)
        return drawn if drawn.baseline is None else drawn._replace(baseline=drawn.baseline * drawn.value.astype(float))


def test_a_level_that_sees_its_own_sample_is_caught():
    found, true = gradients("in lanes", Sees())
    assert np.max(np.abs(found - true)) > 1e-2


@pytest.mark.parametrize("name", COINS)
def test_there_is_a_level_for_each_element_lane_and_loop_step(name):
    assert level_shapes(program(name), KEY, jnp.asarray(W)) == SHAPES[name]


def test_lanes_around_an_expectation_share_a_level_and_those_inside_have_their_own():
    key, w = jax.random.key(0), jnp.zeros((5, 2))

    def inside(key, w):
        def step(_, key):
            def lane(key, w):
                return jnp.sum(sample(key, dist.Bernoulli(logits=w), estimator=AUTO, label=("b",)).astype(float))

            return None, jnp.sum(jax.vmap(lane)(jax.random.split(key, 5), w))

        return jnp.sum(lax.scan(step, None, jax.random.split(key, 4))[1])

    one = tg.expectation(inside)
    assert level_shapes(one, key, w) == {"b": (4, 5, 2)}
    many = jax.vmap(one, (0, None))
    keys = jax.random.split(key, 7)
    assert level_shapes(lambda keys, w: jnp.mean(many(keys, w)), keys, w) == {"b": (4, 5, 2)}


def test_sites_of_one_name_share_levels_unless_their_shapes_differ():
    def two(key, w):
        keys = jax.random.split(key, 3)
        draws = [
            sample(k, dist.Bernoulli(logits=x), estimator=AUTO) for k, x in zip(keys, (w[0], w[1], w), strict=True)
        ]
        return sum(jnp.sum(x).astype(float) for x in draws)

    shapes = level_shapes(tg.expectation(two), KEY, jnp.asarray(W))
    assert sorted(shapes.values()) == [(), (2,)]
    slope = jax.grad(at_levels(tg.expectation(two), uneven(shapes)), argnums=1)
    assert np.all(np.isfinite(slope(KEY, jnp.asarray(W))))


def test_the_derivative_in_a_level_is_how_far_it_is_from_the_mean_of_what_credit_leaves():
    """By hand: at `a` credit leaves a + 2ab, what stands before it gone; at `b` it leaves 2ab."""
    p, q = W[0] ** 2, W[0] ** 2 + W[1]
    levels = {"a": (jnp.array(0.4), jnp.zeros(())), "b": (jnp.array(-1.0), jnp.zeros(()))}
    mean = tg.exact_expectation(lambda key, levels: at_levels(program("in a row"), levels)(key, jnp.asarray(W)))
    drift = jax.grad(mean, argnums=1)(KEY, levels)
    np.testing.assert_allclose(drift["a"], (p * (1 + 2 * q) - 0.4, 1.0), rtol=1e-9)
    np.testing.assert_allclose(drift["b"], (p * 2 * q + 1.0, 1.0), rtol=1e-9)


def test_the_count_is_the_weight_that_a_draw_has_in_the_objective():
    """Of a mean over four lanes, turned round, each level counts -1; of a branch that is not taken it counts zero."""
    keys = jax.random.split(jax.random.key(0), 4)

    def slope(f, levels):
        return jax.grad(lambda levels: at_levels(f, levels)(keys, jnp.asarray(W)))(levels)

    one = program("in lanes")
    drift = slope(lambda keys, w: -jnp.mean(jax.vmap(one, (0, None))(keys, w)), uneven(SHAPES["in lanes"]))
    np.testing.assert_allclose(drift["b"][1], [-1.0, -1.0, -1.0], rtol=1e-9)

    def taken_if(x):
        def branch(key, w):
            heads = lambda key: sample(key, dist.Bernoulli(logits=w[0]), estimator=AUTO).astype(float)  # noqa: E731
            return lax.cond(x, heads, lambda key: 0.0 * w[0], key)

        return lambda keys, w: tg.expectation(branch)(keys[0], w)

    for x, count in ((jnp.array(True), 1.0), (jnp.array(False), 0.0)):
        (drift,) = slope(taken_if(x), {"an unnamed site": (jnp.array(0.5), jnp.array(0.0))}).values()
        np.testing.assert_allclose(drift[1], count)


def test_outside_of_fit_a_derivative_is_refused_and_a_value_is_not():
    g = program("in a row")
    assert np.isfinite(g(KEY, jnp.asarray(W)))
    with pytest.raises(
        tg.EstimatorError, match=r"reinforce\(baseline='auto'\) at 'a': its baseline is learned by `fit`"
    ):
        jax.grad(g, argnums=1)(KEY, jnp.asarray(W))


@pytest.mark.parametrize("word", ["automatic", "Auto", ""])
def test_another_word_is_refused(word):
    with pytest.raises(tg.EstimatorError, match=f"baseline must be a number or an array, and is '{word}'"):
        tg.reinforce(baseline=word)


def test_it_says_what_it_is():
    (report, *_) = tg.describe_estimators(program("in a row"), KEY, jnp.asarray(W))
    assert str(report.estimator) == str(AUTO) == "reinforce(baseline='auto')"
    assert Drawn(1).baseline is None  # as without a level
