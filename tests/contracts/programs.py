"""Small programs, and what is made of them, for contracts to call."""

import jax
from jax import numpy as jnp

import tracegrad as tg
from tracegrad import auto, dist

from .exempt import MADE_BY_THE_LIBRARY
from .kinds import (
    KEY,
    Given,
    all_choices,
    choices,
    contract,
    count,
    flag,
    function,
    key,
    maybe_count,
    maybe_key,
    share,
    target,
)


@tg.gen
def model():
    return tg.sample("x", dist.Normal(tg.sample("z", dist.Normal(0.0, 1.0)), 1.0))


@tg.gen
def guide(w):
    return tg.sample("z", dist.Normal(w, 1.0))


@tg.gen
def proposal(*_):
    return tg.sample("z", dist.Normal(0.5, 1.0))


@tg.gen
def switches():
    z = tg.sample("z", dist.Bernoulli(0.25))
    return tg.sample("x", dist.Normal(z.astype(float), 1.0))


@tg.gen
def switches_guide(w):
    return tg.sample("z", dist.Bernoulli(logits=w))


@tg.gen
def step(carry, _):
    z = tg.sample("z", dist.Normal(carry, 1.0))
    tg.sample("x", dist.Normal(z, 1.0))
    return z, None


@tg.gen
def step_guide(observed, carry, _, w):
    return tg.sample("z", dist.Normal(carry + w * observed["x"], 1.0))


@tg.gen
def count_up(state):
    return state + tg.sample("z", dist.Uniform(0.5, 1.0))


def constrained_in(program):
    """Where the point of a program's space leads, at which its coordinate is 0.3."""
    return tg.to_unconstrained(tg.Target(program, (), X)).constrain(jnp.array([0.3]))


X = {"x": 1.0}
POSTERIOR = tg.Target(model, (), X)
TRACE = model.simulate(KEY)
STEPS = {"x": jnp.array([0.5, 1.0])}
DRAWN = {"z": jnp.array([0.1, -0.4, 0.9])}
SPACE = tg.to_unconstrained(POSTERIOR)
POINT = SPACE.unconstrain({"z": 0.3})
FAMILY = auto.mean_field(POSTERIOR)


class Own(tg.Posterior):
    """A posterior that a user has written."""

    target: tg.Target

    def latents(self, key, n):
        return {"z": jax.random.normal(key, (n,))}


OWN = Own(POSTERIOR)
FITTED = tg.Fitted(POSTERIOR, guide, 0.0)
WEIGHTED = tg.WeightedDraws(DRAWN, jnp.zeros(3), POSTERIOR)
CHAINS = tg.Draws(
    {"z": jnp.array([[0.1, -0.4, 0.9]])},
    {"diverging": jnp.zeros((1, 3), bool), "n_steps": jnp.ones((1, 3), int)},
    jnp.ones(1),
    POSTERIOR,
)


def of_posterior(name, posterior, *untried):
    """Contracts of what all posteriors have; `untried` is what a summary has no use for."""
    many = {} if "n" in untried else {"n": count(100)}

    def summary(**arguments):
        return posterior.summary(**arguments)["z"]["mean"]

    methods = {
        "sample": contract(posterior.sample, key=key(), n=Given("copies", 2)),
        "latents": contract(posterior.latents, key=key(), n=Given("copies", 2)),
        "log_prob": contract(posterior.log_prob, choices=all_choices({"z": 0.3}), key=maybe_key()),
        "summary": contract(summary, *untried, key=maybe_key(), **many),
    }
    return {
        f"{name}.{method}": each for method, each in methods.items() if f"{name}.{method}" not in MADE_BY_THE_LIBRARY
    }


def flip(key, w, estimator=None):
    """An objective of one coin."""
    coin = tg.gen(lambda: tg.sample("z", dist.Bernoulli(logits=w), estimator=estimator))
    return 2.0 * coin.simulate(key).retval


def slope(estimator, objective=flip, **options):
    """The gradient of an objective of one coin, its site under an estimator."""
    f = tg.expectation(lambda key, w: objective(key, w, estimator), **options)
    return jax.grad(f, argnums=1)(KEY, 0.3)


def categories(distribution):
    return tg.gen(lambda: tg.sample("z", distribution)).simulate(KEY).retval


def bound(make, *untried, at=(KEY, (), (0.0,)), of=(model, guide, X), **more):
    """A contract of an objective that is made of a model, a guide and observations."""
    m, g, x = of
    shared = {"scale": SCALES, "draws": count(2)}
    return contract(
        lambda **arguments: make(**arguments)(*at),
        *untried,
        model=function(m),
        guide=function(g),
        observed=choices(x),
        **({} if make in WITHOUT_SHARED else shared),
        **more,
    )


SCALES = Given("scales", {"x": 2.0}, optional=True)

WITHOUT_SHARED = (tg.smc_bound, tg.smc_wake_phi)
"""Objectives that are no formula of one pair of a model and a guide, and take neither scales nor draws."""


def start(of, make):
    """A contract of a constrained parameter, of a kind that fits where it may be a scalar or must be a vector."""
    kind = "start" if jnp.ndim(of) == 0 else "vector start"
    return contract(lambda start: tg.unwrap(make(start)), start=Given(kind, of))


def sampler(make, **more):
    return contract(
        lambda **arguments: make(**arguments).choices,
        "initial",  # beside `init` it is refused
        target=target(POSTERIOR),
        key=key(),
        draws=count(2),
        warmup=count(2),
        chains=count(1),
        init=Given("choices", {"z": jnp.zeros(1)}, optional=True),
        target_acceptance=share(0.8),
        progress=flag(False),
        **more,
    )


def run_with(make, of=POSTERIOR):
    """The call of an algorithm's maker, the algorithm then used."""
    return lambda **arguments: tg.normalize(of, make(**arguments)).simulate(KEY).logp


def family(make, **more):
    """A contract of an automatic family."""
    around = Given("choices", FAMILY.init(KEY), optional=True)

    def use(**arguments):
        made = make(**arguments)
        return made.guide.simulate(KEY, made.init(KEY)).logp

    return contract(use, target=target(POSTERIOR), around=around, scale=Given("positive", 0.5, optional=True), **more)


CHAIN = tg.Target(step.scan(2), (0.0, None), STEPS)
TWICE = {"chunk_size": maybe_count(1)}
