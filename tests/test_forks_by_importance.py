"""Alternatives drawn by importance: whatever the proportions, the gradient is that of the sum over all draws."""

import jax
import numpy as np
import pytest
from coin_programs import COINS, coin
from jax import lax
from jax import numpy as jnp
from unbiased_programs import KEY, W, precisely

import tracegrad as tg
from tracegrad import dist
from tracegrad.transforms import choose_estimators, sample
from tracegrad.transforms.forks import _by_importance
from tracegrad.transforms.forks._by_importance import ByImportance, likely
from tracegrad.transforms.program._fork_sizes import DIRECTIONS, coefficient_sizes


@pytest.fixture(autouse=True)
def double_precision():
    with precisely():
        yield


PROGRAMS = ("in a loop", "in lanes", "in a branch")
flip = coin(tg.local_expectation())
lanes = COINS["in lanes"].of(tg.local_expectation())


def slope(g, *, many=False):
    """The derivative of an expectation, compiled; at many keys at once."""
    derivative = jax.grad(g, argnums=1)
    return jax.jit(jax.vmap(derivative, (0, None)) if many else derivative)


def gradients(name, k, uniform=0.1):
    """That of the estimator, its noise replaced by all of its outcomes, and the true one."""
    of, mean = COINS[name]
    program = of(tg.local_expectation())
    g = tg.exact_expectation(tg.expectation(program, forks=tg.by_importance(k, uniform=uniform)))
    w = jnp.asarray(W)
    return jax.grad(g, argnums=1)(KEY, w), jax.grad(lambda w: mean(w)[0])(w)


@pytest.mark.parametrize(
    ("name", "k"), [("in a loop", 1), ("in lanes", 2), pytest.param("in a branch", 2, marks=pytest.mark.slow)]
)
def test_the_mean_of_the_gradient_is_that_of_the_sum_over_all_draws(name, k):
    np.testing.assert_allclose(*gradients(name, k), rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("uniform", [0.01, 1.0])
def test_so_it_is_whatever_the_share_that_is_even(name, k, uniform):
    np.testing.assert_allclose(*gradients(name, k, uniform), rtol=1e-9)


def test_without_the_weights_it_is_another(monkeypatch):
    """A mutant: what is drawn by importance, and weighed as if it were drawn evenly."""

    def evenly(key, chosen, sizes):
        numbers, _ = likely(key, chosen, sizes)
        return numbers, len(sizes) / chosen.k

    monkeypatch.setattr("tracegrad.transforms.forks._sum.likely", evenly)
    found, true = gradients("in lanes", 2)
    assert np.max(np.abs(found - true)) > 1e-3


# ---- what is drawn ---------------------------------------------------------------------------------------------------


def draws(sizes, k, uniform=0.1):
    """How often each of some alternatives is drawn, on the mean over many keys, and what each counts when it is."""
    numbers, weights = jax.vmap(lambda key: likely(key, ByImportance(k, uniform), jnp.asarray(sizes)))(
        jax.random.split(jax.random.key(1), 4096)
    )
    return np.bincount(numbers.ravel(), minlength=len(sizes)) / len(numbers), numbers, weights


def test_it_draws_in_proportion_and_in_strata():
    """Of sizes 4, 3, 1, 0 with k = 4 and hardly an even share: two, one and a half, half a draw, none."""
    often, numbers, weights = draws([4.0, 3.0, 1.0, 0.0], 4, 1e-6)
    np.testing.assert_allclose(often[[0, 3]], [2.0, 0.0], atol=1e-2)
    np.testing.assert_allclose(often[1:3], [1.5, 0.5], atol=4 * np.sqrt(0.25 / 4096))
    assert np.all(np.sum(numbers == 0, axis=1) >= 1)  # strata: the first never goes without a draw
    np.testing.assert_allclose(weights[numbers == 0], 0.5, rtol=1e-5)
    np.testing.assert_allclose(weights[numbers == 2], 2.0, rtol=1e-5)


@pytest.mark.parametrize("sizes", [[0.0, 0.0, 0.0], [1e-300, 1.0, 1e300], [5e-324, 5e-324, 5e-324]])
@pytest.mark.parametrize("k", [1, 2])
def test_probabilities_are_whole_parts_of_a_total(sizes, k):
    """None at all, or so far apart that a probability is rounded to nothing: each that is there has a part."""
    bits = _by_importance.PARTS - (k - 1).bit_length()
    units = np.asarray(_by_importance._units(jnp.array(sizes), k << bits, 0.1))
    assert units.sum(dtype=np.int64) == k << bits
    assert np.all(units >= 0.03 * (k << bits))


def test_in_single_precision_ten_thousand_parts_still_make_a_whole():
    sizes = jax.random.uniform(jax.random.key(0), (10_007,), jnp.float32) ** 4
    sizes = np.asarray(sizes)
    units = np.asarray(_by_importance._units(jnp.asarray(sizes), 8 << 27, 0.1))
    assert units.sum(dtype=np.int64) == 8 << 27
    expected = (8 << 27) * (0.9 * sizes / sizes.sum() + 0.1 / 10_007)
    others = units != units.max()  # the largest has what rounding leaves of all
    np.testing.assert_allclose(units[others], expected[others], rtol=1e-4, atol=2.0)
    np.testing.assert_allclose(units.max(), expected.max(), rtol=0.1)


def test_what_is_not_run_is_not_drawn():
    """The other branch has a hundred coins: not once in many draws is one of them run again in place of the one."""

    @tg.expectation
    def one(key, w):
        def many(key):
            return jnp.sum(jax.vmap(lambda k: flip(k, w))(jax.random.split(key, 100)))

        return lax.cond(w > 0.9, many, lambda key: 5.0 * flip(key, w), key)

    chosen = tg.with_estimators(one, {}, forks=tg.by_importance(1))
    slopes = slope(chosen, many=True)(jax.random.split(jax.random.key(0), 32), 0.3)
    np.testing.assert_allclose(slopes, 5.0, rtol=1e-9)


def test_coins_that_are_decided_are_left_alone():
    """The gradient of one open coin among fifty decided ones, at one run: a draw evenly meets it once in 51."""
    logits = jnp.append(jnp.full(50, 30.0), 0.0)

    def total(key, logits):
        return jnp.sum(sample(key, dist.Bernoulli(logits=logits), estimator=tg.mvd()).astype(float))

    keys = jax.random.split(jax.random.key(0), 2000)

    def spread(forks):
        return np.std(slope(tg.expectation(total, forks=forks), many=True)(keys, logits)[:, -1])

    assert spread(tg.by_importance(1)) < 0.4 * 0.25
    assert spread(1) > 5 * 0.25


# ---- sizes -----------------------------------------------------------------------------------------------------------


def test_sizes_are_the_norms_of_derivatives_in_the_parameters_of_an_element():
    logits = jnp.array([[0.3, -1.0, 0.5], [2.0, 0.0, -3.0]])

    def coefficients(arrays):
        return jax.nn.softmax(arrays[0], axis=-1).T

    found = jax.jit(lambda x: coefficient_sizes(coefficients, [x], dist.Categorical(logits=x)))(logits)
    jacobian = jax.vmap(jax.jacobian(jax.nn.softmax))(logits)
    np.testing.assert_allclose(found, jnp.linalg.norm(jacobian, axis=-1).T, rtol=1e-9)


def test_sizes_of_many_categories_are_near():
    logits = jax.random.normal(jax.random.key(0), (4 * DIRECTIONS,))
    found = jax.jit(lambda x: coefficient_sizes(lambda x: jax.nn.softmax(x[0]), [x], dist.Categorical(logits=x)))(
        logits
    )
    ratio = found / jnp.linalg.norm(jax.jacobian(jax.nn.softmax)(logits), axis=-1)
    assert np.all((ratio > 0.2) & (ratio < 3.0))


def test_sizes_are_never_zero_nor_infinite():
    """Without parameters, decided for good, and where a square root has no derivative."""
    coin = dist.Bernoulli(logits=jnp.array([800.0, 0.0]))
    decided = coefficient_sizes(lambda x: jax.nn.sigmoid(x[0])[None], [jnp.array([800.0, 0.0])], coin)
    assert 0.0 < decided[0, 0] < 1e-300
    none = coefficient_sizes(lambda x: jnp.ones((2, 3)), [jnp.array(4)], dist.Bernoulli(probs=0.5))
    np.testing.assert_array_equal(none, np.ones((2, 3)))
    steep = coefficient_sizes(lambda x: jnp.sqrt(x[0])[None], [jnp.zeros(2)], coin)
    assert np.all((steep > 0.0) & np.isfinite(steep))


# ---- the argument ----------------------------------------------------------------------------------------------------


def test_where_there_are_no_more_all_of_them_run():
    all_of_them = tg.expectation(lanes)
    some = tg.expectation(lanes, forks=tg.by_importance(3))
    np.testing.assert_array_equal(*(slope(g)(KEY, jnp.asarray(W)) for g in (some, all_of_them)))


def test_a_program_without_forks_takes_it_and_is_as_it_was():
    plain = tg.expectation(lambda key, m: sample(key, dist.Normal(m, 1.0)) ** 2)
    same = tg.with_estimators(plain, {}, forks=tg.by_importance(1))
    np.testing.assert_array_equal(*(slope(g)(jax.random.key(0), 0.3) for g in (plain, same)))


def test_it_can_be_chosen_from_outside():
    inside = tg.expectation(lanes, forks=tg.by_importance(1))
    for outside in (
        tg.with_estimators(tg.expectation(lanes), {}, forks=tg.by_importance(1)),
        choose_estimators(tg.expectation(lanes, forks=3), lambda *_: None, forks=tg.by_importance(1)),
    ):
        np.testing.assert_array_equal(
            *(slope(g)(jax.random.key(3), jnp.asarray(W)) for g in (inside, outside)),
        )


@pytest.mark.parametrize("k", [0, -1, 1.5, True, None, "all", _by_importance.MOST + 1])
def test_a_number_that_is_none_is_refused(k):
    with pytest.raises(tg.ObjectiveError, match="by_importance: k must be an int from 1 to 1048576, and is"):
        tg.by_importance(k)


@pytest.mark.parametrize("uniform", [0, -0.1, 1.1, float("nan"), None, "some"])
def test_a_share_that_is_none_is_refused(uniform):
    with pytest.raises(
        tg.ObjectiveError, match="by_importance: uniform must be a number between 0 and 1, and above 0, and"
    ):
        tg.by_importance(2, uniform=uniform)


def test_it_says_what_it_is():
    assert str(tg.by_importance(8)) == "by_importance(8)"
    assert str(tg.by_importance(8, uniform=0.5)) == "by_importance(8, uniform=0.5)"
    assert hash(tg.by_importance(8)) == hash(tg.by_importance(8))
