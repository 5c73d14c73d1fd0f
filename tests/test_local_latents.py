"""Latents of each datum by minibatches, as `docs/local-latents.md` has them, against what is known exactly."""

import re

import jax
import numpy as np
import optax
import pytest
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


def test_the_bound_of_a_minibatch_has_the_exact_mean_and_gradient(page):
    mean = jax.value_and_grad(tg.exact_expectation(page["bound"]), argnums=(1, 2))
    found = mean(KEY, W, ROWS[:2], YS[:2], 1.5)
    expected = jax.value_and_grad(lambda w, rows: elbo(w, rows, YS[:2], 1.5), argnums=(0, 1))(W, ROWS[:2])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)


def test_the_mean_over_minibatches_is_the_bound_of_all_data(page):
    """Each datum with its own row: a table that is read in another order, or no scale on the guide, is another mean."""
    exact = jax.grad(tg.exact_expectation(page["bound"]), argnums=(1, 2))
    parts = [exact(KEY, W, ROWS[i : i + 1], YS[i : i + 1], 3.0) for i in range(3)]
    w, rows = jax.grad(elbo, argnums=(0, 1))(W, ROWS, YS)
    jax.tree.map(lambda x, *xs: np.testing.assert_allclose(np.mean(xs), x, rtol=1e-4), w, *(p[0] for p in parts))
    np.testing.assert_allclose(np.concatenate([p[1] for p in parts]) / 3.0, rows, rtol=1e-4)
    gain = jax.grad(lambda gain: elbo(W, gain * YS, YS))(GAIN)
    found = [jnp.sum(exact(KEY, W, GAIN * y[None], y[None], 3.0)[1] * y) for y in YS]
    np.testing.assert_allclose(np.mean(found), gain, rtol=1e-4)


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
