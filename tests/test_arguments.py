"""Arguments of the wrong kind are refused where they are given: by their name, with what came and what to write."""

import asyncio
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_given import OBJECTIVES

import tracegrad as tg
from tracegrad import dist

KEY = jax.random.key(0)
X = {"x": 2.0}

model = tg.gen(lambda: tg.sample("x", dist.Normal(tg.sample("z", dist.Normal(0.0, 1.0)), 1.0)))
guide = tg.gen(lambda m: tg.sample("z", dist.Normal(m, 1.0)))
coin = tg.gen(lambda p: tg.sample("b", dist.Bernoulli(p)))
step = tg.gen(lambda c, _: (tg.sample("z", dist.Normal(c, 1.0)), None))
target = tg.Target(model, (), X)
cost = tg.expectation(lambda key, p: 4.0 * coin.simulate(key, p).retval)


def refused(run, match):
    with pytest.raises(tg.TracegradError, match=match):
        run()


# ---- counts ---------------------------------------------------------------------------------------------------------

SAMPLES = {"z": jnp.zeros(3)}
COUNTS = {
    **{name: make.func for name, make in OBJECTIVES.items() if isinstance(make, functools.partial)},
    **{name: make for name, make in OBJECTIVES.items() if not isinstance(make, functools.partial) and name != "elbo"},
}
COUNTS = {
    name: functools.partial(make, model, guide, X, **({"f": lambda r: -jnp.log(r)} if name == "f_divergence" else {}))
    for name, make in COUNTS.items()
} | {
    "smc_bound": functools.partial(tg.smc_bound, step.scan(2), None, {}),
    "smc_wake_phi": functools.partial(tg.smc_wake_phi, step.scan(2), guide, {}),
    "nested_vi": functools.partial(tg.nested_vi, [lambda z: 0.0], [guide], []),
    "mmd": functools.partial(tg.mmd, guide, SAMPLES),
    "energy_distance": functools.partial(tg.energy_distance, guide, SAMPLES),
    "importance": tg.importance,
    "sir": functools.partial(tg.sir, proposal=guide),
    "smc": tg.smc,
    "importance_sampling": functools.partial(tg.importance_sampling, target, key=KEY),
    "leave_one_out": functools.partial(tg.leave_one_out, cost),
    "repeat": lambda n: model.repeat(n),
    "axis_size": lambda n: model.vmap(axis_size=n),
    "scan": lambda n: step.scan(n),
    "unroll": lambda n: step.scan(2, unroll=n),
    "checkpoint": lambda n: step.scan(2, checkpoint=n),
    "chunk": lambda n: model.vmap(chunk=n),
    "chunk_size": lambda n: tg.expectation(cost, chunk_size=n),
    "forks": lambda n: tg.expectation(cost, forks=n),
    "chunks of importance": lambda n: tg.importance(3, chunk_size=n),
    "chunks of sir": lambda n: tg.sir(3, guide, chunk_size=n),
    "chunks of smc": lambda n: tg.smc(3, chunk_size=n),
    "chunks of exact": lambda n: tg.exact(chunk_size=n),
    "chunks of draws": lambda n: tg.importance_sampling(target, key=KEY, chunk_size=n),
    "sum_and_sample": tg.sum_and_sample,
    "unordered_set": tg.unordered_set,
    "rsvi": tg.rsvi,
    "low_rank": lambda n: tg.auto.low_rank(target, n),
    "laplace": lambda n: tg.auto.laplace(target, starts=n),
    "nuts": lambda n: tg.nuts(target, key=KEY, draws=n),
    "hmc": lambda n: tg.hmc(target, key=KEY, steps=n),
    "resample": lambda n: tg.WeightedDraws(SAMPLES, jnp.zeros(3)).resample(KEY, n),
    "cells": lambda n: tg.exact_expectation(cost, cells=n),
    "nodes": lambda n: tg.exact_expectation(cost, nodes=n),
    "check_unbiased": lambda n: tg.check_unbiased(cost, 0.3, key=KEY, draws=n),
    "compare_estimators": lambda n: tg.compare_estimators(cost, 0.3, key=KEY, sites={"b": [tg.mvd()]}, draws=n),
}
COUNTS["nested_vi"] = lambda n: tg.nested_vi([lambda z: 0.0], [guide], [], n=n)


def made(name, n):
    make = COUNTS[name]
    by_name = isinstance(make, functools.partial) and name != "leave_one_out"
    return make(n=n) if by_name else make(n)


@pytest.mark.parametrize("name", COUNTS)
def test_what_is_no_count_is_refused_when_built(name):
    for n in (-1, True, np.True_, 2.0, np.float32(3.0), "3", [3], jnp.arange(2), 1j):
        refused(lambda n=n: made(name, n), "must be .*int.*, and is |takes.*n=1")
    if name not in ("repeat", "axis_size", "scan", "rsvi"):
        refused(lambda: made(name, 0), "must be .*int.*, and is 0|takes.*n=1")
    refused(lambda: jax.jit(lambda n: [made(name, n)] and n)(3), "must be .*int.*, and is |takes.*n=1")


LIGHT = set(COUNTS) - {
    "importance_sampling", "nuts", "hmc", "laplace", "check_unbiased", "compare_estimators", "chunks of draws",
    "sticking_the_landing",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(LIGHT))
@pytest.mark.parametrize("kind", [np.int64, np.uint8, jnp.asarray, np.asarray], ids=["int64", "uint8", "jax", "array"])
def test_integers_of_numpy_and_jax_are_counts(name, kind):
    made(name, kind(3))


@pytest.mark.slow
def test_a_count_of_numpy_gives_what_pythons_gives():
    for make in (tg.iwelbo, tg.dreg, tg.vimco):
        one, other = (make(model, guide, X, n=n)(KEY, (), (0.5,)) for n in (4, np.int32(4)))
        assert one == other
    np.testing.assert_array_equal(model.repeat(np.int64(2)).simulate(KEY).retval, model.repeat(2).simulate(KEY).retval)


def test_one_draw_has_no_variance():
    refused(lambda: COUNTS["compare_estimators"](1), "draws, of which a variance is taken, .* at least 2, and is 1")


# ---- scales and other numbers ---------------------------------------------------------------------------------------

SCALES = {
    "rebar": lambda t: tg.rebar(lambda b: b, temperature=t),
    "biased_concrete": lambda t: tg.biased_concrete(jnp.zeros(3), t),
    "biased_straight_through": lambda t: tg.biased_straight_through(jnp.zeros(3), t),
    "mmd": lambda h: tg.mmd(guide, SAMPLES, bandwidth=h),
    "mean_field": lambda s: tg.auto.mean_field(target, scale=s),
    "full_rank": lambda s: tg.auto.full_rank(target, scale=s),
}


@pytest.mark.parametrize("name", SCALES)
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), "1", True, [1.0], 1j, jnp.zeros(())])
def test_what_is_no_scale_is_refused_when_built(name, value):
    refused(lambda: SCALES[name](value), "(temperature|bandwidth|scale).* must be (a positive|one) number.*, and is")


@pytest.mark.parametrize("name", SCALES)
@pytest.mark.parametrize("value", [0.5, 2, np.float32(0.5), jnp.asarray(0.5)], ids=["float", "int", "numpy", "jax"])
def test_scales(name, value):
    SCALES[name](value)
    if name in ("mean_field", "full_rank"):
        refused(lambda: jax.jit(lambda s: [SCALES[name](s)] and s)(0.5), "scale, .*, must be one number that is known")
    else:
        jax.jit(lambda t: [SCALES[name](t)] and t)(0.5)  # What is learned is traced, and passes.


NUMBERS = {
    "renyi, nan": (lambda: tg.renyi(model, guide, X, alpha=float("nan")), "alpha must be a finite number"),
    "renyi, text": (lambda: tg.renyi(model, guide, X, alpha="half"), "alpha must be a finite number, and is 'half'"),
    "dreg": (lambda: tg.dreg(model, guide, X, n=2, alpha=None), "alpha must be a finite number"),
    "cubo": (lambda: tg.cubo(model, guide, X, order=0.5), "order must be a number of at least 1"),
    "tvo": (lambda: tg.tvo(model, guide, X, betas=("a",)), "betas must be a finite number"),
    "tvo, one": (lambda: tg.tvo(model, guide, X, betas=0.0), "takes a list of betas, and got float"),
    "f_divergence": (
        lambda: tg.f_divergence(model, guide, X, f=jnp.square, log_z="z"),
        "log_z must be a finite number",
    ),
    "rebar": (lambda: tg.rebar(lambda b: b, scale=float("inf")), "scale must be a finite number"),
    "reinforce": (lambda: tg.reinforce("x"), "baseline must be a number or an array, and is 'x'"),
    "reinforce, nan": (lambda: tg.reinforce(float("nan")), "baseline must be a number or an array"),
    "smc": (lambda: tg.smc(2, ess_threshold="half"), "ess_threshold must be a share of n between 0 and 1"),
    "smc, nan": (lambda: tg.smc(2, ess_threshold=float("nan")), "between 0 and 1"),
    "nuts": (lambda: tg.nuts(target, key=KEY, target_acceptance=80), "a rate between 0 and 1, and is 80"),
    "MovingAverage": (lambda: tg.MovingAverage("slow"), "decay must be at least 0 and below 1, and is 'slow'"),
    "in_axes": (lambda: guide.vmap(in_axes=1.5), "in_axes must be an int, and is 1.5"),
}
FLAGS = {
    "has_aux": lambda flag: tg.expectation(cost, has_aux=flag),
    "credit": lambda flag: tg.expectation(cost, credit=flag),
    "reverse": lambda flag: step.scan(2, reverse=flag),
    "reparam": lambda flag: tg.reparam(continuous=flag),
    "rsvi": lambda flag: tg.rsvi(continuous=flag),
    "relax": lambda flag: tg.relax(jnp.sum, continuous=flag),
    "rebar": lambda flag: tg.rebar(jnp.sum, continuous=flag),
}
NAMES = {
    "resampling": (lambda name: tg.smc(2, resampling=name), "resampling is 'multinomial' or 'systematic', and got"),
    "resampling of a bound": (
        lambda name: tg.smc_bound(step.scan(2), None, {}, n=2, resampling=name),
        "resampling is 'multinomial' or 'systematic', and got",
    ),
    "mean": (lambda name: tg.vimco(model, guide, X, n=2, mean=name), "mean is 'geometric' or 'arithmetic', and got"),
}


@pytest.mark.parametrize(("run", "match"), NUMBERS.values(), ids=NUMBERS)
def test_numbers_out_of_range(run, match):
    refused(run, match)


@pytest.mark.parametrize("make", FLAGS.values(), ids=FLAGS)
def test_flags_are_true_or_false(make):
    for flag in (True, False, np.True_):
        make(flag)
    for flag in ("no", 1, 0.0, None, jnp.array(True)):
        refused(lambda flag=flag: make(flag), "must be True or False, and is")


@pytest.mark.parametrize(("make", "match"), NAMES.values(), ids=NAMES)
def test_one_of_several_names(make, match):
    for name in ("best", 3, None, []):
        refused(lambda name=name: make(name), match)


# ---- branches -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [-1, 2, 7, np.int64(7), np.array(-1), jnp.array(2), jnp.array([0, 3])])
def test_the_number_of_no_branch(index):
    refused(lambda: tg.switch(index, model, model), "switch takes the number of one of its 2 branches, 0 to 1, and got")


def test_a_traced_number_is_clamped_as_jax_clamps_it():
    branches = [tg.gen(lambda i=i: tg.sample("b", dist.Delta(float(i)))) for i in range(2)]
    run = jax.jit(lambda i: tg.switch(i, *branches).simulate(KEY).retval)
    assert [float(run(i)) for i in (-1, 0, 1, 7)] == [0.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize("predicate", ["yes", None, [True], model])
def test_what_is_no_predicate(predicate):
    refused(
        lambda: tg.cond(predicate, model, model),
        r"cond takes a predicate, one boolean \(or an integer 0 or 1\), and got",
    )


# ---- programs -------------------------------------------------------------------------------------------------------


def generator():
    yield tg.sample("x", dist.Normal(0.0, 1.0))


async def coroutine():
    return tg.sample("x", dist.Normal(0.0, 1.0))


async def stream():
    yield tg.sample("x", dist.Normal(0.0, 1.0))


class Calls:
    def __call__(self):
        yield 1

    def method(self):
        yield 1


def wrapped(*args):
    return generator()


SUSPENDED = {
    "generator": (generator, "the generator function generator.*`return`"),
    "coroutine": (coroutine, "the async function coroutine.*`def`"),
    "stream": (stream, "the generator function stream"),
    "partial": (functools.partial(generator), "the generator function"),
    "method": (Calls().method, "the generator function method"),
    "object": (Calls(), "the generator function"),
    "class": (dist.Normal, "the class Normal"),
    "type": (float, "the class float"),
    "none": (None, "NoneType"),
}


@pytest.mark.parametrize(("function", "match"), SUSPENDED.values(), ids=SUSPENDED)
def test_functions_that_do_not_run_when_they_are_called(function, match):
    with pytest.raises(tg.AddressError, match=f"gen takes .*{match}"):
        tg.gen(function)
    # An `expectation` of None is a decorator that waits for its function.
    for make in (tg.expectation, lambda f: tg.leave_one_out(f, 2), tg.exact_expectation)[function is None :]:
        with pytest.raises(tg.ObjectiveError, match=match):
            make(function)


def test_functions_whose_calls_turn_out_not_to_have_run():
    with pytest.raises(tg.AddressError, match="wrapped returned a generator, so nothing in it has run"):
        tg.gen(wrapped).simulate(KEY)
    started = coroutine()
    with pytest.raises(tg.AddressError, match="returned a coroutine"):
        tg.gen(lambda: started).simulate(KEY)
    started.close()
    assert not asyncio.iscoroutinefunction(wrapped)


def test_a_call_that_is_returned_and_not_sampled():
    with pytest.raises(tg.AddressError, match=r"returned <lambda>\(...\), which it did not sample. .*return sample\("):
        tg.gen(lambda: guide(1.0)).simulate(KEY)


def test_gen_of_a_generative_function_is_that_function():
    for same in (model, model.repeat(2), model.with_estimators({"z": tg.reinforce()}), tg.cond(True, model, model)):
        assert tg.gen(same) is same
    assert sorted(tg.gen(tg.gen(tg.gen(model))).simulate(KEY).choices) == ["x", "z"]


def test_gen_above_a_static_method():
    with pytest.raises(tg.AddressError, match="a staticmethod. Write `@staticmethod` above `@gen`"):
        tg.gen(staticmethod(lambda: 1.0))
    with pytest.raises(tg.AddressError, match="a classmethod. Write `@classmethod` above `@gen`"):
        tg.gen(classmethod(lambda cls: 1.0))

    class Holder:
        @staticmethod
        @tg.gen
        def draw(m):
            return tg.sample("z", dist.Normal(m, 1.0))

    assert sorted(Holder().draw.simulate(KEY, 0.0).choices) == ["z"]
    assert sorted(Holder.draw.simulate(KEY, 0.0).choices) == ["z"]


def test_functions_that_are_programs_after_all():
    partial = tg.gen(functools.partial(lambda a, m: tg.sample("z", dist.Normal(m, a)), 2.0))
    assert sorted(partial.simulate(KEY, 0.0).choices) == ["z"]
    assert tg.gen(jax.jit(lambda x: x + 1.0)).simulate(KEY, 1.0).retval == 2.0
    assert tg.gen(jnp.sum).simulate(KEY, jnp.ones(2)).retval == 2.0


@pytest.mark.parametrize("wrong", [3, None, lambda: 1.0, "model", tg.dist.Normal(0.0, 1.0), cost, model()])
def test_what_is_no_generative_function(wrong):
    name, hint = type(wrong).__name__, "Pass `f`, not" if isinstance(wrong, type(model())) else r"Write `gen\(f\)`"
    match = f"takes a generative function.*, and got {name}. {hint}"
    for make in OBJECTIVES.values():
        refused(lambda make=make: make(wrong, guide, X), match)
        refused(lambda make=make: make(model, wrong, X), match)
    refused(lambda: tg.Target(wrong), match)
    refused(lambda: tg.marginal(wrong, "x", tg.exact()), match)
    refused(lambda: tg.sir(2, wrong), match)
    refused(lambda: tg.sleep(wrong, guide, "x"), match)
    refused(lambda: tg.sleep(model, wrong, "x"), match)
    refused(lambda: tg.mmd(wrong, SAMPLES), match)
    refused(lambda: tg.smc_bound(wrong, None, {}, n=2), match)
    refused(lambda: tg.smc_wake_phi(step.scan(2), wrong, {}, n=2), match)
    refused(lambda: tg.nested_vi([abs], [wrong], [], n=2), match)
    refused(lambda: tg.switch(0, model, wrong), f"switch takes generative functions, and got {name}")
    refused(lambda: tg.cond(True, wrong, model), f"cond takes generative functions, and got {name}")
    if wrong is not None:
        refused(lambda: tg.importance(2, wrong), match)
        refused(lambda: tg.smc(2, wrong), match)
        refused(lambda: tg.importance_sampling(target, wrong, key=KEY), match)
        refused(lambda: tg.smc_bound(step.scan(2), wrong, {}, n=2), match)


TARGETED = {
    "normalize": lambda t: tg.normalize(t, tg.exact()),
    "importance_sampling": lambda t: tg.importance_sampling(t, key=KEY),
    "nuts": lambda t: tg.nuts(t, key=KEY),
    "to_unconstrained": tg.to_unconstrained,
    "mean_field": tg.auto.mean_field,
    "delta": tg.auto.delta,
    "laplace": tg.auto.laplace,
    "flow": tg.auto.flow,
}


@pytest.mark.parametrize("make", TARGETED.values(), ids=TARGETED)
def test_what_is_no_target(make):
    for wrong in (model, 3, None):
        refused(lambda wrong=wrong: make(wrong), rf"takes a Target, and got {type(wrong).__name__}. Write `Target\(")


@pytest.mark.parametrize("make", OBJECTIVES.values(), ids=OBJECTIVES)
def test_what_is_no_dict_of_observations(make):
    for wrong in (None, 3.0, ["x"], "x"):
        refused(lambda wrong=wrong: make(model, guide, wrong), f"`observed` is a dict .*got {type(wrong).__name__}")


OBJECTIVE_USERS = {
    "expectation": tg.expectation,
    "leave_one_out": lambda f: tg.leave_one_out(f, 2),
    "exact_expectation": tg.exact_expectation,
    "with_estimators": lambda f: tg.with_estimators(f, {"z": tg.mvd()}),
    "describe_estimators": lambda f: tg.describe_estimators(f, KEY),
    "check_unbiased": lambda f: tg.check_unbiased(f, key=KEY),
    "compare_estimators": lambda f: tg.compare_estimators(f, key=KEY, sites={}),
    "control_loss": lambda f: tg.control_loss(f, 1.0, 1.0),
}


@pytest.mark.parametrize("make", OBJECTIVE_USERS.values(), ids=OBJECTIVE_USERS)
def test_a_generative_function_where_an_objective_is_due(make):
    for wrong in (guide, model(), model.repeat(2)):
        with pytest.raises(tg.ObjectiveError, match=r"\(key, \*args\), and got .*simulate\(key, \*args\).retval"):
            make(wrong)
    with pytest.raises(tg.ObjectiveError, match=r"a function f\(key, \*args\), and got int"):
        make(3)


LISTS = {
    "lengths": (lambda: tg.nested_vi([abs, abs], [guide], [], n=2), "need K forward kernels and K - 1 reverse ones"),
    "densities": (lambda: tg.nested_vi(3, [guide], [], n=2), "takes a list of log densities, and got int"),
    "a number for a density": (lambda: tg.nested_vi([3], [guide], [], n=2), "a function of choices, and got int"),
    "forwards": (lambda: tg.nested_vi([abs], guide, [], n=2), "takes a list of forward kernels, and got Function"),
    "reverses": (lambda: tg.nested_vi([abs], [guide], None, n=2), "takes a list of reverse kernels, and got NoneType"),
    "none": (lambda: tg.nested_vi([], [], [], n=2), "need K forward"),
    "f": (lambda: tg.f_divergence(model, guide, X, f=3), "f_divergence takes as f a function of the ratio, and got"),
    "kernel": (lambda: tg.mmd(guide, SAMPLES, kernel=3), "mmd takes as kernel a function of the squared distance"),
    "flow": (lambda: tg.auto.flow(target, 3), "flow takes a function make"),
    "control": (lambda: tg.relax(3), "takes a function of the relaxed draw, and got int"),
    "samples": (lambda: tg.mmd(guide, jnp.zeros(3)), "`samples` is a dict"),
    "one sample": (lambda: tg.mmd(guide, {"z": jnp.zeros(1)}), "at least 2, and are 'z'"),
    "samples of two lengths": (lambda: tg.mmd(guide, {"z": jnp.zeros(2), "w": jnp.zeros(3)}), "one leading axis"),
    "no samples": (lambda: tg.energy_distance(guide, {}), "and are none"),
    "estimators": (lambda: model.with_estimators([tg.mvd()]), "takes a dict from address patterns"),
    "estimators of an objective": (lambda: tg.with_estimators(cost, tg.mvd()), "takes a dict from address patterns"),
    "sites": (lambda: tg.compare_estimators(cost, 0.3, key=KEY, sites=["b"]), "`sites` is a dict"),
    "one estimator": (lambda: tg.compare_estimators(cost, 0.3, key=KEY, sites={"b": tg.mvd()}), "takes a list"),
    "no estimators": (lambda: tg.compare_estimators(cost, 0.3, key=KEY, sites={"b": []}), "no estimator to try at 'b'"),
    "around": (lambda: tg.auto.mean_field(target, around=3), "`around` is a dict"),
    "init": (lambda: tg.nuts(target, key=KEY, init=jnp.zeros(4)), "`init` is a dict"),
    "algorithm": (lambda: tg.normalize(target, tg.importance), "takes an algorithm like"),
    "merge": (lambda: tg.merge({}, 3), "merge takes dicts of choices, and got int"),
}


@pytest.mark.parametrize(("run", "match"), LISTS.values(), ids=LISTS)
def test_lists_functions_and_dicts(run, match):
    refused(run, match)


def test_what_is_no_estimator_at_a_draw():
    from tracegrad import transforms

    refused(lambda: transforms.sample(KEY, dist.Normal(0.0, 1.0), estimator="mvd"), "takes an estimator like `mvd")
