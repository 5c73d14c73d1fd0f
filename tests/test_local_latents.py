"""Latents of each datum by minibatches, as `docs/local-latents.md` has them, against what is known exactly."""

import re

import jax
import numpy as np
import optax
import pytest
from exactly import exact_key
from jax import numpy as jnp
from source_tree import ROOT

import tracegrad as tg

KEY = jax.random.key(0)
YS = jnp.array([0.5, -1.0, 2.0])
W = {"loc": jnp.array(0.3), "log_scale": jnp.array(-0.5), "slope": jnp.array(0.4), "log_sd": jnp.array(-0.2)}
ROWS, GAIN = jnp.array([0.1, -0.4, 0.7]), jnp.array(0.3)


@pytest.fixture(scope="module")
def page():
    """The model, the guide and the bound of the page."""
    code = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "local-latents.md").read_text(), re.DOTALL)
    names = {"__name__": "local-latents"}
    exec(compile("\n".join(code[:2]), "local-latents.md", "exec"), names)
    return names


def elbo(w, rows, ys, scale=1.0):
    """E log p - log q by hand; mu ~ N(m, s^2), z_i ~ N(r_i + c mu, t^2): squares of normals have their moments."""
    m, s, c, t = w["loc"], jnp.exp(w["log_scale"]), w["slope"], jnp.exp(w["log_sd"])
    top = -0.5 * (m**2 + s**2) / 4.0 - jnp.log(2.0) + jnp.log(s) + 0.5
    prior = -0.5 * ((rows + (c - 1.0) * m) ** 2 + (c - 1.0) ** 2 * s**2 + t**2)
    seen = -0.5 * ((ys - rows - c * m) ** 2 + c**2 * s**2 + t**2) - 0.5 * jnp.log(2.0 * jnp.pi)
    return top + scale * jnp.sum(prior + seen + jnp.log(t) + 0.5)


@pytest.mark.slow
def test_the_bound_of_a_minibatch_has_the_exact_mean_and_gradient(page):
    mean = jax.value_and_grad(tg.exact_expectation(page["bound"]), argnums=(1, 2))
    found = mean(exact_key(), W, ROWS[:2], YS[:2], 1.5)
    expected = jax.value_and_grad(lambda w, rows: elbo(w, rows, YS[:2], 1.5), argnums=(0, 1))(W, ROWS[:2])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)


@pytest.mark.slow
def test_the_mean_over_minibatches_is_the_bound_of_all_data(page):
    """Each datum with its own row: a table that is read in another order, or no scale on the guide, is another mean."""
    exact = jax.grad(tg.exact_expectation(page["bound"]), argnums=(1, 2))
    parts = [exact(exact_key(), W, ROWS[i : i + 1], YS[i : i + 1], 3.0) for i in range(3)]
    w, rows = jax.grad(elbo, argnums=(0, 1))(W, ROWS, YS)
    jax.tree.map(lambda x, *xs: np.testing.assert_allclose(np.mean(xs), x, rtol=1e-4), w, *(p[0] for p in parts))
    np.testing.assert_allclose(np.concatenate([p[1] for p in parts]) / 3.0, rows, rtol=1e-4)
    gain = jax.grad(lambda gain: elbo(W, gain * YS, YS))(GAIN)
    found = [jnp.sum(exact(exact_key(), W, GAIN * y[None], y[None], 3.0)[1] * y) for y in YS]
    np.testing.assert_allclose(np.mean(found), gain, rtol=1e-4)


@pytest.mark.table
@pytest.mark.parametrize("amortised", [False, True], ids=["table", "amortised"])
def test_fits_by_minibatches_find_the_exact_posterior(page, amortised):
    """The maximum of the bound is where guide and posterior are one: sd of mu, slope and sd of z are exact there."""
    n, ys = 6, jnp.linspace(-1.0, 3.0, 6)

    def bound(key, *args):
        return jnp.mean(jax.vmap(lambda key: page["bound"](key, *args))(jax.random.split(key, 8)))

    def by_table(key, params, ys, scale, indices):
        return bound(key, params["w"], params["rows"][indices], ys, scale)

    def by_encoder(key, params, ys, scale):
        return bound(key, params["w"], params["rows"] * ys, ys, scale)

    start = {"w": jax.tree.map(jnp.zeros_like, W), "rows": jnp.array(0.0) if amortised else jnp.zeros(n)}
    adam = optax.adam(optax.cosine_decay_schedule(0.05, 4000))
    objective = by_encoder if amortised else by_table
    fitted = tg.fit(
        objective, start, adam, key=KEY, steps=4000, data=ys, batch_size=2, maximize=True, progress=False
    ).params
    w, rows = fitted["w"], fitted["rows"] * ys if amortised else fitted["rows"]
    precision = 0.25 + n / 2.0
    mean = ys.sum() / 2.0 / precision
    assert float(w["loc"]) == pytest.approx(float(mean), abs=0.05)
    assert float(jnp.exp(w["log_scale"])) == pytest.approx(precision**-0.5, rel=0.07)
    assert float(jnp.exp(w["log_sd"])) == pytest.approx(0.5**0.5, rel=0.05)
    np.testing.assert_allclose(rows + w["slope"] * mean, (ys + mean) / 2.0, atol=0.07)


# ---- the terms of the bound by address, exactly -------------------------------------------------------------------


@tg.gen
def coin(w):
    tg.sample("z", tg.dist.Bernoulli(logits=w))


@tg.gen
def seen_coin(p):
    z = tg.sample("z", tg.dist.Bernoulli(p))
    tg.sample("y", tg.dist.Normal(jnp.where(z, 2.0, 0.0), 1.0))


@tg.gen
def coins(n):
    top = tg.sample("top", tg.dist.Bernoulli(0.3))
    tg.sample("data", seen_coin.repeat(n)(jnp.where(top, 0.7, 0.2)))


@tg.gen
def guessed(logit, rows):
    tg.sample("top", tg.dist.Bernoulli(logits=logit))
    tg.sample("data", coin.vmap()(rows))


def coins_elbo(logit, rows, ys):
    """By the sum over both values of each coin."""
    q, r = jax.nn.sigmoid(logit), jax.nn.sigmoid(rows)
    total = q * jnp.log(0.3 / q) + (1 - q) * jnp.log(0.7 / (1 - q))
    for top, weight in ((0.0, 1 - q), (1.0, q)):
        p = 0.2 + 0.5 * top
        one = jnp.log(p) - jnp.log(r) - 0.5 * (ys - 2.0) ** 2
        none = jnp.log(1 - p) - jnp.log(1 - r) - 0.5 * ys**2
        total += weight * jnp.sum(r * one + (1 - r) * none)
    return total - 0.5 * len(ys) * jnp.log(2.0 * jnp.pi)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [tg.reinforce(), tg.mvd()], ids=["reinforce", "mvd"])
def test_the_mean_over_minibatches_of_discrete_latents_is_the_bound_of_all_data(estimator):
    """Value and gradient, in the parameters that all data share and in the rows of each."""
    better = guessed.with_estimators({"**": estimator})

    def part(key, logit, rows, ys):
        return tg.elbo(coins, better, {"data": {"y": ys}}, scale_both={"data": 3.0})(key, len(ys), (logit, rows))

    exact = jax.value_and_grad(tg.exact_expectation(part), argnums=(1, 2))
    parts = [exact(exact_key(), 0.4, ROWS[i : i + 1], YS[i : i + 1]) for i in range(3)]
    value, (logit, rows) = jax.value_and_grad(coins_elbo, argnums=(0, 1))(0.4, ROWS, YS)
    assert np.mean([v for v, _ in parts]) == pytest.approx(float(value), rel=1e-5)
    assert np.mean([g[0] for _, g in parts]) == pytest.approx(float(logit), rel=1e-4)
    np.testing.assert_allclose(np.concatenate([g[1] for _, g in parts]) / 3.0, rows, rtol=1e-4)


def test_the_path_derivative_of_scaled_terms_is_that_of_the_bound(page):
    """The mean of the landing's gradient is that of the bound by hand, to 5 standard errors."""
    bound = tg.sticking_the_landing(page["model"], page["guide"], {"data": {"y": YS}}, scale_both={"data": 2.5})
    one = jax.value_and_grad(lambda key, w: bound(key, 3, (w, ROWS)), argnums=1)
    values, slopes = jax.jit(jax.vmap(one, in_axes=(0, None)))(jax.random.split(KEY, 4000), W)
    expected, exact = jax.value_and_grad(elbo)(W, ROWS, YS, 2.5)
    for xs, x in [(values, expected), *((slopes[name], exact[name]) for name in W)]:
        assert abs(xs.mean() - x) < 5.0 * xs.std() / 4000**0.5


def test_scaled_terms_are_a_beta_vae_and_one_by_one_what_scale_is():
    """At scale 1 nothing changes; of what is observed alone it is `scale`; a KL weighed by beta is known."""
    model = tg.gen(lambda: tg.sample("x", tg.dist.Normal(tg.sample("z", tg.dist.Normal(0.0, 1.0)), 1.0)))
    guide = tg.gen(lambda m: tg.sample("z", tg.dist.Normal(m, 1.0)))

    def at(**options):
        return tg.elbo(model, guide, {"x": 2.0}, **options)(KEY, (), 0.5)

    assert float(at(scale_both={"z": 1.0})) == pytest.approx(float(at()), rel=1e-6)
    assert float(at(scale_both={"x": 4.0})) == pytest.approx(float(at(scale={"x": 4.0})), rel=1e-6)
    beta = tg.exact_expectation(tg.elbo(model, guide, {"x": 2.0}, scale_both={"z": 4.0}))
    seen = -0.5 * (1.5**2 + 1.0) - 0.5 * np.log(2.0 * np.pi)
    assert float(beta(exact_key(), (), 0.5)) == pytest.approx(seen - 4.0 * 0.125, rel=1e-5)


@pytest.mark.parametrize(
    ("scale", "error", "words"),
    [
        ({"zz": 2.0}, tg.AddressError, "'zz' matches no sample"),
        ({"z": -1.0}, tg.DensityError, "zero or more"),
        (2.0, tg.AddressError, "a dict from address patterns"),
    ],
)
def test_bad_scales_of_terms_are_named(scale, error, words):
    model = tg.gen(lambda: tg.sample("x", tg.dist.Normal(tg.sample("z", tg.dist.Normal(0.0, 1.0)), 1.0)))
    guide = tg.gen(lambda m: tg.sample("z", tg.dist.Normal(m, 1.0)))
    with pytest.raises(error, match=words):
        tg.elbo(model, guide, {"x": 2.0}, scale_both=scale)(KEY, (), 0.5)


def test_a_guide_that_has_a_scale_of_its_own_stays_refused():
    model = tg.gen(lambda: tg.sample("x", tg.dist.Normal(tg.sample("z", tg.dist.Normal(0.0, 1.0)), 1.0)))
    guide = tg.gen(lambda m: tg.sample("z", tg.dist.Normal(m, 1.0))).with_scale({"z": 2.0})
    with pytest.raises(tg.DensityError, match="a scale at 'z'"):
        tg.elbo(model, guide, {"x": 2.0}, scale_both={"z": 2.0})(KEY, (), 0.5)
