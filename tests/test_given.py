"""What is given is read: observations, selections and traces that belong to nothing are refused, everywhere alike."""

import functools
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tracegrad as tg
from tracegrad import dist

KEY = jax.random.key(0)

model = tg.gen(lambda: tg.sample("x", dist.Normal(tg.sample("z", dist.Normal(0.0, 1.0)), 1.0)))
guide = tg.gen(lambda m: tg.sample("z", dist.Normal(m, 1.0)))
beside = tg.gen(lambda observed, *args: tg.sample("z", dist.Normal(0.0, 1.0)))
coins = tg.gen(lambda: tg.sample("x", dist.Normal(tg.sample("z", dist.Bernoulli(0.5)).astype(float), 1.0)))
nested = tg.gen(lambda: tg.sample("sub", model()))


@tg.gen
def step(z, _):
    z = tg.sample("z", dist.Normal(z, 1.0))
    tg.sample("x", dist.Normal(z, 1.0))
    return z, None


@tg.gen
def hidden(z, _):
    z = tg.sample("z", dist.Bernoulli(jnp.where(z == 1, 0.9, 0.2)))
    tg.sample("x", dist.Normal(z.astype(float), 1.0))
    return z, None


# ---- an observation that no site reads ------------------------------------------------------------------------------

WRONG = {"x": 1.0, "Y": 100.0}
target = tg.Target(model, (), WRONG)
finite = tg.Target(coins, (), WRONG)
STACKED = {"x": jnp.zeros(2), "Y": jnp.zeros(2)}
chain = tg.Target(step.scan(2), (0.0,), STACKED)
finite_chain = tg.Target(hidden.scan(2), (0,), STACKED)


def posterior(target, algorithm):
    return tg.normalize(target, algorithm)


READERS = {
    "generate": lambda: model.generate(KEY, WRONG),
    "assess": lambda: model.assess(WRONG | {"z": 0.0}),
    "update": lambda: model.update(KEY, model.simulate(KEY), WRONG),
    "log_prob": lambda: target.log_prob({"z": 0.0}),
    "log_prob of all": lambda: tg.Target(model, (), {"Y": 100.0}).log_prob({"z": 0.0, "x": 1.0}),
    "log_prob, jitted": lambda: jax.jit(target.log_prob)({"z": 0.0}),
    "log_prob, wrong latents": lambda: tg.Target(model, (), {"x": 1.0}).log_prob({"z": 0.0, "Y": 1.0}),
    "latents": lambda: target.latents(),
    "draw": lambda: target.draw(KEY),
    "importance_sampling": lambda: tg.importance_sampling(target, key=KEY),
    "importance_sampling, proposed": lambda: tg.importance_sampling(target, guide, 1.0, key=KEY),
    "importance": lambda: posterior(target, tg.importance(5)).simulate(KEY),
    "importance, one": lambda: posterior(target, tg.importance(1)).simulate(KEY),
    "importance, proposed": lambda: posterior(target, tg.importance(5, beside)).simulate(KEY),
    "importance, assessed": lambda: posterior(target, tg.importance(1)).assess({"z": 0.0}, key=KEY),
    "sir": lambda: posterior(target, tg.sir(5, guide, 1.0)).simulate(KEY),
    "sir, assessed": lambda: posterior(target, tg.sir(5, guide, 1.0)).assess({"z": 0.0}, key=KEY),
    "exact": lambda: posterior(finite, tg.exact()).simulate(KEY),
    "exact, assessed": lambda: posterior(finite, tg.exact()).assess({"z": 1}),
    "smc": lambda: posterior(chain, tg.smc(3)).simulate(KEY),
    "smc, proposed": lambda: posterior(chain, tg.smc(3, beside)).simulate(KEY),
    "forward_filter": lambda: posterior(finite_chain, tg.forward_filter()).simulate(KEY),
    "kalman": lambda: posterior(chain, tg.kalman()).simulate(KEY),
    "marginal": lambda: tg.marginal(model, "x", tg.importance(2)).assess(WRONG, key=KEY),
    "inside a program": lambda: nested.generate(KEY, {"sub": {"Y": 1.0}}),
    "to_unconstrained": lambda: tg.to_unconstrained(target),
    "nuts": lambda: tg.nuts(target, key=KEY, draws=2, warmup=2, chains=1),
    "hmc": lambda: tg.hmc(target, key=KEY, draws=2, warmup=2, chains=1),
    "mean_field": lambda: tg.auto.mean_field(target),
    "full_rank": lambda: tg.auto.full_rank(target),
    "low_rank": lambda: tg.auto.low_rank(target, 1),
    "flow": lambda: tg.auto.flow(target),
    "delta": lambda: tg.auto.delta(target),
    "laplace": lambda: tg.auto.laplace(target),
    "mmd": lambda: tg.mmd(guide, {"Y": jnp.zeros(3)})(KEY, (0.0,)),
    "energy_distance": lambda: tg.energy_distance(guide, {"Y": jnp.zeros(3)})(KEY, (0.0,)),
    "smc_bound": lambda: tg.smc_bound(step.scan(2), None, STACKED, n=2)(KEY, (0.0,)),
    "smc_wake_phi": lambda: tg.smc_wake_phi(step.scan(2), beside, STACKED, n=2)(KEY, (0.0,)),
}
OBJECTIVES = {
    "elbo": tg.elbo,
    "iwelbo": functools.partial(tg.iwelbo, n=2),
    "renyi": tg.renyi,
    "cubo": tg.cubo,
    "tvo": tg.tvo,
    "forward_kl": tg.forward_kl,
    "symmetric_kl": tg.symmetric_kl,
    "f_divergence": functools.partial(tg.f_divergence, f=lambda r: -jnp.log(r)),
    "jensen_shannon": tg.jensen_shannon,
    "trajectory_balance": tg.trajectory_balance,
    "log_variance": tg.log_variance,
    "wake_theta": tg.wake_theta,
    "wake_phi": tg.wake_phi,
    "vimco": functools.partial(tg.vimco, n=2),
    "vargrad": functools.partial(tg.vargrad, n=2),
    "dreg": functools.partial(tg.dreg, n=2),
    "dreg_wake_phi": functools.partial(tg.dreg_wake_phi, n=2),
    "sticking_the_landing": tg.sticking_the_landing,
}


@pytest.mark.parametrize("run", READERS.values(), ids=READERS)
def test_an_address_that_no_site_has_is_refused_by_name(run):
    with pytest.raises(tg.AddressError, match="(no sample at '(sub/)?Y'|'Y' matches no sample).*[sS]pell"):
        run()


@pytest.mark.parametrize("make", OBJECTIVES.values(), ids=OBJECTIVES)
def test_objectives_refuse_an_observation_that_the_model_has_not(make):
    with pytest.raises(tg.AddressError, match="no sample at 'Y'. It samples at: 'x', 'z'"):
        make(model, guide, WRONG)(KEY, (), (0.0,))


def test_what_is_observed_counts():
    """With the address as it is spelt the same calls give the exact answers: z + noise has variance 2."""
    right = tg.Target(model, (), {"x": 1.0})
    norm = jax.scipy.stats.norm.logpdf
    np.testing.assert_allclose(right.log_prob({"z": 0.5}), norm(0.5) + norm(0.5), rtol=1e-6)
    exact = norm(1.0, 0.0, np.sqrt(2.0))
    reverse = tg.gen(lambda observed: tg.sample("z", dist.Normal(observed["x"] / 2, np.sqrt(0.5))))
    q = tg.marginal(model, "x", tg.importance(3, reverse))
    np.testing.assert_allclose(q.assess({"x": 1.0}, key=KEY)[0], exact, rtol=1e-5)


@pytest.mark.parametrize(
    ("observed", "error", "match"),
    [
        ({"x": None}, tg.ChoiceError, "'x' is None"),
        ({3: 1.0}, tg.AddressError, "strings, and got 3"),
        ({"sub/x": 1.0}, tg.AddressError, r"Write \{'sub': \{'x': value\}\}"),
        ([("x", 1.0)], tg.AddressError, "dict"),
        (1.0, tg.AddressError, "dict"),
    ],
)
def test_observations_that_are_no_choices(observed, error, match):
    with pytest.raises(error, match=match):
        tg.Target(nested, (), observed)
    with pytest.raises(error, match=match):
        nested.generate(KEY, observed)
    with pytest.raises(error, match=match):
        tg.elbo(model, guide, observed)


# ---- selections -----------------------------------------------------------------------------------------------------

trace = model.simulate(KEY)
deep = nested.simulate(KEY)
SELECT = {
    "string": "zz",
    "one of two": ["z", "zz"],
    "selection": tg.select("zz"),
    "complement": ~tg.select("zz"),
    "union": tg.select("z") | tg.select("zz"),
    "intersection": tg.select("z") & tg.select("zz"),
    "deep inside": ~(tg.select("z") | (tg.select("x") & ~tg.select("zz"))),
}


@pytest.mark.parametrize("selection", SELECT.values(), ids=SELECT)
def test_a_pattern_that_matches_no_address_is_refused(selection):
    text = "'zz' matches no sample. It samples at: 'x', 'z'. Spell the pattern"
    with pytest.raises(tg.AddressError, match=rf"regenerate: {text}"):
        model.regenerate(KEY, trace, selection)
    with pytest.raises(tg.AddressError, match=rf"project: {text}"):
        model.project(trace, selection)
    with pytest.raises(tg.AddressError, match=rf"keep`: {text}"):
        tg.marginal(model, selection, tg.importance(2)).simulate(KEY)
    with pytest.raises(tg.AddressError, match="'zz' matches no sample"):
        tg.sleep(model, beside, selection)(KEY)


@pytest.mark.parametrize("pattern", ["z", "x/z", "sub/y", "*/*/z", "**/y", "sub/z/w"])
def test_patterns_count_from_the_outermost_level(pattern):
    with pytest.raises(tg.AddressError, match=f"{re.escape(repr(pattern))} matches no sample. .*'sub/x', 'sub/z'"):
        nested.project(deep, pattern)


def test_selections_of_nothing_and_of_everything_are_meant():
    assert model.project(trace, tg.select()) == 0.0
    np.testing.assert_allclose(model.project(trace, ~tg.select()), trace.logp)
    np.testing.assert_allclose(nested.project(deep, "**/z") + nested.project(deep, "sub/x"), deep.logp, rtol=1e-6)
    kept, weight, discarded = model.regenerate(KEY, trace, tg.select())
    assert (float(weight), discarded) == (0.0, {})
    assert kept.choices == trace.choices
    empty = tg.gen(lambda: 1.0)
    assert empty.project(empty.simulate(KEY), "*") == 0.0
    with pytest.raises(tg.AddressError, match="'z' matches no sample. It samples at: none"):
        empty.project(empty.simulate(KEY), "z")


def test_an_address_that_only_the_new_trace_has_may_be_selected():
    @tg.gen
    def grows(n):
        for i in range(n):
            tg.sample(f"z{i}", dist.Normal(0.0, 1.0))

    more, _, _ = grows.regenerate(KEY, grows.simulate(KEY, 1), "z1", 2)
    assert sorted(more.choices) == ["z0", "z1"]
    with pytest.raises(tg.AddressError, match="'z2'"):
        grows.regenerate(KEY, grows.simulate(KEY, 1), "z2", 2)


# ---- traces ---------------------------------------------------------------------------------------------------------


class Scaled(eqx.Module):
    scale: float

    @tg.gen
    def draw(self):
        return tg.sample("z", dist.Normal(0.0, self.scale))


def made_again(scale):
    return tg.gen(lambda: tg.sample("z", dist.Normal(0.0, scale)))


def scaled(scale):
    return tg.sample("z", dist.Normal(0.0, scale))


other = tg.gen(lambda: tg.sample("x", dist.Normal(tg.sample("z", dist.Normal(0.0, 2.0)), 1.0)))
SAME = {
    "itself": (model, model),
    "other estimators": (model, model.with_estimators({"z": tg.reinforce()})),
    "combined anew": (model.repeat(2), model.repeat(2)),
    "estimators beneath": (model.repeat(2), model.with_estimators({"z": tg.reinforce()}).repeat(2)),
    "another instance": (Scaled(1.0).draw, Scaled(2.0).draw),
    "a closure made anew": (made_again(1.0), made_again(2.0)),
    "another partial": (tg.gen(functools.partial(scaled, 1.0)), tg.gen(functools.partial(scaled, 2.0))),
    "branches": (tg.cond(True, model, other), tg.cond(False, model, other)),
    "gen of it": (model, tg.gen(model)),
    "validated": (tg.validated(model), model),
}
OTHER = {
    "another function": (model, other),
    "another one, both validated": (tg.validated(model), tg.validated(other)),
    "one under a combinator": (model, model.repeat(2)),
    "another combinator": (model.mask(), model.repeat(1)),
    "swapped branches": (tg.cond(True, model, other), tg.cond(True, other, model)),
    "a marginal": (tg.marginal(model, "x", tg.importance(1)), model),
    "a posterior": (tg.normalize(tg.Target(coins, (), {"x": 1.0}), tg.exact()), tg.gen(lambda: coins.inline())),
}


@pytest.mark.parametrize(("new", "old"), SAME.values(), ids=SAME)
def test_a_trace_of_the_same_program_is_taken(new, old):
    for made in (old.simulate(KEY), jax.jit(old.simulate)(KEY)):
        _, weight, _ = new.update(KEY, made, {})
        np.testing.assert_allclose(weight, new.assess(made.choices)[0] - made.logp, atol=1e-6)
        new.project(made, tg.select())
        new.regenerate(KEY, made, tg.select())


@pytest.mark.parametrize(("new", "old"), OTHER.values(), ids=OTHER)
def test_a_trace_of_another_program_is_refused(new, old):
    made = old.simulate(KEY)
    for run in (
        lambda: new.update(KEY, made, {}),
        lambda: new.regenerate(KEY, made, "z"),
        lambda: new.project(made, "z"),
    ):
        with pytest.raises(tg.AddressError, match="takes a trace of .*, and got one of .*another program"):
            run()


@pytest.mark.parametrize("wrong", [trace.choices, None, 3.0, model], ids=["choices", "None", "number", "function"])
def test_what_is_no_trace_is_refused(wrong):
    with pytest.raises(tg.ArgumentError, match="update takes a trace, as `simulate`"):
        model.update(KEY, wrong, {})
    with pytest.raises(tg.ArgumentError, match="regenerate takes a trace"):
        model.regenerate(KEY, wrong, "z")
    with pytest.raises(tg.ArgumentError, match="project takes a trace"):
        model.project(wrong, "z")
