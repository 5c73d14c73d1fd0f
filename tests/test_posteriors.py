"""Every kind of posterior against conjugate answers: draws, densities, summaries and their doubts, what ArviZ gets."""

import functools
import re
import sys
import warnings

import arviz as az
import jax
import numpy as np
import pytest
from jax import numpy as jnp
from scipy import stats

import tracegrad as tg
from tracegrad import dist

KEY = jax.random.key(0)

# z ~ N(0, 1), x_i ~ N(z, 1) for i = 1..8: z | x ~ N(sum x / 9, 1/9).

X = np.array([0.3, 1.1, -0.4, 0.9, 2.0, 0.1, 1.2, 0.6])
MEAN, SD = X.sum() / 9.0, 1.0 / 3.0
EVIDENCE = stats.multivariate_normal(np.zeros(8), np.eye(8) + 1.0).logpdf(X)


@tg.gen
def model():
    z = tg.sample("z", dist.Normal(0.0, 1.0))
    tg.deterministic("square", z**2)
    tg.sample("x", dist.Normal(z, 1.0).expand([8]))


TARGET = tg.Target(model, (), {"x": jnp.asarray(X)})


class Exact(tg.Posterior):
    """One of one's own, with the density of the target."""

    target: tg.Target

    def latents(self, key, n):
        return {"z": MEAN + SD * jax.random.normal(key, (n,))}


@tg.gen
def normal(mean, sd):
    tg.sample("z", dist.Normal(mean, sd))


@functools.cache
def posterior_of(kind):
    family = tg.auto.laplace(TARGET)
    match kind:
        case "family":
            return family.posterior(family.init(KEY))
        case "weights":
            return tg.importance_sampling(TARGET, normal, (MEAN, 0.5), key=KEY, n=4000)
        case "chains":
            return tg.nuts(TARGET, key=KEY, draws=500, warmup=200, chains=4, progress=False)
        case "normalize":
            return tg.normalize(TARGET, tg.sir(30, normal, (MEAN, 0.5))).posterior()
        case "own":
            return Exact(TARGET)


KINDS = ["family", "weights", "chains", "normalize", "own"]


@pytest.mark.table
@pytest.mark.parametrize("kind", KINDS)
def test_draws_are_those_of_the_exact_posterior(kind):
    """Means and deviations within four standard errors of 2000 draws, twice that for what is correlated."""
    posterior = posterior_of(kind)
    assert isinstance(posterior, tg.Posterior)
    draws = posterior.sample(jax.random.key(1), 2000)
    assert {name: x.shape for name, x in draws.items()} == {"z": (2000,), "square": (2000,)}
    np.testing.assert_allclose(draws["square"], draws["z"] ** 2, rtol=1e-6)
    error = (2.0 if kind in {"weights", "chains"} else 1.0) / np.sqrt(2000.0)
    assert abs(draws["z"].mean() - MEAN) < 4.0 * SD * error
    assert abs(draws["z"].std() / SD - 1.0) < 4.0 * error / np.sqrt(2.0)


@pytest.mark.table
@pytest.mark.parametrize("kind", KINDS)
def test_log_prob_is_in_nats_and_normalised_where_it_is_said_to_be(kind):
    posterior = posterior_of(kind)
    exact = stats.norm(MEAN, SD).logpdf(0.7)
    choices = {"z": 0.7, "square": 123.0}  # A deterministic value is passed over, whatever it is.
    if kind == "normalize":
        # Of particles' law, E[1/w] = 1/density; with 30 particles the estimate is within a few per cent.
        found = jnp.mean(jax.vmap(lambda k: posterior.log_prob(choices, key=k))(jax.random.split(KEY, 200)))
        assert found == pytest.approx(exact, abs=0.1)
        with pytest.raises(tg.RandomKeyError, match="needs a key"):
            posterior.log_prob(choices)
        return
    unnormalised = exact + EVIDENCE
    normalised = {"family": exact, "weights": unnormalised - float(posterior_of("weights").log_evidence)}
    assert float(posterior.log_prob(choices)) == pytest.approx(normalised.get(kind, unnormalised), abs=2e-3)


@pytest.mark.slow
def test_log_prob_of_all_draws_by_vmap():
    posterior = posterior_of("family")
    draws = posterior.sample(KEY, 4)
    expected = stats.norm(MEAN, SD).logpdf(np.asarray(draws["z"]))
    np.testing.assert_allclose(jax.jit(jax.vmap(posterior.log_prob))(draws), expected, atol=1e-3)


@pytest.mark.table
@pytest.mark.parametrize("n", [0, 1])
@pytest.mark.parametrize("kind", ["family", "weights", "chains"])
def test_no_draw_and_one(kind, n):
    assert posterior_of(kind).sample(KEY, n)["square"].shape == (n,)


def test_draws_are_made_under_jit():
    posterior = posterior_of("own")
    inside = jax.jit(lambda key: posterior.sample(key, 3))(KEY)
    np.testing.assert_allclose(inside["square"], posterior.sample(KEY, 3)["square"], rtol=1e-6)


def test_some_draws_of_chains_are_all_different():
    posterior = posterior_of("chains")
    assert len(set(np.asarray(posterior.sample(KEY, 100)["z"]).tolist())) > 90
    assert posterior.sample(KEY, 2500)["z"].shape == (2500,)


def test_draws_without_a_target_say_what_they_miss():
    draws = tg.WeightedDraws({"z": jnp.array([0.0, 1.0])}, jnp.zeros(2))
    assert draws.sample(KEY, 5)["z"].shape == (5,)
    assert "z" in draws.summary().rows
    with pytest.raises(tg.DensityError, match="target of these draws is not known.*WeightedDraws\\(..., target\\)"):
        draws.log_prob({"z": 0.0})


def test_a_target_without_latents_has_a_posterior_without_draws():
    @tg.gen
    def known():
        tg.sample("x", dist.Normal(0.0, 1.0))

    nothing = tg.Fitted(tg.Target(known, (), {"x": 1.0}), tg.gen(lambda: None))
    assert nothing.sample(KEY, 3) == {}
    assert float(nothing.log_prob({})) == 0.0
    assert "there are no latents" in str(nothing.summary())
    with pytest.raises(tg.ChoiceError, match="there are no latents and no deterministic values"):
        tg.to_arviz(nothing, key=KEY)


def test_a_wrong_address_is_named():
    with pytest.raises(tg.AddressError, match="draws for model: there is no sample at 'y'"):
        posterior_of("own").log_prob({"z": 0.0, "y": 1.0})
    with pytest.raises(tg.AddressError, match="the choice at 'z' is missing"):
        posterior_of("own").log_prob({})


@pytest.mark.slow
def test_an_exact_posterior_of_discrete_latents():
    @tg.gen
    def coins():
        b = tg.sample("b", dist.Bernoulli(0.25))
        bias = tg.deterministic("bias", 0.1 + 0.8 * b.astype(float))
        tg.sample("x", dist.Bernoulli(bias))

    posterior = tg.normalize(tg.Target(coins, (), {"x": 1}), tg.exact()).posterior()
    assert float(posterior.log_prob({"b": 1})) == pytest.approx(np.log(0.75), abs=1e-5)
    draws = posterior.sample(KEY, 400)
    assert abs(draws["b"].mean() - 0.75) < 0.1
    np.testing.assert_allclose(draws["bias"], 0.1 + 0.8 * np.asarray(draws["b"]), rtol=1e-6)
    assert posterior.summary(n=200)["b"]["mean"] == pytest.approx(0.75, abs=0.15)


def test_families_print_what_they_are():
    assert str(tg.auto.full_rank(TARGET)) == (
        "full_rank family for model: 1 coordinates (z 1), 3 parameters (loc, log_scale, lower)"
    )
    assert repr(posterior_of("family")) == "Fitted: the posterior of model by laplace(model)"
    assert "4 x 500 draws of the posterior of model" in repr(posterior_of("chains"))


# ---- summaries ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_summary_of_a_family_is_a_table_of_exact_numbers():
    summary = posterior_of("family").summary(n=20_000)
    assert isinstance(summary, tg.Summary)
    row = summary["z"]
    assert row["mean"] == pytest.approx(MEAN, abs=0.01)
    assert row["sd"] == pytest.approx(SD, rel=0.02)
    for name, q in (("5%", 0.05), ("median", 0.5), ("95%", 0.95)):
        assert row[name] == pytest.approx(stats.norm(MEAN, SD).ppf(q), abs=0.015)
    assert summary.doubts == ()
    assert "Nothing was found" in str(summary)


def test_the_summary_of_weights_is_weighted():
    summary = posterior_of("weights").summary()
    assert summary["z"]["mean"] == pytest.approx(MEAN, abs=0.03)
    assert summary["z"]["sd"] == pytest.approx(SD, rel=0.06)
    assert summary["z"]["95%"] == pytest.approx(stats.norm(MEAN, SD).ppf(0.95), abs=0.05)
    assert 1000 < summary["z"]["ess"] < 4000


def chains(values, **statistics):
    shape = values.shape
    said = {"diverging": np.zeros(shape, bool), "n_steps": np.full(shape, 7)} | statistics
    return tg.Draws({"a": jnp.zeros(shape), "b": jnp.asarray(values)}, said, jnp.ones(shape[0]))


def test_r_hat_and_ess_are_those_of_arviz():
    noise = np.random.default_rng(0).normal(size=(4, 301))
    draws = noise[:, 1:] + 0.7 * noise[:, :-1] + np.array([0.0, 0.0, 0.0, 0.3])[:, None]
    summary = chains(draws).summary()
    assert summary["b"]["r_hat"] == pytest.approx(float(az.rhat(draws)), abs=1e-3)
    assert summary["b"]["ess"] == pytest.approx(float(az.ess(draws)), rel=0.05)


def test_chains_that_disagree_are_named():
    draws = np.random.default_rng(0).normal(size=(4, 500)) + np.array([0.0, 0.0, 0.0, 1.0])[:, None]
    diverging = np.zeros((4, 500), bool)
    diverging[0, :3] = True
    first, second, *rest = chains(draws, diverging=diverging).summary().doubts
    assert "The chains disagree: R-hat is above 1.01 at 'b' (" in first
    assert "few effective draws at 'b'" in second
    assert any("3 of 2000 draws diverged" in doubt and "target_acceptance" in doubt for doubt in rest)
    assert any("one chain" in doubt for doubt in chains(draws[:1]).summary().doubts)


@pytest.mark.parametrize(
    ("mean", "sd", "words"),
    [
        (1.5, 0.2, ["above 0.7"]),  # It misses nearly all of the posterior.
        (0.0, 1.0 / 3.0, ["the sd is too small at 'z': at least", "run `nuts`"]),
        (0.0, 0.85, ["the sd is too small at 'z': at least 0.8", "take the weighted draws"]),
        (0.0, 1.5, [r"the sd is too large at 'z': at most 1\.(4[5-9]|5)", "take the weighted draws"]),
        (0.5, 1.1, [r"the mean is off at 'z', by at most 0\.(4[5-9]|5)"]),
    ],
)
def test_a_guide_that_is_off_is_doubted(mean, sd, words):
    """Of a posterior of mean 0 and deviation 1, in its units."""
    doubts = tg.Fitted(TARGET, normal, (MEAN + mean * SD, sd * SD)).summary(n=8000).doubts
    said = " ".join(doubts).lower()
    assert [word for word in words if not re.search(word, said)] == []


def test_k_hat_by_address_says_where_a_guide_fails():
    """The tails of `b` are those of a Student t, for which a normal is too light; the rest of the guide is right."""

    @tg.gen
    def model():
        tg.sample("a", dist.Normal(0.0, 1.0))
        tg.sample("sub", tg.gen(lambda: tg.sample("b", dist.StudentT(2.0).expand([3])))())

    @tg.gen
    def guide():
        tg.sample("a", dist.Normal(0.0, 1.0))
        tg.sample("sub", tg.gen(lambda: tg.sample("b", dist.Normal(0.0, jnp.array([1.0, 1.5, 1.5]))))())

    weighted = tg.importance_sampling(tg.Target(model), guide, key=KEY, n=4000)
    found = weighted.k_hats
    assert set(found) == {"a", "sub/b"}
    assert found["a"] < 0.4
    assert found["sub/b"] > 0.6
    assert any(
        "at 'sub/b'" in doubt and doubt.index("'sub/b'") < doubt.index("'a'") for doubt in weighted.summary().doubts
    )
    alone = tg.WeightedDraws({"z": jnp.arange(200.0)}, jnp.zeros(200))
    assert alone.k_hats == {"z": -np.inf}
    assert tg.WeightedDraws({}, jnp.zeros(200)).k_hats == {}


def test_a_guide_that_is_right_is_not_doubted():
    right = tg.Fitted(TARGET, normal, (MEAN, 1.03 * SD))
    assert right.summary().doubts == ()
    assert right.k_hat < 0.5
    assert "too few" in right.summary(n=5).doubts[0]


def test_weighted_draws_mend_a_guide_that_is_too_wide():
    weighted = tg.Fitted(TARGET, normal, (MEAN, 1.5 * SD)).weighted(KEY, 4000)
    assert isinstance(weighted, tg.WeightedDraws)
    assert weighted.summary()["z"]["sd"] == pytest.approx(SD, rel=0.06)


def test_without_arviz_the_summary_says_that_k_hat_is_not_known(monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz", None)
    assert "k-hat, which says" in tg.Fitted(TARGET, normal, (MEAN, 1.5 * SD)).summary(n=200).doubts[0]


def test_a_long_summary_is_cut():
    @tg.gen
    def wide():
        tg.sample("w", dist.Normal(0.0, 1.0).expand([5, 10]))
        tg.sample("z", dist.Normal(0.0, 1.0))

    class Prior(tg.Posterior):
        target: tg.Target

        def latents(self, key, n):
            return {"w": jax.random.normal(key, (n, 5, 10)), "z": jnp.zeros(n)}

    summary = Prior(tg.Target(wide)).summary(n=10)
    assert "`sbc` asks that" in summary.doubts[0]
    assert len(summary.rows) == 51
    text = str(summary)
    assert "w[0,9]" in text
    assert "w[1,0]" not in text
    assert "\nz " in text  # which a long array does not hide
    assert "... and 40 more of w" in text


# ---- ArviZ ----------------------------------------------------------------------------------------------------------


GROUPS = {"posterior_predictive", "prior", "prior_predictive", "observed_data", "log_likelihood", "sample_stats"}


@pytest.mark.table
@pytest.mark.parametrize("kind", KINDS)
def test_arviz_gets_all_groups_of_every_kind(kind):
    data = tg.to_arviz(posterior_of(kind), key=KEY, n=200)
    lead = (4, 500) if kind == "chains" else (1, 200)
    assert set(data.groups()) == {"posterior", *GROUPS}
    assert {name: x.shape for name, x in data["posterior"].items()} == {"z": lead, "square": lead}
    assert data["prior"]["z"].shape == (1, 200)
    assert set(data["prior"]) == {"z", "square"}
    assert data["posterior_predictive"]["x"].shape == (*lead, 8)
    assert data["prior_predictive"]["x"].shape == (1, 200, 8)
    np.testing.assert_array_equal(data["observed_data"]["x"], X.astype(np.float32))
    z = np.asarray(data["posterior"]["z"])[..., None]
    np.testing.assert_allclose(data["log_likelihood"]["x"], stats.norm(z, 1.0).logpdf(X), atol=1e-4)
    assert data["sample_stats"]["lp"].shape == lead


def test_loo_of_a_fit_is_that_of_chains_and_plots_run():
    fit, run = (tg.to_arviz(posterior_of(kind), key=KEY, n=2000) for kind in ("family", "chains"))
    one, two = az.loo(fit), az.loo(run)
    assert abs(one.elpd_loo - two.elpd_loo) < 0.3 * two.se
    # In closed form, x_i given the others is normal with variance 1 + 1/8.
    others = stats.norm((X.sum() - X) / 8.0, np.sqrt(1.0 + 1.0 / 8.0))
    assert one.elpd_loo == pytest.approx(others.logpdf(X).sum(), abs=0.05)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pandas and matplotlib, at what ArviZ writes
        assert set(az.compare({"fit": fit, "chains": run}).index) == {"fit", "chains"}
        az.plot_ppc(fit, num_pp_samples=20)
        az.plot_trace(fit)


def test_groups_of_arviz_are_those_that_can_be_made_or_are_named():
    run = posterior_of("chains")
    assert set(tg.to_arviz(run).groups()) == {"posterior", "observed_data", "log_likelihood", "sample_stats"}
    assert set(tg.to_arviz(run, groups=["observed_data"]).groups()) == {"posterior", "observed_data"}
    assert set(tg.to_arviz(chains(np.zeros((2, 10)))).groups()) == {"posterior", "sample_stats"}
    with pytest.raises(tg.RandomKeyError, match="'prior'.* are drawn. Give `key="):
        tg.to_arviz(run, groups=["prior"])
    with pytest.raises(tg.ChoiceError, match="each of the groups is 'posterior_predictive' or"):
        tg.to_arviz(run, groups=["likelihood"])
    with pytest.raises(tg.RandomKeyError):
        tg.to_arviz(posterior_of("family"))


def test_a_guide_at_other_addresses_is_no_posterior():
    target = tg.Target(tg.gen(lambda: tg.sample("z", tg.dist.Normal(0.0, 1.0))))
    guide = tg.gen(lambda: tg.sample("y", tg.dist.Normal(0.0, 1.0)))
    with pytest.raises(tg.AddressError, match="samples at 'y', and the latents of the target are 'z'"):
        tg.Fitted(target, guide).sample(jax.random.key(0), 2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"loc": jnp.array([jnp.nan])}, "params at 'loc' must be a finite number"),
        ({"loc": jnp.zeros(2)}, "params at 'loc' has the shape \\(1,\\), and got \\(2,\\)"),
        ({"lok": jnp.zeros(1)}, "'lok' is unknown"),
    ],
)
def test_a_posterior_at_wrong_parameters_is_refused(change, words):
    family = tg.auto.mean_field(tg.Target(tg.gen(lambda: tg.sample("z", tg.dist.Normal(0.0, 1.0)))))
    with pytest.raises(tg.DensityError, match=words):
        family.posterior(family.init(jax.random.key(0)) | change)


# ---- checks of a model ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_replicated_data_are_compared_with_the_observed():
    """The largest of 8: its predictive law by quadrature; and a statistic of several parts."""
    posterior = posterior_of("own")
    found = tg.predictive_check(posterior, lambda data: data["x"].max(), key=KEY, n=4000)
    assert isinstance(found, tg.PredictiveCheck)
    z = np.linspace(MEAN - 6 * SD, MEAN + 6 * SD, 2001)
    below = np.sum(stats.norm(z, 1.0).cdf(X.max()) ** 8 * stats.norm(MEAN, SD).pdf(z)) * (z[1] - z[0])
    assert float(found.p) == pytest.approx(1.0 - below, abs=4.0 * 0.5 / np.sqrt(4000.0))
    assert float(found.observed) == pytest.approx(2.0)
    assert found.replicated.shape == (4000,)
    parts = tg.predictive_check(posterior, lambda data: {"a": data["x"][:2], "far": 0.0 * data["x"][0] + 1.0}, key=KEY)
    assert parts.p["a"].shape == (2,)
    assert "['far']: p = 0.5: the observed is 1" in str(parts)
    first = jnp.asarray(X)[0]
    odd = tg.predictive_check(posterior, lambda data: jnp.where(data["x"][0] == first, 100.0, 0.0), key=KEY, n=50)
    assert float(odd.p) == 0.0
    assert "UNUSUAL" in str(odd)
    with pytest.raises(tg.ArgumentError, match="the statistic must return real numbers, and returned 'x'"):
        tg.predictive_check(posterior, lambda data: "x", key=KEY)
    with pytest.raises(tg.DensityError, match="nothing is observed"):
        tg.predictive_check(Exact(tg.Target(model)), lambda data: 0.0, key=KEY)
    with pytest.raises(tg.ChoiceError, match="predictive_check takes a posterior, and got Target"):
        tg.predictive_check(TARGET, lambda data: 0.0, key=KEY)


def test_shrinkage_is_one_minus_the_ratio_of_variances():
    found = tg.shrinkage(posterior_of("own"), key=KEY, n=8000)
    assert set(found) == {"z", "square"}
    assert found["z"] == pytest.approx(1.0 - 1.0 / 9.0, abs=0.02)
