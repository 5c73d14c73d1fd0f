"""The relaxed draws are biased, by the amount that quadrature over their noise says."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

import tracegrad as tg

KEY = jax.random.key(11)
LOGIT, TARGET = 1.5, 0.3
U = (np.arange(400_000) + 0.5) / 400_000
NOISE = np.log(U) - np.log1p(-U)
"""Logistic noise, the difference of two Gumbels, at the midpoints of its quantiles."""


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def objective(relaxed, temperature):
    """E[(b - 0.3)^2] with b the second entry of a draw of two categories, logits (0, l)."""

    @tg.gen
    def program(logit):
        z = tg.sample("z", relaxed(jnp.stack([jnp.zeros_like(logit), logit]), temperature))
        return (z[1] - TARGET) ** 2

    return tg.expectation(lambda key, logit: program.simulate(key, logit).retval)


def straight_through(t):
    """The value of the discrete program; the slope at the drawn corner times the slope of the soft draw."""
    soft = sigmoid((LOGIT + NOISE) / t)
    hard = (LOGIT + NOISE > 0.0).astype(float)
    return np.mean((hard - TARGET) ** 2), np.mean(2.0 * (hard - TARGET) * soft * (1.0 - soft) / t)


def concrete(t):
    """Value and slope of the relaxed program."""
    soft = sigmoid((LOGIT + NOISE) / t)
    return np.mean((soft - TARGET) ** 2), np.mean(2.0 * (soft - TARGET) * soft * (1.0 - soft) / t)


p = sigmoid(LOGIT)
EXACT = (p * 0.7**2 + (1.0 - p) * 0.3**2, p * (1.0 - p) * (0.7**2 - 0.3**2))
CASES = [
    (tg.biased_straight_through, straight_through, 1.0),
    (tg.biased_straight_through, straight_through, 0.5),
    (tg.biased_concrete, concrete, 1.0),
    (tg.biased_concrete, concrete, 0.5),
]


@pytest.mark.parametrize(("relaxed", "expected", "temperature"), CASES)
def test_the_bias_is_what_quadrature_says(relaxed, expected, temperature):
    f, logit = objective(relaxed, temperature), jnp.asarray(LOGIT)
    value, slope = expected(temperature)
    assert tg.check_unbiased(f, logit, key=KEY, draws=20_000, exact=(value, (slope,))).passed
    assert max(abs(value - EXACT[0]), abs(slope - EXACT[1])) > 0.02
    assert not tg.check_unbiased(f, logit, key=KEY, draws=20_000, exact=(EXACT[0], (EXACT[1],))).passed


def test_the_value_of_a_straight_through_draw_is_one_hot_and_its_mean_right():
    values = jax.vmap(lambda k: tg.biased_straight_through(jnp.log(jnp.asarray([0.2, 0.5, 0.3]))).sample(k))(
        jax.random.split(KEY, 20_000)
    )
    np.testing.assert_allclose(values.sum(-1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(np.sort(values, -1), np.broadcast_to([0.0, 0.0, 1.0], values.shape), atol=1e-6)
    np.testing.assert_allclose(values.mean(0), [0.2, 0.5, 0.3], atol=5 * np.sqrt(0.25 / 20_000))
    np.testing.assert_allclose(straight_through(1.0)[0], EXACT[0], rtol=1e-5)


def test_densities():
    """A corner has the probability of its category; the concrete density integrates to one and matches its draws."""
    logits = jnp.asarray([0.0, LOGIT])
    hard = tg.biased_straight_through(logits)
    np.testing.assert_allclose(hard.log_prob(jnp.asarray([0.0, 1.0])), np.log(p), rtol=1e-6)
    np.testing.assert_allclose(hard.log_prob(jnp.asarray([1.0, 0.0])), np.log1p(-p), rtol=1e-6)
    soft = tg.biased_concrete(logits, 0.7)
    y = jnp.asarray((np.arange(20_000) + 0.5) / 20_000, jnp.float32)
    density = jnp.exp(jax.vmap(soft.log_prob)(jnp.stack([1.0 - y, y], -1)))
    np.testing.assert_allclose(density.mean(), 1.0, rtol=2e-3)
    np.testing.assert_allclose((density * y).mean(), sigmoid((LOGIT + NOISE) / 0.7).mean(), rtol=2e-3)
    three = tg.biased_concrete(jnp.zeros((2, 3)), 0.5)
    assert three.sample(KEY).shape == (2, 3)
    # k = 3, equal logits, t = 1/2, at the centre: 2! t^2 / (3^-1)^3 / 3^3 = 1/2 for each of the two.
    np.testing.assert_allclose(three.log_prob(jnp.full((2, 3), 1.0 / 3.0)), 2.0 * np.log(0.5), rtol=1e-5)


# ---- chosen by address -----------------------------------------------------------------------------------------------


@tg.gen
def coin(logit):
    b = tg.sample("b", tg.dist.Bernoulli(logits=logit))
    return (b - TARGET) ** 2


def test_a_site_is_relaxed_from_outside():
    """The program as it stands has the same bias as one that is written with relaxed draws."""
    chosen = coin.with_estimators({"b": tg.biased_straight_through(temperature=0.5)})
    f = tg.expectation(lambda key, logit: chosen.simulate(key, logit).retval)
    value, slope = straight_through(0.5)
    with jax.numpy_dtype_promotion("standard"):
        report = tg.check_unbiased(f, jnp.asarray(LOGIT), key=KEY, draws=20_000, exact=(value, (slope,)))
        assert report.passed
        assert str(tg.describe_estimators(f, KEY, 1.5)[0].estimator) == "reparam()"


def test_a_relaxed_guide_is_weighed_by_a_discrete_model():
    """At 0 and 1 the densities are those of the Bernoulli, with a derivative between them."""
    guide = tg.gen(lambda w: tg.sample("z", tg.dist.Bernoulli(logits=w).expand([2]).to_event(1)))

    @tg.gen
    def model():
        z = tg.sample("z", tg.dist.Bernoulli(0.3).expand([2]).to_event(1))
        tg.sample("x", tg.dist.Normal(z.sum().astype(float), 1.0))

    relaxed = guide.with_estimators({"z": tg.biased_straight_through(temperature=0.7)})
    trace = relaxed.simulate(KEY, 0.4)
    assert set(np.asarray(trace.choices["z"]).tolist()) <= {0.0, 1.0}
    assert float(trace.logp) == pytest.approx(float(guide.assess(trace.choices, 0.4)[0]), rel=1e-5)
    bound = tg.elbo(model, relaxed, {"x": 1.0})
    values = jax.jit(jax.vmap(lambda key: bound(key, (), (0.4,))))(jax.random.split(KEY, 4000))
    q = sigmoid(0.4)
    exact = 2.0 * (q * (np.log(0.3) - np.log(q)) + (1.0 - q) * (np.log(0.7) - np.log1p(-q)))
    exact += sum(w * -0.5 * (1.0 - k) ** 2 for k, w in enumerate([(1 - q) ** 2, 2 * q * (1 - q), q**2]))
    assert float(values.mean()) == pytest.approx(
        exact - 0.5 * np.log(2.0 * np.pi), abs=4.0 * float(values.std()) / 4000**0.5
    )
    slope = jax.grad(bound, argnums=2)(KEY, (), (0.4,))[0]
    assert np.isfinite(slope)
    assert abs(float(slope)) > 1e-3


def test_a_site_without_relaxed_draws_is_named():
    program = tg.gen(lambda: tg.sample("k", tg.dist.Categorical(jnp.ones(3) / 3.0)))
    with pytest.raises(tg.EstimatorError, match="'k': a CategoricalProbs has no relaxed draws"):
        program.with_estimators({"k": tg.biased_straight_through()}).simulate(KEY)
    with pytest.raises(tg.EstimatorError, match="for the sites of generative functions"):
        tg.transforms.sample(KEY, tg.dist.Bernoulli(0.5), estimator=tg.biased_straight_through())


@pytest.mark.parametrize("relaxed", [tg.biased_straight_through, tg.biased_concrete])
def test_they_say_that_they_are_biased_and_what_they_take(relaxed):
    assert "BIASED" in relaxed.__doc__
    with pytest.raises(tg.EstimatorError, match=r"takes a float array of shape \(..., k\), and got float32\[\]"):
        relaxed(jnp.asarray(0.3), 1.0)
