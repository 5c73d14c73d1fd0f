"""Densities that are estimates: the two laws, by exact enumeration; what they refuse; what they cost.

For every algorithm, K = 1 and 3, nested or not: assess gives w with E[w] = mu(x), simulate gives (x, w) with
E[1{x = v} / w] = 1 for each v. The second is E[1/w | x] = 1/mu(x) and x ~ mu in one equation. Both are enumerated by
`exact_expectation`, so no statistics; mu itself is a sum in NumPy, over every run where it is that of an algorithm.
Tolerance 1e-9.
"""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from chain_programs import XS, YS, W, two_choices
from density_programs import (
    LAWS,
    MARGINALS,
    POSTERIORS,
    bits,
    blurred_once,
    blurred_proposal,
    blurred_step,
    chain,
    chain_target,
    exactly,
    half,
    inverse_masses,
    likelihood_of,
    masses,
    of_pair,
    one_step,
    outer,
    pair,
    posterior,
    step,
    step_proposal,
    steps,
)
from jax import numpy as jnp

import tracegrad as tg
from tracegrad import dist
from tracegrad.algorithms._importance import Importance
from tracegrad.algorithms._proposal import Program
from tracegrad.algorithms._smc import Smc
from tracegrad.core._addresses import merge
from tracegrad.core._operations import Given
from tracegrad.densities._marginal_and_normalize import Weighing

KEY = jax.random.key(0)


@pytest.fixture
def double():
    with jax.enable_x64(True):
        yield


# ---- the two laws ---------------------------------------------------------------------------------------------------


DENSITIES = {f"marginal: {name}": v for name, v in MARGINALS.items()}
DENSITIES |= {f"normalize: {name}": v for name, v in POSTERIORS.items()}


@pytest.mark.table
@pytest.mark.parametrize("name", DENSITIES)
@pytest.mark.usefixtures("double")
def test_the_two_laws(name):
    q, args, values = DENSITIES[name]
    inverse, frequency = inverse_masses(q, args, values)
    np.testing.assert_allclose(inverse, 1.0, rtol=1e-9)
    np.testing.assert_allclose(frequency, LAWS[name], rtol=1e-9)
    np.testing.assert_allclose(frequency.sum(), 1.0, rtol=1e-9)
    np.testing.assert_allclose(masses(q, args, values), LAWS[name], rtol=1e-9)


def test_the_law_of_a_marginal_is_the_marginal():
    """By hand: p(x = 1) = 3/4 3/4 + 1/4 1/4."""
    logp, retval = tg.marginal(pair, "x", tg.exact()).assess({"x": 1}, 0.75)
    np.testing.assert_allclose(np.exp(logp), 0.625, rtol=1e-6)
    assert set(retval) == {"x"}


# ---- mutants: the laws catch what is wrong --------------------------------------------------------------------------


class RetainedDropped(Importance):
    def estimate_given(self, key, target, retained):
        return self.estimate(key, target).log_z


class JointScore(Program):
    """The joint density as the weight, where the program proposed and only the kept factors are due."""

    def weighed(self, key, target):
        found = super().weighed(key, target)
        return found._replace(log_weight=found.log_gamma)

    def weight_of(self, key, target, retained):
        return retained.log_gamma


class RetainedPathDropped(Smc):
    def estimate_given(self, key, target, retained):
        return self.estimate(key, target).log_z


class RetainedStepsWeighedAnew(Smc):
    """Fresh estimates of the densities in the retained steps, where those of the run that made them are due."""

    def _keep(self, key, chain, carry, x, observed, kept):
        choices, (_, _, after) = kept
        selection = tg.select(*observed)
        out = chain.visit(Weighing(selection, chain.path), key, Given(merge(choices, observed)), carry, x)
        return after, out.logp, out.weight, choices


def mutant(cls, algorithm):
    return cls(**{f.name: getattr(algorithm, f.name) for f in dataclasses.fields(algorithm)})


@pytest.mark.table
@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(
    ("algorithm", "function", "address", "args", "values"),
    [
        (mutant(RetainedDropped, tg.importance(3)), pair, "x", (0.75,), bits("x")),
        (dataclasses.replace(tg.importance(3), source=JointScore()), pair, "x", (0.75,), bits("x")),
        (mutant(RetainedPathDropped, tg.smc(2)), chain, "y", (0,), steps("y")),
        (mutant(RetainedStepsWeighedAnew, tg.smc(1)), blurred_once, "y", (0,), one_step("y")),
    ],
)
def test_mutants_break_a_law(algorithm, function, address, args, values):
    inverse, _ = inverse_masses(tg.marginal(function, address, algorithm), args, values)
    assert np.abs(inverse - 1.0).max() > 1e-3


@pytest.mark.usefixtures("double")
def test_sides_swapped_break_the_law():
    q = tg.marginal(pair, "x", tg.importance(2))

    def program(key):
        draw, density = jax.random.split(key)
        x = q.simulate(draw, 0.75).choices
        return jax.nn.one_hot(x["x"], 2) * jnp.exp(-q.assess(x, 0.75, key=density)[0])

    assert np.all(exactly(program) > 1.01)


# ---- unbiased through lax.scan, by statistics: K = 3 ----------------------------------------------------------------


THREE_PARTICLES = {
    "plain": (step, tg.smc(3)),
    "proposal": (step, tg.smc(3, step_proposal)),
    "systematic": (step, tg.smc(3, resampling="systematic")),
    "adaptive": (step, tg.smc(3, ess_threshold=0.7)),
    "over marginals": (blurred_step, tg.smc(3)),
    "over marginals, proposal, adaptive": (blurred_step, tg.smc(3, blurred_proposal, ess_threshold=0.7)),
}


def check_mean(x, mean):
    """|z| < 4.5 at 4e4 draws."""
    assert abs(x.mean() - mean) < 4.5 * x.std() / len(x) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", THREE_PARTICLES)
def test_smc_with_three_particles(name):
    """Three steps, on both sides: E[Ẑ] = Z, and E[1{x = v} / w] = 1 for the posterior and for the marginal."""
    inner, algorithm = THREE_PARTICLES[name]
    nested, longer, ys = inner is blurred_step, inner.scan(length=3), (1, 0, 1)
    observed = {"y": {"x": jnp.array(ys)} if nested else jnp.array(ys)}
    posterior = tg.normalize(tg.Target(longer, (0,), observed), algorithm)
    filtered = tg.marginal(longer, "y", algorithm)

    @jax.jit
    @jax.vmap
    def run(key):
        one, two, three = jax.random.split(key, 3)
        forward = () if algorithm.resampling == "systematic" else (filtered.simulate(two, 0),)
        return filtered.assess(observed, 0, key=one)[0], (posterior.simulate(three), *forward)

    log_w, made = run(jax.random.split(KEY, 40_000))
    check_mean(jnp.exp(log_w), likelihood_of(ys, nested=nested))
    for trace, address in zip(made, "zy", strict=False):
        path = trace.choices[address]["x"] if nested else trace.choices[address]
        for v in itertools.product((0, 1), repeat=3):
            check_mean(jnp.where(jnp.all(path == jnp.array(v)[None], axis=1), jnp.exp(-trace.logp), 0.0), 1.0)


# ---- every operation ------------------------------------------------------------------------------------------------


@tg.gen
def program(p):
    x = tg.sample("inner", tg.marginal(pair, "x", tg.exact())(p))["x"]
    tg.sample("y", dist.Bernoulli(probs=jnp.where(x == 1, 0.75, 0.5)))


def test_operations_on_a_program_with_a_marginal_inside():
    log_inner, log_y = np.log(of_pair(0.75)), np.log([0.5, 0.75])  # p(x), and p(y = 1 | x)
    made, weight = program.generate(KEY, {"inner": {"x": 1}}, 0.75)
    np.testing.assert_allclose(weight, log_inner[1], rtol=1e-6)
    made, weight = program.generate(KEY, {"y": 1}, 0.75)
    assert set(made.choices["inner"]) == {"x"}
    np.testing.assert_allclose(program.project(made, "inner"), log_inner[int(made.choices["inner"]["x"])], rtol=1e-6)
    other = 1 - int(made.choices["inner"]["x"])
    changed, weight, discarded = program.update(KEY, made, {"inner": {"x": other}}, 0.75)
    assert int(discarded["inner"]["x"]) == 1 - other
    joint = log_inner + log_y
    np.testing.assert_allclose([made.logp, changed.logp], [joint[1 - other], joint[other]], rtol=1e-5)
    np.testing.assert_allclose(weight, joint[other] - joint[1 - other], rtol=1e-5)
    again, weight, discarded = program.regenerate(KEY, made, "inner", 0.75)
    assert set(discarded["inner"]) == {"x"}
    np.testing.assert_allclose(weight, log_y[int(again.choices["inner"]["x"])] - log_y[1 - other], atol=1e-5)


@pytest.mark.usefixtures("double")
def test_operations_on_a_program_whose_density_is_an_estimate():
    """Part of it is projected, exactly where that part is exact; the rest is an estimate of the right mean."""
    made, _ = outer.generate(KEY, {"inner": {"x": 1}, "y": 1}, 0.75)
    np.testing.assert_allclose(outer.project(made, "y"), np.log(0.75), rtol=1e-6)
    mean = exactly(lambda key: jnp.exp(outer.project(made, "inner", key=key)))
    np.testing.assert_allclose(mean, 0.625, rtol=1e-9)
    with pytest.raises(tg.RandomKeyError, match="needs a key"):
        outer.project(made, "inner")
    again, weight, discarded = outer.regenerate(KEY, made, "inner", 0.75)
    np.testing.assert_allclose(weight, np.log(0.75 if int(again.choices["inner"]["x"]) else 0.5) - np.log(0.75))
    assert set(discarded) == {"inner"}
    with pytest.raises(tg.DensityError, match="Select those choices too"):
        outer.regenerate(KEY, made, "y", 0.75)


def test_estimators_are_chosen_by_address():
    q = tg.marginal(pair, "x", tg.importance(2)).with_estimators({"u": tg.mvd(), "x": tg.local_expectation()})
    assert q.simulate(KEY, 0.75).choices["x"].shape == ()
    with pytest.raises(tg.AddressError, match="'v' matches no sample"):
        tg.marginal(pair, "x", tg.importance(2)).with_estimators({"v": tg.mvd()}).simulate(KEY, 0.75)


# ---- what is refused ------------------------------------------------------------------------------------------------

two_kept = tg.marginal(two_choices.scan(), ["y", "b"], tg.importance(2))
continuous = tg.gen(lambda: tg.sample("x", dist.Normal(tg.sample("u", dist.Normal(0.0, 1.0)), 1.0)))
many = tg.gen(lambda: tg.sample("u", dist.Bernoulli(probs=jnp.full((21,), 0.5))).sum())
guess = tg.gen(lambda *_: tg.sample("w", dist.Bernoulli(probs=0.5)))
not_markov = tg.gen(lambda total, x: (total + tg.sample("z", dist.Bernoulli(probs=0.5)), None))


@tg.gen
def estimated_chain(state, _):
    tg.sample("in", tg.marginal(pair, "x", tg.importance(2))(0.5))
    return tg.sample("z", dist.Bernoulli(probs=0.5)), None


REFUSED = {
    "no key": (lambda: tg.marginal(pair, "x", tg.importance(2)).assess({"x": 1}, 0.5), tg.RandomKeyError, "key=key"),
    "no key, nested": (lambda: outer.assess({"inner": {"x": 1}, "y": 1}, 0.5), tg.RandomKeyError, "'inner'"),
    "missing": (lambda: tg.marginal(pair, "x", tg.exact()).assess({}, 0.5), tg.AddressError, "'x' is missing"),
    "unknown": (
        lambda: tg.marginal(pair, "x", tg.exact()).assess({"x": 1, "u": 1}, 0.5),
        tg.AddressError,
        "no sample at 'u'",
    ),
    "part": (
        lambda: two_kept.generate(KEY, {"y": YS}, (0, 0.0, W), XS),
        tg.DensityError,
        "given at 'y' and not at 'b'",
    ),
    "nothing kept": (lambda: tg.marginal(pair, "v", tg.exact()).simulate(KEY, 0.5), tg.AddressError, "matches no"),
    "continuous": (
        lambda: tg.marginal(continuous, "x", tg.exact()).assess({"x": 1.0}),
        tg.DensityError,
        r"'u' \(Normal\) has no finite support.*`importance\(n\)`",
    ),
    "too many": (lambda: tg.normalize(tg.Target(many), tg.exact()).simulate(KEY), tg.DensityError, "joint values"),
    "no scan": (
        lambda: tg.marginal(pair, "x", tg.smc(2)).assess({"x": 1}, 0.5, key=KEY),
        tg.DensityError,
        "forward `scan`",
    ),
    "not Markov": (
        lambda: tg.normalize(tg.Target(not_markov.scan(2), (0,)), tg.forward_filter()).simulate(KEY),
        tg.DensityError,
        "Markov",
    ),
    "systematic density": (
        lambda: tg.normalize(chain_target, tg.smc(2, resampling="systematic")).assess({"z": [0, 1]}, key=KEY),
        tg.DensityError,
        "systematic",
    ),
    "threshold": (lambda: tg.smc(2, ess_threshold=2.0), tg.DensityError, "between 0 and 1"),
    "estimates in a filter": (
        lambda: tg.marginal(estimated_chain.scan(2), "in", tg.forward_filter()).assess(
            {"in": {"x": [0, 1]}}, 0, key=KEY
        ),
        tg.DensityError,
        "smc",
    ),
    "enumerated estimate": (
        lambda: tg.normalize(tg.Target(outer, (0.5,), {"y": 1}), tg.exact()).simulate(KEY),
        tg.DensityError,
        "cannot be enumerated",
    ),
    "proposal at another address": (
        lambda: tg.marginal(pair, "x", tg.importance(2, guess)).assess({"x": 1}, 0.5, key=KEY),
        tg.AddressError,
        "samples at 'w', and the latents of the target are 'u'",
    ),
    "observed address": (
        lambda: tg.normalize(tg.Target(pair, (0.5,), {"v": 1}), tg.importance(2)).assess({"u": 1}, key=KEY),
        tg.AddressError,
        "'v'",
    ),
    "arguments of a posterior": (
        lambda: posterior(tg.sir(2, half)).simulate(KEY, 1.0),
        tg.AddressError,
        "no arguments",
    ),
    "no algorithm": (lambda: tg.marginal(pair, "x", 5), tg.DensityError, "importance"),
    "no target": (lambda: tg.normalize(pair, tg.exact()), tg.AddressError, "Target"),
    "no function": (lambda: tg.Target(lambda: 1.0), tg.AddressError, "gen"),
    "no observations": (lambda: tg.Target(pair, (0.5,), 1.0), tg.AddressError, "dict"),
    "no particles": (lambda: tg.importance(0), tg.DensityError, "positive int"),
    "no proposal": (lambda: tg.sir(3, None), tg.DensityError, "gen"),
    "no such resampling": (lambda: tg.smc(3, resampling="best"), tg.DensityError, "multinomial"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_what_to_write(name):
    run, error, match = REFUSED[name]
    with pytest.raises(error, match=match):
        run()


# ---- cost -----------------------------------------------------------------------------------------------------------


def equations(jaxpr):
    inner = (x for eqn in jaxpr.eqns for p in eqn.params.values() for x in (p if isinstance(p, tuple) else (p,)))
    return len(jaxpr.eqns) + sum(equations(x.jaxpr) for x in inner if hasattr(x, "jaxpr") and hasattr(x.jaxpr, "eqns"))


@pytest.mark.parametrize("make", [tg.importance, tg.smc])
def test_code_does_not_grow_with_particles(make):
    function, address, args, x = (
        (pair, "x", (0.75,), 1) if make is tg.importance else (chain, "y", (0,), np.array([0, 1]))
    )

    def size(n):
        def bound(key, p):
            q = tg.marginal(function, address, make(n))
            return q.simulate(key, *args).logp + q.assess({address: x}, *args, key=key)[0] + p

        grad = jax.grad(tg.expectation(bound), argnums=1)
        return equations(jax.make_jaxpr(grad)(KEY, 0.5).jaxpr)

    assert size(500) <= size(5)


@tg.gen
def reach(z, _):
    z = tg.sample("z", dist.Normal(z, 1.0))
    tg.sample("y", dist.Uniform(z, z + 1.0))
    return z, None


WITHIN_REACH = tg.Target(reach.scan(length=2), (0.0,), {"y": jnp.array([0.5, 1.0])})


@pytest.mark.table
@pytest.mark.parametrize(
    "algorithm",
    [tg.smc(8), tg.smc(8, ess_threshold=0.9), tg.importance(60), tg.smc(8, resampling="systematic")],
    ids=["smc", "smc, adaptive", "importance", "smc, systematic"],
)
def test_particles_without_weight_are_no_mistake(algorithm):
    """Most particles cannot have made what is observed: outside of `jit`, where values are looked at, as inside."""
    estimate = jax.jit(lambda key: algorithm.estimate(key, WITHIN_REACH).draw(key)[0]["z"])(KEY)
    z = algorithm.estimate(KEY, WITHIN_REACH).draw(KEY)[0]["z"]
    np.testing.assert_array_equal(z, estimate)
    y = WITHIN_REACH.observed["y"]
    assert bool(jnp.all((z <= y) & (y <= z + 1.0)))
