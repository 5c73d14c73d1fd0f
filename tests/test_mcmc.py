"""NUTS, HMC and importance sampling against exact posteriors; what they hand to ArviZ; what they refuse."""

import functools
import sys

import jax
import numpy as np
import pytest
from jax import numpy as jnp

import tracegrad as tg
from tracegrad import dist

KEY = jax.random.key(0)

# p ~ Beta(2, 3), 7 of 10 successes; z ~ N(0, I), y ~ N(z_1 + z_2, 0.5^2): both conjugate.

Y, NOISE = 1.5, 0.25
LOADING = np.ones(2)
COVARIANCE = np.linalg.inv(np.eye(2) + np.outer(LOADING, LOADING) / NOISE)
MEAN = COVARIANCE @ LOADING * Y / NOISE
BETA = (2.0 + 7.0, 3.0 + 3.0)


@tg.gen
def inner():
    return tg.sample("z", dist.Normal(0.0, 1.0).expand([2]))


@tg.gen
def conjugate():
    p = tg.sample("p", dist.Beta(2.0, 3.0))
    z = tg.sample("sub", inner())
    tg.sample("count", dist.Binomial(10, probs=p))
    tg.sample("y", dist.Normal(jnp.sum(z), 0.5))


TARGET = tg.Target(conjugate, (), {"count": 7, "y": Y})


def log_evidence():
    beta = dist.BetaBinomial(2.0, 3.0, 10).log_prob(7)
    return float(beta + dist.Normal(0.0, np.sqrt(2.0 + NOISE)).log_prob(Y))


@functools.cache
def drawn(name):
    sizes = {"draws": 800, "warmup": 300, "chains": 4}
    return tg.nuts(TARGET, key=KEY, **sizes) if name == "nuts" else tg.hmc(TARGET, key=KEY, steps=7, **sizes)


def z_of(draws, exact):
    """How many standard errors, of 5 batches from each of 4 chains, the mean of the draws is from the exact one."""
    batches = np.asarray(draws, np.float64).reshape(20, -1).mean(axis=1)
    return (batches.mean() - exact) / (batches.std(ddof=1) / np.sqrt(20.0))


@pytest.mark.table
@pytest.mark.parametrize("name", ["nuts", "hmc"])
def test_draws_are_those_of_the_exact_posterior(name):
    """First and second moments: |z| < 4.5 on 19 degrees of freedom; a bias of half a deviation has z > 10."""
    choices = drawn(name).choices
    assert choices["p"].shape == (4, 800)
    assert choices["sub"]["z"].shape == (4, 800, 2)
    a, b = BETA
    p, z = choices["p"], choices["sub"]["z"]
    mean = a / (a + b)
    assert abs(z_of(p, mean)) < 4.5
    assert abs(z_of((p - mean) ** 2, mean * (1 - mean) / (a + b + 1))) < 4.5
    for i in range(2):
        assert abs(z_of(z[..., i], MEAN[i])) < 4.5
        assert abs(z_of((z[..., i] - MEAN[i]) ** 2, COVARIANCE[i, i])) < 4.5
    cross = (z[..., 0] - MEAN[0]) * (z[..., 1] - MEAN[1])
    assert abs(z_of(cross, COVARIANCE[0, 1])) < 4.5
    assert abs(z_of(p, mean + 0.5 * np.sqrt(mean * (1 - mean) / (a + b + 1)))) > 10.0


@pytest.mark.slow
def test_a_fit_is_checked_in_three_lines():
    family = tg.auto.laplace(TARGET)
    fit = tg.importance_sampling(TARGET, family.guide, family.init(KEY), key=KEY, n=2000)
    np.testing.assert_allclose(fit.mean()["sub"]["z"], drawn("nuts").choices["sub"]["z"].mean((0, 1)), atol=0.1)
    assert fit.k_hat < 0.7


@pytest.mark.slow
def test_statistics_and_arviz():
    draws = drawn("nuts")
    assert isinstance(draws, tg.Draws)
    assert draws.step_size.shape == (4,)
    assert not bool(jnp.any(draws.statistics["diverging"]))
    space = tg.to_unconstrained(TARGET)
    last = jax.tree.map(lambda x: x[0, -1], draws.choices)
    lp = space.log_prob(space.unconstrain(last))
    assert float(draws.statistics["lp"][0, -1]) == pytest.approx(float(lp), abs=1e-3)
    data = tg.to_arviz(draws)
    np.testing.assert_array_equal(data["posterior"]["sub.z"].values, draws.choices["sub"]["z"])
    assert data["posterior"]["p"].dims == ("chain", "draw")
    assert set(draws.statistics) == set(data["sample_stats"].data_vars)


@pytest.mark.slow
def test_chains_start_where_they_are_told():
    init = {"p": jnp.array([0.999, 0.001]), "sub": {"z": jnp.full((2, 2), 5.0)}}
    tiny = {"draws": 1, "warmup": 1, "chains": 2, "target_acceptance": 0.9}
    near = tg.hmc(TARGET, key=KEY, init=init, steps=1, **tiny)
    assert near.choices["p"].shape == (2, 1)
    assert near.choices["p"][0, 0] > 0.9 > 0.1 > near.choices["p"][1, 0]
    with pytest.raises(tg.ChoiceError, match=r"chains along a leading axis, and that at 'p' has the shape \[3\]"):
        tg.nuts(TARGET, key=KEY, init={"p": jnp.ones(3)}, **tiny)


# ---- importance sampling --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_weights_from_the_prior_give_the_evidence_and_the_posterior():
    found = tg.importance_sampling(TARGET, key=KEY, n=6000, chunk_size=3000)
    assert isinstance(found, tg.WeightedDraws)
    weights = np.exp(np.asarray(found.log_weights, np.float64) - log_evidence())
    assert abs(weights.mean() - 1.0) < 4.5 * weights.std() / np.sqrt(6000)
    assert abs(float(found.mean()["p"]) - 0.6) < 0.02
    assert abs(float(found.mean(lambda c: c["p"] ** 2)) - (0.6 * 0.4 / 16.0 + 0.36)) < 0.02
    again = found.resample(jax.random.key(1), 4000)
    np.testing.assert_allclose(again["sub"]["z"].mean(0), MEAN, atol=0.08)


def test_ess_and_evidence_of_given_weights():
    found = tg.WeightedDraws({"z": jnp.array([0.0, 1.0, 2.0])}, jnp.log(jnp.array([1.0, 1.0, 2.0])))
    assert float(found.ess) == pytest.approx(16.0 / 6.0, rel=1e-5)
    assert float(found.log_evidence) == pytest.approx(np.log(4.0 / 3.0), abs=1e-6)
    assert float(found.mean()["z"]) == pytest.approx(1.25)


def test_k_hat_is_that_of_the_tail():
    """Weights U^(-k) are Pareto with shape k."""
    noise = jax.random.uniform(KEY, (20_000,))
    for k in (0.3, 0.9):
        found = tg.WeightedDraws({}, -k * jnp.log(noise))
        assert found.k_hat == pytest.approx(k, abs=0.12)


# ---- refusals -------------------------------------------------------------------------------------------------------


def test_misuse_says_what_to_write():
    coin = tg.Target(tg.gen(lambda: tg.sample("b", dist.Bernoulli(0.5))))
    with pytest.raises(tg.DensityError, match="'b' are discrete.*Marginalise"):
        tg.nuts(coin, key=KEY)
    with pytest.raises(tg.DensityError, match="hmc: steps must be a positive int"):
        tg.hmc(TARGET, key=KEY, steps=0)
    with pytest.raises(tg.DensityError, match="nuts: draws must be a positive int"):
        tg.nuts(TARGET, key=KEY, draws=0)
    with pytest.raises(tg.RandomKeyError):
        tg.nuts(TARGET, key=0)
    with pytest.raises(tg.ChoiceError, match="to_arviz takes what `nuts`"):
        tg.to_arviz({"z": 1.0})
    with pytest.raises(tg.AddressError, match="samples at 'z', and the latents of the target are 'p', 'sub/z'"):
        tg.importance_sampling(TARGET, inner, key=KEY)


@pytest.mark.parametrize(
    ("module", "extra", "use"),
    [
        ("arviz", "plots", lambda: tg.to_arviz(None)),
        ("flowjax.distributions", "flows", lambda: tg.auto.flow(TARGET)),
    ],
)
def test_a_missing_library_is_named_with_its_extra(monkeypatch, module, extra, use):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"pip install tracegrad\[{extra}\]"):
        use()


def test_a_choice_without_elements_is_drawn_as_one():
    """As a forecast of no steps is: there is nothing to divide by."""
    choices = {"none": jnp.zeros((2, 3, 0)), "z": jnp.arange(6.0).reshape(2, 3)}
    draws = tg.Draws(choices, {}, jnp.ones(2))
    found = draws.sample(jax.random.key(0), 4)
    assert found["none"].shape == (4, 0)
    assert len(set(found["z"].tolist())) == 4
