"""Distributions of other packages as they are: Gaussian processes, flows, and classes that say more than they keep."""

import equinox as eqx
import jax
import numpy as np
import pytest
from jax import numpy as jnp
from scipy import stats

import tracegrad as tg
from tracegrad import dist
from tracegrad.transforms import reparameterised

KEY = jax.random.key(0)
X = np.linspace(0.0, 3.0, 5)
Y = np.sin(X)


class Process(eqx.Module):
    """A Gaussian process at points, as tinygp has it."""

    size: jax.Array
    x: jax.Array

    def covariance(self):
        return self.size * jnp.exp(-0.5 * (self.x[:, None] - self.x) ** 2) + 0.1 * jnp.eye(len(self.x))


class OfProcess(dist.Distribution):
    """As tinygp's `numpyro_dist()`: a pytree by its word, whose children cannot be listed."""

    support = dist.constraints.real_vector

    def __init__(self, process, validate_args=None):
        self.process = process
        super().__init__((), process.x.shape, validate_args=validate_args)

    def tree_flatten(self):
        return self.process, None

    def sample(self, key, sample_shape=()):
        noise = jax.random.normal(key, sample_shape + self.event_shape)
        return noise @ jnp.linalg.cholesky(self.process.covariance()).T

    def log_prob(self, value):
        return dist.MultivariateNormal(jnp.zeros(len(self.process.x)), self.process.covariance()).log_prob(value)


class Doubling(dist.transforms.Transform):
    """As flowjax's bijections for numpyro: a pytree that cannot be put together again."""

    domain, codomain = dist.constraints.real, dist.constraints.real
    parameterised = property(lambda self: True)

    def __init__(self, by):
        self.by = by

    def __call__(self, x):
        return self.by * x

    def _inverse(self, y):
        return y / self.by

    def log_abs_det_jacobian(self, x, y, intermediates=None):
        return jnp.broadcast_to(jnp.log(self.by), jnp.shape(x))

    def tree_flatten(self):
        return (self.by,), (("by",), {"parameterised": True})


@tg.gen
def process(x, of):
    size = tg.sample("size", dist.LogNormal(0.0, 1.0))
    return tg.sample("y", of(size, x))


def stand_in(size, x):
    return OfProcess(Process(size, x))


def of_tinygp(size, x):
    tinygp = pytest.importorskip("tinygp")
    return tinygp.GaussianProcess(size * tinygp.kernels.ExpSquared(1.0), x, diag=0.1).numpyro_dist()


@pytest.mark.filterwarnings("ignore:Please use numpyro.util.is_prng_key:DeprecationWarning")  # tinygp's own
@pytest.mark.parametrize("of", [stand_in, of_tinygp])
def test_a_gaussian_process_of_another_package_is_a_site(of):
    target = tg.Target(process, (jnp.asarray(X), of), {"y": jnp.asarray(Y)})

    def expected(size):
        covariance = size * np.exp(-0.5 * (X[:, None] - X) ** 2) + 0.1 * np.eye(5)
        return stats.multivariate_normal(np.zeros(5), covariance).logpdf(Y) + stats.lognorm(1.0).logpdf(size)

    logp, slope = jax.jit(jax.value_and_grad(lambda size: target.log_prob({"size": size})))(1.2)
    assert float(logp) == pytest.approx(expected(1.2), abs=1e-4)
    assert float(slope) == pytest.approx((expected(1.21) - expected(1.19)) / 0.02, abs=1e-3)
    drawn = tg.predictive(process, (jnp.asarray(X), of), draws={"size": jnp.full(4000, 1.2)}, key=KEY)["y"]
    assert drawn.var(0) == pytest.approx(np.full(5, 1.3), rel=0.12)


def test_a_path_through_it_is_declared_in_one_line():
    """E (sum y)^2 is the sum of the covariances, so its slope in the size is that at size one, less the noise."""

    class Declared(OfProcess):
        pass

    reparameterised.register(Declared)(lambda distribution: True)
    at = tg.gen(lambda size: tg.sample("y", Declared(Process(size, jnp.asarray(X)))).sum())
    objective = tg.expectation(lambda key, size: at.simulate(key, size).retval ** 2)
    slopes = jax.jit(jax.vmap(lambda key: jax.grad(objective, argnums=1)(key, 1.2)))(jax.random.split(KEY, 4000))
    exact = np.exp(-0.5 * (X[:, None] - X) ** 2).sum()
    assert abs(slopes.mean() - exact) < 4.5 * slopes.std() / 4000**0.5
    by_default = tg.expectation(lambda key, size: process.simulate(key, X, stand_in).retval.sum())
    assert "reinforce()" in str(tg.describe_estimators(by_default, KEY, 1.2))


def test_a_transform_that_cannot_be_put_together_again():
    with pytest.raises(AttributeError):
        jax.tree.map(lambda x: x, Doubling(2.0))
    wide = tg.gen(
        lambda by: tg.sample("x", dist.TransformedDistribution(dist.Normal(0.0, 1.0), Doubling(by))),
    )
    logp, slope = jax.value_and_grad(lambda by: wide.assess({"x": 1.0}, by)[0])(2.0)
    assert float(logp) == pytest.approx(stats.norm(0.0, 2.0).logpdf(1.0), abs=1e-5)
    assert float(slope) == pytest.approx(-1.0 / 2.0 + 1.0 / 8.0, abs=1e-5)


def test_a_conditional_flow_is_a_guide_in_two_lines():
    """Of a datum x, z is noise + 0.3 x under the flow, so that the bound and its slope are known."""
    bijections = pytest.importorskip("flowjax.bijections")
    distributions = pytest.importorskip("flowjax.distributions")
    from flowjax.experimental.numpyro import distribution_to_numpyro

    class Times(eqx.Module):
        by: jax.Array

        def __call__(self, x):
            return self.by * x

    moved = bijections.AdditiveCondition(Times(jnp.asarray(0.3)), (1,), (1,))
    flow = distributions.Transformed(distributions.Normal(jnp.zeros(1)), moved)
    arrays, rest = eqx.partition(flow, eqx.is_inexact_array)

    reparameterised.register(type(distribution_to_numpyro(flow, jnp.ones(1))))(lambda distribution: True)

    @tg.gen
    def model():
        z = tg.sample("z", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
        tg.sample("x", dist.Normal(z, 1.0).to_event(1))

    @tg.gen
    def guide(arrays, x):
        tg.sample("z", distribution_to_numpyro(eqx.combine(arrays, rest), x))

    x = jnp.array([2.0])
    bound = tg.elbo(model, guide, {"x": x}, draws=4000)
    value, slopes = jax.jit(jax.value_and_grad(lambda arrays: bound(KEY, (), (arrays, x))))(arrays)
    # z ~ N(2 b, 1) at b = 0.3: -E z^2 / 2 - E (2 - z)^2 / 2 - log 2 pi + entropy, with slope -2 (2 b) + 2 (2 - 2 b).
    exact = -0.5 * (0.36 + 1.0) - 0.5 * (1.4**2 + 1.0) - np.log(2.0 * np.pi) + 0.5 * np.log(2.0 * np.pi * np.e)
    assert float(value) == pytest.approx(exact, abs=0.1)
    assert float(slopes.bijection.module.by) == pytest.approx(-1.2 + 2.8, abs=0.25)


@jax.custom_vjp
def twice(x):
    """As a solver of equations that steps as it needs: its derivative is known in reverse mode alone."""
    return 2.0 * x


twice.defvjp(lambda x: (twice(x), None), lambda _, slope: (2.0 * slope,))


def test_a_solver_without_a_forward_derivative_has_a_laplace_approximation():
    """z ~ N(0, 1) with a datum 2 at N(2 z, 1): mean 4 / 5, precision 5."""
    with pytest.raises(TypeError, match="forward-mode"):
        jax.hessian(twice)(1.0)
    solved = tg.gen(lambda: tg.sample("x", dist.Normal(twice(tg.sample("z", dist.Normal(0.0, 1.0))), 1.0)))
    params = tg.auto.laplace(tg.Target(solved, observed={"x": 2.0}), starts=1).init(KEY)
    assert float(params["loc"][0]) == pytest.approx(0.8, abs=1e-4)
    assert float(params["log_scale"][0]) == pytest.approx(-0.5 * np.log(5.0), abs=1e-3)
