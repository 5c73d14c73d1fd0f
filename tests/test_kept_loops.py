"""The compiled loop of `fit` is kept between calls, as long as what its objective sees is the same, and no longer."""

import functools
import gc
import itertools
import logging
import random
import sys
import types
import weakref

import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp

import tracegrad as tg
from tracegrad import dist
from tracegrad.training._kept import MOST, _kept
from tracegrad.training._sight import sight

KEY = jax.random.key(3)
DATA = jnp.arange(12.0)


@tg.gen
def model():
    z = tg.sample("z", dist.Normal(0.0, 1.0))
    tg.sample("x", dist.Normal(z, 1.0))


@tg.gen
def guide(w):
    tg.sample("z", dist.Normal(w["m"], jnp.exp(w["s"])))


def bound(key, w, x):
    return tg.elbo(model, guide, {"x": x.mean()})(key, (), (w,))


class Work:
    """How often JAX traces and compiles, by its own log."""

    def __enter__(self):
        self.lines, self._log = [], logging.getLogger("jax")
        self._handler = logging.Handler()
        self._handler.emit = lambda record: self.lines.append(record.getMessage())
        self._log.addHandler(self._handler)
        self._said = jax.log_compiles()
        self._said.__enter__()
        return self

    def __exit__(self, *error):
        self._said.__exit__(*error)
        self._log.removeHandler(self._handler)

    def of(self, word):
        return [line for line in self.lines if line.startswith(word)]


def fit(objective, params=0.0, **options):
    given = {"optimizer": optax.adam(0.1), "key": KEY, "steps": 12, "progress": False} | options
    return tg.fit(objective, params, given.pop("optimizer"), **given)


# ---- nothing is done twice ------------------------------------------------------------------------------------------


def test_a_second_call_traces_and_compiles_nothing(tmp_path):
    """With an optimiser made anew, other data and another key of the same kinds, a callback, and files."""
    w = {"m": 0.0, "s": 0.0}
    options = {"batch_size": 4, "callback": lambda _: None, "every": 5, "checkpoint_every": 4}
    with Work() as first:
        one = fit(bound, w, data=DATA, checkpoint=tmp_path / "one", **options)
    assert [line for line in first.of("Compiling") if "jit(run)" in line]
    more, key = DATA + 1.0, jax.random.key(8)
    with Work() as second:
        two = fit(bound, w, data=DATA, checkpoint=tmp_path / "two", **options)
        three = fit(bound, w, data=more, key=key, checkpoint=tmp_path / "three", **options)
    assert [line for line in second.lines if "tracing" in line or "Compiling" in line] == []
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(x, y)
    assert float(three.params["m"]) != float(one.params["m"])


def test_a_method_is_kept_by_its_object():
    class Loss:
        def __init__(self, at):
            self.at = at

        def value(self, key, w):
            return (w - self.at) ** 2

    one, two = Loss(1.0), Loss(2.0)
    fit(one.value)
    with Work() as work:
        fit(one.value)
    assert work.of("Compiling") == []
    np.testing.assert_allclose([fit(x.value, optimizer=optax.sgd(0.5)).params for x in (one, two)], [1.0, 2.0])
    one.at = 3.0
    np.testing.assert_allclose(fit(one.value, optimizer=optax.sgd(0.5)).params, 3.0)


# ---- nothing is stale -----------------------------------------------------------------------------------------------

SHIFT = 1.0


def helper(w):
    return w - SHIFT


def objective(key, w):
    return helper(w) ** 2


def test_a_global_that_changes_is_seen(monkeypatch):
    half = {"optimizer": optax.sgd(0.5)}
    assert float(fit(objective, **half).params) == 1.0
    monkeypatch.setattr(sys.modules[__name__], "SHIFT", jnp.asarray(4.0))
    assert float(fit(objective, **half).params) == 4.0
    monkeypatch.setattr(sys.modules[__name__], "helper", lambda w: w + SHIFT)
    assert float(fit(objective, **half).params) == -4.0


def test_another_rate_policy_direction_or_constant_leaf_is_seen():
    """Ten ways to call with one objective: each is what it would have been alone."""

    def steep(key, p, batch):
        return p["f"](p["w"]) * batch.sum()

    def alone(**options):
        return float(fit(lambda *args: steep(*args), **options).params["w"])

    ways = [
        {"optimizer": optax.sgd(rate), "maximize": up, "params": {"w": 0.3, "f": f}, "steps": 2, **data}
        for rate, up, f, data in [
            (0.1, False, jnp.sin, {"data": DATA}),
            (0.2, False, jnp.sin, {"data": DATA}),
            (0.2, True, jnp.sin, {"data": DATA}),
            (0.2, True, jnp.cos, {"data": DATA}),
            (0.2, True, jnp.cos, {"data": DATA, "batch_size": 3}),
            (optax.linear_schedule(0.2, 0.1, 2), True, jnp.cos, {"data": DATA, "batch_size": 3}),
            (optax.linear_schedule(0.2, 0.0, 2), True, jnp.cos, {"data": DATA, "batch_size": 3}),
        ]
    ]
    np.testing.assert_array_equal([float(fit(steep, **way).params["w"]) for way in ways], [alone(**w) for w in ways])


def test_a_hyperparameter_in_the_state_is_read_from_it():
    optimizer = optax.inject_hyperparams(optax.sgd)(0.5)
    once = fit(objective, optimizer=optimizer, steps=1)
    once.opt_state.hyperparams["learning_rate"] = jnp.asarray(0.25)
    slower = fit(objective, tg.Fit(jnp.asarray(3.0), once.history, once.opt_state, origin=once.origin),
                 optimizer=optimizer, steps=1)  # fmt: skip
    assert float(slower.params) == 3.0 - 0.25 * 2.0 * (3.0 - 1.0)


class Slots:
    __slots__ = ("at",)

    def __init__(self, at):
        self.at = at


class Holder:
    width = 1.0

    def __init__(self):
        self.inner, self.slots, self.table = {"a": [1.0, 2.0]}, Slots(1.0), np.zeros(3)

    @property
    def doubled(self):
        return 2.0 * self.width


other = types.ModuleType("other_module")
other.scale = 1.0


def looks(holder, array, default=2.0, *, named=(1, 2)):
    """A function of everything that can change."""

    @functools.wraps(helper)
    def inner(w, by=default):
        return tg.expectation(lambda key, w: w * holder.doubled + array.sum() + other.scale)(KEY, w) + by

    return functools.partial(inner, by=named)


CHANGES = {
    "an entry": lambda h, a: h.inner["a"].append(3.0),
    "a key": lambda h, a: h.inner.update(b=1),
    "an attribute": lambda h, a: setattr(h, "width", 2.0),
    "a slot": lambda h, a: setattr(h.slots, "at", 2.0),
    "an array in place": lambda h, a: h.table.__setitem__(0, 1.0),
    "another in place": lambda h, a: a.__setitem__(1, -0.0),
    "a type": lambda h, a: setattr(h, "inner", {"a": (1.0, 2.0)}),
    "an int for a float": lambda h, a: setattr(h.slots, "at", 1),
    "of a class": lambda h, a: setattr(Holder, "width", 5.0),
    "a method": lambda h, a: setattr(Holder, "doubled", property(lambda self: self.width)),
    "of a module": lambda h, a: setattr(other, "scale", 3.0),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_changes_is_seen_in_each_place(name, monkeypatch):
    monkeypatch.setattr(Holder, "width", 1.0)
    monkeypatch.setattr(Holder, "doubled", Holder.doubled)
    monkeypatch.setattr(other, "scale", 1.0)
    holder, array = Holder(), np.zeros(2)
    function = looks(holder, array)
    before = sight(function)
    assert before is not None
    assert sight(function) == before
    CHANGES[name](holder, array)
    assert sight(function) != before


def test_functions_made_alike_see_the_same_and_others_do_not():
    holder, array = Holder(), jnp.zeros(2)
    assert sight(looks(holder, array)) == sight(looks(holder, array))
    assert sight(looks(holder, array)) != sight(looks(holder, jnp.zeros(2)))
    assert sight(looks(holder, array)) != sight(looks(holder, array, 3.0))
    assert sight(looks(holder, array)) != sight(looks(holder, array, named=(1, 3)))
    assert sight(optax.adam(0.1).update) == sight(optax.adam(0.1).update)
    assert sight(optax.adam(0.1).update) != sight(optax.adam(0.2).update)
    assert sight(lambda: {1, 2}) != sight(lambda: {1, 3})


@pytest.mark.parametrize("dtype", ["bfloat16", "complex64", "bool", "datetime64[s]", "U3"])
@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_arrays_of_every_type_and_shape_are_told_by_what_they_hold(dtype, shape):
    x = np.zeros(shape, jnp.dtype(dtype) if dtype == "bfloat16" else dtype)
    assert sight(lambda: x) is not None
    before = sight(x)
    assert before == sight(x.copy())
    assert before != sight(x.reshape(*shape, 1))
    if x.size:
        x.reshape(-1)[0] = 1
        assert before != sight(x)


UNTOLD = {
    "generator": (i for i in range(3)),
    "iterator": itertools.count(),
    "random numbers": random.Random(0),
    "numpy's": np.random.default_rng(0),
    "objects": np.array([object()]),
    "a large array": np.broadcast_to(np.zeros(1), 10**9),
    "a bare object": object(),
    "a set of objects": {random.Random(0)},
}


@pytest.mark.parametrize("name", UNTOLD)
def test_of_what_cannot_be_told_nothing_is_kept(name):
    thing = UNTOLD[name]
    assert sight(lambda: thing) is None


def test_an_objective_of_what_cannot_be_told_is_traced_anew():
    count = itertools.count(1)

    def value(key, w):
        return (w - float(next(count))) ** 2

    assert [float(fit(value, optimizer=optax.sgd(0.5)).params) for _ in range(3)] == [1.0, 2.0, 3.0]


# ---- nothing leaks --------------------------------------------------------------------------------------------------


def test_the_loop_goes_when_the_objective_does():
    class Big:
        pass

    def fitted():
        big, weight = Big(), jnp.ones(2)
        big.x = jnp.ones(3)
        loss = tg.expectation(lambda key, w: w * big.x.sum() + guide.simulate(key, {"m": w, "s": weight[0]}).logp)
        fit(loss, steps=2)
        assert len(_kept) == before + 1
        return [weakref.ref(x) for x in (big, weight, loss)]

    before = len(_kept)
    gone = fitted()
    gc.collect()
    assert len(_kept) == before
    assert [ref() for ref in gone] == [None, None, None]


def test_of_one_objective_the_latest_loops_are_kept():
    def value(key, w):
        return w**2

    before = set(_kept)
    for rate in (0.1, 0.2, 0.3, 0.1):
        fit(value, optimizer=optax.sgd(rate), steps=2)
    (name,) = set(_kept) - before
    assert len(_kept[name]) == MOST
    with Work() as work:
        fit(value, optimizer=optax.sgd(0.3), steps=2)
    assert work.of("Compiling") == []
