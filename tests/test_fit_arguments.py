"""What `fit` takes and what it refuses: each argument, each with its text, before or as the objective is traced."""

import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp

import tracegrad as tg
from tracegrad import dist

KEY = jax.random.key(2)
DATA = jnp.arange(10.0)
coin = tg.gen(lambda p: tg.sample("heads", dist.Bernoulli(p)))


def square(key, x):
    return x**2


def over_batches(key, x, batch):
    return jnp.mean((x - batch) ** 2)


def run(objective=square, params=1.0, optimizer=None, **options):
    optimizer = optax.sgd(0.1) if optimizer is None else optimizer
    return tg.fit(objective, params, optimizer, **{"key": KEY, "steps": 2, "progress": False, **options})


def on_data(objective=over_batches, **options):
    return run(objective, **{"data": DATA, **options})


REFUSED = {
    "no step": (lambda: run(steps=0), "steps must be a positive int, and is 0"),
    "steps of None": (lambda: run(steps=None), "steps must be a positive int, and is None"),
    "steps of a truth": (lambda: run(steps=True), "steps must be a positive int, and is True"),
    "steps of a float": (lambda: run(steps=2.0), "steps must be a positive int, and is 2.0"),
    "steps of an array": (lambda: run(steps=np.ones(2, int)), "steps must be a positive int, and is array"),
    "more steps than keys": (lambda: run(steps=10**12), "must be at most 4294967296, the number of keys"),
    "batch_size 0": (lambda: on_data(batch_size=0), "batch_size must be a positive int, and is 0"),
    "batch_size below 0": (lambda: on_data(batch_size=-1), "batch_size must be a positive int, and is -1"),
    "batch_size 2.0": (lambda: on_data(batch_size=2.0), "batch_size must be a positive int, and is 2.0"),
    "batch_size True": (lambda: on_data(batch_size=True), "batch_size must be a positive int, and is True"),
    "batch_size np.True_": (lambda: on_data(batch_size=np.True_), "batch_size must be a positive int"),
    "batch_size '4'": (lambda: on_data(batch_size="4"), "batch_size must be a positive int, and is '4'"),
    "maximize 'no'": (lambda: run(maximize="no"), "maximize must be True or False, and is 'no'"),
    "maximize None": (lambda: run(maximize=None), "maximize must be True or False, and is None"),
    "maximize 0": (lambda: run(maximize=0), "maximize must be True or False, and is 0"),
    "progress 1": (lambda: run(progress=1), "progress must be True or False, and is 1"),
    "every without a callback": (lambda: run(every=1), "`every` is given without a `callback` to call"),
    "every 0": (lambda: run(every=0, callback=print), "every must be a positive int, and is 0"),
    "callback '-'": (
        lambda: run(callback="print"),
        "`callback` must be a function of the `Fit` so far, and is 'print'",
    ),
    "every '2'": (lambda: run(every="2", callback=print), "every must be a positive int, and is '2'"),
    "optimizer '-'": (lambda: run(optimizer="adam"), "`optimizer` must be an optax optimiser.*, and is 'adam'"),
    "optimizer 0.1": (lambda: run(optimizer=0.1), "`optimizer` must be an optax optimiser.*, and is 0.1"),
    "optimizer uncalled": (lambda: run(optimizer=optax.adam), "is the function 'adam'; call it"),
    "objective of a number": (lambda: run(3.0), "must be a function of \\(key, params\\), and is 3.0"),
    "generative function": (lambda: run(coin), "is the generative function '.*'.*Write one, such as `tg.elbo"),
    "objective without params": (lambda: run(lambda key: 0.0), "called as objective\\(key, params\\), and cannot be"),
    "objective without batch": (lambda: on_data(square), "objective\\(key, params, batch\\), and cannot be: too many"),
    "objective of more": (lambda: run(tg.elbo), "and cannot be: missing a required argument: 'observed'"),
    "batch without data": (lambda: run(over_batches), "missing a required argument: 'batch'"),
    "indices without data": (lambda: run(lambda key, x, indices: x), "missing a required argument: 'indices'"),
    "state that is not given": (lambda: run(lambda key, x, state: x), "missing a required argument: 'state'"),
    "state that is not taken": (lambda: run(state=0.0), "objective\\(key, params, state=\\), and cannot be"),
    "returns None": (lambda: run(lambda key, x: None), "must return a scalar, and returned None; is a `return`"),
    "returns a truth": (lambda: run(lambda key, x: True), "a real floating-point number, and returned .* type bool"),
    "returns an int": (lambda: run(lambda key, x: 3), "a real floating-point number, and returned .* type int"),
    "returns integers": (
        lambda: run(lambda key, x: jnp.asarray(3)),
        "a real floating.*, and returned one of type int32",
    ),
    "returns a complex": (
        lambda: run(lambda key, x: jax.lax.complex(x, x)),
        "a real floating.*, and returned one of type complex64",
    ),
    "returns a string": (lambda: run(lambda key, x: "low"), "must return a scalar, and returned .* of type str"),
    "returns a dict": (lambda: run(lambda key, x: {"loss": x}), "must return a scalar, and returned .* of type dict"),
    "returns a pair": (lambda: run(lambda key, x: (x, 0.0)), "returned a pair.*Pass `state="),
    "returns a vector": (lambda: run(lambda key, x: x * jnp.ones(2)), "returned the shape \\[2\\]. Take the mean"),
    "no pair with a state": (lambda: run(lambda key, x, state: x, state=0.0), "must return a pair"),
    "next state of another type": (
        lambda: run(lambda key, x, state: (x, {"n": state["n"].astype(float)}), state={"n": 0}),
        r"state\['n'\] is int32\[\], and comes back as float32\[\]",
    ),
    "next state of another shape": (
        lambda: run(lambda key, x, state: (x, state * jnp.ones(3)), state=0.0),
        r"state is float32\[\], and comes back as float32\[3\]",
    ),
    "next state of another structure": (
        lambda: run(lambda key, x, state: (x, (state,)), state=0.0),
        "must be of the structure of `state`",
    ),
    "state of a string": (
        lambda: run(lambda key, x, state: (x, state), state="a"),
        "state must be an array of numbers",
    ),
    "parameters without floats": (lambda: run(params={"n": 3}), "holds no floating-point array"),
    "parameter of objects": (
        lambda: run(params={"w": np.array([1.0, None])}),
        r"params\['w'\] must be an array of numbers, and is an array of object",
    ),
    "parameter of strings": (lambda: run(params=np.array(["a", "b"])), "params must be an array of numbers, and is an"),
    "masked parameter": (lambda: run(params=[np.ma.array([1.0, 2.0])]), r"params\[0\] is a masked array.*`.filled"),
    "data of objects": (
        lambda: on_data(data=np.array([1.0, None])),
        "data must be an array of numbers, and is an arra",
    ),
    "data of strings": (lambda: on_data(data={"y": "abc"}), r"data\['y'\] must be an array of numbers, .* type str"),
    "masked data": (lambda: on_data(data=np.ma.array([1.0, 2.0], mask=[0, 1])), "data is a masked array"),
    "list of numbers": (lambda: on_data(data=[1.0, 2.0]), r"data\[0\] is the number 1.0.*`jnp.asarray"),
    "data of two sizes": (lambda: on_data(data=(DATA, DATA[:3])), r"one leading size, and have \['10', '3'\]"),
    "data without axes": (lambda: on_data(data=jnp.asarray(1.0)), r"one leading size, and have \['none'\]"),
    "no array of data": (lambda: on_data(data={}), r"one leading size, and have \[\]"),
    "no example": (lambda: on_data(data=jnp.zeros((0, 2))), "hold no example"),
    "batch of more than all": (lambda: on_data(batch_size=11), "between 1 and the number of examples, 10, and is 11"),
    "batch_size without data": (lambda: run(batch_size=3), "batch_size is given without data"),
    "under jit": (lambda: jax.jit(lambda x: run(params=x).params)(1.0), "an argument is traced.*call it outside"),
    "under vmap": (lambda: jax.vmap(lambda k: run(key=k).params)(jax.random.split(KEY)), "an argument is traced"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused(name):
    do, match = REFUSED[name]
    with pytest.raises(tg.FitError, match=match):
        do()


@pytest.mark.parametrize("key", [0, None, jax.random.PRNGKey(0), jax.random.split(KEY), "key"])
def test_keys_of_another_kind_are_refused(key):
    with pytest.raises(tg.RandomKeyError, match="fit needs one typed random key, and got"):
        run(key=key)


@pytest.mark.parametrize("three", [3, np.int64(3), np.uint8(3), jnp.asarray(3), np.array(3)])
def test_integers_of_every_kind_are_counts(three):
    assert run(steps=three).history.shape == (3,)
    assert on_data(batch_size=three, every=three, steps=3, callback=lambda _: None).history.shape == (3,)


def test_numbers_and_arrays_of_every_kind_are_parameters():
    params = {"a": 1.0, "b": np.float32(1.0), "c": np.ones(2), "d": jnp.ones(()), "e": 1.0 + 0.0j, "n": 3, "s": "name"}
    found = run(lambda key, p: sum(jnp.sum(jnp.abs(p[k]) ** 2) for k in "abcde"), params).params
    assert found["n"] == 3
    assert found["s"] == "name"
    for k in "abcde":
        assert isinstance(found[k], jax.Array)
        np.testing.assert_allclose(found[k], 0.64 * np.ones_like(params[k]), rtol=1e-6)


@pytest.mark.parametrize("objective", [jax.jit(square), lambda *args: args[1] ** 2, lambda key, x, **kw: x**2])
def test_objectives_of_every_signature_are_called(objective):
    np.testing.assert_allclose(run(objective).params, 0.64, rtol=1e-6)


# ---- what a callback returns ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("returned", "steps"),
    [
        (True, 2),
        (np.True_, 2),
        (jnp.asarray(True), 2),
        (np.array(True), 2),
        (False, 6),
        (np.False_, 6),
        (jnp.asarray(False), 6),
        (None, 6),
    ],
)
def test_a_callback_ends_the_run_by_a_true_of_any_library(returned, steps):
    assert len(run(steps=6, every=2, callback=lambda _: returned).history) == steps


@pytest.mark.parametrize("returned", ["stop", 1, 0.0, jnp.array([True, False]), np.array([True]), {}, [True]])
def test_a_callback_that_returns_anything_else_is_refused(returned):
    with pytest.raises(tg.FitError, match="`callback` returns True to end the run, and False or None to go on"):
        run(callback=lambda _: returned)
