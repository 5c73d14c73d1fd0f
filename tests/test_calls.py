"""How programs are called: arguments as a tuple or alone, and what a proposal is told before its own."""

from typing import NamedTuple

import jax
import numpy as np
import pytest
from jax import numpy as jnp

import tracegrad as tg
from tracegrad import dist

KEY = jax.random.key(0)
X = {"x": 2.0}
STEPS = {"y": jnp.array([0.0, 1.0])}


class Two(NamedTuple):
    """A tuple of the caller's own: one argument."""

    loc: float
    log_scale: float


OWN = Two(0.3, -0.2)


def normal(address, own):
    return tg.sample(address, dist.Normal(own.loc, jnp.exp(own.log_scale)))


model = tg.gen(lambda: tg.sample("x", dist.Normal(tg.sample("z", dist.Normal(0.0, 1.0)), 1.0)))
guide = tg.gen(lambda own: normal("z", own))
model_of_two = tg.gen(lambda own: tg.sample("x", dist.Normal(normal("z", own), 1.0)))
beside = tg.gen(lambda observed, own: normal("z", own))


@tg.gen
def step(z, _):
    z = tg.sample("z", dist.Normal(z, 1.0))
    tg.sample("y", dist.Normal(z, 1.0))
    return z, None


step_guide = tg.gen(lambda observed, z, x, own: normal("z", own))
target, chain = tg.Target(model, (), X), tg.Target(step.scan(2), (0.0,), STEPS)
log_tilted = lambda z, own: own.loc * z["z"] - z["z"] ** 2  # noqa: E731
tilted = tg.gen(log_tilted)
kernel = tg.gen(lambda z, own: normal("z", own))

CALLS = {
    "model of an objective": (model_of_two, lambda own: tg.elbo(model_of_two, guide, X)(KEY, own, (OWN,))),
    "guide of an objective": (guide, lambda own: tg.elbo(model, guide, X)(KEY, (), own)),
    "guide, by wake_phi": (guide, lambda own: tg.wake_phi(model, guide, X)(KEY, (), own)),
    "guide, by dreg": (guide, lambda own: tg.dreg(model, guide, X, n=2)(KEY, (), own)),
    "guide, by vargrad": (guide, lambda own: tg.vargrad(model, guide, X, n=2)(KEY, (), own)),
    "guide of sleep": (beside, lambda own: tg.sleep(model, beside, "x")(KEY, (), own)),
    "mmd": (guide, lambda own: tg.mmd(guide, {"z": jnp.zeros(2)}, n=2)(KEY, own)),
    "Target": (model_of_two, lambda own: tg.Target(model_of_two, own, X).log_prob({"z": 0.5})),
    "sir": (guide, lambda own: tg.normalize(target, tg.sir(2, guide, own)).simulate(KEY).logp),
    "importance": (beside, lambda own: tg.normalize(target, tg.importance(2, beside, own)).simulate(KEY).logp),
    "importance_sampling": (guide, lambda own: tg.importance_sampling(target, guide, own, key=KEY, n=2).log_evidence),
    "smc": (step_guide, lambda own: tg.normalize(chain, tg.smc(2, step_guide, own)).simulate(KEY).logp),
    "smc_bound": (step_guide, lambda own: tg.smc_bound(step.scan(2), step_guide, STEPS, n=2)(KEY, (0.0,), own)),
    "smc_wake_phi": (step_guide, lambda own: tg.smc_wake_phi(step.scan(2), step_guide, STEPS, n=2)(KEY, (0.0,), own)),
    "nested_vi": (
        guide,
        lambda own: tg.nested_vi([lambda z: -(z["z"] ** 2)] * 2, [guide, kernel], [kernel], n=2)(KEY, (), own),
    ),
    "densities of nested_vi": (
        tilted,
        lambda own: tg.nested_vi([log_tilted] * 2, [guide, kernel], [kernel], n=2)(KEY, own, (OWN,)),
    ),
}


@pytest.mark.table
@pytest.mark.parametrize("name", CALLS)
def test_a_tuple_of_a_class_of_its_own_is_one_argument(name):
    """As it is where it stands in a tuple of one, and inside a transformation, which keeps its class."""
    _, call = CALLS[name]
    alone = call(OWN)
    assert np.isfinite(alone)
    assert alone == call((OWN,))
    np.testing.assert_allclose(jax.jit(call)(OWN), alone, rtol=1e-5)


@pytest.mark.parametrize("name", [name for name, (program, _) in CALLS.items() if program])
def test_a_plain_tuple_for_a_program_of_one_argument_is_refused(name):
    program, call = CALLS[name]
    more = " more" if program in (beside, step_guide, tilted) else ""
    match = rf"{program.name} takes one argument{more}, and got a tuple of 2, which are 2 arguments. Write `\(args,\)`"
    with pytest.raises(tg.ArgumentError, match=match):
        call((0.3, -0.2))


def test_a_plain_tuple_is_all_arguments_of_a_program_that_takes_so_many():
    """Of a method and of one with other estimators as well; a default counts as an argument that may be given."""

    class Guide(NamedTuple):
        scale: float

        @tg.gen
        def draw(self, loc, log_scale=0.0):
            return tg.sample("z", dist.Normal(loc, self.scale * jnp.exp(log_scale)))

    guides = [Guide(1.0).draw, tg.gen(lambda loc, log_scale=0.0: Guide(1.0).draw.inline(loc, log_scale))]
    guides += [tg.validated(guides[0].with_estimators({"z": tg.reinforce()}))]
    for each in guides:
        both = tg.elbo(model, each, X)(KEY, (), (0.3, -0.2))
        np.testing.assert_allclose(both, tg.elbo(model, guide, X)(KEY, (), OWN), rtol=1e-6)
        assert tg.elbo(model, each, X)(KEY, (), 0.3) == tg.elbo(model, each, X)(KEY, (), (0.3,))
        with pytest.raises(TypeError):
            tg.elbo(model, each, X)(KEY, (), (0.3, -0.2, 1.0))


# ---- what a proposal is told ----------------------------------------------------------------------------------------


def told(run):
    """How often a proposal is called, and what with: the types of its arguments, in order."""
    calls = []

    def draw(*args):
        calls.append([sorted(x) if isinstance(x, dict) else "own" if isinstance(x, Two) else "other" for x in args])
        tg.sample("z", dist.Normal(0.0, 1.0))

    run(tg.gen(draw))
    assert all(call == calls[0] for call in calls)
    return calls[0]


marginal = tg.marginal
TOLD = {
    "objectives": (lambda q: tg.elbo(model, q, X)(KEY, (), OWN), ["own"]),
    "sir": (lambda q: tg.normalize(target, tg.sir(2, q, OWN)).simulate(KEY), ["own"]),
    "importance_sampling": (lambda q: tg.importance_sampling(target, q, OWN, key=KEY, n=2), ["own"]),
    "sleep": (lambda q: tg.sleep(model, q, "x")(KEY, (), OWN), [["x"], "own"]),
    "importance": (
        lambda q: marginal(model_of_two, "x", tg.importance(2, q, OWN)).assess(X, OWN, key=KEY),
        [["x"], "own"],
    ),
    "importance, without arguments of its own": (
        lambda q: marginal(model_of_two, "x", tg.importance(2, q)).simulate(KEY, OWN),
        [["x"], "own"],
    ),
    "importance, of a target": (lambda q: tg.normalize(target, tg.importance(2, q)).simulate(KEY), [["x"]]),
    "smc": (lambda q: tg.normalize(chain, tg.smc(2, q, OWN)).simulate(KEY), [["y"], "other", "other", "own"]),
    "smc, assessed": (
        lambda q: tg.normalize(chain, tg.smc(2, q)).assess({"z": jnp.zeros(2)}, key=KEY),
        [["y"], "other", "other"],
    ),
    "smc_bound": (
        lambda q: tg.smc_bound(step.scan(2), q, STEPS, n=2)(KEY, (0.0,), OWN),
        [["y"], "other", "other", "own"],
    ),
}


@pytest.mark.parametrize("name", TOLD)
def test_a_proposal_is_told_of_the_target_and_then_given_its_own_arguments(name):
    run, expected = TOLD[name]
    assert told(run) == expected
