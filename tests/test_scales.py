"""Weights of parts of a density, against sums of scipy's log densities."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from scipy import stats

import tracegrad as tg

DATA = np.array([1.0, 2.0, 3.5])


@tg.gen
def row(z):
    tg.sample("y", tg.dist.Normal(z, 1.0))


@tg.gen
def model():
    z = tg.sample("z", tg.dist.Normal(0.0, 2.0))
    tg.sample("data", row.vmap()(jnp.full(3, z)))
    tg.factor("soft", -(z**2))


CHOICES = {"z": 0.7, "data": {"y": jnp.asarray(DATA)}}
PARTS = {
    "z": stats.norm.logpdf(0.7, 0.0, 2.0),
    "data": stats.norm.logpdf(DATA, 0.7, 1.0).sum(),
    "soft": -0.49,
}


def weighed(**scale):
    return sum(scale.get(name, 1.0) * logp for name, logp in PARTS.items())


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        ({}, weighed()),
        ({"data": 10.0}, weighed(data=10.0)),
        ({"data/y": 10.0, "*": 0.5}, weighed(data=10.0, z=0.5, soft=0.5)),
        ({"**/y": 0.0, "soft": 3.0}, weighed(data=0.0, soft=3.0)),
        ({"z": 2, "soft": np.float32(0.25)}, weighed(z=2.0, soft=0.25)),
    ],
)
def test_parts_are_weighed_by_address(scale, expected):
    scaled = model.with_scale(scale)
    assert float(scaled.assess(CHOICES)[0]) == pytest.approx(expected, rel=1e-5)
    assert float(tg.Target(scaled, observed={"data": CHOICES["data"]}).log_prob({"z": 0.7})) == pytest.approx(
        expected, rel=1e-5
    )


def test_scales_from_outside_multiply():
    twice = model.with_scale({"data": 2.0}).with_scale({"data": 3.0, "z": 0.5})
    assert float(twice.assess(CHOICES)[0]) == pytest.approx(weighed(data=6.0, z=0.5), rel=1e-5)


def test_a_scale_has_a_derivative_and_may_be_traced():
    def logp(scale):
        return model.with_scale({"data": scale}).assess(CHOICES)[0]

    for at in (0.0, 2.0):
        assert float(jax.jit(jax.grad(logp))(at)) == pytest.approx(PARTS["data"], rel=1e-5)


def test_what_is_drawn_weighs_as_its_power_against_itself():
    """log weight = s log p(z) - log p(z) + the rest, at the z that was drawn."""
    scaled = model.with_scale({"z": 3.0})
    trace, log_weight = scaled.generate(jax.random.key(0), {"data": CHOICES["data"]})
    z = float(trace.choices["z"])
    rest = stats.norm.logpdf(DATA, z, 1.0).sum() - z**2
    assert float(log_weight) == pytest.approx(2.0 * stats.norm.logpdf(z, 0.0, 2.0) + rest, rel=1e-5)
    assert float(trace.logp) == pytest.approx(3.0 * stats.norm.logpdf(z, 0.0, 2.0) + rest, rel=1e-5)


def test_a_tempered_posterior_is_found_by_importance_sampling():
    """N(0, 2^2) with one datum at scale s: precision 1/4 + s, mean s y / precision; the mean to 5 standard errors."""

    @tg.gen
    def one():
        tg.sample("y", tg.dist.Normal(tg.sample("z", tg.dist.Normal(0.0, 2.0)), 1.0))

    target = tg.Target(one.with_scale({"y": 0.3}), observed={"y": 2.0})
    draws = tg.importance_sampling(target, key=jax.random.key(1), n=20_000)
    precision = 0.25 + 0.3
    assert float(draws.mean()["z"]) == pytest.approx(0.6 / precision, abs=5 * (precision * float(draws.ess)) ** -0.5)


def test_outside_the_support_stays_outside_unless_the_part_is_left_out():
    positive = tg.gen(lambda: tg.sample("t", tg.dist.Exponential(1.0)))

    def logp(t, scale):
        return positive.with_scale({"t": scale}).assess({"t": t})[0]

    assert [float(jax.jit(logp)(-1.0, scale)) for scale in (0.5, 0.0)] == [-np.inf, 0.0]
    assert [float(g) for g in jax.jit(jax.grad(logp, (0, 1)))(-1.0, 0.5)] == [0.0, -np.inf]


@pytest.mark.parametrize(
    ("scale", "error", "words"),
    [
        ({"dta": 2.0}, tg.AddressError, "'dta' matches no sample"),
        ({"z": -1.0}, tg.DensityError, "zero or more"),
        ({"z": np.nan}, tg.DensityError, "zero or more"),
        ({"z": "2"}, tg.DensityError, "zero or more"),
        (2.0, tg.AddressError, "a dict from address patterns"),
    ],
)
def test_bad_scales_are_named(scale, error, words):
    with pytest.raises(error, match=words):
        model.with_scale(scale).assess(CHOICES)


def test_a_scaled_or_factored_program_is_no_distribution():
    for program, what in ((model, "a factor at 'soft'"), (model.with_scale({"z": 2.0}), "a scale at 'z'")):
        with pytest.raises(tg.DensityError, match=what):
            program.simulate(jax.random.key(0))
        guide = tg.elbo(model, program, {"data": CHOICES["data"]})
        with pytest.raises(tg.DensityError, match=what):
            guide(jax.random.key(0))


def test_a_scaled_choice_cannot_be_drawn_anew():
    scaled = model.with_scale({"z": 2.0})
    trace, _ = scaled.generate(jax.random.key(0), CHOICES)
    with pytest.raises(tg.DensityError, match="regenerate: the choice at 'z'"):
        scaled.regenerate(jax.random.key(1), trace, "z")
    assert float(scaled.project(trace, "z")) == pytest.approx(2.0 * PARTS["z"], rel=1e-5)


def test_an_estimated_density_has_one_scale():
    pair = tg.gen(lambda: (tg.sample("a", tg.dist.Normal(0.0, 1.0)), tg.sample("b", tg.dist.Normal(0.0, 1.0))))
    both = tg.marginal(pair, tg.select("a", "b"), tg.importance(2))
    held = tg.gen(lambda: tg.sample("pair", both()))
    choices, key = {"pair": {"a": 0.0, "b": 1.0}}, jax.random.key(0)
    expected = 2.0 * stats.norm.logpdf([0.0, 1.0]).sum()
    assert float(held.with_scale({"pair": 2.0}).assess(choices, key=key)[0]) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(tg.DensityError, match="another scale"):
        held.with_scale({"pair/a": 2.0}).assess(choices, key=key)
