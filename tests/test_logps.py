"""Log densities by address, against scipy's and against their sum."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from scipy import stats

import tracegrad as tg


@tg.gen
def row(z):
    tg.sample("y", tg.dist.Normal(z, 1.0))


@tg.gen
def model(scale):
    z = tg.sample("z", tg.dist.Normal(0.0, scale).expand([2]))
    tg.sample("rows", row.vmap()(z))
    tg.sample("other", row(z[0]))
    tg.factor("soft", -z)
    tg.deterministic("twice", 2.0 * z)


Z, Y = np.array([0.5, -1.0]), np.array([1.0, 2.0])
CHOICES = {"z": jnp.asarray(Z), "rows": {"y": jnp.asarray(Y)}, "other": {"y": 0.0}}
EXPECTED = {
    "z": stats.norm.logpdf(Z, 0.0, 2.0).sum(),
    "rows": {"y": stats.norm.logpdf(Y, Z)},
    "other": {"y": stats.norm.logpdf(0.0, 0.5)},
    "soft": 0.5,
}


def test_each_address_has_its_own():
    found = model.logps(CHOICES, 2.0)
    assert jax.tree.structure(found) == jax.tree.structure(EXPECTED)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(EXPECTED), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5)
    total = sum(float(jnp.sum(x)) for x in jax.tree.leaves(found))
    assert total == pytest.approx(float(model.assess(CHOICES, 2.0)[0]), rel=1e-5)


def test_scales_are_among_them():
    found = model.with_scale({"rows": 3.0}).logps(CHOICES, 2.0)
    np.testing.assert_allclose(found["rows"]["y"], 3.0 * EXPECTED["rows"]["y"], rtol=1e-5)


@pytest.mark.slow
def test_traces_have_them_stacked_ones_under_vmap():
    trace, _ = model.generate(jax.random.key(0), {}, 2.0)
    assert sum(float(jnp.sum(x)) for x in jax.tree.leaves(trace.logps)) == pytest.approx(float(trace.logp), rel=1e-5)
    keys = jax.random.split(jax.random.key(1), 3)
    traces = jax.vmap(lambda key: model.generate(key, {}, 2.0)[0])(keys)
    assert jax.vmap(lambda trace: trace.logps)(traces)["rows"]["y"].shape == (3, 2)


def test_an_estimated_density_is_one_number_and_needs_a_key():
    pair = tg.gen(lambda: (tg.sample("a", tg.dist.Normal(0.0, 1.0)), tg.sample("b", tg.dist.Normal(0.0, 1.0))))
    held = tg.gen(lambda: tg.sample("pair", tg.marginal(pair, tg.select("a"), tg.importance(2))()))
    found = held.logps({"pair": {"a": 1.0}}, key=jax.random.key(0))
    assert float(found["pair"]) == pytest.approx(stats.norm.logpdf(1.0), rel=1e-5)
    with pytest.raises(tg.RandomKeyError, match="'pair'"):
        held.logps({"pair": {"a": 1.0}})


@pytest.mark.parametrize("flag", [True, False])
def test_what_is_masked_counts_for_nothing_part_by_part(flag):
    """It did count: the parts of a masked row added up to what the row has without a mask."""
    f, given = row.mask().vmap(), {"y": jnp.array([100.0, 0.3])}
    flags, z = jnp.array([flag, True]), jnp.array([0.0, 0.5])
    parts = f.logps(given, flags, z)["y"]
    np.testing.assert_allclose(parts, stats.norm.logpdf([100.0, 0.3], [0.0, 0.5]) * [flag, True], rtol=1e-5)
    np.testing.assert_allclose(parts.sum(), f.assess(given, flags, z)[0], rtol=1e-6)
