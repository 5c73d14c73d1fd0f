"""The recipe for a variational posterior on conjugate models, its stopping rule, and objectives evaluated."""

import functools
import re

import equinox as eqx
import jax
import numpy as np
import pytest
from jax import numpy as jnp
from scipy import stats

import tracegrad as tg
from tracegrad import dist
from tracegrad.auto._normal import Distributed
from tracegrad.auto._starts import starting_point
from tracegrad.recipes._settling import PATIENCE, WINDOW, at_rest, descent_of, rule_of, settling_adam
from tracegrad.recipes._variational import picked
from tracegrad.recipes._vi import _agreement

KEY = jax.random.key(0)

# y = X w + noise of deviation 0.5, w ~ N(0, I): a normal posterior, correlated.

X = np.array([[1.0, 0.2], [1.0, 1.1], [1.0, 1.9], [1.0, 3.2]])
Y = np.array([0.4, 1.3, 1.2, 2.5])
COVARIANCE = np.linalg.inv(np.eye(2) + X.T @ X / 0.25)
MEAN = COVARIANCE @ X.T @ Y / 0.25
EVIDENCE = stats.multivariate_normal(np.zeros(4), 0.25 * np.eye(4) + X @ X.T).logpdf(Y)


@tg.gen
def regression(x, *, noise):
    w = tg.sample("w", dist.Normal(0.0, 1.0).expand([2]))
    tg.deterministic("sum", jnp.sum(w))
    tg.sample("y", dist.Normal(x @ w, noise))


TARGET = tg.Target(regression, jnp.asarray(X), {"y": jnp.asarray(Y)}, kwargs={"noise": 0.5})


@functools.cache
def fitted(family):
    return tg.vi(TARGET, family, key=KEY, steps=600, progress=False)


@pytest.mark.table
@pytest.mark.parametrize("family", ["full_rank", "laplace"])
def test_a_normal_posterior_is_found(family):
    """To three digits: the path derivative has no noise at the posterior."""
    posterior = fitted(family)
    draws = posterior.sample(jax.random.key(1), 20_000)
    np.testing.assert_allclose(draws["w"].mean(0), MEAN, atol=0.012)
    np.testing.assert_allclose(np.cov(np.asarray(draws["w"]).T), COVARIANCE, atol=0.008)
    np.testing.assert_allclose(draws["sum"], draws["w"].sum(1), rtol=1e-5)
    exact = stats.multivariate_normal(MEAN, COVARIANCE).logpdf([0.1, 0.7])
    assert float(posterior.log_prob({"w": jnp.array([0.1, 0.7])})) == pytest.approx(exact, abs=5e-3)
    assert posterior.k_hat < 0.7
    assert posterior.summary().doubts == ()


@pytest.mark.slow
def test_independent_normals_are_independent_and_doubted():
    """Their deviations are 1 / sqrt(P_ii), here 0.61 of the right ones, and the summary says so."""
    posterior = tg.vi(TARGET, "mean_field", key=KEY, steps=1000, correct=False, progress=False)
    draws = np.asarray(posterior.sample(jax.random.key(1), 4000)["w"])
    np.testing.assert_allclose(draws.std(0), 1.0 / np.sqrt(np.diag(np.linalg.inv(COVARIANCE))), rtol=0.06)
    assert abs(np.corrcoef(draws.T)[0, 1]) < 0.06
    assert np.all(draws.std(0) < 0.65 * np.sqrt(np.diag(COVARIANCE)))
    assert posterior.summary().doubts != ()


# The same with less correlation, so that independent normals have 0.9 of the right deviations.

MILD = np.array([[1.0, -0.4], [1.0, 0.6], [1.0, 1.4], [1.0, -0.2]])
MILD_COVARIANCE = np.linalg.inv(np.eye(2) + MILD.T @ MILD / 0.25)
MILD_MEAN = MILD_COVARIANCE @ MILD.T @ Y / 0.25
MILD_EVIDENCE = stats.multivariate_normal(np.zeros(4), 0.25 * np.eye(4) + MILD @ MILD.T).logpdf(Y)


@functools.cache
def corrected():
    target = tg.Target(regression, jnp.asarray(MILD), {"y": jnp.asarray(Y)}, kwargs={"noise": 0.5})
    return tg.vi(target, "mean_field", key=KEY, steps=600, progress=False)


@pytest.mark.slow
def test_weights_correct_what_a_family_misses():
    """Independent normals are too narrow and uncorrelated: by weight draws are neither, and the report says so."""
    posterior = corrected()
    assert posterior.corrected
    draws = posterior.sample(jax.random.key(1), 20_000)
    np.testing.assert_allclose(draws["w"].mean(0), MILD_MEAN, atol=0.012)
    np.testing.assert_allclose(np.cov(np.asarray(draws["w"]).T), MILD_COVARIANCE, atol=0.003)
    np.testing.assert_allclose(draws["sum"], draws["w"].sum(1), rtol=1e-5)
    exact = stats.multivariate_normal(MILD_MEAN, MILD_COVARIANCE).logpdf([0.1, 0.7])
    assert float(posterior.log_prob({"w": jnp.array([0.1, 0.7])})) == pytest.approx(exact, abs=0.03)
    assert float(posterior.log_evidence) == pytest.approx(MILD_EVIDENCE, abs=0.03)
    for words in ("Draws are corrected by importance weights", "Log evidence"):
        assert words in posterior.report
    summary = posterior.summary()
    assert summary["w[0]"]["sd"] == pytest.approx(MILD_COVARIANCE[0, 0] ** 0.5, rel=0.05)
    assert 3000 < summary["w[0]"]["ess"] < 5000
    assert summary.doubts == ()


@pytest.mark.slow
def test_proposals_are_matched_to_the_posterior_where_the_family_is_far_too_narrow():
    """Independent normals have 0.6 of the right deviations here, and their own weights a k-hat of 0.8."""
    posterior = tg.vi(TARGET, "mean_field", key=KEY, steps=1000, progress=False)
    assert posterior.corrected
    assert "They correct the sd at 'w[0]', 'w[1]'" in posterior.report
    assert "each picked from 3 proposals" in posterior.report
    draws = posterior.sample(jax.random.key(1), 20_000)
    np.testing.assert_allclose(np.cov(np.asarray(draws["w"]).T), COVARIANCE, atol=0.004)
    assert float(posterior.log_evidence) == pytest.approx(EVIDENCE, abs=0.03)
    for words in (posterior.report, " ".join(posterior.summary().doubts)):
        assert "The family is too narrow at 'w[0]', 'w[1]'" in words


@pytest.mark.slow
def test_corrected_draws_are_as_many_as_asked_for_and_can_be_traced():
    posterior = corrected()
    assert posterior.sample(KEY, 0)["w"].shape == (0, 2)
    assert posterior.sample(KEY, 1)["w"].shape == (1, 2)
    traced = jax.jit(lambda key: posterior.latents(key, 50)["w"])(KEY)
    np.testing.assert_allclose(traced, posterior.latents(KEY, 50)["w"], rtol=1e-5)
    assert len(np.unique(np.asarray(posterior.latents(KEY, 2000)["w"])[:, 0])) > 1800


@tg.gen
def funnel(n):
    """Neal's, Slice Sampling, 2003: v ~ N(0, 3^2), and n others whose scale is exp(v / 2)."""
    v = tg.sample("v", dist.Normal(0.0, 3.0))
    tg.sample("x", dist.Normal(0.0, jnp.exp(v / 2.0)).expand([n]))


@pytest.mark.slow
def test_a_funnel_is_mended_by_kernels_for_the_few_and_a_normal_for_the_many():
    """v has the mean 0 and the deviation 3, and the evidence is 1; a normal family alone has neither."""
    posterior = tg.vi(tg.Target(funnel, 9), "mean_field", key=KEY, steps=100, progress=False)
    v = posterior.sample(KEY, 4000)["v"]
    assert posterior.corrected
    assert "Proposals draw 'v' by kernels" in posterior.report
    assert abs(float(v.mean())) < 0.15  # three standard errors
    assert abs(float(v.std()) - 3.0) < 0.15
    assert abs(float(posterior.log_evidence)) < 0.05


@pytest.mark.slow
def test_weights_correct_nothing_where_the_family_is_the_posterior_or_misses_it():
    exact = tg.vi(TARGET, "laplace", key=KEY, progress=False)
    assert exact.corrected or exact.k_hat == -np.inf

    # With so many latents none are drawn given the few.
    missed = tg.vi(tg.Target(funnel, 250), "mean_field", key=KEY, steps=100, progress=False)
    assert not missed.corrected
    assert missed.k_hat > 0.7
    assert "the draws miss a part of the posterior" in missed.report
    kept = tg.vi(TARGET, "mean_field", key=KEY, steps=100, correct=False, progress=False)
    assert not kept.corrected


def test_draws_are_picked_by_weight_once_each_where_that_is_fair():
    log_weights = jnp.log(jnp.array([0.1, 0.2, 0.3, 0.4]))
    index = np.asarray(picked(KEY, log_weights, 1000))
    np.testing.assert_allclose(np.bincount(index) / 1000, [0.1, 0.2, 0.3, 0.4], atol=2e-3)
    even = np.asarray(picked(KEY, jnp.zeros(400), 100))
    assert len(set(even)) == 100
    assert list(even) != sorted(even)


def test_the_report_says_what_was_done():
    posterior = fitted("full_rank")
    report = posterior.report
    for words in (
        "full_rank family for regression: 2 coordinates (w 2)",
        "Start: Laplace's approximation, at the mode.",
        "by the path derivative alone (`sticking_the_landing`), 16 draws a step, Adam at 0.02",
        "it had stopped rising",
        "below 0.7, the fit covers the posterior" if np.isfinite(posterior.k_hat) else "the family is the posterior",
    ):
        assert words in report
    assert float(posterior.history[-1]) == pytest.approx(EVIDENCE, abs=0.01)
    assert "nothing is left to fit" in fitted("laplace").report


def test_the_report_is_printed_with_the_progress(capfd):
    tg.vi(TARGET, "laplace", key=KEY)
    assert "vi: laplace family for regression" in capfd.readouterr().err
    tg.vi(TARGET, "laplace", key=KEY, progress=False)
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_where_there_is_no_mode_a_fit_of_independent_normals_is_the_start():
    """The density of a centred hierarchy has no maximum."""

    @tg.gen
    def hierarchy():
        scale = tg.sample("scale", dist.HalfNormal(1.0))
        tg.sample("z", dist.Normal(0.0, scale).expand([4]))

    posterior = tg.vi(tg.Target(hierarchy), key=KEY, steps=200, progress=False)
    assert "a fit of independent normals (there is no mode)" in posterior.report
    assert bool(jnp.all(jnp.isfinite(posterior.history)))


@pytest.mark.slow
def test_discrete_latents_are_summed_over():
    """m ~ N(0, 3^2), each x on the side of m that its coin says: the coins are known but for the sign of m."""

    @tg.gen
    def sides():
        m = tg.sample("m", dist.Normal(2.0, 1.0))
        k = tg.sample("k", dist.Bernoulli(0.5).expand([2]))
        tg.sample("x", dist.Normal(jnp.where(k == 1, m, -m), 1.0))

    target = tg.Target(sides, (), {"x": jnp.array([2.0, -2.0])})
    posterior = tg.vi(target, key=KEY, steps=600, progress=False)
    draws = posterior.sample(KEY, 2000)
    assert "discrete latents by local expectation" in posterior.report
    assert draws["k"][:, 0].mean() > 0.97
    assert draws["k"][:, 1].mean() < 0.03
    assert abs(draws["m"].mean() - 2.0) < 0.1

    @tg.gen
    def coin():
        b = tg.sample("b", dist.Bernoulli(0.25))
        tg.sample("x", dist.Bernoulli(jnp.where(b == 1, 0.9, 0.1)))

    alone = tg.vi(tg.Target(coin, (), {"x": 1}), key=KEY, steps=600, learning_rate=0.05, progress=False)
    assert float(alone.log_prob({"b": 1})) == pytest.approx(np.log(0.75), abs=0.04)
    assert "no continuous latent" in alone.report


@pytest.mark.slow
def test_a_family_that_is_made_already_is_fitted_as_it_is():
    given = tg.vi(TARGET, tg.auto.low_rank(TARGET, 1), key=KEY, steps=20, progress=False)
    assert "the family's own" in given.report
    assert given.family.name == "lowrank"
    named = tg.vi(TARGET, "low_rank", key=KEY, steps=20, progress=False)
    assert named.params["factor"].shape == (2, 2)


class Mixture(Distributed):
    """Two normals with even weights: a draw from it has no path derivative."""

    def start(self, key):
        return {"loc": jnp.zeros((2, self.space.size)), "log_scale": jnp.zeros((2, self.space.size))}

    def distribution(self, params):
        parts = dist.Normal(params["loc"], jnp.exp(params["log_scale"])).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=jnp.zeros(2)), parts)


@pytest.mark.slow
def test_a_family_without_path_derivatives_is_fitted_by_the_elbo():
    target = tg.Target(tg.gen(lambda: tg.sample("z", dist.Normal(2.0, 1.0))))
    posterior = tg.vi(target, Mixture(tg.to_unconstrained(target), None), key=KEY, steps=300, progress=False)
    assert "Objective: the ELBO (`elbo`), 16 draws" in posterior.report
    assert posterior.sample(KEY, 2000)["z"].mean() == pytest.approx(2.0, abs=0.3)


@pytest.mark.slow
def test_vi_is_traced_where_it_must_be():
    """Side by side over data sets: all steps are run, nothing is reported, and the answers are the exact ones."""

    def means(key, y):
        target = tg.Target(regression, jnp.asarray(X), {"y": y}, kwargs={"noise": 0.5})
        posterior = tg.vi(target, key=key, steps=100)
        assert posterior.report == ""
        return posterior.sample(key, 2000)["w"].mean(0)

    ys = jnp.stack([jnp.asarray(Y), -2.0 * jnp.asarray(Y)])
    found = jax.jit(jax.vmap(means))(jax.random.split(KEY, 2), ys)
    np.testing.assert_allclose(found, np.stack([MEAN, -2.0 * MEAN]), atol=0.05)


def test_misuse_says_what_to_write():
    with pytest.raises(tg.DensityError, match="vi: family is 'laplace' or 'mean_field' or .*, and got 'normal'"):
        tg.vi(TARGET, "normal", key=KEY)
    with pytest.raises(tg.ArgumentError, match="vi takes a Target"):
        tg.vi(regression, key=KEY)
    with pytest.raises(tg.DensityError, match="vi: steps must be a positive int"):
        tg.vi(TARGET, key=KEY, steps=0)
    with pytest.raises(tg.FitError, match="vi: learning_rate must be a positive number"):
        tg.vi(TARGET, key=KEY, learning_rate=0.0)


# ---- initial values -------------------------------------------------------------------------------------------------


@tg.gen
def two_modes():
    """Two normals apart, for `a`, of which the one at -3 has a little more mass; a scale that nothing tells."""
    tg.sample("s", dist.LogNormal(0.0, 1.0))
    a = tg.sample("a", dist.Normal(0.0, 3.0).expand([2]))
    logits = jnp.stack([dist.Normal(-3.0, 0.3).log_prob(a) + 0.2, dist.Normal(3.0, 0.3).log_prob(a)])
    tg.factor("modes", jnp.sum(jax.nn.logsumexp(logits, axis=0)))


MODES = tg.Target(two_modes)


@pytest.mark.slow
@pytest.mark.parametrize(("initial", "mode"), [({"a": 3.0}, (3.0, 3.0)), ({"a": jnp.array([3.0, -3.0])}, (3.0, -3.0))])
def test_a_search_starts_where_it_is_told(initial, mode):
    """A search climbs the hill it starts on. One number stands for all entries."""
    found = tg.vi(MODES, "laplace", key=KEY, initial=initial, correct=False, progress=False)
    np.testing.assert_allclose(found.latents(KEY, 500)["a"].mean(0), mode, atol=0.1)


@pytest.mark.slow
def test_chains_start_where_they_are_told_by_name_or_rule():
    tiny = {"draws": 1, "warmup": 1, "chains": 2, "progress": False, "target_acceptance": 0.99}
    near = tg.hmc(MODES, key=KEY, initial={"a": jnp.array([3.0, -3.0])}, steps=1, **tiny).choices["a"]
    np.testing.assert_allclose(near[:, 0], [[3.0, -3.0]] * 2, atol=1.0)
    space = tg.to_unconstrained(MODES)
    from_prior = jax.jit(jax.vmap(lambda k: starting_point(space, k, "prior")))
    drawn = from_prior(jax.random.split(KEY, 200))
    assert float(drawn[:, 0].std()) == pytest.approx(3.0, rel=0.15)  # a's prior deviation; uniform would be 1.2
    spread = jax.jit(jax.vmap(lambda k: starting_point(space, k, "uniform")))(jax.random.split(KEY, 50))
    assert float(jnp.abs(spread).max()) <= 2.0


@pytest.mark.parametrize(
    ("initial", "error", "words"),
    [
        ({"mu": 1.0}, tg.AddressError, r"initial for two_modes: there is no sample at 'mu'.*'a', 's'"),
        ({"s": -1.0}, tg.ChoiceError, r"The choice at 's' \(a LogNormal\) is outside the support"),
        ({"a": jnp.zeros(3)}, tg.ChoiceError, r"initial at 'a' has the shape \(3,\), and the latent \(2,\)"),
        ({"a": jnp.nan}, tg.ChoiceError, r"initial at 'a' must be .*nan"),
        ("mode", tg.ChoiceError, "initial is 'uniform' or 'prior', and got 'mode'"),
        (3.0, tg.AddressError, "initial"),
    ],
)
def test_initial_values_that_cannot_be_are_refused_by_name(initial, error, words):
    for run in (tg.vi, tg.nuts):
        with pytest.raises(error, match=f"(?s){words}"):
            run(MODES, key=KEY, initial=initial, progress=False)


def test_what_starts_by_itself_takes_no_initial_values():
    with pytest.raises(tg.ChoiceError, match="vi: a family that is made already starts from its own"):
        tg.vi(TARGET, tg.auto.mean_field(TARGET), key=KEY, initial={"w": 0.0}, progress=False)
    with pytest.raises(tg.ChoiceError, match="nuts: give `init`, .* and not both"):
        tg.nuts(MODES, key=KEY, init={"a": jnp.zeros((4, 2)), "s": jnp.ones(4)}, initial="prior", progress=False)


# ---- several starts --------------------------------------------------------------------------------------------------


@tg.gen
def lopsided():
    """Two normals apart, of which the one at -4 has a third of the mass of the other."""
    a = tg.sample("a", dist.Normal(0.0, 5.0))
    logits = jnp.stack([dist.Normal(-4.0, 0.3).log_prob(a), dist.Normal(4.0, 0.3).log_prob(a) + jnp.log(3.0)])
    tg.factor("modes", jax.nn.logsumexp(logits))


@pytest.mark.slow
def test_of_several_starts_the_best_is_kept_and_the_report_says_how_many_agree():
    """A fit climbs the hill that it starts on; their bounds differ by log 3."""
    target = tg.Target(lopsided)
    posterior = tg.vi(target, "mean_field", key=KEY, steps=200, restarts=6, correct=False, progress=False)
    assert posterior.latents(KEY, 500)["a"].mean() == pytest.approx(4.0, abs=0.1)
    agreed = int(re.search(r"the best of 6 side by side, number \d\. (\d) of 6 end within", posterior.report)[1])
    assert 1 <= agreed < 6
    assert float(posterior.history[-1]) == pytest.approx(np.log(3.0) + stats.norm(0.0, 5.0).logpdf(4.0), abs=0.1)


def test_restarts_that_cannot_be():
    with pytest.raises(tg.DensityError, match="vi: restarts must be a positive int"):
        tg.vi(TARGET, key=KEY, restarts=0)
    with pytest.raises(tg.ChoiceError, match="searches from four starts by itself"):
        tg.vi(TARGET, "laplace", key=KEY, restarts=2)
    with pytest.raises(tg.FitError, match="the ELBO of each of 3 starts is no longer finite"):
        _agreement(np.full(3, np.nan), 0, np.zeros(5))
    words = _agreement(np.array([np.nan, 1.0, -5.0]), 1, np.zeros(5))
    assert "number 1. 1 of 3 end within 0.1 of its ELBO. 1 were no longer finite." in words


# ---- the stopping rule ----------------------------------------------------------------------------------------------


def losses_to(settle_at, noise):
    falling = np.maximum(settle_at - np.arange(2000), 0) * 0.1
    return falling + noise * np.random.default_rng(0).normal(size=2000)


def run_of(losses, steps=1000):
    """The step at which the rate begins to come down, and the rates."""
    optimizer = settling_adam(1.0, steps)

    def step(state, loss):
        with jax.numpy_dtype_promotion("standard"):  # optax's own
            updates, state = optimizer.update(jnp.ones(()), state, value=loss)
        return state, (rule_of(state).start, updates)

    state, (_, updates) = jax.lax.scan(step, optimizer.init(jnp.zeros(())), jnp.asarray(losses[:steps]))
    return int(rule_of(state).start), np.asarray(updates), state


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_the_rate_comes_down_once_the_loss_has_stopped_falling(noise):
    """Four windows after the last that fell, give or take one or two where the loss is noise."""
    start, updates, state = run_of(losses_to(150, noise))
    assert 150 + PATIENCE * WINDOW <= start <= 150 + (PATIENCE + 3) * WINDOW
    np.testing.assert_allclose(updates[: start - 1], -1.0, rtol=1e-3)
    assert abs(updates[min(start + descent_of(1000), 999) - 1]) < 0.02
    assert np.all(np.diff(np.abs(updates[start:])) <= 1e-6)


def test_the_rate_comes_down_in_time_where_the_loss_still_falls():
    start, updates, state = run_of(losses_to(2000, 1.0))
    assert start == 500
    assert abs(updates[-1]) < 1e-4
    assert at_rest(state, 1000)


def test_a_run_ends_when_the_rate_is_nothing():
    assert len(fitted("full_rank").history) < 600


# ---- objectives evaluated -------------------------------------------------------------------------------------------


def test_an_objective_is_evaluated_with_its_error():
    noisy = tg.expectation(lambda key, m: tg.transforms.sample(key, dist.Normal(m, 2.0)))
    found = tg.evaluate(noisy, 3.0, key=KEY, draws=2000)
    assert isinstance(found, tg.Evaluation)
    mean, se = found
    assert float(se) == pytest.approx(2.0 / np.sqrt(2000.0), rel=0.1)
    assert abs(float(mean) - 3.0) < 4.0 * float(se)
    chunked = tg.evaluate(noisy, 3.0, key=KEY, draws=2000, chunk_size=300)
    np.testing.assert_allclose(chunked.mean, mean, rtol=1e-5)
    assert str(found).startswith(f"{float(mean):.5g} ± ")


def test_every_shape_is_evaluated_and_what_is_no_number_is_not():
    found = tg.evaluate(lambda key: jnp.stack([jnp.ones(2), jax.random.normal(key, (2,))]), key=KEY, draws=400)
    assert found.mean.shape == found.se.shape == (2, 2)
    np.testing.assert_allclose(found.se[0], 0.0, atol=1e-7)
    np.testing.assert_allclose(found.se[1], 0.05, rtol=0.2)
    assert float(tg.evaluate(lambda key: jnp.asarray(-jnp.inf), key=KEY, draws=2).mean) == -np.inf
    with pytest.raises(tg.ObjectiveError, match="must return numbers, and returned NoneType"):
        tg.evaluate(lambda key: None, key=KEY)
    with pytest.raises(tg.ObjectiveError, match="draws, of which an error is taken, must be an int of at least 2"):
        tg.evaluate(lambda key: 1.0, key=KEY, draws=1)
    with pytest.raises(tg.ObjectiveError, match="evaluate takes a function"):
        tg.evaluate(regression, key=KEY)


def test_a_summary_keeps_the_doubt_of_the_report():
    """K-hat is an estimate: of other draws it may come out below the limit, and the doubt must stay."""
    model = tg.gen(lambda: tg.sample("z", tg.dist.Normal(0.0, 1.0)))
    found = tg.vi(tg.Target(model), "laplace", key=jax.random.key(0), progress=False)
    assert found.summary().doubts == ()
    doubted = eqx.tree_at(lambda x: x.weights_k_hat, found, 0.9, is_leaf=lambda x: x is None)
    assert "k-hat was 0.90" in doubted.summary().doubts[0]


ONE = tg.gen(lambda: tg.sample("x", dist.Normal(tg.sample("z", dist.Normal(0.0, 1.0)), 1.0)))
NARROW = tg.gen(lambda sd: tg.sample("z", dist.Normal(1.0, sd)))


def test_bounds_on_one_evidence_are_compared_in_words(recwarn):
    """Of a narrow guide two draws put CUBO below the bound that is tight; a wide one with many keeps the order."""
    exact = stats.norm(0.0, np.sqrt(2.0)).logpdf(2.0)
    many = {"iwelbo": tg.iwelbo(ONE, NARROW, {"x": 2.0}, n=50), "cubo": tg.cubo(ONE, NARROW, {"x": 2.0}, n=200)}
    found = tg.evaluate(many, (), 1.0, key=KEY, draws=200)
    assert list(found) == ["iwelbo", "cubo"]
    assert not recwarn.list
    assert float(found["iwelbo"].mean) < exact < float(found["cubo"].mean)
    few = {"tight": many["iwelbo"], "high": tg.renyi(ONE, NARROW, {"x": 2.0}, alpha=-1.0, n=2)}
    with pytest.warns(UserWarning, match="'high' bounds the evidence from above, 'tight' from below, and.*`log_z`"):
        tg.evaluate(few, (), 0.2, key=KEY, draws=200)
    with pytest.raises(tg.ObjectiveError, match="is empty"):
        tg.evaluate({}, key=KEY)


def test_bounds_that_are_weighed_are_not_compared(recwarn):
    """A scale of three brings the upper bound below, one of none the lower bound above: of other evidences."""
    plain = tg.renyi(ONE, NARROW, {"x": 2.0})
    tg.evaluate({"low": plain, "high": tg.cubo(ONE, NARROW, {"x": 2.0}, scale={"x": 9.0})}, (), 0.7, key=KEY, draws=50)
    raised = tg.elbo(ONE, NARROW, {"x": 2.0}, scale_both={"z": 0.0})
    tg.evaluate({"low": raised, "high": tg.cubo(ONE, NARROW, {"x": 2.0})}, (), 0.7, key=KEY, draws=50)
    assert not recwarn.list
