"""What every objective of a model and a guide takes: weights of parts of the density, and a mean over draws."""

import inspect

import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp
from scipy import stats

import tracegrad as tg


@tg.gen
def model(scale):
    z = tg.sample("z", tg.dist.Normal(0.0, scale))
    tg.sample("x", tg.dist.Normal(z, 1.0))


@tg.gen
def guide(m):
    tg.sample("z", tg.dist.Normal(m, 0.7))


X = {"x": 2.0}
MADE = {
    "elbo": {},
    "iwelbo": {"n": 2},
    "vargrad": {"n": 2},
    "sticking_the_landing": {},
    "forward_kl": {"n": 2},
    "wake_theta": {"n": 2},
}
TAKES = (
    "elbo iwelbo renyi cubo tvo forward_kl symmetric_kl f_divergence jensen_shannon trajectory_balance log_variance "
)
TAKES += "sticking_the_landing dreg dreg_wake_phi vimco vargrad wake_theta wake_phi"


@pytest.mark.parametrize("name", TAKES.split())
def test_every_objective_takes_them_and_says_so(name):
    made = getattr(tg, name)
    assert "shared" in inspect.signature(made).parameters
    for word in ("scale: ", "draws: "):
        assert made.__doc__.count(f"        {word}") == 1


def slope(objective, key):
    return jax.jit(jax.value_and_grad(lambda args: objective(key, (args[0],), (args[1],))))(jnp.array([1.5, 0.5]))


@pytest.mark.table
@pytest.mark.parametrize("name", MADE)
def test_draws_are_the_mean_of_independent_ones_and_scale_that_of_the_model(name):
    make, key = getattr(tg, name), jax.random.key(3)
    both = make(model, guide, X, scale={"x": 3.0}, draws=2, **MADE[name])
    single = make(model.with_scale({"x": 3.0}), guide, X, **MADE[name])
    value, grad = slope(both, key)
    values, grads = zip(*(slope(single, k) for k in jax.random.split(key, 2)), strict=True)
    assert float(value) == pytest.approx(np.mean(values), rel=1e-5)
    np.testing.assert_allclose(grad, np.mean(grads, axis=0), rtol=1e-4)


def test_a_minibatch_weighs_as_all_of_the_data():
    """The ELBO's mean over all minibatches is the ELBO of the whole, by hand at one draw of the guide."""
    data = np.array([1.0, 2.0, 4.0, 5.0])
    row = tg.gen(lambda z: tg.sample("y", tg.dist.Normal(z, 1.0)))

    @tg.gen
    def plate():
        z = tg.sample("z", tg.dist.Normal(0.0, 1.0))
        tg.sample("data", row.vmap(in_axes=None, axis_size=2)(z))

    def of(batch):
        bound = tg.elbo(plate, guide, {"data": {"y": jnp.asarray(batch)}}, scale={"data": 2.0})
        return float(bound(jax.random.key(0), (), (0.5,)))

    z = float(guide.simulate(jax.random.split(jax.random.key(0))[0], 0.5).choices["z"])
    whole = stats.norm.logpdf(data, z).sum() + stats.norm.logpdf(z) - stats.norm.logpdf(z, 0.5, 0.7)
    assert np.mean([of(data[:2]), of(data[2:])]) == pytest.approx(whole, rel=1e-5)


def test_a_beta_vae_learns_the_tempered_posterior():
    """KL weighed by 4 is the likelihood to the power 1/4: mean 2 / (4 + 1), variance 1 / (1 + 1/4)."""
    bound = tg.elbo(model, guide, X, scale={"x": 0.25}, draws=8)

    def objective(key, m):
        return bound(key, (1.0,), (m,))

    run = tg.fit(objective, 0.0, optax.adam(0.05), key=jax.random.key(0), steps=400, maximize=True, progress=False)
    assert float(run.params) == pytest.approx(0.4, abs=0.1)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"draws": 0}, tg.DensityError, "elbo: draws"),
        ({"draws": 1.5}, tg.DensityError, "elbo: draws"),
        ({"scale": {"y": 2.0}}, tg.AddressError, "'y' matches no sample"),
        ({"scale": 2.0}, tg.AddressError, "a dict from address patterns"),
        ({"scales": {"x": 2.0}}, TypeError, "scales"),
    ],
)
def test_bad_options_are_named(options, error, words):
    with pytest.raises(error, match=words):
        tg.elbo(model, guide, X, **options)(jax.random.key(0), (1.0,), (0.5,))
