"""Finite supports at their ends: probabilities of exactly 0 and 1, values without probability, sums that meet -inf.

The expected numbers are derived by hand or with numpy; none comes from the library's probabilities.
"""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

import tracegrad as tg
from tracegrad import dist
from tracegrad.transforms import expectation, probabilities, sample
from tracegrad.transforms._internal import outcome_sum

KEY = jax.random.key(0)
VALUES = np.array([1.0, -2.0, 3.5], np.float32)


def mean_gradient(f, at, n=200):
    """The mean over keys of the gradient of an expectation."""
    keys = jax.random.split(KEY, n)
    return np.asarray(jax.jit(jax.vmap(jax.grad(expectation(f), argnums=1), (0, None)))(keys, at)).mean(0)


# ---- probabilities of 0 and 1 ---------------------------------------------------------------------------------------

# Each family with the derivative of the mean of a draw at p = 0 and at p = 1.
AT_ENDS = {
    "bernoulli": (dist.Bernoulli, 1.0, 1.0),
    "categorical": (lambda p: dist.Categorical(probs=jnp.stack([p, 1.0 - p])), -1.0, -1.0),
    "three values": (lambda p: dist.Categorical(probs=jnp.stack([1.0 - p, 0.5 * p, 0.5 * p])), 1.5, 1.5),
    "binomial": (lambda p: dist.Binomial(3, probs=p), 3.0, 3.0),
    "expanded": (lambda p: dist.Bernoulli(p).expand([2]).to_event(1), 2.0, 2.0),
    "batch": (lambda p: dist.Bernoulli(p * jnp.ones(2)), 2.0, 2.0),
    # E = (1 - p) 2 p.
    "zero-inflated": (lambda p: dist.ZeroInflatedDistribution(dist.Binomial(2, probs=p), gate=p), 2.0, -2.0),
}
EXACT = ["enum", "local_expectation", "mvd"]
HAS_MVD = set(AT_ENDS) - {"zero-inflated"}


@pytest.mark.table
@pytest.mark.parametrize("end", [0, 1])
@pytest.mark.parametrize(("name", "how"), [(n, h) for n in AT_ENDS for h in EXACT if h != "mvd" or n in HAS_MVD])
def test_the_derivative_at_a_probability_of_zero_and_one(name, how, end):
    make, *slopes = AT_ENDS[name]

    def f(key, p):
        return sample(key, make(p), estimator=getattr(tg, how)()).astype(float).sum()

    np.testing.assert_allclose(mean_gradient(f, float(end), n=4), slopes[end], rtol=1e-6)


@pytest.mark.table
@pytest.mark.parametrize("end", [0.0, 1.0])
@pytest.mark.parametrize("how", [tg.sum_and_sample(1), tg.unordered_set(2)], ids=repr)
@pytest.mark.parametrize(
    "make", [AT_ENDS[n][0] for n in ("bernoulli", "categorical")], ids=["bernoulli", "categorical"]
)
def test_two_values_are_all_seen_at_both_ends(make, how, end):
    slope = AT_ENDS["bernoulli" if make is dist.Bernoulli else "categorical"][1]
    f = lambda key, p: sample(key, make(p), estimator=how).astype(float)  # noqa: E731
    np.testing.assert_allclose(mean_gradient(f, end, n=4), slope, rtol=1e-6)


@pytest.mark.table
@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("zeros", [(0.0, 0.0), (0.5, -0.5)])
def test_sum_and_sample_draws_values_that_have_no_probability_yet(p, zeros):
    """Four values of which two are drawn from: the mean over draws is sum_k f(k) dp_k, whatever is zero."""
    f4 = np.array([1.0, -2.0, 3.5, 0.7])
    start = (
        np.array([0.4 * (1.0 - p) + 0.6, 0.4 * p, 0.0, 0.0])
        if any(zeros)
        else np.array([0.6, 0.4 * p, 0.0, 0.4 - 0.4 * p])
    )
    slope = np.array([-0.4, 0.4 - 0.2, 0.1, 0.1])

    def f(key, t):
        probs = jnp.asarray(start, float) + t * jnp.asarray(slope, float)
        return jnp.asarray(f4, float)[sample(key, dist.Categorical(probs=probs), estimator=tg.sum_and_sample(2))]

    g = np.asarray(jax.vmap(lambda k: jax.grad(expectation(f), 1)(k, 0.0))(jax.random.split(KEY, 4_000)))
    assert abs(g.mean() - f4 @ slope) < 5.0 * g.std() / np.sqrt(len(g)) + 1e-5


@pytest.mark.parametrize("n", [1, 4, 200])
@pytest.mark.parametrize("p", [0.0, 0.25, 1.0])
def test_binomial_probabilities_and_their_slopes(n, p):
    """Against the recursion d/dp B(n, k) = n (B(n - 1, k - 1) - B(n - 1, k)), with exact numbers of ways."""
    import math

    def table(n):
        return np.array([math.comb(n, k) * p**k * (1.0 - p) ** (n - k) for k in range(n + 1)])

    with jax.enable_x64(True):
        found = lambda p: probabilities(dist.Binomial(n, probs=p), jnp.arange(n + 1))  # noqa: E731
        np.testing.assert_allclose(found(p), table(n), rtol=1e-9, atol=1e-15)
        lower = np.concatenate([[0.0], table(n - 1), [0.0]])
        for slope in (jax.jacfwd(found)(p), jax.jacrev(found)(p)):
            np.testing.assert_allclose(slope, n * (lower[:-1] - lower[1:]), rtol=1e-9, atol=1e-12)


def test_a_product_of_probabilities_of_zero_has_both_derivatives():
    """Two flips at p = 0: P(both) has no slope and a curvature of 2."""
    f = expectation(
        lambda key, p: sample(key, dist.Bernoulli(p * jnp.ones(2)), estimator=tg.enum()).astype(float).prod()
    )
    assert float(jax.grad(f, argnums=1)(KEY, 0.0)) == 0.0
    assert float(jax.grad(jax.grad(f, argnums=1), argnums=1)(KEY, 0.0)) == 2.0


@pytest.mark.table
@pytest.mark.parametrize("end", [0.0, 1.0])
@pytest.mark.parametrize("make", [dist.Bernoulli, AT_ENDS["categorical"][0]], ids=["bernoulli", "categorical"])
def test_the_check_at_an_end_passes_the_right_and_fails_the_wrong(make, end):
    """REINFORCE misses the value that is never drawn; at the other end it is the drawn one that counts."""
    coin = tg.gen(lambda p: tg.sample("b", make(p)))

    def report(estimator):
        g = tg.with_estimators(
            tg.expectation(lambda key, p: coin.simulate(key, p).retval.astype(float)), {"b": estimator}
        )
        return tg.check_unbiased(g, end, key=KEY, draws=500)

    for right in (tg.enum(), tg.local_expectation(), tg.mvd(), tg.sum_and_sample(1)):
        assert report(right).passed
    drawn = sample(KEY, make(end))
    assert report(tg.reinforce()).passed == (drawn == 1)


def test_the_sum_over_outcomes_at_an_end():
    mean = outcome_sum(lambda key, p: sample(key, dist.Bernoulli(p)).astype(float))
    assert [float(jax.grad(lambda p: mean(KEY, p)[0])(p)) for p in (0.0, 1.0)] == [1.0, 1.0]


# ---- values without probability -------------------------------------------------------------------------------------

MASKED = ["enum", "local_expectation", "mvd", "reinforce", "sum_and_sample", "unordered_set", "rebar"]


def masked(how, shape_of):
    """An objective of log densities at a category that neither model nor guide can draw."""
    estimator = tg.rebar(lambda b: b @ jnp.arange(3.0)) if how == "rebar" else getattr(tg, how)()

    def f(key, w):
        logq = jax.nn.log_softmax(jnp.stack([w, -w, jnp.full_like(w, -jnp.inf)]))
        z = sample(key, dist.Categorical(logits=logq), estimator=estimator)
        return shape_of((jnp.log(jnp.array([0.3, 0.7, 0.0])) - logq)[z])

    return expectation(f)


def masked_by_hand(w, power):
    """Value and slope of E y^power: q = sigmoid(+-2w), y = log p - log q, with no third value."""
    q = 1.0 / (1.0 + np.exp(-2.0 * w * np.array([1.0, -1.0])))
    y, dq = np.log([0.3, 0.7]) - np.log(q), 2.0 * q * (1.0 - q) * np.array([1.0, -1.0])
    return q @ y**power, dq @ y**power - q @ (power * y ** (power - 1) * dq / q)


@pytest.mark.table
@pytest.mark.parametrize("mode", [jax.jacrev, jax.jacfwd])
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("how", MASKED)
def test_a_value_that_nothing_can_draw_adds_nothing(how, power, mode):
    f = masked(how, lambda y: y**power)
    keys = jax.random.split(KEY, 2_000 if how != "enum" else 4)
    draws = jax.jit(jax.vmap(lambda k: (f(k, 0.4), mode(f, argnums=1)(k, 0.4))))(keys)
    for found, truth in zip(map(np.asarray, draws), masked_by_hand(0.4, power), strict=True):
        assert abs(found.mean() - truth) < 5.0 * found.std() / np.sqrt(len(found)) + 1e-5


def test_a_value_that_only_some_lanes_can_draw():
    """Each lane sums over its own values; the gradient is that of the lane by itself."""
    masks = jnp.array([[0.0, 0.0, -jnp.inf], [0.0, -jnp.inf, 0.0]])

    def lane(key, w, mask):
        logq = jax.nn.log_softmax(w * jnp.arange(3.0) + mask)
        z = sample(key, dist.Categorical(logits=logq), estimator=tg.enum())
        return (jnp.log(jax.nn.softmax(mask)) - logq)[z]

    gradient = jax.grad(expectation(lane), argnums=1)
    together = jax.vmap(gradient, (None, None, 0))(KEY, 0.4, masks)
    apart = [gradient(KEY, 0.4, mask) for mask in masks]
    # -KL(q || uniform) of two values, odds e^w and e^2w: its slope is -w var(k).
    variances = [np.exp(d * 0.4) / (1.0 + np.exp(d * 0.4)) ** 2 * d**2 for d in (1.0, 2.0)]
    np.testing.assert_allclose(together, -0.4 * np.array(variances), rtol=1e-5)
    np.testing.assert_allclose(apart, together, rtol=1e-5)


@pytest.mark.table
@pytest.mark.parametrize("how", ["enum", "local_expectation", "mvd"])
@pytest.mark.parametrize("logit", [-jnp.inf, jnp.inf])
@pytest.mark.parametrize("family", ["bernoulli", "binomial", "one-hot"])
def test_infinite_logits_have_no_derivative_and_no_nan(family, logit, how):
    make = {
        "bernoulli": lambda w: dist.Bernoulli(logits=w),
        "binomial": lambda w: dist.Binomial(2, logits=w),
        "one-hot": lambda w: dist.Multinomial(1, logits=jnp.stack([jnp.zeros(()), -jnp.abs(w)])),
    }[family]

    def f(key, w):
        x = sample(key, make(w), estimator=getattr(tg, how)()).astype(float)
        x = x[1] if family == "one-hot" else x
        certain = float({"bernoulli": 1, "binomial": 2, "one-hot": 0}[family]) if logit > 0 else 0.0
        return jnp.where(x == certain, 0.0, -jnp.inf) ** 2

    # The objective is finite at the sure value alone.
    for mode in (jax.grad, jax.jacfwd):
        assert float(mode(expectation(f), argnums=1)(KEY, logit)) == 0.0


def test_what_is_not_finite_stays_visible_where_it_counts():
    """At an outcome of some probability, and at one of none whose probability has a slope."""

    def f(key, p):
        return jnp.where(sample(key, dist.Bernoulli(p), estimator=tg.enum()) == 1, -jnp.inf, 0.0)

    assert float(expectation(f)(KEY, 0.5)) == -np.inf
    assert float(expectation(f)(KEY, 0.0)) == 0.0
    assert float(jax.grad(expectation(f), argnums=1)(KEY, 0.0)) == -np.inf
    fork = expectation(lambda key, p: f(key, p) * 1.0)
    fork = tg.transforms.choose_estimators(fork, lambda *_: tg.local_expectation())
    assert float(jax.grad(fork, argnums=1)(KEY, 0.0)) == -np.inf


# ---- sums over lanes that meet infinities ---------------------------------------------------------------------------


def all_heads(lanes, estimator):
    """The indicator that all flips are 1, as exp of a sum of 0 and -inf."""

    def f(key, p):
        b = jax.vmap(lambda k: sample(k, dist.Bernoulli(p), estimator=estimator))(jax.random.split(key, lanes))
        return jnp.exp(jnp.sum(jnp.where(b == 1, 0.0, -jnp.inf)))

    return f


@pytest.mark.parametrize("how", ["mvd", "local_expectation"])
def test_forks_in_lanes_whose_sum_is_minus_infinity(how):
    """P(all heads) = p^3: every gradient draw counts the lanes whose change makes or breaks it."""
    estimator = getattr(tg, how)()
    keys = jax.random.split(KEY, 400)
    g = jax.jit(jax.vmap(jax.grad(expectation(all_heads(3, estimator)), argnums=1), (0, None)))(keys, 0.5)
    heads = jax.vmap(lambda key: jax.vmap(lambda k: sample(k, dist.Bernoulli(0.5)))(jax.random.split(key, 3)))(keys)
    number = np.asarray(heads).sum(1)
    np.testing.assert_array_equal(g, np.where(number == 3, 3.0, np.where(number == 2, 1.0, 0.0)))


SUMS = {
    "both infinities": (lambda b: jnp.where(b == 1, jnp.inf, -jnp.inf), lambda s: jnp.isnan(s).astype(float)),
    "nan": (lambda b: jnp.where(b == 1, jnp.nan, 1.0), lambda s: jnp.where(jnp.isnan(s), 2.0, s)),
    "plus infinity": (lambda b: jnp.where(b == 1, jnp.inf, 1.0), lambda s: 1.0 / s),
    "finite": (lambda b: 3.0 * b, lambda s: s**2),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SUMS)
def test_sums_of_lanes_are_those_of_each_version(name):
    """Three lanes with one alternative each, against the sum with one flip turned."""
    of_lane, of_sum = SUMS[name]

    def f(key, p):
        b = jax.vmap(lambda k: sample(k, dist.Bernoulli(p), estimator=tg.mvd()))(jax.random.split(key, 3))
        return of_sum(jnp.sum(of_lane(b.astype(float))))

    keys = jax.random.split(KEY, 40)
    found = jax.vmap(jax.grad(expectation(f), argnums=1), (0, None))(keys, 0.5)
    heads = jax.vmap(lambda key: jax.vmap(lambda k: sample(k, dist.Bernoulli(0.5)))(jax.random.split(key, 3)))(keys)
    expected = []
    for b in np.asarray(heads, np.float32):
        value = lambda b: float(of_sum(jnp.sum(of_lane(jnp.asarray(b)))))  # noqa: E731
        turned = [np.where(np.arange(3) == i, 1.0 - b, b).astype(np.float32) for i in range(3)]
        expected.append(sum((value(t) - value(b)) * (1.0 - 2.0 * b[i]) for i, t in enumerate(turned)))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
