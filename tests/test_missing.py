"""Missing observations: the density of those that are there, and derivatives without NaN."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from scipy import stats

import tracegrad as tg

D = tg.dist
NAN = np.nan
CASES = {
    "normal": (
        lambda a: D.Normal(a, 2.0).expand([3]),
        [1.0, NAN, 0.5],
        lambda a: stats.norm(a, 2.0).logpdf([1.0, 0.5]),
    ),
    "to_event": (
        lambda a: D.Normal(a, 2.0).expand([3]).to_event(1),
        [NAN, NAN, 0.5],
        lambda a: stats.norm(a, 2.0).logpdf(0.5),
    ),
    "gamma": (lambda a: D.Gamma(a, 1.0).expand([2]), [NAN, 0.5], lambda a: stats.gamma(a).logpdf(0.5)),
    "poisson": (lambda a: D.Poisson(a).expand([3]), [2.0, NAN, 0.0], lambda a: stats.poisson(a).logpmf([2, 0])),
    "bernoulli": (lambda a: D.Bernoulli(a / 2.0).expand([2]), [NAN, 1.0], lambda a: np.log(a / 2.0)),
    "log scale": (
        lambda a: D.LogNormal(a, 1.0).expand([2]),
        [NAN, 0.5],
        lambda a: stats.norm(a, 1.0).logpdf(np.log(0.5)) - np.log(0.5),
    ),
    "vectors": (
        lambda a: D.MultivariateNormal(a * jnp.ones(2), jnp.eye(2)).expand([2]),
        [[NAN, NAN], [1.0, 2.0]],
        lambda a: stats.norm(a).logpdf([1.0, 2.0]),
    ),
    "all": (lambda a: D.Normal(a, 1.0).expand([2]), [NAN, NAN], lambda a: 0.0),
    "none": (lambda a: D.Normal(a, 1.0).expand([2]), [1.0, 2.0], lambda a: stats.norm(a).logpdf([1.0, 2.0])),
    "a number": (lambda a: D.Normal(a, 1.0), NAN, lambda a: 0.0),
}


@pytest.mark.table
@pytest.mark.parametrize("name", CASES)
def test_density_and_derivative_of_what_is_there(name):
    family, value, expected = CASES[name]
    model = tg.gen(lambda a: tg.sample("y", tg.nan_as_missing(family(a))))
    with jax.enable_x64(True):
        logp = jax.jit(lambda a: model.assess({"y": jnp.asarray(value)}, a)[0])
        at, step = 0.7, 1e-5
        assert float(logp(at)) == pytest.approx(np.sum(expected(at)), rel=1e-9)
        slope = (np.sum(expected(at + step)) - np.sum(expected(at - step))) / (2 * step)
        assert float(jax.grad(logp)(at)) == pytest.approx(slope, rel=1e-6, abs=1e-8)
        assert np.isfinite(float(jax.hessian(logp)(at)))


@pytest.mark.slow
def test_the_posterior_is_that_of_the_rows_that_are_there():
    """N(0, 1) with two of four N(z, 1) seen: mean (1 + 2) / 3, precision 3."""

    @tg.gen
    def row(z):
        tg.sample("y", tg.nan_as_missing(D.Normal(z, 1.0)))

    @tg.gen
    def model():
        z = tg.sample("z", D.Normal(0.0, 1.0))
        tg.sample("rows", row.vmap()(jnp.full(4, z)))

    target = tg.Target(model, observed={"rows": {"y": np.array([NAN, 1.0, 2.0, NAN])}})
    params = tg.auto.laplace(target).init(jax.random.key(0))
    assert float(params["loc"][0]) == pytest.approx(1.0, abs=1e-3)
    assert float(jnp.exp(params["log_scale"][0])) == pytest.approx(3**-0.5, rel=1e-3)


def test_outside_the_support_is_not_missing():
    model = tg.gen(lambda: tg.sample("y", tg.nan_as_missing(D.Gamma(2.0, 1.0).expand([2]))))
    assert float(model.assess({"y": jnp.array([NAN, -1.0])})[0]) == -np.inf


def test_a_part_of_a_joint_vector_is_no_missing_vector():
    model = tg.gen(lambda: tg.sample("y", tg.nan_as_missing(D.MultivariateNormal(jnp.zeros(2), jnp.eye(2)))))
    assert np.isnan(float(model.assess({"y": jnp.array([NAN, 1.0])})[0]))


def test_draws_are_whole_and_reparameterised_where_the_distribution_is():
    model = tg.gen(lambda a: tg.sample("y", tg.nan_as_missing(D.Normal(a, 1.0).expand([3]))))
    assert not np.isnan(model.simulate(jax.random.key(0), 1.0).choices["y"]).any()
    mean = tg.expectation(lambda key, a: model.simulate(key, a).retval.sum())
    assert float(jax.grad(mean, argnums=1)(jax.random.key(0), 1.0)) == pytest.approx(3.0)


@pytest.mark.parametrize("wrong", [None, 3, "Normal", D.Normal, lambda: 0.0, tg.gen(lambda: None)])
def test_something_that_is_no_distribution_is_refused(wrong):
    with pytest.raises(tg.DistributionError, match="nan_as_missing takes a distribution"):
        tg.nan_as_missing(wrong)
