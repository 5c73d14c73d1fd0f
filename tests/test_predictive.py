"""Predictions and log likelihoods by point against closed forms; deterministic values and factors in constructs."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from scipy import stats

import tracegrad as tg
from tracegrad import dist

KEY = jax.random.key(0)


@tg.gen
def line(x):
    slope = tg.sample("slope", dist.Normal(0.0, 2.0))
    mean = tg.deterministic("mean", slope * x)
    return tg.sample("y", dist.Normal(mean, 1.0).to_event(1))


XS = jnp.array([1.0, 2.0])
DRAWS = {"slope": jnp.array([1.0, -1.0, 0.5])}


def moments_are(draws, mean, variance):
    """Within 4.5 standard errors of normal draws."""
    n = len(draws)
    assert abs(draws.mean() - mean) < 4.5 * np.sqrt(variance / n)
    assert abs(draws.var() / variance - 1.0) < 4.5 * np.sqrt(2.0 / n)


def test_the_prior_predicts_with_its_exact_moments():
    found = tg.predictive(line, XS, key=KEY, n=4000)
    assert {name: x.shape for name, x in found.items()} == {
        "slope": (4000,), "mean": (4000, 2), "y": (4000, 2), "retval": (4000, 2)
    }  # fmt: skip
    moments_are(np.asarray(found["slope"]), 0.0, 4.0)
    moments_are(np.asarray(found["y"][:, 1]), 0.0, 17.0)
    np.testing.assert_array_equal(found["retval"], found["y"])


@pytest.mark.slow
def test_a_posterior_predicts_with_its_exact_moments():
    """slope | y = (1, 2) ~ N(m, v), 1/v = 1/4 + 5 and m = 5 v; at x = 3 the prediction has variance 9 v + 1."""
    target = tg.Target(line, XS, {"y": jnp.array([1.0, 2.0])})
    family = tg.auto.laplace(target)
    found = tg.predictive(line, jnp.array([3.0]), draws=family.posterior(family.init(KEY)), key=KEY, n=4000)
    v = 1.0 / 5.25
    assert set(found) == {"mean", "y", "retval"}
    moments_are(np.asarray(found["y"][:, 0]), 3.0 * 5.0 * v, 9.0 * v + 1.0)


def test_draws_are_taken_and_deterministic_values_are_computed_anew():
    found = tg.predictive(line, jnp.ones(4), draws=DRAWS | {"mean": jnp.zeros((3, 2))}, key=KEY)
    np.testing.assert_allclose(found["mean"], np.asarray(DRAWS["slope"])[:, None] * np.ones(4), rtol=1e-6)
    assert set(found) == {"mean", "y", "retval"}


def test_chunks_and_jit_change_nothing():
    whole = tg.predictive(line, XS, draws=DRAWS, key=KEY)
    for other in (
        tg.predictive(line, XS, draws=DRAWS, key=KEY, chunk_size=2),
        jax.jit(lambda key, draws: tg.predictive(line, XS, draws=draws, key=key))(KEY, DRAWS),
    ):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), whole, other)


@pytest.mark.parametrize("n", [0, 1])
def test_no_draw_and_one(n):
    assert tg.predictive(line, XS, key=KEY, n=n)["y"].shape == (n, 2)
    assert tg.predictive(line, XS, draws={"slope": jnp.ones(n)}, key=KEY)["mean"].shape == (n, 2)


def test_what_is_returned_has_a_name_of_its_own_unless_a_choice_has_it():
    def run(body):
        return tg.predictive(tg.gen(body), key=KEY, n=2)

    pair = run(lambda: {"a": tg.sample("z", dist.Normal(0.0, 1.0)), "b": 1})
    assert pair["retval"]["b"].tolist() == [1, 1]
    assert pair["retval"]["a"].tolist() == pair["z"].tolist()
    assert set(run(lambda: [tg.sample("z", dist.Normal(0.0, 1.0)), "text"])) == {"z"}
    assert run(lambda: 2.0 * tg.sample("retval", dist.Normal(3.0, 1e-3)))["retval"].round().tolist() == [3.0, 3.0]
    assert set(tg.predictive(tg.gen(lambda: None), key=KEY, n=2)) == set()
    assert run(lambda: 1.5)["retval"].tolist() == [1.5, 1.5]


def test_misuse_says_what_to_write():
    def run(**given):
        return tg.predictive(line, XS, key=KEY, **given)

    with pytest.raises(tg.AddressError, match="draws for line: there is no sample at 'slop'.*'mean', 'slope', 'y'"):
        run(draws={"slop": jnp.ones(3)})
    with pytest.raises(tg.ChoiceError, match="Give `draws=`, or `n=` for the prior's"):
        run()
    with pytest.raises(tg.ChoiceError, match="n is 5, and `draws` holds 3 draws"):
        run(draws=DRAWS, n=5)
    with pytest.raises(tg.ChoiceError, match="3 at 'slope', 2 at 'y'"):
        run(draws=DRAWS | {"y": jnp.ones((2, 2))})
    with pytest.raises(tg.ChoiceError, match="'slope' have no leading axis"):
        run(draws={"slope": 1.0})
    with pytest.raises(tg.ChoiceError, match="the choice at 'slope' .*has the wrong shape|choice at 'slope'"):
        run(draws={"slope": jnp.ones((3, 2))})
    with pytest.raises(tg.ArgumentError, match="predictive takes a generative function"):
        tg.predictive(lambda: 0, key=KEY, n=1)
    with pytest.raises(tg.ChoiceError, match="deterministic at 'text': the value is an array or a number"):
        tg.predictive(tg.gen(lambda: tg.deterministic("text", "three")), key=KEY, n=1)


# ---- deterministic values in every construct ------------------------------------------------------------------------


@tg.gen
def point(scale):
    z = tg.sample("z", dist.Normal(0.0, scale))
    tg.deterministic("twice", 2.0 * z)
    return z


@tg.gen
def step(carry, x):
    z = tg.sample("z", dist.Normal(carry, 1.0))
    tg.deterministic("sum", z + x)
    return z, None


@tg.gen
def flat(scale):
    return tg.deterministic("zero", 0.0 * scale)


@tg.gen
def everything(flag):
    tg.sample("plate", point.vmap()(jnp.ones(3)))
    tg.sample("copies", point.repeat(2)(1.0))
    tg.sample("steps", step.scan()(0.0, jnp.arange(4.0)))
    tg.sample("masked", point.mask()(flag, 1.0))
    tg.sample("branch", tg.cond(flag, point, flat)(1.0))
    tg.sample("estimators", point.with_estimators({"z": tg.reinforce()})(1.0))
    tg.sample("method", Scaled(3.0).point())
    point.inline(1.0)


class Scaled:
    def __init__(self, scale):
        self.scale = scale

    @tg.gen
    def point(self):
        tg.deterministic("scaled", self.scale * tg.sample("z", dist.Normal(0.0, 1.0)))


@pytest.mark.slow
def test_deterministic_values_lie_where_their_choices_lie():
    found = tg.predictive(everything, True, key=KEY, n=5)
    for place in ("plate", "copies", "masked", "estimators", "branch"):
        np.testing.assert_allclose(found[place]["twice"], 2.0 * found[place]["z"], rtol=1e-6)
    np.testing.assert_allclose(found["twice"], 2.0 * found["z"], rtol=1e-6)
    np.testing.assert_allclose(found["steps"]["sum"], np.asarray(found["steps"]["z"]) + np.arange(4.0), rtol=1e-5)
    np.testing.assert_allclose(found["method"]["scaled"], 3.0 * found["method"]["z"], rtol=1e-6)
    assert found["branch"]["zero"].shape == (5,)
    assert found["plate"]["twice"].shape == (5, 3)
    assert found["steps"]["sum"].shape == (5, 4)


@pytest.mark.slow
def test_deterministic_values_are_no_choices():
    """No operation draws them, weighs them or takes them."""
    trace = everything.simulate(KEY, True)
    assert "twice" not in trace.choices
    assert "twice" not in trace.choices["plate"]
    logp, _ = everything.assess(trace.choices, True)
    assert float(logp) == pytest.approx(float(trace.logp), rel=1e-5)
    with pytest.raises(tg.AddressError, match="there is no sample at 'twice'"):
        everything.generate(KEY, {"twice": 1.0}, True)
    with pytest.raises(tg.AddressError, match="the address 'a' is sampled twice|'a' is sampled twice"):
        tg.gen(lambda: tg.sample("a", dist.Normal(tg.deterministic("a", 0.0), 1.0))).simulate(KEY)
    with pytest.raises(tg.AddressError, match="deterministic\\('a', ...\\) was called outside"):
        tg.deterministic("a", 0.0)


# ---- factors --------------------------------------------------------------------------------------------------------


@tg.gen
def tilted(weight):
    z = tg.sample("z", dist.Normal(0.0, 1.0))
    tg.factor("soft", weight * z)
    tg.sample("x", dist.Normal(z, 1.0))
    return z


@tg.gen
def plate():
    tg.sample("lanes", tilted.vmap()(jnp.array([0.5, 1.0])))


NORMAL = stats.norm(0.0, 1.0).logpdf


@pytest.mark.slow
def test_a_factor_counts_in_every_density():
    z, x, w = 0.3, 0.8, 0.5
    plain = NORMAL(z) + NORMAL(x - z)
    choices = {"z": z, "x": x}
    assert float(tilted.assess(choices, w)[0]) == pytest.approx(plain + w * z, abs=1e-5)
    trace, weight = tilted.generate(KEY, choices, w)
    assert float(weight) == pytest.approx(plain + w * z, abs=1e-5)
    assert float(tilted.project(trace, "z")) == pytest.approx(NORMAL(z), abs=1e-5)
    changed, weight, _ = tilted.update(KEY, trace, {"z": 1.0}, w)
    after = NORMAL(1.0) + NORMAL(x - 1.0) + w
    assert float(changed.logp) == pytest.approx(after, abs=1e-5)
    assert float(weight) == pytest.approx(after - plain - w * z, abs=1e-5)
    assert float(tg.Target(tilted, w, {"x": x}).log_prob({"z": z})) == pytest.approx(plain + w * z, abs=1e-5)
    lanes = {"lanes": {"z": jnp.array([z, z]), "x": jnp.array([x, x])}}
    assert float(plate.assess(lanes)[0]) == pytest.approx(2.0 * plain + 1.5 * z, abs=1e-5)
    masked = tilted.mask().assess(choices, False, w)[0]
    assert float(masked) == 0.0


@pytest.mark.slow
def test_a_factor_tilts_a_posterior_and_its_evidence():
    """z ~ N(0, 1) with exp(w z): a normal at w; with x ~ N(z, 1) its mean is (x + w) / 2."""
    target = tg.Target(tilted, 0.5, {"x": 0.8})
    family = tg.auto.laplace(target)
    posterior = family.posterior(family.init(KEY))
    assert float(posterior.params["loc"][0]) == pytest.approx(0.65, abs=1e-3)
    found = tg.importance_sampling(target, family.guide, posterior.params, key=KEY, n=100)
    exact = -0.25 * 0.8**2 - 0.5 * np.log(4.0 * np.pi) + 0.5 * 0.4 + 0.25 * 0.5**2
    assert float(found.log_evidence) == pytest.approx(exact, abs=1e-3)


@pytest.mark.slow
def test_a_program_with_a_factor_is_not_simulated_and_its_predictions_do_not_weigh_it():
    with pytest.raises(tg.DensityError, match="simulate: the program has a factor at 'soft'"):
        tilted.simulate(KEY, 0.5)
    with pytest.raises(tg.DensityError, match="a factor at 'lanes/soft'"):
        plate.simulate(KEY)
    without = tg.predictive(tilted, 0.0, key=KEY, n=5)
    np.testing.assert_array_equal(tg.predictive(tilted, 9.0, key=KEY, n=5)["z"], without["z"])
    with pytest.raises(tg.DensityError, match="logp must be a log density below infinity"):
        tg.gen(lambda: tg.factor("bad", jnp.nan)).assess({})


# ---- log likelihoods by point ---------------------------------------------------------------------------------------


@tg.gen
def unit(present, mean):
    tg.sample("seen", tg.gen(lambda: tg.sample("value", dist.Normal(mean, 2.0))).mask()(present))


@tg.gen
def observed_in_many_ways(present):
    z = tg.sample("z", dist.Normal(0.0, 1.0))
    tg.sample("batch", dist.Normal(z, 1.0).expand([2]))
    tg.sample("event", dist.Normal(z, 0.5).expand([2, 3]).to_event(2))
    tg.sample("coins", dist.Bernoulli(logits=z * jnp.ones(2)))
    tg.sample("joint", dist.MultivariateNormal(z * jnp.ones(2), jnp.eye(2)))
    tg.sample("units", unit.vmap(in_axes=(0, None))(present, z))


PRESENT = jnp.array([True, False, True])
DATA = {
    "batch": jnp.array([0.1, 0.2]),
    "event": jnp.arange(6.0).reshape(2, 3) / 5.0,
    "coins": jnp.array([1, 0]),
    "joint": jnp.array([0.5, -0.5]),
    "units": {"seen": {"value": jnp.array([0.7, jnp.nan, -0.2])}},
}


@pytest.mark.slow
def test_log_likelihoods_by_point_are_those_of_scipy():
    z = np.array([0.0, 0.4, -1.0], np.float32)
    target = tg.Target(observed_in_many_ways, (PRESENT,), DATA)
    found = tg.log_likelihood(target, {"z": jnp.asarray(z)})
    p = 1.0 / (1.0 + np.exp(-z))
    expected = {
        "batch": stats.norm(z[:, None], 1.0).logpdf(DATA["batch"]),
        "event": stats.norm(z[:, None, None], 0.5).logpdf(DATA["event"]),
        "coins": np.log(np.stack([p, 1.0 - p], axis=1)),
        "joint": stats.norm(z[:, None], 1.0).logpdf(DATA["joint"]).sum(1),
        "units": {"seen": {"value": np.where(PRESENT, stats.norm(z[:, None], 2.0).logpdf([0.7, 0.0, -0.2]), 0.0)}},
    }
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, expected)
    total = sum(np.asarray(x).reshape(3, -1).sum(1) for x in jax.tree.leaves(found)) + NORMAL(z)
    np.testing.assert_allclose(total, jax.vmap(lambda z: target.log_prob({"z": z}))(jnp.asarray(z)), rtol=1e-5)


def test_log_likelihoods_want_all_latents_and_points():
    target = tg.Target(line, XS, {"y": jnp.array([1.0, 2.0])})
    assert tg.log_likelihood(target, {"slope": jnp.zeros(0)})["y"].shape == (0, 2)
    assert tg.log_likelihood(tg.Target(line, XS), DRAWS | {"y": jnp.ones((3, 2))}) == {}
    with pytest.raises(tg.AddressError, match="there is no sample at 'slop'"):
        tg.log_likelihood(target, {"slop": jnp.zeros(2)})
    with pytest.raises(tg.AddressError, match="the choice at 'slope' is missing"):
        tg.log_likelihood(target, {"mean": jnp.zeros((2, 2))})
    with pytest.raises(tg.ArgumentError, match="log_likelihood takes a Target, and got"):
        tg.log_likelihood(line, DRAWS)

    marginal = tg.marginal(tilted, "x", tg.importance(3))
    joint = tg.gen(lambda: tg.sample("m", marginal(tg.sample("w", dist.Normal(0.0, 1.0)))))
    with pytest.raises(tg.DensityError, match="'m/x' has a joint density alone"):
        tg.log_likelihood(tg.Target(joint, (), {"m": {"x": 1.0}}), {"w": jnp.zeros(2)}, key=KEY)


@tg.gen
def component(means):
    k = tg.sample("k", dist.Categorical(jnp.array([0.3, 0.7])))
    tg.sample("x", dist.Normal(means[k], 1.0).expand([2]).to_event(1))


@tg.gen
def mixture(present):
    means = tg.sample("means", dist.Normal(jnp.array([-2.0, 2.0]), 1.0).to_event(1))
    rows = tg.marginal(component, "x", tg.exact()).mask().vmap(in_axes=(0, None))
    tg.sample("rows", rows(present, means))


def test_a_mixture_summed_out_has_a_log_likelihood_for_each_row():
    """The log of the sum over components, by scipy; nothing at a row that is masked; the parts add up to the whole."""
    x, means = np.array([[0.1, 0.2], [-1.0, 3.0], [2.0, 2.5]], np.float32), np.array([[-2.0, 2.0], [0.0, 0.5]])
    target = tg.Target(mixture, (PRESENT,), {"rows": {"x": jnp.asarray(x)}})
    found = tg.log_likelihood(target, {"means": jnp.asarray(means, jnp.float32)})["rows"]["x"]
    parts = stats.norm(means[:, None, None, :], 1.0).logpdf(x[None, :, :, None]).sum(2)
    expected = np.logaddexp(np.log(0.3) + parts[..., 0], np.log(0.7) + parts[..., 1]) * np.asarray(PRESENT)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    prior = stats.norm([-2.0, 2.0], 1.0).logpdf(means).sum(1)
    logp = [target.log_prob({"means": jnp.asarray(m)}) for m in means]
    np.testing.assert_allclose(np.asarray(found).sum(1) + prior, logp, rtol=1e-5)
    rows = tg.log_likelihood(
        tg.Target(mixture.with_scale({"rows": 5.0}), (PRESENT,), target.observed), {"means": means}
    )
    np.testing.assert_allclose(rows["rows"]["x"], expected, rtol=1e-5)


def test_several_addresses_under_one_marginal_have_no_points():
    pair = tg.gen(lambda: (tg.sample("a", dist.Bernoulli(0.5)), tg.sample("b", dist.Normal(0.0, 1.0)))[1])
    both = tg.gen(lambda: tg.sample("m", tg.marginal(pair, ["a", "b"], tg.exact())()) and tg.sample("w", dist.Normal()))
    with pytest.raises(tg.DensityError, match="'m/a', 'm/b' has a joint density alone"):
        tg.log_likelihood(tg.Target(both, (), {"m": {"a": 1, "b": 0.5}}), {"w": jnp.zeros(2)})


@tg.gen
def masked_rows(flags):
    return tg.sample("rows", tg.gen(lambda: tg.sample("z", dist.Normal(0.0, 1.0))).mask().vmap()(flags))


def test_draws_that_are_nan_are_refused_where_they_count():
    flags, draws = jnp.array([True, False]), {"rows": {"z": jnp.array([[0.5, jnp.nan]])}}
    found = tg.predictive(masked_rows, flags, draws=draws, key=KEY)
    np.testing.assert_allclose(found["retval"][0, 0], 0.5)
    rows = tg.gen(lambda: tg.sample("z", dist.Normal(0.0, 1.0))).repeat(2)
    model = tg.gen(lambda: tg.sample("rows", rows()))
    with pytest.raises(tg.ChoiceError, match="predictive: there is NaN among the draws at 'rows/z'"):
        tg.predictive(model, draws=draws, key=KEY)
    with pytest.raises(tg.ChoiceError, match="log_likelihood: there is NaN among the draws at 'rows/z'"):
        tg.log_likelihood(tg.Target(model), draws)
