"""Simulation-based calibration: passes with exact posteriors, fails with wrong ones, and says how they are wrong."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from scipy import stats

import tracegrad as tg
from tracegrad import dist

KEY = jax.random.key(0)


@tg.gen
def normal():
    z = tg.sample("z", dist.Normal(0.0, 1.0))
    tg.deterministic("double", 2.0 * z)
    tg.sample("x", dist.Normal(z, 1.0).expand([4]))


@tg.gen
def coins():
    p = tg.sample("p", dist.Beta(2.0, 3.0))
    tg.sample("count", dist.Binomial(10, probs=p))


@tg.gen
def unit(scale):
    return tg.sample("w", dist.Normal(0.0, scale).expand([2]))


@tg.gen
def both(w, rate):
    tg.sample("k", dist.Poisson(rate))
    tg.sample("v", dist.Normal(w, 1.0))


@tg.gen
def counts():
    w = tg.sample("group", unit(2.0))
    rate = tg.sample("rate", dist.Gamma(2.0, 1.0))
    tg.sample("data", both(w, rate))


class Exact(tg.Posterior):
    """The conjugate posteriors of the three models, with deviations and location off by as much as is said."""

    target: tg.Target
    off: float = 1.0
    shift: float = 0.0

    def latents(self, key, n):
        data, keys = self.target.observed, jax.random.split(key, 2)
        if "x" in data:
            sd = 5.0**-0.5
            return {"z": jnp.sum(data["x"]) / 5.0 + sd * (self.shift + self.off * jax.random.normal(key, (n,)))}
        if "count" in data:
            k = data["count"].astype(float)
            return {"p": jax.random.beta(key, 2.0 + k, 13.0 - k, (n,))}
        v, k = data["data"]["v"], data["data"]["k"].astype(float)
        w = 0.8 * v[None] + self.off * 0.8**0.5 * jax.random.normal(keys[0], (n, 2))
        return {"group": {"w": w}, "rate": jax.random.gamma(keys[1], 2.0 + k, (n,)) / 2.0}


MODELS = {"normal": (normal, "x"), "beta": (coins, ["count"]), "two levels": (counts, "data")}


def calibration(name, *, n=200, **off):
    model, observed = MODELS[name]
    return tg.sbc(model, observed=observed, procedure=lambda key, target: Exact(target, **off), key=KEY, n=n)


@pytest.mark.table
@pytest.mark.parametrize("name", MODELS)
def test_exact_posteriors_pass(name):
    """The level is 1 %, and the keys are fixed."""
    report = calibration(name)
    assert isinstance(report, tg.Calibration)
    assert report.passed
    assert bool(report)
    assert "passed, 200 simulations, 99 draws" in str(report)


@pytest.mark.slow
def test_ranks_are_those_of_every_scalar():
    report = calibration("two levels", n=20)
    assert set(report.ranks) == {"group/w[0]", "group/w[1]", "rate", "log density"}
    assert all(x.shape == (20,) and 0 <= x.min() and x.max() <= 99 for x in report.ranks.values())
    double = calibration("normal", n=20).ranks
    np.testing.assert_array_equal(double["double"], double["z"])


@pytest.mark.table
@pytest.mark.parametrize(
    ("off", "words"),
    [
        ({"off": 0.8}, "the draws lie too close together"),
        ({"off": 1.2}, "the draws lie too far apart"),
        ({"shift": 0.5}, "the draws lie too high"),
        ({"shift": -0.5}, "the draws lie too low"),
    ],
)
def test_wrong_posteriors_fail_and_the_report_says_how(off, words):
    """With 500 simulations the power at each is above 0.97."""
    report = calibration("normal", n=500, **off)
    assert not report.passed
    assert report.words("z") == words
    assert "FAILED" in str(report)


def test_a_procedure_that_does_not_look_at_the_data_fails():
    """The prior's draws have uniform ranks: the log density tells."""

    class Prior(Exact):
        def latents(self, key, n):
            return {"z": jax.random.normal(key, (n,))}

    report = tg.sbc(normal, observed="x", procedure=lambda key, target: Prior(target), key=KEY, n=200)
    assert report.words("z") == "uniform"
    assert not report.passed
    assert report.words("log density") != "uniform"


def test_the_statistic_is_chi_squared():
    """Its mean and its 99th percentile over uniform ranks; and p is its tail."""
    ranks = np.random.default_rng(0).integers(0, 100, size=(4000, 50))
    rows = tg.Calibration({str(i): r for i, r in enumerate(ranks)}, 99).rows.values()
    statistics = np.array([row["statistic"] for row in rows])
    assert statistics.mean() == pytest.approx(4.0, abs=0.2)
    assert np.quantile(statistics, 0.99) == pytest.approx(stats.chi2(4).ppf(0.99), rel=0.08)
    row = next(iter(rows))
    assert row["p"] == pytest.approx(stats.chi2(4).sf(row["statistic"]), rel=1e-4)


def test_discrete_latents_are_ranked_with_their_ties():
    """A coin and its copy observed with error; the exact posterior of the coin."""

    @tg.gen
    def model():
        b = tg.sample("b", dist.Bernoulli(0.3))
        tg.sample("x", dist.Bernoulli(0.1 + 0.8 * b.astype(float)))

    def exact(key, target):
        return tg.normalize(target, tg.exact()).posterior()

    assert tg.sbc(model, observed="x", procedure=exact, key=KEY, n=200, draws=9).passed


@pytest.mark.slow
def test_a_fit_is_calibrated():
    def procedure(key, target):
        family = tg.auto.laplace(target, starts=1)
        return family.posterior(family.init(key))

    assert tg.sbc(normal, observed="x", procedure=procedure, key=KEY, n=100).passed


@pytest.mark.slow
def test_a_fit_by_vi_is_calibrated_and_one_that_is_too_narrow_is_not():
    """A hundred fits side by side, each by the ELBO; and the same with deviations that are half as large."""

    class Narrow(tg.Posterior):
        target: tg.Target
        fit: tg.Posterior

        def latents(self, key, n):
            z = self.fit.latents(key, n)["z"]
            return {"z": jnp.mean(z) + 0.5 * (z - jnp.mean(z))}

    def procedure(key, target):
        return tg.vi(target, "mean_field", key=key, steps=300, progress=False)

    assert tg.sbc(normal, observed="x", procedure=procedure, key=KEY, n=100).passed
    narrow = tg.sbc(
        normal, observed="x", procedure=lambda key, target: Narrow(target, procedure(key, target)), key=KEY, n=100
    )
    assert narrow.words("z") == "the draws lie too close together"
    assert not narrow.passed


@pytest.mark.slow
def test_side_by_side_and_one_after_another_are_the_same():
    both = [
        tg.sbc(normal, observed="x", procedure=lambda key, target: Exact(target), key=KEY, n=5, loop=loop)
        for loop in (False, True)
    ]
    for name in both[0].ranks:
        np.testing.assert_array_equal(both[0].ranks[name], both[1].ranks[name])


def test_a_procedure_that_looks_at_values_is_run_in_a_loop(capfd):
    seen = []

    def procedure(key, target):
        seen.append(float(target.observed["x"][0]))
        return Exact(target)

    report = tg.sbc(normal, observed="x", procedure=procedure, key=KEY, n=3)
    assert len(seen) == 3
    assert report.ranks["z"].shape == (3,)
    assert "3/3  simulations" in capfd.readouterr().err


def test_histograms_are_drawn():
    figure = calibration("normal", n=50).plot()
    assert [ax.get_title() for ax in figure.axes if ax.get_title()][0] in {"z", "double", "log density"}
    assert len([ax for ax in figure.axes if ax.get_title()]) == 3


def test_misuse_says_what_to_write():
    def run(model=normal, observed="x", procedure=lambda key, target: Exact(target), **more):
        return tg.sbc(model, observed=observed, procedure=procedure, key=KEY, n=2, progress=False, **more)

    with pytest.raises(tg.AddressError, match="sbc: `observed`: 'y' matches no sample"):
        run(observed="y")
    with pytest.raises(tg.ArgumentError, match="must return a posterior .*, and returned Target"):
        run(procedure=lambda key, target: target)
    with pytest.raises(tg.ArgumentError, match="sbc takes a procedure\\(key, target\\), and got int"):
        run(procedure=3)
    with pytest.raises(tg.DensityError, match="a factor at 'f'"):
        run(tg.gen(lambda: tg.factor("f", tg.sample("x", dist.Normal(0.0, 1.0)))))
    with pytest.raises(tg.ChoiceError, match="draws of 2 of 2 posteriors are not finite"):
        run(procedure=lambda key, target: Exact(target, shift=jnp.nan))

    class Lacks(Exact):
        def latents(self, key, n):
            return {}

    with pytest.raises(tg.AddressError, match="no draws at 'z'|'z' is missing"):
        run(procedure=lambda key, target: Lacks(target))
