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


# ---- conditions ------------------------------------------------------------------------------------------------------


def test_a_condition_weighs_what_an_intervention_does_not():
    """p(gene, smokes, ill) with one of them given: a term of the density, and no choice."""
    given = smokers.condition({"smokes": 1})
    point = {"gene": 1, "ill": 0}
    joint = float(smokers.assess({**point, "smokes": 1})[0])
    assert float(given.assess(point)[0]) == pytest.approx(joint, rel=1e-6)
    assert joint == pytest.approx(np.log(0.3 * 0.8 * 0.4), rel=1e-5)
    assert float(smokers.do({"smokes": 1}).assess(point)[0]) == pytest.approx(np.log(0.3 * 0.4), rel=1e-5)
    assert {k: float(v) for k, v in given.logps(point).items()} == pytest.approx(
        {"gene": np.log(0.3), "smokes": np.log(0.8), "ill": np.log(0.4)}, rel=1e-5
    )


def test_the_evidence_of_a_conditioned_program_is_that_of_its_target():
    """With all of the evidence given, or half of it observed."""
    target = chance(tg.Target(smokers, observed={"smokes": 1, "ill": 1}))
    assert target == pytest.approx(0.7 * 0.2 * 0.3 + 0.3 * 0.8 * 0.6, rel=1e-5)
    assert chance(tg.Target(smokers.condition({"smokes": 1, "ill": 1}))) == pytest.approx(target, rel=1e-6)
    assert chance(tg.Target(smokers.condition({"smokes": 1}), observed={"ill": 1})) == pytest.approx(target, rel=1e-6)
    both = smokers.condition({"smokes": 1}).condition({"ill": 1})
    assert chance(tg.Target(both)) == pytest.approx(target, rel=1e-6)


def test_operations_count_a_condition_as_a_term():
    given = smokers.condition({"ill": 1})
    trace, weight = given.generate(jax.random.key(0), {"gene": 0})
    smokes = float(trace.choices["smokes"])
    ill = np.log(0.1 + 0.2 * smokes)
    assert sorted(trace.choices) == ["gene", "smokes"]
    assert float(weight) == pytest.approx(np.log(0.7) + ill, rel=1e-5)
    later, weight, discarded = given.update(jax.random.key(1), trace, {"gene": 1})
    assert discarded == {"gene": 0}
    assert float(weight) == pytest.approx(float(later.logp - trace.logp), rel=1e-5)
    assert float(given.project(trace, "gene")) == pytest.approx(np.log(0.7), rel=1e-5)
    assert float(given.with_scale({"ill": 0.5}).assess(trace.choices)[0]) == pytest.approx(
        float(trace.logp) - 0.5 * ill, rel=1e-5
    )


def test_conditions_in_loops_bounds_and_predictions():
    @tg.gen
    def step(carry, x):
        z = tg.sample("z", tg.dist.Normal(carry, 1.0))
        tg.sample("y", tg.dist.Normal(z, 1.0))
        return z, z

    y = jnp.array([0.5, 1.0])
    walk = step.scan(2).condition({"y": y})
    z = jnp.array([0.1, 0.4])
    assert float(walk.assess({"z": z}, 0.0)[0]) == float(step.scan(2).assess({"z": z, "y": y}, 0.0)[0])
    guide = tg.gen(lambda: tg.sample("z", tg.dist.Normal(jnp.zeros(2), 1.0).to_event(1)))
    bounds = [
        tg.elbo(model, guide, observed)(jax.random.key(0), (0.0,))
        for model, observed in ((walk, {}), (step.scan(2), {"y": y}))
    ]
    assert float(bounds[0]) == pytest.approx(float(bounds[1]), rel=1e-6)
    assert sorted(tg.predictive(smokers.condition({"ill": 1}), key=jax.random.key(0), n=2)) == [
        "gene",
        "retval",
        "smokes",
    ]


@pytest.mark.parametrize(
    ("use", "error", "words"),
    [
        (lambda: smokers.condition({"ill": 1}).simulate(jax.random.key(0)), tg.DensityError, "a condition at 'ill'"),
        (
            lambda: smokers.condition({"il": 1}).generate(jax.random.key(0), {}),
            tg.AddressError,
            "condition for smokers: 'il' matches",
        ),
        (lambda: smokers.condition([1]), tg.AddressError, "condition takes a dict"),
        (lambda: smokers.condition({"ill": 2}).assess({"gene": 0, "smokes": 0}), tg.ChoiceError, "outside the support"),
        (lambda: smokers.condition({"ill": [1]}).assess({"gene": 0, "smokes": 0}), tg.ChoiceError, "wrong shape"),
        (lambda: smokers.condition({"ill": 1}).assess({"gene": 0, "smokes": 0, "ill": 1}), tg.AddressError, "'ill'"),
        (lambda: smokers.do({"ill": 1}).condition({"ill": 1}).assess({"gene": 0, "smokes": 0}), tg.AddressError, "ill"),
        (lambda: smokers.condition({"ill": 1}).condition({"ill": 0}).assess({}), tg.AddressError, "both hold"),
    ],
)
def test_bad_conditions_are_named(use, error, words):
    with pytest.raises(error, match=words):
        use()


# ---- improper priors -------------------------------------------------------------------------------------------------


@tg.gen
def improper():
    mu = tg.sample("mu", tg.dist.ImproperUniform(tg.dist.constraints.real, (), ()))
    tg.sample("y", tg.dist.Normal(mu, 2.0).expand([4]).to_event(1))


@pytest.mark.slow
def test_an_improper_prior_counts_for_nothing():
    """The posterior is that of the likelihood alone, N(mean, 2 / sqrt(4))."""
    y = jnp.array([1.0, 2.0, 4.0, 5.0])
    target = tg.Target(improper, observed={"y": y})
    family = tg.auto.laplace(target)
    params = family.init(jax.random.key(0))
    assert (float(params["loc"][0]), float(params["log_scale"][0])) == pytest.approx((3.0, 0.0), abs=1e-4)
    chains = tg.nuts(target, key=jax.random.key(1), draws=500, warmup=200, chains=1, progress=False)
    assert chains.summary()["mu"]["mean"] == pytest.approx(3.0, abs=0.3)
    groups = tg.to_arviz(family.posterior(params), key=jax.random.key(2), n=10)
    assert "posterior_predictive" in groups
    assert "prior" not in groups


@pytest.mark.parametrize(
    "draw",
    [
        lambda: improper.simulate(jax.random.key(0)),
        lambda: tg.predictive(improper, key=jax.random.key(0), n=2),
        lambda: tg.importance_sampling(tg.Target(improper, observed={"y": jnp.ones(4)}), key=jax.random.key(0), n=2),
    ],
)
def test_nothing_is_drawn_from_an_improper_prior(draw):
    with pytest.raises(tg.DistributionError, match="'mu' cannot be drawn: a ImproperUniform"):
        draw()
