"""Interventions: truncated factorisations by hand."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

import tracegrad as tg


@tg.gen
def smokers():
    gene = tg.sample("gene", tg.dist.Bernoulli(0.3)).astype(float)
    smokes = tg.sample("smokes", tg.dist.Bernoulli(0.2 + 0.6 * gene)).astype(float)
    return tg.sample("ill", tg.dist.Bernoulli(0.1 + 0.3 * gene + 0.2 * smokes))


def chance(target):
    return float(jnp.exp(tg.exact().estimate(jax.random.key(0), target).log_z))


def test_doing_is_not_seeing():
    """p(ill | do(smokes)) = sum_g p(g) p(ill | g, 1); p(ill | smokes) weighs the genes by the evidence."""
    done = chance(tg.Target(smokes_done := smokers.do({"smokes": 1}), observed={"ill": 1}))
    assert done == pytest.approx(0.7 * 0.3 + 0.3 * 0.6, rel=1e-5)
    seen = chance(tg.Target(smokers, observed={"smokes": 1, "ill": 1})) / chance(
        tg.Target(smokers, observed={"smokes": 1})
    )
    assert seen == pytest.approx((0.7 * 0.2 * 0.3 + 0.3 * 0.8 * 0.6) / (0.7 * 0.2 + 0.3 * 0.8), rel=1e-5)
    assert sorted(smokes_done.simulate(jax.random.key(0)).choices) == ["gene", "ill"]


def test_sites_in_plates_and_loops_are_replaced_one_by_one():
    @tg.gen
    def step(carry, x):
        z = tg.sample("z", tg.dist.Normal(carry + x, 1.0))
        return z, z

    walk = step.scan()
    values = jnp.array([1.0, -2.0, 0.5])
    done = tg.gen(lambda: tg.sample("walk", walk(0.0, jnp.zeros(3)))).do({"walk": {"z": values}})
    trace = done.simulate(jax.random.key(0))
    assert trace.choices == {}
    assert float(trace.logp) == 0.0
    np.testing.assert_array_equal(trace.retval[1], values)
    rows = tg.gen(lambda m: tg.sample("y", tg.dist.Normal(m, 1.0))).vmap()
    np.testing.assert_array_equal(rows.do({"y": values}).simulate(jax.random.key(0), jnp.zeros(3)).retval, values)


def test_interventions_from_outside_win_and_have_derivatives():
    model = tg.gen(lambda: tg.sample("y", tg.dist.Normal(tg.sample("z", tg.dist.Normal(0.0, 1.0)), 1.0)))

    def logp(z):
        return model.do({"z": 5.0}).do({"z": z}).assess({"y": 2.0})[0]

    assert float(jax.jit(jax.grad(logp))(0.5)) == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ({"smoke": 1}, tg.AddressError, "do for smokers: 'smoke' matches no sample"),
        ({"smokes": jnp.ones(2)}, tg.ChoiceError, "'smokes' .* wrong shape"),
        (1.0, tg.AddressError, "do takes a dict"),
    ],
)
def test_bad_interventions_are_named(values, error, words):
    with pytest.raises(error, match=words):
        smokers.do(values).simulate(jax.random.key(0))


def test_what_is_replaced_can_be_given_no_more():
    with pytest.raises(tg.AddressError, match="'smokes'"):
        smokers.do({"smokes": 1}).assess({"gene": 0, "smokes": 1, "ill": 0})


def test_no_intervention_reaches_into_an_estimated_density_unnoticed():
    kept = tg.marginal(smokers, tg.select("ill"), tg.importance(2)).do({"gene": 1})
    with pytest.raises(tg.AddressError, match="'gene' matches no sample"):
        kept.simulate(jax.random.key(0))
