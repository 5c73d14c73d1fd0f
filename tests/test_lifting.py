"""Distributions that hold functions of parameters, and attributes that their classes do not declare."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

import tracegrad as tg
from tracegrad import dist
from tracegrad.transforms import EstimatorError, expectation, log_density, sample

KEY, THETA = jax.random.key(0), 0.3


class Shifted:
    """A plain object with a function."""

    def __init__(self, shift):
        self.shift = shift

    def sample(self, key):
        return jax.random.normal(key) + self.shift(2.0)

    def log_prob(self, value):
        return -0.5 * (value - self.shift(2.0)) ** 2


class Undeclared(dist.Distribution):
    """A family that does not say what its parts are."""

    support = dist.constraints.real

    def __init__(self, loc):
        self.loc = loc
        super().__init__(jnp.shape(loc), ())

    def sample(self, key, sample_shape=()):
        return self.loc + jax.random.normal(key, (*sample_shape, *self.batch_shape))

    def log_prob(self, value):
        return -0.5 * (value - self.loc) ** 2


class Kernel:
    def __init__(self, shift):
        self.shift = shift
        self.parts = {"where": [lambda x: x + shift]}


class Process(dist.Distribution):
    """A family that holds a model of its own, no pytree, with a function in it."""

    support = dist.constraints.real

    def __init__(self, kernel):
        self.kernel = kernel
        super().__init__((), ())

    @property
    def loc(self):
        return self.kernel.parts["where"][0](self.kernel.shift)

    def sample(self, key, sample_shape=()):
        return self.loc + jax.random.normal(key)

    def log_prob(self, value):
        return -0.5 * (value - self.loc) ** 2


def keywords(theta):
    def shift(x, scale=theta, *, other=0.0 * theta):
        return x * scale + other

    return Shifted(shift)


def nested(theta):
    def inner(x):
        return x * theta

    return Shifted(lambda x: inner(x))


FAMILIES = {
    "a closure": lambda theta: Shifted(lambda x: x * theta),
    "a closure over a closure": nested,
    "defaults": keywords,
    "an undeclared attribute": lambda theta: Undeclared(2.0 * theta),
    "one inside another family": lambda theta: Undeclared(jnp.full(1, 2.0) * theta).to_event(1),
    "a model of its own": lambda theta: Process(Kernel(theta)),
}


@pytest.mark.table
@pytest.mark.parametrize("theta", [THETA, jnp.asarray(THETA)], ids=["float", "array"])
@pytest.mark.parametrize("name", FAMILIES)
def test_value_score_and_density_are_those_of_a_normal_at_twice_the_parameter(name, theta):
    def program(key, theta):
        return sample(key, FAMILIES[name](theta), estimator=tg.reinforce()).sum() ** 2

    draw = program(KEY, theta)
    z = float(np.ravel(FAMILIES[name](THETA).sample(KEY))[0])
    np.testing.assert_allclose(draw, z**2, rtol=1e-5)
    value, slope = jax.jit(jax.value_and_grad(expectation(program), argnums=1))(KEY, theta)
    np.testing.assert_allclose(value, z**2, rtol=1e-5)
    np.testing.assert_allclose(slope, z**2 * (z - 2 * THETA) * 2.0, rtol=1e-4)
    density = jax.grad(
        lambda t: log_density(FAMILIES[name](t), jnp.full_like(FAMILIES[name](t).sample(KEY), 1.5)).sum()
    )
    np.testing.assert_allclose(density(theta), (1.5 - 2 * THETA) * 2.0, rtol=1e-5)


def euler(theta):
    times = jnp.linspace(0.0, 0.3, 4)
    return dist.EulerMaruyama(times, lambda x, t: (-theta * x, 0.5), dist.Normal(1.0, 0.1))


def euler_score(xs, theta):
    """The derivative of the log density in the drift, by hand: normal steps of variance 0.25 dt."""
    steps = np.diff(xs) + theta * xs[:-1] * 0.1
    return np.sum(-steps / (0.25 * 0.1) * xs[:-1] * 0.1)


def test_the_drift_of_an_equation_is_trained():
    g = expectation(lambda key, theta: (sample(key, euler(theta), estimator=tg.reinforce()) ** 2).sum())
    xs = np.asarray(euler(THETA).sample(KEY), float)
    value, slope = jax.value_and_grad(g, argnums=1)(KEY, THETA)
    np.testing.assert_allclose(value, (xs**2).sum(), rtol=1e-5)
    np.testing.assert_allclose(slope, (xs**2).sum() * euler_score(xs, THETA), rtol=1e-3)


def test_the_drift_in_a_generative_function_under_jit_and_vmap():
    path = tg.gen(lambda theta: tg.sample("x", euler(theta)))
    thetas = jnp.array([0.1, 0.3])
    xs = path.simulate(KEY, THETA).choices["x"]
    slopes = jax.jit(jax.vmap(jax.grad(lambda theta: path.assess({"x": xs}, theta)[0])))(thetas)
    np.testing.assert_allclose(slopes, [euler_score(np.asarray(xs, float), t) for t in (0.1, 0.3)], rtol=1e-3)


TRACED = []


def test_functions_of_one_code_are_traced_once():
    def family(theta):
        def shift(x):
            TRACED.append(x)
            return x * theta

        return Shifted(shift)

    for theta in (0.1, 0.2, 0.3):
        log_density(family(jnp.asarray(theta)), 1.0)
    assert len(TRACED) == 1


def test_a_function_that_holds_itself_is_refused():
    def family(theta):
        def shift(x):
            return x * theta if x > 1.0 else shift(x + 1.0)

        return Shifted(shift)

    with pytest.raises(EstimatorError, match=r"holds .*shift, which holds itself"):
        expectation(lambda key, theta: sample(key, family(theta)))(KEY, jnp.asarray(THETA))
