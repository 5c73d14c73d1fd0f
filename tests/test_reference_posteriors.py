"""Automatic families against posteriors whose moments are known, with k-hat where a family cannot fit.

The larger data sets are for `python tests/benchmarks posteriors`.
"""

import functools

import arviz as az
import jax
import numpy as np
import pytest
from posterior_chains import CHAINS
from posterior_data import DATA, REFERENCE
from posterior_fits import fitted, judged, normal_of
from posterior_models import POSTERIORS
from posterior_states import STATES

import tracegrad as tg

ALL = POSTERIORS | CHAINS | STATES


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


# What several tests look at is computed once.


@functools.cache
def target_of(name):
    return ALL[name].target(DATA[ALL[name].data])


@functools.cache
def start_of(name):
    return normal_of(target_of(name))


@functools.cache
def fittable(name):
    return ALL[name].fittable(DATA[ALL[name].data])


@functools.cache
def fit_by_vi(name):
    return tg.vi(fittable(name), key=jax.random.key(0), progress=False)


@functools.cache
def chains_of(name):
    return tg.nuts(fittable(name), key=jax.random.key(1), draws=1000, warmup=500, progress=False)


def found(name, family):
    posterior, target, reference = ALL[name], target_of(name), REFERENCE[name]
    guide, params = fitted(target, family, start_of(name))
    return judged(posterior, target, guide, params, reference), reference


def recovered(name):
    """What `vi` makes of a posterior with its defaults, in the coordinates that help; with the reference's moments."""
    posterior, reference, fit = ALL[name], REFERENCE[name], fit_by_vi(name)
    draws = jax.jit(jax.vmap(posterior.quantities))(fit.latents(jax.random.key(1), 20_000))
    mean, sd = np.asarray(reference["mean"]), np.asarray(reference["sd"])
    return fit, np.abs(draws.mean(0) - mean) / sd, draws.std(0) / sd, reference


BY_VI = [
    "eight_schools (exact",
    "kilpisjarvi_mod-kilpisjarvi",
    "GLM_Binomial_data-GLM_Binomial_model",
    "GLM_Poisson_Data-GLM_Poisson_model",
    "hudson_lynx_hare-lotka_volterra",
    "gp_pois_regr-gp_regr",
    "inference_gym/Banana",
    "inference_gym/EightSchools",
    "inference_gym/BrownianMotionUnknownScalesMissingMiddleObservations",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_VI)
def test_vi_recovers_posteriors_with_its_defaults(name):
    """Means within a tenth of a standard deviation, standard deviations within a tenth, and it says so."""
    fit, z, ratio, reference = recovered(name)
    assert z.max() < 0.1
    assert 0.9 < ratio.min() <= ratio.max() < 1.1
    assert "k-hat is" not in fit.report
    if "log_evidence" in reference:
        assert float(fit.log_evidence) == pytest.approx(reference["log_evidence"], abs=0.05)


@pytest.mark.slow
def test_vi_says_where_it_does_not_recover_a_posterior():
    """A Michaelis constant whose density falls as its third power, so that it has no variance."""
    fit, z, ratio, _ = recovered("one_comp_mm_elim_abs-one_comp_mm_elim_abs")
    assert z.max() > 0.1 or ratio.min() < 0.9 or ratio.max() > 1.1
    assert any("run `nuts`" in doubt for doubt in fit.summary().doubts)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["eight_schools (exact", "kilpisjarvi_mod-kilpisjarvi"])
def test_leave_one_out_is_that_of_chains(name):
    """Expected log predictive densities of a fit and of chains agree to a fraction of their standard error."""
    one, two = (az.loo(tg.to_arviz(x, key=jax.random.key(2), n=4000)) for x in (fit_by_vi(name), chains_of(name)))
    assert abs(one.elpd_loo - two.elpd_loo) < 0.2 * two.se
    assert abs(one.se - two.se) < 0.1 * two.se


RECOVERED = [
    ("GLM_Binomial_data-GLM_Binomial_model", "full_rank"),
    ("kilpisjarvi_mod-kilpisjarvi", "full_rank"),
]
RECOVERED_SLOWLY = [
    ("GLM_Poisson_Data-GLM_Poisson_model", "full_rank"),
    ("GLM_Poisson_Data-GLM_Poisson_model", "flow"),
    ("GLM_Binomial_data-GLM_Binomial_model", "flow"),
    ("kilpisjarvi_mod-kilpisjarvi", "flow"),
    ("hudson_lynx_hare-lotka_volterra", "flow"),
    ("gp_pois_regr-gp_regr", "flow"),
]


def check_recovered(name, family):
    """Means within a tenth of a standard deviation, standard deviations within a tenth, the evidence where known."""
    fit, reference = found(name, family)
    assert fit.z < 0.1
    assert 0.9 < fit.low <= fit.high < 1.1
    if "log_evidence" in reference:
        assert fit.log_evidence == pytest.approx(reference["log_evidence"], abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "family"), RECOVERED)
def test_moments_are_recovered(name, family):
    check_recovered(name, family)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "family"), RECOVERED_SLOWLY)
def test_moments_of_more_posteriors_are_recovered(name, family):
    check_recovered(name, family)


def check_told(name, family):
    """The moments are off, and k-hat says so, or that importance weights can correct them: then they do."""
    fit = found(name, family)[0]
    assert fit.z > 0.1 or fit.low < 0.9 or fit.high > 1.1
    assert fit.k_hat > 0.7 or fit.weighted_z < 0.1
    return fit


@pytest.mark.slow
def test_k_hat_says_where_a_family_does_not_fit():
    """A normal in the neck of a funnel."""
    assert check_told("inference_gym/NealsFunnel", "laplace").k_hat > 0.7


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("inference_gym/NealsFunnel", "full_rank"),
        ("eight_schools (exact", "laplace"),
        ("eight_schools (exact", "full_rank"),
        ("one_comp_mm_elim_abs-one_comp_mm_elim_abs", "full_rank"),
    ],
)
def test_k_hat_says_where_a_fitted_family_does_not_fit(name, family):
    check_told(name, family)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kilpisjarvi_mod-kilpisjarvi", "eight_schools (exact"])
def test_leaving_one_out_says_of_a_fit_what_it_says_of_chains(name):
    """Of all data within a tenth of the error that so few data leave, of each within a tenth of a nat."""
    one, two = (
        az.loo(tg.to_arviz(each, key=jax.random.key(0), n=8000, groups=["log_likelihood"]), pointwise=True)
        for each in (fit_by_vi(name), chains_of(name))
    )
    assert abs(one.elpd_loo - two.elpd_loo) < 0.1 * two.se
    assert abs(one.p_loo - two.p_loo) < 0.1 * two.se
    np.testing.assert_allclose(one.loo_i, two.loo_i, atol=0.1)
    assert one.n_data_points == two.n_data_points > 7
