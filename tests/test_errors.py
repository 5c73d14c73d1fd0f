"""Errors that teach: each says where, what came, what was expected, and what to write instead."""

import re

import jax
import jax.numpy as jnp
import numpyro
import pytest

import tracegrad as tg
from tracegrad import dist

KEY = jax.random.key(0)

normal = tg.gen(lambda: tg.sample("x", dist.Normal(0.0, 1.0)))
shifted = tg.gen(lambda m: tg.sample("x", dist.Normal(m, 1.0)))
coin = tg.gen(lambda p: tg.sample("c", dist.Bernoulli(p)))
count = tg.gen(lambda: tg.sample("n", dist.Poisson(2.0)))


def at(address, what, **options):
    return tg.gen(lambda: tg.sample(address, what, **options))


def refused(error, *texts):
    """Expect a TracegradError whose text says all of these, in this order."""
    assert issubclass(error, tg.TracegradError)
    return pytest.raises(error, match="(?s)" + ".*".join(map(re.escape, texts)))


# ---- addresses ------------------------------------------------------------------------------------------------------


@tg.gen
def twice():
    tg.sample("x", dist.Normal(0.0, 1.0))
    tg.sample("x", dist.Normal(0.0, 1.0))


@tg.gen
def two_calls():
    tg.sample("x", normal())
    tg.sample("x", normal())


@tg.gen
def spliced():
    tg.sample("x", dist.Normal(0.0, 1.0))
    normal.inline()


@pytest.mark.parametrize("program", [twice, two_calls, spliced], ids=["sites", "calls", "inlined"])
def test_duplicate_address(program):
    with refused(tg.AddressError, "'x' is sampled twice in", program.name, ".vmap()", ".scan()", ".repeat(n)"):
        program.simulate(KEY)


def test_duplicate_address_in_a_nested_call_is_named_by_its_path():
    with refused(tg.AddressError, "'sub/x' is sampled twice in twice"):
        at("sub", twice()).simulate(KEY)


def test_missing_choice_in_assess():
    with refused(tg.AddressError, "assess: the choice at 'x' is missing (a Normal)", "generate"):
        normal.assess({})
    with refused(tg.AddressError, "'sub/x' is missing"):
        at("sub", normal()).assess({"sub": {}})
    with refused(tg.AddressError, "'x' is missing"):
        normal.repeat(3).assess({})


@pytest.mark.parametrize("operation", ["assess", "generate", "update"])
def test_choice_for_a_site_that_does_not_exist(operation):
    given = {"x": 0.0, "y": 1.0}
    with refused(tg.AddressError, "there is no sample at 'y'. It samples at: 'x'. Remove the address, or spell it"):
        match operation:
            case "assess":
                normal.assess(given)
            case "generate":
                normal.generate(KEY, given)
            case "update":
                normal.update(KEY, normal.simulate(KEY), given)


def test_choice_for_a_nested_site_that_does_not_exist():
    with refused(tg.AddressError, "no sample at 'sub/y'. It samples at: 'sub/x'"):
        at("sub", normal()).generate(KEY, {"sub": {"y": 1.0}})


@pytest.mark.parametrize("address", ["", "a/b", 3, ("a", "b"), None])
def test_what_is_not_an_address(address):
    with refused(tg.AddressError, "a non-empty string without '/'", repr(address)):
        at(address, dist.Normal(0.0, 1.0)).simulate(KEY)


def test_what_cannot_be_sampled():
    with refused(tg.AddressError, "'x'", "takes a distribution", "`log_prob(value)`", "and got float"):
        at("x", 1.0).simulate(KEY)
    with refused(tg.AddressError, "is sampled with its arguments: write sample('x', <lambda>(...))"):
        at("x", normal).simulate(KEY)
    with refused(tg.AddressError, "gen takes a function, and got int"):
        tg.gen(3)


def test_choices_that_are_not_a_dict():
    with refused(tg.AddressError, "must be a dict from addresses to values, and got float. Write {'z': value}"):
        normal.assess(1.0)


def test_merging_the_same_address():
    with refused(tg.AddressError, "both hold the address 'x'. Remove it from one"):
        tg.merge({"a": {"x": 1.0}}, {"a": {"x": 2.0}})


@pytest.mark.parametrize("pattern", ["", "a//b", 3, ("a", 3), ()])
def test_what_is_not_a_pattern(pattern):
    with refused(tg.AddressError, "a string like 'a/b' or a tuple of strings", repr(pattern)):
        tg.select(pattern)


# ---- values ---------------------------------------------------------------------------------------------------------


def test_wrong_shape():
    text = ("'x' (a Normal) has the wrong shape: expected [], got [2]", "batch shape followed by its event shape")
    with refused(tg.ChoiceError, *text):
        normal.assess({"x": jnp.zeros(2)})
    with refused(tg.ChoiceError, "(a Independent) has the wrong shape: expected [3], got []"):
        at("x", dist.Normal(jnp.zeros(3), 1.0).to_event(1)).generate(KEY, {"x": 0.0})


def test_wrong_dtype():
    with refused(tg.ChoiceError, "'n' (a Poisson) has the wrong type: expected int32, got float32", ".astype(int)"):
        count.assess({"n": 1.0})
    with refused(tg.ChoiceError, "'x' (a Normal) has the wrong type: expected float32, got complex64"):
        normal.assess({"x": 1j})
    with refused(tg.ChoiceError, "'x' (a Normal) has the wrong type: expected float32[], got str"):
        normal.assess({"x": "one"})


def test_a_dict_where_a_value_is_due_and_a_value_where_a_dict_is_due():
    with refused(tg.ChoiceError, "'x' (a Normal) is one value, and got nested choices ['y']. Give an array"):
        normal.assess({"x": {"y": 1.0}})
    with refused(tg.ChoiceError, "'x' is that of a generative function", "a dict of its addresses, and got float"):
        at("x", normal()).assess({"x": 1.0})


def test_stacked_choices_of_the_wrong_length():
    step = tg.gen(lambda c, _: (c, tg.sample("z", dist.Normal(0.0, 1.0))))
    text = ("is stacked over 3 lanes or steps, so its leading axis must be 3; got the shape [2]",)
    with refused(tg.ChoiceError, "'x'", *text):
        normal.repeat(3).assess({"x": jnp.zeros(2)})
    with refused(tg.ChoiceError, "'s/x'", *text):
        at("s", shifted.vmap()(jnp.zeros(3))).assess({"s": {"x": jnp.zeros(2)}})
    with refused(tg.ChoiceError, "'z'", *text):
        step.scan(3).assess({"z": [0.0, 0.0]}, 0.0)
    with refused(tg.ChoiceError, "got the shape []"):
        normal.repeat(3).assess({"x": 0.0})


def test_a_given_value_outside_the_support():
    with refused(tg.ChoiceError, "'c' (a BernoulliProbs) is outside the support: expected Boolean(), got 2."):
        at("c", dist.Bernoulli(0.5, validate_args=True)).assess({"c": 2})
    beta = dist.Beta(jnp.ones(2), 1.0, validate_args=True).to_event(1)
    with refused(tg.ChoiceError, "outside the support", "UnitInterval", "got [0.5 1.5]", "validate_args=False"):
        at("b", beta).generate(KEY, {"b": jnp.array([0.5, 1.5])})
    # Validation switched off, the value is taken as it is.
    at("c", dist.Bernoulli(0.5, validate_args=False)).assess({"c": 2})


def test_a_given_value_outside_the_support_inside_jit_is_impossible():
    program = at("b", dist.Beta(2.0, 1.0, validate_args=True))
    assert jax.jit(lambda b: program.assess({"b": b})[0])(1.5) == -jnp.inf


def test_a_parameter_outside_its_constraint_is_refused_where_the_distribution_is_built():
    with pytest.raises(ValueError, match="BernoulliProbs distribution got invalid probs parameter"):
        tg.gen(lambda p: tg.sample("c", dist.Bernoulli(p, validate_args=True))).simulate(KEY, 1.5)
    with numpyro.validation_enabled(), pytest.raises(ValueError, match="Normal distribution got invalid scale"):
        tg.gen(lambda s: tg.sample("x", dist.Normal(0.0, s))).simulate(KEY, -1.0)


# ---- where samples may be -------------------------------------------------------------------------------------------


def test_sampling_outside_a_generative_function():
    with refused(tg.AddressError, "sample('x', ...) was called outside", "Decorate", "`gen`", "`simulate`"):
        tg.sample("x", dist.Normal(0.0, 1.0))
    with refused(tg.AddressError, "inline(...) was called outside a generative function"):
        normal.inline()


RAW = {
    "jit": lambda f: jax.jit(f)(0.5),
    "vmap": lambda f: jax.vmap(f)(jnp.full(2, 0.5)),
    "grad": lambda f: jax.grad(lambda x: f(x) * 1.0)(0.5),
    "scan": lambda f: jax.lax.scan(lambda c, x: (c, f(x)), 0.0, jnp.full(2, 0.5)),
    "cond": lambda f: jax.lax.cond(True, f, f, 0.5),
    "checkpoint": lambda f: jax.checkpoint(f)(0.5),
}


@pytest.mark.parametrize("raw", RAW.values(), ids=RAW)
@pytest.mark.parametrize("operation", ["simulate", "assess"])
def test_a_sample_inside_a_raw_transformation_of_the_body(raw, operation):
    program = tg.gen(lambda: raw(lambda x: tg.sample("x", dist.Normal(x, 1.0))))
    text = ("sample('x', ...)", "inside a JAX transformation", "step.scan()", "point.vmap()", "cond(p, f, g)(x)")
    with refused(tg.AddressError, *text):
        program.simulate(KEY) if operation == "simulate" else program.assess({"x": 0.0})


def test_vmap_over_a_sample_with_an_unmapped_key():
    with refused(tg.RandomKeyError, "'x'", "maps its parameters but not its key", "jax.random.split(key, n)"):
        jax.vmap(lambda m: shifted.simulate(KEY, m).retval)(jnp.zeros(2))
    objective = tg.expectation(lambda key, m: shifted.simulate(key, m).retval)
    with refused(tg.RandomKeyError, "An `expectation` is under a `vmap`", "not its key", "jax.random.split(key"):
        jax.vmap(lambda m: objective(KEY, m))(jnp.zeros(2))


def test_grad_through_a_sample_outside_expectation():
    text = ("'c' (estimator: reinforce())", "outside `expectation`", "biased", "expectation(f)")
    with refused(tg.BiasedGradientError, *text):
        jax.grad(lambda p: coin.simulate(KEY, p).logp)(0.5)


@pytest.mark.parametrize("key", [jax.random.PRNGKey(0), 0, None], ids=["PRNGKey", "int", "None"])
def test_what_is_not_a_typed_key(key):
    with refused(tg.RandomKeyError, "needs one typed random key, and got", "jax.random.key(seed)", "not `PRNGKey`"):
        normal.simulate(key)
    with refused(tg.RandomKeyError, "expectation", "needs one typed random key"):
        tg.expectation(lambda key: normal.simulate(key).retval)(key)


@pytest.mark.parametrize("operation", ["simulate", "generate", "propose"])
def test_a_batch_of_keys(operation):
    keys = jax.random.split(KEY, 2)
    args = (keys, {}) if operation == "generate" else (keys,)
    with refused(
        tg.RandomKeyError, operation.replace("propose", "simulate"), "[2]", "`jax.vmap` over an array of keys"
    ):
        getattr(normal, operation)(*args)


# ---- objectives and estimators --------------------------------------------------------------------------------------


def test_an_objective_that_is_not_float():
    objective = tg.expectation(lambda key: coin.simulate(key, 0.5).retval)
    with refused(tg.ObjectiveError, "has type int32[]", "`.astype(float)`", "has_aux=True"):
        objective(KEY)
    with refused(tg.ObjectiveError, "at [1]", "int32"):
        tg.expectation(lambda key: (1.0, coin.simulate(key, 0.5).retval))(KEY)


def test_enum_on_an_infinite_support():
    with refused(tg.EstimatorError, "enum() at 'x': Normal has no finite support", "`reparam()` or `reinforce()`"):
        at("x", dist.Normal(0.0, 1.0), estimator=tg.enum()).simulate(KEY)
    with refused(tg.EstimatorError, "enum() at 'n': Poisson"):
        count.with_estimators({"n": tg.enum()}).simulate(KEY)
    with refused(tg.EstimatorError, "local_expectation() at 'n': Poisson"):
        count.with_estimators({"n": tg.local_expectation()}).simulate(KEY)


def test_an_estimator_that_the_distribution_has_not():
    with refused(tg.EstimatorError, "mvd() at 'x': StudentT has no measure-valued derivative", "`reinforce()`"):
        at("x", dist.StudentT(3.0), estimator=tg.mvd()).simulate(KEY)
    with refused(tg.EstimatorError, "reparam() at 'c': BernoulliProbs has no reparameterised sampler", "`reinforce()`"):
        coin.with_estimators({"c": tg.reparam()}).simulate(KEY, 0.5)


def _enum_in_scan(key, p):
    step = tg.gen(lambda c, _: (c + tg.sample("z", dist.Bernoulli(p), estimator=tg.enum()), None))
    return step.scan(3).simulate(key, jnp.array(0)).retval[0].astype(float)


def _enum_in_vmap(key, p):
    plate = tg.gen(lambda: tg.sample("z", dist.Bernoulli(p), estimator=tg.enum())).repeat(3)
    return plate.simulate(key).retval.sum().astype(float)


@pytest.mark.parametrize(("objective", "place"), [(_enum_in_scan, "inside a loop"), (_enum_in_vmap, "under `vmap`")])
def test_enum_in_a_loop_names_the_two_ways_out(objective, place):
    ways = ("Two ways out", "`estimator=local_expectation()`", "marginalise", "logsumexp")
    with refused(tg.EstimatorError, "enum() at 'z' is", place, *ways):
        jax.grad(tg.expectation(objective), argnums=1)(KEY, 0.3)


def test_a_pattern_that_matches_no_sample():
    with refused(tg.AddressError, "with_estimators", "'q' matches no sample. It samples at: 'c'. Spell the pattern"):
        coin.with_estimators({"q": tg.mvd()}).simulate(KEY, 0.5)
    nested = at("sub", coin(0.5)).with_estimators({"c": tg.mvd()})
    with refused(tg.AddressError, "'c' matches no sample. It samples at: 'sub/c'"):
        nested.simulate(KEY)
    with refused(tg.AddressError, "'c' matches no sample"):
        nested.assess({"sub": {"c": 1}})


@pytest.mark.parametrize("wrong", ["mvd", tg.mvd, None])
def test_what_is_not_an_estimator(wrong):
    with refused(tg.EstimatorError, "'c' must be given an estimator like `mvd()`, and got"):
        coin.with_estimators({"c": wrong})
    if wrong is not None:
        with refused(tg.EstimatorError, "sample('x', ...)", "one like `mvd()`, and got", repr(wrong)):
            at("x", dist.Normal(0.0, 1.0), estimator=wrong).simulate(KEY)


def test_an_estimator_for_a_call():
    with refused(tg.EstimatorError, "belongs to a distribution", "`f.with_estimators({...})`"):
        at("x", normal(), estimator=tg.reinforce()).simulate(KEY)


# ---- combinators ----------------------------------------------------------------------------------------------------


def test_a_step_that_does_not_return_a_pair():
    with refused(tg.ChoiceError, "scan at 's'", "pair (carry, output)", "returned one value", "`return carry, None`"):
        at("s", tg.gen(lambda c, x: c).scan(3)(0.0)).simulate(KEY)
    with refused(tg.ChoiceError, "scan at the outermost level", "returned a tuple of 3"):
        tg.gen(lambda c, x: (c, c, c)).scan(3).simulate(KEY, 0.0)


def test_a_step_that_changes_the_type_of_the_carry():
    grow = tg.gen(lambda c, x: (tg.sample("z", dist.Normal(jnp.zeros(2), 1.0)), None))
    with refused(tg.ChoiceError, "scan at 's'", "comes in as float32[] and goes out as float32[2]", "Return a carry"):
        at("s", grow.scan(3)(0.0)).simulate(KEY)
    with refused(tg.ChoiceError, "comes in as float32[] and goes out as (float32[], float32[])"):
        tg.gen(lambda c, x: ((c, c), None)).scan(3).simulate(KEY, 0.0)


def test_a_scan_without_one_length():
    step = tg.gen(lambda c, x: (c, None))
    with refused(tg.ChoiceError, "one length, from `length` or the leading axis of xs, and got none"):
        step.scan().simulate(KEY, 0.0)
    with refused(tg.ChoiceError, "one length", "[2, 3]"):
        step.scan(2).simulate(KEY, 0.0, jnp.zeros(3))
    with refused(tg.ChoiceError, "xs holds a scalar"):
        step.scan(2).simulate(KEY, 0.0, 1.0)
    with refused(tg.ChoiceError, "takes (init, xs), and got 3 arguments"):
        step.scan(2).simulate(KEY, 0.0, jnp.zeros(2), 1.0)


def test_a_vmap_without_one_size():
    with refused(
        tg.ChoiceError, "vmap at 'v' needs mapped arguments of one size, and got no mapped argument", "repeat"
    ):
        at("v", shifted.vmap(in_axes=None)(0.0)).simulate(KEY)
    two = tg.gen(lambda a, b: None)
    with refused(tg.ChoiceError, "of one size, and got 2 (argument 0), 3 (argument 1)"):
        two.vmap().simulate(KEY, jnp.zeros(2), jnp.zeros(3))
    with refused(tg.ChoiceError, "in_axes has 1 entries for 2 arguments"):
        two.vmap(in_axes=(0,)).simulate(KEY, jnp.zeros(2), jnp.zeros(2))
    with refused(tg.ChoiceError, "argument 1 is mapped along axis 0, and has a leaf without it, 1.0. Write None"):
        two.vmap().simulate(KEY, jnp.zeros(2), 1.0)


def test_branches_whose_shared_address_differs():
    flag = tg.gen(lambda: [tg.sample("x", dist.Bernoulli(0.5))] and None)
    real = tg.gen(lambda: [tg.sample("x", dist.Normal(0.0, 1.0))] and None)
    with refused(tg.AddressError, "branches at 'b' share the address 'x'", "float32[] and int32[]", "Rename"):
        at("b", tg.cond(True, flag, real)()).simulate(KEY)


def test_branches_that_call_at_an_address_where_another_draws():
    calls = tg.gen(lambda: tg.sample("x", tg.gen(lambda: tg.sample("y", dist.Normal(0.0, 1.0)))()))
    for branches in ((calls, normal), (normal, calls)):
        with refused(tg.AddressError, "branches at 'b' share the address 'x', which is one value", "'x/y'", "Rename"):
            at("b", tg.cond(True, *branches)()).simulate(KEY)


def test_branches_whose_return_values_differ():
    pair = tg.gen(lambda: (tg.sample("x", dist.Normal(0.0, 1.0)), 1.0))
    text = ("branches at 'b' return different values: branch 0 (float32[], float32[]), branch 1 float32[]", "the same")
    with refused(tg.ChoiceError, *text):
        at("b", tg.cond(True, normal, pair)()).simulate(KEY)
    vector = tg.gen(lambda: tg.sample("y", dist.Normal(jnp.zeros(2), 1.0)))
    with refused(tg.ChoiceError, "branches at 'b' return different values", "float32[2]"):
        at("b", tg.switch(0, normal, vector)()).simulate(KEY)


def test_what_cannot_choose_a_branch():
    with refused(tg.ChoiceError, "'b' is chosen by one integer", "got float32[]"):
        at("b", tg.switch(1.0, normal, normal)()).simulate(KEY)
    with refused(tg.ChoiceError, "one boolean", "got int32[2]", "inside a `vmap`"):
        at("b", tg.cond(jnp.array([True, False]), normal, normal)()).simulate(KEY)
    with refused(tg.AddressError, "cond takes generative functions, and got Call", "cond(p, f, g)(args)"):
        tg.cond(True, normal(), normal)
    with refused(tg.AddressError, "switch takes generative functions, and got none"):
        tg.switch(0)


def test_update_through_branches_of_different_addresses():
    other = tg.gen(lambda: tg.sample("y", dist.Normal(0.0, 1.0)))
    program = tg.gen(lambda p: tg.sample("b", tg.cond(p, normal, other)()))
    with refused(tg.AddressError, "update and regenerate at 'b'", "different addresses", "simulate anew"):
        program.update(KEY, program.simulate(KEY, True), {}, False)


def test_a_mask_or_a_number_of_copies_that_is_none():
    with refused(tg.ChoiceError, "mask at 'm' takes one flag", "got the shape [2]", "f.mask().vmap()(flags, xs)"):
        at("m", normal.mask()(jnp.array([True, False]))).simulate(KEY)
    with refused(tg.AddressError, "the number of copies", "at least 0", "is -1"):
        normal.repeat(-1)


@pytest.mark.parametrize("combined", [normal.repeat(2), shifted.vmap(), normal.mask(), tg.cond(True, normal, normal)])
def test_combinators_take_positional_arguments_only(combined):
    with refused(tg.AddressError, "positional arguments only, and got ['m']"):
        combined.simulate(KEY, m=1.0)


# ---- what `expectation` is given ------------------------------------------------------------------------------------


def test_expectation_refuses_what_is_no_program():
    with pytest.raises(tg.ObjectiveError, match=r"takes a function f\(key, \*args\), and got int"):
        tg.expectation(3)
    for name in ("chunk_size", "forks"):
        with pytest.raises(tg.ObjectiveError, match=rf"expectation: {name} must be a positive int, and is 0"):
            tg.expectation(lambda key: 1.0, **{name: 0})


def test_expectation_refuses_outputs_that_are_no_objective():
    with pytest.raises(tg.ObjectiveError, match=r"must return a pair \(objective, auxiliary\)"):
        tg.expectation(lambda key: jnp.ones(()), has_aux=True)(jax.random.key(0))
    with pytest.raises(tg.ObjectiveError, match="The objective returned nothing"):
        tg.expectation(lambda key: None)(jax.random.key(0))


def test_an_integer_auxiliary_cannot_be_averaged_over_an_enumerated_site():
    flip = tg.gen(lambda: tg.sample("b", tg.dist.Bernoulli(0.5), estimator=tg.enum()))

    @tg.expectation(has_aux=True)
    def program(key):
        b = flip.simulate(key).retval
        return b.astype(float), b

    with pytest.raises(tg.ObjectiveError, match=r"auxiliary output of type int32 depends on a site under enum\(\)"):
        program(jax.random.key(0))


def test_a_guide_of_other_addresses_is_told_from_a_model_of_other_addresses():
    model = tg.gen(lambda: tg.sample("x", dist.Normal(tg.sample("z", dist.Normal(0.0, 1.0)), 1.0)))
    other = tg.gen(lambda: tg.sample("zz", dist.Normal(0.0, 1.0)))
    none = tg.gen(lambda: None)

    @tg.gen
    def more():
        return tg.sample("z", dist.Normal(tg.sample("a", dist.Normal(0.0, 1.0)), 1.0))

    for guide, words in (
        (other, "samples at 'zz', and the latents of the target are 'z'.*Spell the addresses alike"),
        (none, "samples at none, .*Sample 'z' there too, or observe it"),
        (more, "more samples at 'a', 'z', .*'a' is an auxiliary variable.*marginal\\(more, latents, importance"),
    ):
        for objective in (tg.elbo(model, guide, {"x": 1.0}), tg.wake_phi(model, guide, {"x": 1.0}, n=2)):
            with pytest.raises(tg.AddressError, match=words):
                objective(jax.random.key(0))


def test_a_draw_that_python_asks_for_names_what_to_write():
    @tg.gen
    def model():
        if tg.sample("b", dist.Bernoulli(0.5)):
            return 1.0
        return 2.0

    assert model.simulate(jax.random.key(0)).retval in (1.0, 2.0)
    with pytest.raises(tg.ChoiceError, match="model: the value of a draw .*cond\\(p, f, g\\)"):
        jax.jit(lambda key: model.simulate(key).retval)(jax.random.key(0))
