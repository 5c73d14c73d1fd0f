"""A valid call of every public name, and of what kind each of its arguments is.

The fuzzer puts wrong values in place of the valid ones. A name or an argument that is not here fails a test.
"""

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import optax
from jax import numpy as jnp
from wrong_values import Given

import tracegrad as tg
from tracegrad import auto, dist

KEY = jax.random.key(0)


class Contract(NamedTuple):
    """A call by keyword, and its valid arguments.

    `untried` are the parameters that are not tried, because every value is right or none can be given.
    """

    call: Callable
    arguments: dict[str, Given]
    untried: tuple[str, ...] = ()


def contract(call, *untried, **arguments):
    return Contract(call, arguments, untried)


def given(kind, *, optional=False):
    return lambda value=None: Given(kind, value, optional)


count, maybe_count = given("count"), given("count", optional=True)
positive, share, number = given("positive"), given("share"), given("number")
flag, choices, all_choices = given("flag"), given("choices"), given("all choices")
function, maybe_function, body, callable_ = (
    given("function"),
    given("function", optional=True),
    given("body"),
    given("callable"),
)
selection, trace, target, algorithm = given("selection"), given("trace"), given("target"), given("algorithm")
floats, name = given("floats"), given("name")


def key():
    return Given("key", KEY)


def fit_kept(checkpoint, **arguments):
    """A fit that is kept in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        return tg.fit(checkpoint=folder if checkpoint == "new" else checkpoint, **arguments).params


@functools.cache
def kept_fit():
    """A file with a fit."""
    path = Path(tempfile.mkdtemp()) / "kept"
    tg.fit(lambda key, w: w**2, 0.5, optax.sgd(0.1), key=KEY, steps=1, progress=False).save(path)
    return path


def maybe_key():
    return Given("key", KEY, optional=True)


NOTHING_TO_GIVE = """
    arm disarm enum local_expectation mvd forward_filter
    Target.latents GenerativeFunction.mask WeightedDraws.psis Comparison.by_site EstimatorChoice.apply
    Posterior.diagnostics Fitted.diagnostics WeightedDraws.diagnostics Draws.diagnostics
""".split()
"""Names that take no argument."""

MADE_BY_THE_LIBRARY = {
    "BiasReport": "what check_unbiased returns",
    "Comparison": "what compare_estimators returns",
    "EstimatorChoice": "what tune_estimators returns",
    "EstimatorChoice.plot": "its argument is matplotlib's",
    "Comparison.plot": "its argument is matplotlib's",
    "Calibration": "what sbc returns",
    "Calibration.plot": "it takes nothing",
    "Calibration.words": "the library's own: what it prints",
    "Draws": "what nuts and hmc return",
    "Evaluation": "what evaluate returns",
    "PredictiveCheck": "what predictive_check returns",
    "Fit": "what fit returns",
    "Trace": "what simulate returns",
    "Unconstrained": "what to_unconstrained returns",
    "Unconstrained.centred": "the library's own: what a family calls",
    "WeightedDraws": "what importance_sampling returns",
    "GenerativeFunction": "abstract: `gen` makes one",
    "GenerativeFunction.visit": "the library's own: what an author of a combinator writes",
    "Target.visit": "the library's own: what an author of an algorithm calls",
    "Fitted.chains": "the library's own: what `to_arviz` calls",
    "Fitted.log_density": "the library's own: what `log_prob` calls",
    "Posterior": "abstract: a fit, importance sampling and Markov chains make one",
    "Posterior.chains": "the library's own: what `to_arviz` calls",
    "Posterior.latents": "abstract: what an author of a posterior writes",
    "Posterior.log_density": "the library's own: what an author of a posterior writes",
    "Draws.chains": "its arguments are those of every posterior, and have no use here",
    "Draws.log_density": "the library's own: what `log_prob` calls",
    "ModelGraph": "what model_graph returns",
    "ModelGraph.dot": "it takes nothing",
    "ModelGraph.levels": "it takes nothing",
    "Summary": "what `summary` returns",
    "WeightedDraws.chains": "the library's own: what `to_arviz` calls",
    "WeightedDraws.log_density": "the library's own: what `log_prob` calls",
    "auto.Family": "abstract: `mean_field` makes one",
    "auto.Family.draw": "the library's own: what an author of a family writes",
    "auto.Family.matched": "the library's own: what `vi` calls",
    "auto.Family.start": "the library's own: what an author of a family writes",
    "auto.Family.weigh": "the library's own: what an author of a family writes",
}
"""Names that a user does not call, and why."""

# ---- small programs -------------------------------------------------------------------------------------------------


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

CONTRACTS = {
    # ---- the language ----
    "gen": contract(
        lambda function: tg.gen(function).simulate(KEY).retval,
        function=body(lambda: tg.sample("x", dist.Normal(0.0, 1.0))),
    ),
    "sample": contract(
        lambda address, what, estimator: (
            tg.gen(lambda: tg.sample(address, what, estimator=estimator)).simulate(KEY).retval
        ),
        address=Given("address", "z"),
        what=Given("drawn", dist.Normal(0.0, 1.0)),
        estimator=Given("estimator", tg.reparam(), optional=True),
    ),
    "GenerativeFunction.simulate": contract(
        lambda key, scale: tg.gen(lambda scale: tg.sample("z", dist.Normal(0.0, scale))).simulate(key, scale).logp,
        key=key(),
        scale=Given("parameter", 1.0),
    ),
    "GenerativeFunction.propose": contract(lambda key: model.propose(key)[1], key=key()),
    "GenerativeFunction.assess": contract(
        lambda choices, key: model.assess(choices, key=key)[0],
        choices=all_choices({"x": 1.0, "z": 0.5}),
        key=maybe_key(),
    ),
    "GenerativeFunction.generate": contract(
        lambda key, constraints: model.generate(key, constraints)[1],
        key=key(),
        constraints=Given("choices", X, optional=True),
    ),
    "GenerativeFunction.update": contract(
        lambda key, trace, constraints: model.update(key, trace, constraints)[1],
        key=key(),
        trace=trace(TRACE),
        constraints=Given("choices", X, optional=True),
    ),
    "GenerativeFunction.regenerate": contract(
        lambda key, trace, selection: model.regenerate(key, trace, selection)[1],
        key=key(),
        trace=trace(TRACE),
        selection=selection("z"),
    ),
    "GenerativeFunction.project": contract(
        lambda trace, selection, key: model.project(trace, selection, key=key),
        trace=trace(TRACE),
        selection=selection("z"),
        key=maybe_key(),
    ),
    "GenerativeFunction.vmap": contract(
        lambda in_axes, axis_size: guide.vmap(in_axes, axis_size=axis_size).simulate(KEY, jnp.zeros(2)).logp,
        in_axes=Given("axes", 0),
        axis_size=maybe_count(2),
    ),
    "GenerativeFunction.scan": contract(
        lambda length, reverse, unroll: step.scan(length, reverse=reverse, unroll=unroll).simulate(KEY, 0.0, None).logp,
        length=Given("copies", 2),
        reverse=flag(True),
        unroll=count(1),
    ),
    "GenerativeFunction.repeat": contract(lambda n: model.repeat(n).simulate(KEY).logp, n=Given("copies", 2)),
    "GenerativeFunction.with_estimators": contract(
        lambda estimators: model.with_estimators(estimators).simulate(KEY).logp,
        estimators=Given("estimators", {"z": tg.reinforce()}),
    ),
    "GenerativeFunction.logps": contract(
        lambda choices, key: model.logps(choices, key=key),
        choices=all_choices({"x": 1.0, "z": 0.5}),
        key=maybe_key(),
    ),
    "GenerativeFunction.do": contract(lambda values: model.do(values).assess(X)[0], values=choices({"z": 0.5})),
    "GenerativeFunction.condition": contract(
        lambda values: model.condition(values).assess({"z": 0.5})[0], values=choices(X)
    ),
    "GenerativeFunction.while_loop": contract(
        lambda condition, max_steps: count_up.while_loop(condition, max_steps=max_steps).simulate(KEY, 0.0).retval,
        condition=callable_(lambda state: state < 2.0),
        max_steps=count(3),
    ),
    "GenerativeFunction.with_scale": contract(
        lambda scale: model.with_scale(scale).assess({"z": 0.5, "x": 1.0})[0], scale=Given("scales", {"x": 2.0})
    ),
    "GenerativeFunction.with_coordinates": contract(
        lambda coordinates: constrained_in(model.with_coordinates(coordinates)),
        coordinates=Given("coordinates", {"z": tg.noncentred()}),
    ),
    "noncentred": contract(
        lambda centring: constrained_in(model.with_coordinates({"z": tg.noncentred(centring)})),
        centring=Given("share", 0.5),
    ),
    "deterministic": contract(
        lambda address, value: tg.predictive(tg.gen(lambda: tg.deterministic(address, value)), key=KEY, n=2),
        address=Given("address", "d"),
        value=Given("value", 1.0),
    ),
    "factor": contract(
        lambda address, logp: tg.gen(lambda: tg.factor(address, logp)).assess({})[0],
        address=Given("address", "f"),
        logp=Given("logits", jnp.array([-1.0, -0.5])),
    ),
    "nan_as_missing": contract(
        lambda distribution: tg.gen(lambda: tg.sample("y", tg.nan_as_missing(distribution))).assess(
            {"y": jnp.array([1.0, jnp.nan])}
        )[0],
        distribution=Given("drawn", dist.Normal(0.0, 1.0).expand([2])),
    ),
    "validated": contract(lambda function: tg.validated(function).simulate(KEY).logp, function=Given("branch", model)),
    "cond": contract(
        lambda predicate, true, false: tg.cond(predicate, true, false)(0.0).function.simulate(KEY, 0.0).logp,
        predicate=flag(True),
        true=Given("branch", guide),
        false=Given("branch", guide),
    ),
    "switch": contract(
        lambda index, branch: tg.switch(index, guide, branch).simulate(KEY, 0.0).logp,
        index=Given("index", 1),
        branch=Given("branch", guide),
    ),
    "merge": contract(
        lambda first, second: tg.merge(first, second),
        first=Given("dicts", {"a": 1.0}),
        second=Given("dicts", {"b": 1.0}),
    ),
    "relabel": contract(
        lambda function, told, inverse: tg.relabel(function, told, inverse=inverse).simulate(KEY, 0.0).logp,
        function=function(guide),
        told=Given("telling", lambda choices: {"u": choices["z"]}),
        inverse=Given("telling", lambda choices: {"z": choices["u"]}, optional=True),
    ),
    "select": contract(lambda pattern: ("z",) in tg.select(pattern), pattern=Given("pattern", "z")),
    # ---- densities, targets, algorithms ----
    "Target": contract(
        lambda function, observed: tg.Target(function, (), observed).log_prob({"z": 0.0}),
        "args",
        "kwargs",
        "path",
        function=function(model),
        observed=Given("choices", X, optional=True),
    ),
    "Target.log_prob": contract(
        lambda latents, key: POSTERIOR.log_prob(latents, key=key), latents=all_choices({"z": 0.0}), key=maybe_key()
    ),
    "Target.draw": contract(lambda key: POSTERIOR.draw(key)[1], key=key()),
    "Target.without_observed": contract(POSTERIOR.without_observed, choices=Given("dicts", {"z": 0.0, "x": 1.0})),
    "marginal": contract(
        lambda function, keep, algorithm: tg.marginal(function, keep, algorithm).simulate(KEY).logp,
        function=function(model),
        keep=selection("x"),
        algorithm=algorithm(tg.importance(2)),
    ),
    "normalize": contract(
        lambda target, algorithm: tg.normalize(target, algorithm).simulate(KEY).logp,
        target=target(POSTERIOR),
        algorithm=algorithm(tg.importance(2)),
    ),
    "importance": contract(
        run_with(lambda **arguments: tg.importance(proposal_args=(), **arguments)),
        "proposal_args",
        n=count(2),
        proposal=maybe_function(proposal),
        **TWICE,
    ),
    "sir": contract(run_with(tg.sir), "proposal_args", n=count(2), proposal=function(proposal), **TWICE),
    "smc": contract(
        run_with(tg.smc, CHAIN),
        "proposal",
        "proposal_args",
        n=count(2),
        resampling=name("multinomial"),
        ess_threshold=Given("share", 0.5, optional=True),
        **TWICE,
    ),
    "kalman": contract(run_with(tg.kalman, CHAIN), parallel=flag(False)),
    "exact": contract(run_with(tg.exact, tg.Target(switches, (), X)), **TWICE),
    "importance_sampling": contract(
        lambda **arguments: tg.importance_sampling(**arguments).log_evidence,
        "proposal_args",
        target=target(POSTERIOR),
        proposal=maybe_function(proposal),
        key=key(),
        n=count(4),
        **TWICE,
    ),
    "Fitted": contract(
        lambda target, guide: tg.Fitted(target, guide, 0.0).sample(KEY, 2),
        "args",
        target=target(POSTERIOR),
        guide=function(guide),
    ),
    "Fitted.weighted": contract(FITTED.weighted, key=key(), n=count(2), **TWICE),
    **of_posterior("Posterior", OWN),
    **of_posterior("Fitted", FITTED),
    **of_posterior("WeightedDraws", WEIGHTED, "n"),
    **of_posterior("Draws", CHAINS, "n"),
    "auto.Family.posterior": contract(
        lambda params: FAMILY.posterior(params).sample(KEY, 2), params=all_choices(FAMILY.init(KEY))
    ),
    "vi": contract(
        lambda **arguments: tg.vi(**arguments).params,
        target=target(POSTERIOR),
        family=name("mean_field"),
        key=key(),
        steps=count(1),
        draws=maybe_count(1),
        learning_rate=Given("positive", 0.1, optional=True),
        initial=Given("initial", {"z": 0.5}, optional=True),
        correct=flag(False),
        progress=flag(False),
    ),
    "evaluate": contract(
        lambda objective, key, draws, chunk_size: (
            tg.evaluate(objective, key=key, draws=draws, chunk_size=chunk_size).mean
        ),
        "args",
        objective=callable_(lambda key: jax.random.normal(key)),
        key=key(),
        draws=count(4),
        **TWICE,
    ),
    "sbc": contract(
        lambda **arguments: tg.sbc(model, **arguments).ranks["z"],
        "model",
        "args",
        observed=selection("x"),
        procedure=Given("procedure", lambda key, target: tg.Fitted(target, guide, 0.0)),
        key=key(),
        n=count(3),
        draws=count(4),
        level=Given("share", 0.01),
        loop=flag(False),
        progress=flag(False),
    ),
    "model_graph": contract(
        lambda model: tg.model_graph(model, observed="x").edges,
        "args",
        "observed",
        model=function(model),
    ),
    "plot_model": contract(
        lambda model: len(tg.plot_model(model, observed="x").texts), "args", "observed", "ax", model=function(model)
    ),
    "plot_history": contract(
        lambda fitted: len(tg.plot_history(fitted).lines), "ax", fitted=Given("history", [1.0, 2.0])
    ),
    "predictive_check": contract(
        lambda **arguments: tg.predictive_check(**arguments).p,
        posterior=Given("posterior", FITTED),
        statistic=callable_(lambda data: data["x"]),
        key=key(),
        n=count(3),
    ),
    "shrinkage": contract(
        lambda **arguments: tg.shrinkage(**arguments)["z"], posterior=Given("posterior", FITTED), key=key(), n=count(3)
    ),
    "predictive": contract(
        lambda model, draws, key, n, chunk_size: (
            tg.predictive(model, key=key, n=n, chunk_size=chunk_size),
            tg.predictive(model, draws=draws, key=key, n=n, chunk_size=chunk_size),
        ),
        "args",
        "kwargs",
        model=function(model),
        draws=Given("stacked", DRAWN, optional=True),
        key=key(),
        n=count(3),
        **TWICE,
    ),
    "log_likelihood": contract(
        tg.log_likelihood, target=target(POSTERIOR), draws=Given("stacked", DRAWN), key=maybe_key(), **TWICE
    ),
    "WeightedDraws.mean": contract(
        lambda fn: tg.WeightedDraws(DRAWN, jnp.zeros(3)).mean(fn), fn=Given("callable", lambda c: c["z"], optional=True)
    ),
    "WeightedDraws.resample": contract(
        lambda key, n: tg.WeightedDraws(DRAWN, jnp.zeros(3)).resample(key, n), key=key(), n=count(2)
    ),
    "nuts": sampler(tg.nuts),
    "hmc": sampler(tg.hmc, steps=count(2)),
    "to_arviz": contract(
        lambda **arguments: tg.to_arviz(**arguments)["log_likelihood"]["x"].values,
        posterior=Given("posterior", FITTED),
        key=key(),
        n=count(2),
        groups=Given("groups", ["log_likelihood", "posterior_predictive"], optional=True),
    ),
    "to_unconstrained": contract(lambda target: tg.to_unconstrained(target).constrain(POINT), target=target(POSTERIOR)),
    "Unconstrained.around": contract(
        lambda params: SPACE.around(params).constrain(POINT), params=Given("choices", FAMILY.init(KEY), optional=True)
    ),
    "Unconstrained.backward": contract(SPACE.backward, choices=all_choices({"z": 0.3})),
    "Unconstrained.unconstrain": contract(SPACE.unconstrain, choices=all_choices({"z": 0.3})),
    "Unconstrained.forward": contract(SPACE.forward, coordinates=all_choices({"z": jnp.array(0.3)})),
    "Unconstrained.ravel": contract(SPACE.ravel, coordinates=all_choices({"z": jnp.array(0.3)})),
    "Unconstrained.constrain": contract(SPACE.constrain, point=floats(POINT)),
    "Unconstrained.log_prob": contract(SPACE.log_prob, point=floats(POINT)),
    "Unconstrained.unravel": contract(SPACE.unravel, point=floats(POINT)),
    # ---- automatic families ----
    "auto.delta": contract(lambda target: auto.delta(target).init(KEY), target=target(POSTERIOR)),
    "auto.mean_field": family(auto.mean_field),
    "auto.full_rank": family(auto.full_rank),
    "auto.low_rank": family(auto.low_rank, rank=count(1)),
    "auto.flow": family(auto.flow)._replace(untried=("make",)),
    "auto.laplace": contract(
        lambda **arguments: auto.laplace(**arguments).init(KEY),
        target=target(POSTERIOR),
        starts=count(1),
        steps=count(2),
        initial=Given("initial", {"z": 0.5}, optional=True),
    ),
    "auto.Family.init": contract(FAMILY.init, key=key()),
    # ---- objectives ----
    "elbo": bound(tg.elbo, scale_both=SCALES),
    "iwelbo": bound(tg.iwelbo, n=count(2)),
    "renyi": bound(tg.renyi, alpha=number(0.5), n=count(2)),
    "cubo": bound(tg.cubo, order=number(2.0), n=count(2)),
    "tvo": bound(tg.tvo, betas=Given("shares", (0.0, 0.5)), n=count(2)),
    "dreg": bound(tg.dreg, alpha=number(0.0), n=count(2)),
    "dreg_wake_phi": bound(tg.dreg_wake_phi, n=count(2)),
    "sticking_the_landing": bound(tg.sticking_the_landing, n=count(1), scale_both=SCALES),
    "forward_kl": bound(tg.forward_kl, n=count(2)),
    "symmetric_kl": bound(tg.symmetric_kl, n=count(2)),
    "f_divergence": bound(
        tg.f_divergence, f=callable_(lambda r: (r - 1.0) ** 2), n=count(2), log_z=Given("number", -1.5, optional=True)
    ),
    "jensen_shannon": bound(tg.jensen_shannon, n=count(2), log_z=Given("number", -1.5, optional=True)),
    "trajectory_balance": bound(
        tg.trajectory_balance, at=(KEY, (), (0.0,), -2.5), n=count(2), proposal=maybe_function(proposal)
    ),
    "log_variance": bound(tg.log_variance, n=count(2), proposal=maybe_function(proposal)),
    "wake_theta": bound(tg.wake_theta, n=count(2)),
    "wake_phi": bound(tg.wake_phi, n=count(2)),
    "vimco": bound(tg.vimco, of=(switches, switches_guide, X), n=count(2), mean=name("geometric")),
    "vargrad": bound(tg.vargrad, of=(switches, switches_guide, X), n=count(2)),
    "sleep": contract(
        lambda **arguments: tg.sleep(**arguments)(KEY, (), (0.5,)),
        model=function(model),
        guide=function(tg.gen(lambda observed, w: tg.sample("z", dist.Normal(w * observed["x"], 1.0)))),
        observe=selection("x"),
    ),
    "smc_bound": bound(
        tg.smc_bound,
        of=(step.scan(2), step_guide, STEPS),
        at=(KEY, (0.0, None), (0.5,)),
        n=count(2),
        resampling=name("multinomial"),
    ),
    "smc_wake_phi": bound(
        tg.smc_wake_phi, of=(step.scan(2), step_guide, STEPS), at=(KEY, (0.0, None), (0.5,)), n=count(2)
    ),
    "nested_vi": contract(
        lambda **arguments: tg.nested_vi(**arguments)(KEY, (), (0.5,)),
        log_gammas=Given("functions", [lambda c: -(c["z"] ** 2), lambda c: -((c["z"] - 1.0) ** 2)]),
        forwards=Given("functions", [guide, tg.gen(lambda c, w: tg.sample("z", dist.Normal(w * c["z"], 1.0)))]),
        reverses=Given("functions", [tg.gen(lambda c, w: tg.sample("z", dist.Normal(w * c["z"], 1.0)))]),
        n=count(2),
    ),
    "mmd": contract(
        lambda **arguments: tg.mmd(**arguments)(KEY, (0.0,)),
        "kernel",
        function=function(guide),
        samples=all_choices(DRAWN),
        n=count(2),
        bandwidth=positive(1.0),
    ),
    "energy_distance": contract(
        lambda **arguments: tg.energy_distance(**arguments)(KEY, (0.0,)),
        function=function(guide),
        samples=all_choices(DRAWN),
        n=count(2),
    ),
    # ---- the transformation and its estimators ----
    "expectation": contract(
        lambda fun, **options: jax.value_and_grad(
            tg.expectation(fun, **options), argnums=1, has_aux=options["has_aux"]
        )(KEY, 0.3),
        fun=Given("callable", flip, optional=True),
        has_aux=flag(False),
        chunk_size=maybe_count(1),
        forks=maybe_count(1),
        credit=flag(True),
    ),
    "exact_expectation": contract(
        lambda fun, **options: tg.exact_expectation(fun, **options)(KEY, 0.0),
        "cells",
        fun=callable_(tg.expectation(flip)),
        nodes=count(2),
        limit=count(16),
    ),
    "leave_one_out": contract(
        lambda fun, n: tg.leave_one_out(fun, n)(KEY, 0.3), fun=callable_(flip), n=Given("count", 2)
    ),
    "with_estimators": contract(
        lambda objective, estimators, forks: tg.with_estimators(objective, estimators, forks=forks)(KEY, 0.3),
        objective=callable_(flip),
        estimators=Given("estimators", {"z": tg.reinforce()}),
        forks=maybe_count(2),
    ),
    "describe_estimators": contract(
        lambda objective, key: str(tg.describe_estimators(objective, key, 0.3)) and 0.0,
        objective=callable_(flip),
        key=key(),
    ),
    "reinforce": contract(lambda baseline: slope(tg.reinforce(baseline)), baseline=Given("number", 0.5, optional=True)),
    "sum_and_sample": contract(lambda k: slope(tg.sum_and_sample(k)), k=count(1)),
    "unordered_set": contract(lambda k: slope(tg.unordered_set(k)), k=count(2)),
    "reparam": contract(
        lambda continuous: jax.grad(
            tg.expectation(
                lambda key, w: guide.with_estimators({"z": tg.reparam(continuous=continuous)}).simulate(key, w).retval
            ),
            argnums=1,
        )(KEY, 0.3),
        continuous=flag(True),
    ),
    "rsvi": contract(
        lambda **arguments: slope(
            tg.rsvi(**arguments),
            lambda key, w, how: (
                tg.gen(lambda: tg.sample("z", dist.Gamma(1.5 + w, 1.0), estimator=how)).simulate(key).retval
            ),
        ),
        augmentation=Given("copies", 1),
        continuous=flag(True),
    ),
    "rebar": contract(
        lambda **arguments: slope(tg.rebar(**arguments)),
        function=given("callable", optional=True)(lambda b: 2.0 * b),
        temperature=positive(0.5),
        scale=number(1.0),
        continuous=flag(True),
    ),
    "relax": contract(
        lambda **arguments: slope(tg.relax(**arguments)), control=callable_(jax.nn.sigmoid), continuous=flag(True)
    ),
    "biased_concrete": contract(
        lambda **arguments: categories(tg.biased_concrete(**arguments)),
        logits=Given("logits", jnp.zeros(3)),
        temperature=positive(0.5),
    ),
    "biased_straight_through": contract(
        lambda **arguments: categories(tg.biased_straight_through(**arguments)),
        logits=Given("logits", jnp.zeros(3)),
        temperature=positive(0.5),
    ),
    # ---- training and trust ----
    "fit": contract(
        fit_kept,
        "state",
        objective=callable_(lambda key, w, x: jnp.mean((w - x) ** 2)),
        params=Given("params", jnp.array(0.5)),
        optimizer=Given("optimizer", optax.sgd(0.1)),
        key=key(),
        steps=count(2),
        data=Given("data", jnp.arange(4.0)),
        batch_size=maybe_count(2),
        maximize=flag(False),
        progress=flag(False),
        callback=Given("callback", lambda run: None, optional=True),
        every=maybe_count(1),
        patience=maybe_count(1),
        window=maybe_count(2),
        average_from=Given("copies", 1, optional=True),
        mesh=Given("mesh", None, optional=True),
        on_nonfinite=Given("name", "raise"),
        checkpoint=Given("path", "new", optional=True),
        checkpoint_every=maybe_count(1),
        keep=maybe_count(1),
        resume=flag(False),
    ),
    "load_fit": contract(
        lambda path, **options: tg.load_fit(kept_fit() if path == "kept" else path, 0.0, **options).params,
        "like",
        "state",
        path=Given("path", "kept"),
        optimizer=Given("optimizer", optax.sgd(0.1)),
    ),
    "Fit.save": contract(
        lambda path: tg.Fit({"w": 1.0}, jnp.zeros(1), None).save(kept_fit() if path == "kept" else path),
        path=Given("path", "kept"),
    ),
    "signal_to_noise": contract(
        tg.signal_to_noise,
        "state",
        objective=callable_(lambda key, w, x: jnp.mean((w - x) ** 2)),
        params=Given("params", jnp.array(0.5)),
        key=key(),
        draws=count(3),
        data=Given("data", jnp.arange(4.0)),
        batch_size=maybe_count(2),
    ),
    "positive": start(jnp.array(0.5), tg.positive),
    "unit_interval": start(jnp.array(0.25), tg.unit_interval),
    "simplex": start(jnp.array([0.25, 0.75]), tg.simplex),
    "ordered": start(jnp.array([-1.0, 0.5]), tg.ordered),
    "scale_tril": start(jnp.array([[1.0, 0.0], [0.5, 2.0]]), tg.scale_tril),
    "frozen": contract(lambda: tg.unwrap(tg.frozen({"a": 1.0})), "value"),
    "unwrap": contract(lambda: tg.unwrap({"a": 1.0, "b": tg.positive(2.0)}), "params"),
    "MovingAverage": contract(
        lambda decay, shape: tg.MovingAverage(decay, shape=shape).update(1.0).value,
        decay=share(0.9),
        shape=Given("shape", ()),
    ),
    "MovingAverage.update": contract(tg.MovingAverage().update, objective=floats(jnp.array(1.0))),
    "baseline_loss": contract(tg.baseline_loss, objective=floats(jnp.ones(2)), baseline=floats(jnp.ones(2))),
    "control_loss": contract(
        tg.control_loss, "control", objective=callable_(lambda w, c: w * c), params=Given("params", jnp.array(0.5))
    ),
    "check_unbiased": contract(
        lambda objective, **options: tg.check_unbiased(objective, 0.3, **options).max_abs_z,
        objective=callable_(tg.expectation(flip)),
        key=key(),
        exact=Given("exact", None, optional=True),
        draws=count(64),
        limit=count(16),
    ),
    "tune_estimators": contract(
        lambda objective, **options: tg.tune_estimators(objective, 0.3, **options).seconds,
        "argnums",
        objective=callable_(tg.expectation(flip)),
        key=key(),
        budget=positive(1e-3),
    ),
    "compare_estimators": contract(
        lambda objective, **options: len(tg.compare_estimators(objective, 0.3, **options).rows) * 1.0,
        objective=callable_(tg.expectation(flip)),
        key=key(),
        sites=Given("candidates", {"z": [tg.reinforce(), tg.mvd()]}),
        draws=count(8),
    ),
}
CONTRACTS["control_loss"] = CONTRACTS["control_loss"]._replace(
    call=lambda objective, params: tg.control_loss(objective, params, 0.5)
)
