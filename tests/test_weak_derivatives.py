"""Measure-valued derivatives of every family, implicit paths, and draws that are vectors."""

import itertools

import equinox as eqx
import jax
import numpy as np
import pytest
from estimator_programs import (
    Family,
    N,
    bernoulli,
    categorical,
    check,
    counts,
    density,
    gamma,
    h,
    inputs,
    normal,
    odds,
    poisson_counts,
)
from exactly import quick_key
from jax import numpy as jnp

import tracegrad as tg
from tracegrad import dist
from tracegrad.transforms import sample, weak_derivative

KEY = jax.random.key(0)

# ---- measure-valued derivatives: every family -----------------------------------------------------------------------


def uniform_nodes(low, high):
    u = jnp.asarray((np.arange(400) + 0.5) / 400, dtype=float)
    return low + (high - low) * u, jnp.full(400, 1 / 400)


# A rate that is drawn too takes ten times the work. At N // 4 coefficients that are 6% off are seen here; the weak
# derivative alone has its N draws in `test_weak_derivative_of_every_family`.
FAMILIES = {
    "poisson": poisson_counts(dist.Poisson, 2.0),
    "exponential": density(dist.Exponential, 1.5, low=0, high=20),
    "normal": normal,
    "gamma": gamma,
    "weibull": density(dist.Weibull, 1.3, 1.8, low=0, high=12),
    "bernoulli-probs": bernoulli,
    "bernoulli-logits": odds,
    "categorical-logits": categorical,
    "categorical-probs": counts(
        lambda *p: dist.Categorical(probs=jnp.stack(p, -1) / sum(p)[..., None]), 0.3, 0.5, 0.2, most=3
    ),
    "binomial-probs": counts(lambda p: dist.Binomial(5, probs=p), 0.3, most=6),
    "binomial-logits": counts(lambda w: dist.Binomial(5, logits=w), 0.3, most=6),
    "geometric-probs": counts(lambda p: dist.Geometric(probs=p), 0.5),
    "geometric-logits": counts(lambda w: dist.Geometric(logits=w), 0.3),
    "negative-binomial-probs": poisson_counts(dist.NegativeBinomialProbs, 2.0, 0.4, n=N // 4),
    "negative-binomial-logits": poisson_counts(dist.NegativeBinomialLogits, 2.0, -0.4, n=N // 4),
    "negative-binomial-2": poisson_counts(dist.NegativeBinomial2, 1.5, 2.0, n=N // 4),
    "gamma-poisson": poisson_counts(dist.GammaPoisson, 1.5, 2.0, n=N // 4),
    "uniform": Family(dist.Uniform, (-0.5, 1.5), uniform_nodes),
    "laplace": density(dist.Laplace, 0.4, 0.7, low=-14.6, high=15.4, n=3000),
    "chi2": density(dist.Chi2, 5.0, low=0, high=60, n=6000),
    "expanded": counts(lambda p: dist.Bernoulli(p).expand(jnp.shape(p)), 0.3, most=2),
}


SLOW = ("negative-binomial-logits", "negative-binomial-2", "gamma-poisson", "chi2")  # the others have their rows


@pytest.mark.table
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in FAMILIES])
def test_weak_derivative_of_every_family(name):
    """Two elements of an event, with parameters of their own: E[sum_ie (l(v with v_e = v_ie) - l(v)) d c_ie]."""
    family = FAMILIES[name]
    row = jnp.asarray(family.params, dtype=float)
    theta = jnp.stack([row, 0.9 * row], axis=1)
    key = family.key(list(FAMILIES).index(name))

    def one(keys):
        v = sample(keys[0], family.make(*theta).to_event(1))

        def terms(theta):
            alternatives, coefficients = weak_derivative(family.make(*theta), keys[1], v)
            assert alternatives.shape == coefficients.shape == (len(coefficients), 2)
            x = v.astype(float)
            changed = SCALES @ x + SCALES[None] * (alternatives.astype(float) - x[None])
            return jnp.sum(jax.lax.stop_gradient(h(changed) - h(SCALES @ x)) * coefficients)

        return jax.grad(terms)(theta)

    draws = np.asarray(jax.jit(lambda key: jax.vmap(one)(jax.random.split(key, (N, 2))))(key), np.float64)
    truth = np.asarray(jax.jit(jax.grad(lambda t: _mean_h(family, t)))(theta))
    error = draws.std(0) / np.sqrt(N) + 1e-6
    assert np.abs((draws.mean(0) - truth) / error).max() < 4.5, (draws.mean(0), truth, error)
    assert error.max() < 0.05


SCALES = np.array([1.0, -0.5], np.float32)


def _mean_h(family, theta):
    """E h(s . x) from the moments and the characteristic functions of the elements."""
    mean, variance, wave = 0.0, 0.0, jax.lax.complex(1.0, 0.0)
    for scale, row in zip(SCALES.tolist(), theta.T, strict=True):
        x, p = family.quadrature(row)
        center = p @ x
        mean, variance = mean + scale * center, variance + scale**2 * (p @ (x - center) ** 2)
        wave = wave * jax.lax.complex(p @ jnp.cos(scale * x), p @ jnp.sin(scale * x))
    return 0.2 * (mean**2 + variance) + wave.imag


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_mvd_of_every_family_in_line_and_in_a_plate_in_a_branch_in_a_loop(name):
    check(FAMILIES[name], tg.mvd())


@pytest.mark.slow
@pytest.mark.parametrize(
    "family",
    [
        density(dist.Beta, 2.0, 3.0, low=0, high=1),
        density(dist.StudentT, 9.0, 0.3, 0.8, low=-40, high=40, n=40000),
        density(lambda a, b: dist.LogNormal(a, b), 0.1, 0.4, low=0, high=30, n=6000),
    ],
    ids=["beta", "student-t", "log-normal"],
)
def test_implicit_paths(family):
    check(family, tg.reparam())


@pytest.mark.slow
def test_implicit_paths_of_the_dirichlet():
    """E z_i z_j and E z_i^2 of a Dirichlet in closed form."""
    a = jnp.array([1.5, 2.5, 0.8])

    def moment(a):
        return a[0] * a[1] / (a.sum() * (a.sum() + 1)) + 2 * a[2] * (a[2] + 1) / (a.sum() * (a.sum() + 1))

    def f(key, a):
        z = sample(key, dist.Dirichlet(a), estimator=tg.reparam())
        return z[0] * z[1] + 2 * z[2] ** 2

    grads = jax.jit(jax.vmap(lambda k: jax.grad(tg.expectation(f), argnums=1)(k, a)))(inputs(quick_key())[0])
    error = np.asarray(grads).std(0) / np.sqrt(N)
    assert np.abs((np.asarray(grads).mean(0) - jax.grad(moment)(a)) / error).max() < 4.5


# ---- one-hot draws --------------------------------------------------------------------------------------------------


class OneHot(eqx.Module):
    """A category as a one-hot vector of floats: a family of one's own, with a batch and an event."""

    logits: jax.Array

    @property
    def batch_shape(self):
        return self.logits.shape[:-1]

    def sample(self, key):
        k = self.logits.shape[-1]
        return jax.nn.one_hot(jax.random.categorical(key, self.logits), k, dtype=self.logits.dtype)

    def log_prob(self, value):
        return jnp.sum(value * jax.nn.log_softmax(self.logits), axis=-1)

    def enumerate_support(self):
        return jnp.eye(self.logits.shape[-1], dtype=self.logits.dtype)


ONE_HOT = {
    "multinomial, probs": lambda p: dist.Multinomial(1, p),
    "multinomial, logits": lambda p: dist.Multinomial(1, logits=jnp.log(p)).to_event(1),
    "of one's own": lambda p: OneHot(jnp.log(p)),
}
SCORED = ["reinforce", "local_expectation", "enum", "unordered_set", "sum_and_sample"]
HOT = [(name, how) for name in ONE_HOT for how in ([*SCORED, "mvd"] if name.startswith("multi") else SCORED)]


QUICK = {("multinomial, probs", "local_expectation"), ("multinomial, logits", "mvd"), ("of one's own", "enum")}


@pytest.mark.table
@pytest.mark.parametrize(
    ("name", "how"), [pytest.param(*row, marks=[] if row in QUICK else [pytest.mark.slow]) for row in HOT]
)
def test_one_hot_draws_exactly(name, how):
    """Two one-hot vectors of three categories as the elements of one site, against the sum over both."""
    weights = np.array([[1.0, -2.0, 3.5], [0.5, 2.5, -1.0]])

    def cost_of(x):
        return (jnp.sum(jnp.asarray(weights) * x) - 0.7) ** 2 + x[0, 0] * x[1, 2]

    def f(key, p):
        p = p / jnp.sum(p, axis=-1, keepdims=True)
        return cost_of(sample(key, ONE_HOT[name](p), estimator=getattr(tg, how)()).astype(float))

    def exact_mean(p):
        p = p / jnp.sum(p, axis=-1, keepdims=True)
        pairs = [(i, j) for i in range(3) for j in range(3)]
        return sum(p[0, i] * p[1, j] * cost_of(jnp.stack([jnp.eye(3)[i], jnp.eye(3)[j]])) for i, j in pairs)

    with jax.enable_x64(True):
        p = jnp.array([[0.25, 0.5, 0.25], [0.5, 0.25, 0.25]])
        # What a draw leaves is in thirds and halves, which takes finer cells.
        mean = tg.exact_expectation(tg.expectation(f), cells=12 if how == "unordered_set" else 4)
        np.testing.assert_allclose(jax.jacfwd(mean, argnums=1)(KEY, p), jax.grad(exact_mean)(p), rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_vectors_of_several_trials_have_a_weak_derivative_and_no_list():
    """E of a function of Mult(3, p), by all 27 sequences of trials."""

    def value_of(x):
        return jnp.sin(x @ jnp.array([1.0, 0.3, -0.4])) + x[..., 0] * x[..., 1]

    def exact_mean(w):
        trials = jnp.array(list(itertools.product(range(3), repeat=3)))
        p = jnp.prod(jax.nn.softmax(w)[trials], axis=1)
        return p @ value_of(jax.nn.one_hot(trials, 3).sum(1))

    def f(key, w):
        return value_of(sample(key, dist.Multinomial(3, logits=w), estimator=tg.mvd()).astype(float))

    w = jnp.array([0.2, -0.3, 0.5])
    keys = jax.random.split(quick_key(), 50_000)
    draws = jax.jit(jax.vmap(lambda k: jax.grad(tg.expectation(f), argnums=1)(k, w)))(keys)
    error = np.asarray(draws).std(0) / np.sqrt(len(draws))
    assert error.max() < 0.01
    assert np.abs((np.asarray(draws).mean(0) - jax.grad(exact_mean)(w)) / error).max() < 4.5
    with pytest.raises(tg.EstimatorError, match="MultinomialLogits has no finite support"):
        sample(KEY, dist.Multinomial(3, logits=w), estimator=tg.enum())
