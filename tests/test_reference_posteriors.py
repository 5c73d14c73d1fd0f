"""Automatic families against posteriors whose moments are known, with k-hat where a family cannot fit.

The larger data sets are for `python tests/benchmarks posteriors`.
"""

import jax
import pytest
from posterior_chains import CHAINS
from posterior_data import DATA, REFERENCE
from posterior_fits import fitted, judged, normal_of
from posterior_models import POSTERIORS

ALL = POSTERIORS | CHAINS


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def found(name, family):
    posterior, reference = ALL[name], REFERENCE[name]
    target = posterior.target(DATA[posterior.data])
    guide, params = fitted(target, family, normal_of(target))
    return judged(posterior, target, guide, params, reference), reference


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
