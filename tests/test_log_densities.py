"""The derivatives of log densities in their parameters, against finite differences, at the points where networks start.

A score that is wrong at one point biases every gradient there: numpyro's Bernoulli and binomial in terms of logits are,
at zero.
"""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

import tracegrad as tg
from tracegrad import dist
from tracegrad.transforms import log_density

CASES = {
    "bernoulli": (lambda x: dist.Bernoulli(logits=x), [0, 1], [0.0, 1.0, -30.0]),
    "relaxed bernoulli value": (lambda x: dist.Bernoulli(logits=x, validate_args=False), [0.3], [0.0, 2.0]),
    "bernoulli, probability": (lambda x: dist.Bernoulli(x), [0, 1], [0.25, 0.75]),
    "binomial, probability": (lambda x: dist.Binomial(3, x), [0, 1, 3], [0.25, 0.75]),
    "binomial": (lambda x: dist.Binomial(3, logits=x), [0, 1, 3], [0.0, -2.0]),
    "geometric": (lambda x: dist.Geometric(logits=x), [0, 2], [0.0, 1.0]),
    "negative binomial": (lambda x: dist.NegativeBinomialLogits(2.0, x), [0, 3], [0.0, 1.0]),
    "categorical": (lambda x: dist.Categorical(logits=jnp.stack([x, 0 * x, x * 2])), [0, 1, 2], [0.0, 1.0]),
    "poisson": (lambda x: dist.Poisson(x), [0, 3], [1.0, 2.0]),
    "normal": (lambda x: dist.Normal(x, 1.0), [0.0, 1.0], [0.0, 1.0]),
    "normal scale": (lambda x: dist.Normal(0.0, x), [0.0, 1.0], [1.0]),
    "laplace scale": (lambda x: dist.Laplace(0.0, x), [1.0], [1.0]),
    "gamma": (lambda x: dist.Gamma(x, 1.0), [0.5, 1.0], [1.0]),
    "beta": (lambda x: dist.Beta(x, 1.0), [0.5], [1.0]),
    "student t": (lambda x: dist.StudentT(x, 0.0, 1.0), [0.0, 1.0], [1.0]),
    "independent": (lambda x: dist.Bernoulli(logits=x * jnp.ones(2)).to_event(1), [[0, 1]], [0.0]),
    "expanded": (lambda x: dist.Bernoulli(logits=x).expand([2]).to_event(1), [[1, 1]], [0.0]),
    "masked": (lambda x: dist.Bernoulli(logits=x).mask(True), [1], [0.0]),
    "mixture": (
        lambda x: dist.MixtureSameFamily(
            dist.Categorical(probs=jnp.array([0.3, 0.7])), dist.Bernoulli(logits=jnp.stack([x, 1.0 + x]))
        ),
        [0, 1],
        [0.0],
    ),
}


@pytest.mark.table
@pytest.mark.parametrize("name", CASES)
def test_the_score_is_the_slope(name):
    make, values, points = CASES[name]
    with jax.enable_x64(True):
        for value in values:
            for x in points:

                def f(x, value=value):
                    return jnp.sum(log_density(make(x), jnp.asarray(value)))

                slope = (f(jnp.asarray(x + 1e-5)) - f(jnp.asarray(x - 1e-5))) / 2e-5
                np.testing.assert_allclose(jax.grad(f)(jnp.asarray(x)), slope, rtol=1e-6, atol=1e-8)


@pytest.mark.slow
def test_densities_are_those_of_the_family():
    for make, values, points in CASES.values():
        for value in values:
            for x in points:
                with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
                    d, v = make(jnp.asarray(x)), jnp.asarray(value)
                    np.testing.assert_allclose(log_density(d, v), d.log_prob(v), rtol=2e-5)


def test_certain_logits():
    """Infinite logits are certain outcomes, without NaN in value or derivative."""
    certain = [(jnp.inf, 1, 0.0), (jnp.inf, 0, -jnp.inf), (-jnp.inf, 0, 0.0), (-jnp.inf, 1, -jnp.inf)]
    for logit, value, expected in certain:

        def f(x, value=value):
            return log_density(dist.Bernoulli(logits=x, validate_args=False), jnp.asarray(value))

        assert f(jnp.asarray(logit)) == expected
        assert not jnp.isnan(jax.grad(f)(jnp.asarray(logit)))


@pytest.mark.parametrize(
    ("make", "p", "value", "slope"),
    [
        (dist.Bernoulli, 0.0, 0, -1.0),
        (dist.Bernoulli, 1.0, 1, 1.0),
        (lambda p: dist.Binomial(3, p), 0.0, 0, -3.0),
        (lambda p: dist.Binomial(3, p), 1.0, 3, 3.0),
    ],
)
def test_certain_probabilities(make, p, value, slope):
    """Probability 0 and 1: no derivative is nan, however large the objective that multiplies it."""

    def f(p):
        score = log_density(make(p), jnp.asarray(value))
        return 1e3 * jnp.exp(score - jax.lax.stop_gradient(score))

    assert jax.grad(f)(jnp.asarray(p)) == pytest.approx(1e3 * slope)
    assert jnp.isfinite(jax.grad(jax.grad(f))(jnp.asarray(p)))


def test_a_chain_of_absences():
    """Each flip has the probability of the last one's outcome as a factor, which is 0 as soon as one is absent."""

    @tg.gen
    def chain(w):
        p, present = jax.nn.sigmoid(w), 1.0
        for t in range(3):
            present = tg.sample(f"present{t}", dist.Bernoulli(p * present), estimator=tg.reinforce()).astype(float)

    f = tg.expectation(lambda key, w: 1e3 * sum(map(jnp.sum, chain.simulate(key, w).choices.values())).astype(float))
    grads = jax.vmap(jax.grad(f, argnums=1), (0, None))(jax.random.split(jax.random.key(0), 100), 0.0)
    assert jnp.all(jnp.isfinite(grads))


def test_reinforce_at_zero_logits_is_unbiased():
    """d/dx E[3 z] = 3/4 at x = 0, exactly: the sum over outcomes of probability times estimate."""
    flip = tg.gen(lambda x: tg.sample("z", dist.Bernoulli(logits=x), estimator=tg.reinforce()))
    g = tg.expectation(lambda key, x: 3.0 * flip.simulate(key, x).retval.astype(float))
    mean = tg.exact_expectation(g)
    with jax.enable_x64(True):
        np.testing.assert_allclose(jax.grad(mean, argnums=1)(jax.random.key(0), jnp.asarray(0.0)), 0.75, rtol=1e-9)


@pytest.mark.parametrize("logit", [0.0, -1.5, 40.0])
def test_higher_derivatives_of_a_flip(logit):
    """Those of -log(1 + exp(x)): -s, -s (1 - s) and -s (1 - s) (1 - 2 s), with s the sigmoid."""
    with jax.enable_x64(True):

        def f(x):
            return log_density(dist.Bernoulli(logits=x), jnp.asarray(0))

        s = 1 / (1 + np.exp(-logit))
        for expected in (-s, -s * (1 - s), -s * (1 - s) * (1 - 2 * s)):
            f = jax.grad(f)
            np.testing.assert_allclose(f(jnp.asarray(logit)), expected, rtol=1e-9, atol=1e-12)


def test_the_slope_in_a_relaxed_value():
    slope = jax.grad(lambda y: log_density(dist.Bernoulli(logits=2.0, validate_args=False), y))(0.3)
    np.testing.assert_allclose(slope, 2.0, rtol=1e-6)


@pytest.mark.slow
def test_second_derivatives_in_a_loop():
    """Every mode agrees at the kink that the usual formulas hide, in a scan too: sum_x x^2 sigmoid'(0) = -5/4."""

    def f(w):
        def body(total, x):
            return total + jnp.exp(log_density(dist.Bernoulli(logits=w * x), jnp.asarray(1))), None

        return (
            jax.lax.scan(body, 0.0, jnp.arange(3.0))[0]
            + jax.lax.scan(
                lambda t, x: (t + log_density(dist.Bernoulli(logits=w * x), jnp.asarray(1)), None), 0.0, jnp.arange(3.0)
            )[0]
        )

    for outer, inner in ((jax.jacfwd, jax.jacfwd), (jax.jacfwd, jax.grad), (jax.grad, jax.grad)):
        np.testing.assert_allclose(outer(inner(f))(jnp.zeros(())), -1.25, rtol=1e-5)
