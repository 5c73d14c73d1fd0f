"""Distributions of every shape as sites: batched, multivariate, transformed, mixed, and a user's own."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tracegrad as tg
from tracegrad import dist

KEY = jax.random.key(0)

MIXTURE = dist.MixtureSameFamily(dist.Categorical(jnp.array([0.3, 0.7])), dist.Normal(jnp.array([-1.0, 2.0]), 1.0))
SIGMOID = dist.transforms.SigmoidTransform()
FAMILIES = {
    "scalar": dist.Normal(0.3, 1.0),
    "batch": dist.Normal(jnp.arange(3.0), 1.0),
    "event": dist.Normal(jnp.zeros((2, 3)), 1.0).to_event(1),
    "all event": dist.Bernoulli(jnp.full((2, 3), 0.3)).to_event(2),
    "expanded": dist.Gamma(2.0, 1.0).expand([4]),
    "masked": dist.Normal(jnp.zeros(3), 1.0).mask(jnp.array([True, False, True])),
    "multivariate normal": dist.MultivariateNormal(jnp.zeros(2), jnp.array([[2.0, 0.5], [0.5, 1.0]])),
    "dirichlet": dist.Dirichlet(jnp.array([1.0, 2.0, 3.0])),
    "batch of dirichlets": dist.Dirichlet(jnp.ones((2, 3))),
    "multinomial": dist.Multinomial(5, jnp.array([0.2, 0.8])),
    "categorical batch": dist.Categorical(logits=jnp.zeros((2, 3))),
    "binomial": dist.Binomial(5, 0.3),
    "transformed": dist.TransformedDistribution(dist.Normal(0.0, 1.0), SIGMOID),
    "log-normal": dist.LogNormal(0.0, 1.0),
    "mixture": MIXTURE,
    "truncated": dist.TruncatedNormal(0.0, 1.0, low=-1.0, high=2.0),
    "inverse gamma": dist.InverseGamma(3.0, 2.0),
    "delta": dist.Delta(jnp.array(2.0)),
}


@pytest.mark.table
@pytest.mark.parametrize("name", FAMILIES)
def test_a_site_has_the_value_and_density_of_its_distribution(name):
    d = FAMILIES[name]
    program = tg.gen(lambda d: tg.sample("x", d))
    tr, lanes = jax.jit(lambda d: (program.simulate(KEY, d), program.repeat(2).simulate(KEY, d)))(d)
    x = tr.choices["x"]
    assert x.shape == d.batch_shape + d.event_shape
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        assert bool(jnp.all(d.support(x)))
        assert jnp.allclose(tr.logp, jnp.sum(d.log_prob(x)), rtol=1e-4, atol=1e-6)
    logp, retval = program.assess({"x": x}, d)
    assert jnp.allclose(logp, tr.logp, rtol=1e-4, atol=1e-6)
    assert jnp.array_equal(retval, x)
    assert lanes.choices["x"].shape == (2, *x.shape)


class Triangle:
    """A user's own distribution: no base class, no pytree, an attribute that is an array and one that is not."""

    def __init__(self, width, name="triangle"):
        self.width = width
        self.name = name

    def sample(self, key):
        return self.width * jax.random.uniform(key, (2,)).sum()

    def log_prob(self, value):
        t = value / self.width
        return jnp.log(1.0 - jnp.abs(1.0 - t)) - jnp.log(self.width)


class Pair(eqx.Module):
    """One whose values are pytrees."""

    loc: jax.Array

    def sample(self, key):
        return (self.loc + jax.random.normal(key), jax.random.bernoulli(key))

    def log_prob(self, value):
        return jax.scipy.stats.norm.logpdf(value[0], self.loc) - jnp.log(2.0)


def test_a_users_own_distribution():
    program = tg.gen(lambda w: tg.sample("x", Triangle(w)))
    tr = jax.jit(program.simulate)(KEY, 3.0)
    assert jnp.allclose(tr.logp, Triangle(3.0).log_prob(tr.choices["x"]))
    grid = jnp.linspace(0.0, 6.0, 2001)[1:-1]
    density = jax.vmap(lambda x: jnp.exp(program.assess({"x": x}, 3.0)[0]))(grid)
    assert jnp.allclose(density.sum() * (grid[1] - grid[0]), 1.0, atol=1e-3)
    # E x^2 = 7/6 w^2, so the derivative at 3 is 7; the default for a stranger is the score function.
    square = tg.expectation(lambda key, w: program.simulate(key, w).retval ** 2)
    grads = jax.jit(jax.vmap(jax.grad(square, argnums=1), in_axes=(0, None)))

    def z(key, n):
        draws = grads(jax.random.split(key, n), 3.0)
        return abs(float(draws.mean()) - 7.0) / float(draws.std()) * np.sqrt(n)

    assert z(jax.random.key(1), 10**5) < 4 or z(jax.random.key(2), 16 * 10**5) < 5


def test_a_distribution_over_pytrees():
    program = tg.gen(lambda m: tg.sample("x", Pair(m)))
    tr = program.simulate(KEY, 0.5)
    number, flag = tr.retval
    assert flag.dtype == bool
    assert jnp.allclose(program.assess(tr.choices, 0.5)[0], tr.logp)
    lanes = program.vmap().simulate(KEY, jnp.arange(3.0))
    assert lanes.choices["x"][0].shape == (3,)
    assert jnp.allclose(program.vmap().assess(lanes.choices, jnp.arange(3.0))[0], lanes.logp)
    both = tg.cond(True, program, program)
    assert both.simulate(KEY, 0.5).choices["x"][0].shape == ()


@pytest.mark.parametrize("estimator", [None, tg.reinforce()], ids=["default", "named"])
def test_a_mixture_is_not_taken_as_reparameterised(estimator):
    """E x = w (-1) + (1 - w) 2, so its derivative in the weight's logit is -3 w (1 - w); a pathwise one would be 0."""

    def program(logit):
        weights = dist.Categorical(logits=jnp.stack([logit, jnp.zeros(())]))
        d = dist.MixtureSameFamily(weights, dist.Normal(jnp.array([-1.0, 2.0]), 1.0))
        return tg.sample("x", d, estimator=estimator)

    f = tg.expectation(lambda key, logit: tg.gen(program).simulate(key, logit).retval)
    many = jax.jit(jax.vmap(jax.grad(f, argnums=1), in_axes=(0, None)))

    def z(key, n):
        draws = many(jax.random.split(key, n), jnp.array(0.0))
        return abs(float(draws.mean()) + 0.75) / float(draws.std()) * np.sqrt(n)

    assert z(jax.random.key(1), 10**5) < 4 or z(jax.random.key(2), 16 * 10**5) < 5


def test_a_mixture_refuses_reparam():
    with pytest.raises(tg.EstimatorError, match="MixtureSameFamily has no reparameterised sampler"):
        tg.gen(lambda: tg.sample("x", MIXTURE, estimator=tg.reparam())).simulate(KEY)


def test_float64_agrees_with_float32():
    step = tg.gen(lambda c, x: [tg.sample("z", dist.Normal(c + x, 1.0))] * 2)
    program = tg.gen(
        lambda w: (
            (
                tg.sample(
                    "s", tg.gen(lambda c, x: tuple(step.inline(c, x))).scan()(w, w * jnp.arange(3, dtype=w.dtype))
                ),
                tg.sample("b", dist.Bernoulli(logits=w * jnp.ones(2, w.dtype)).to_event(1)),
                tg.sample("g", dist.Gamma(w, jnp.ones((), w.dtype))),
                tg.sample("c", tg.cond(w > 0, point, point)(w)),
            )
            and None
        )
    )
    given = {"s": {"z": [0.1, -0.2, 3.0]}, "b": [1, 0], "g": 1.5, "c": {"z": 0.3}}

    gradient = jax.jit(jax.value_and_grad(lambda w: program.assess(given, w)[0]))

    single = gradient(jnp.array(0.7, jnp.float32))
    with jax.enable_x64(True):
        double = gradient(jnp.array(0.7, jnp.float64))
        drawn = jax.jit(program.simulate)(jax.random.key(0), jnp.array(0.7, jnp.float64))
        assert double[0].dtype == drawn.logp.dtype == drawn.choices["g"].dtype == jnp.float64
        assert np.allclose(single, np.array(double), rtol=1e-5)
        by_hand = jax.scipy.stats.norm.logpdf(np.array([0.1, -0.2, 3.0]), np.array([0.7, 0.8, 1.2]), 1.0).sum()
        by_hand += jax.nn.log_sigmoid(0.7) + jax.nn.log_sigmoid(-0.7) + jax.scipy.stats.gamma.logpdf(1.5, 0.7)
        by_hand += jax.scipy.stats.norm.logpdf(0.3, 0.7, 1.0)
        assert np.allclose(float(double[0]), float(by_hand), rtol=1e-12)


point = tg.gen(lambda m: tg.sample("z", dist.Normal(m, 1.0)))
