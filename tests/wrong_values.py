"""Kinds of arguments, and for each kind what a user may give by mistake.

`bad` values must be refused; `good` ones are another way to write the valid value and must give the same answer. Both
are functions of the valid value. `nouns` are the words by which a message may speak of such an argument; its own name,
or the address of a site, will do as well.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax import numpy as jnp

import tracegrad as tg
from tracegrad import dist


class Kind(NamedTuple):
    """What is wrong for one kind of argument, what is right, and what it is called."""

    bad: dict[str, Callable]
    good: dict[str, Callable] = {}
    nouns: tuple[str, ...] = ()


class Given(NamedTuple):
    """A valid argument, its kind, and whether it may be left out by None."""

    kind: str
    value: Any
    optional: bool = False


def always(**values):
    """Wrong values that have nothing to do with the valid one."""
    return {label: lambda _, value=value: value for label, value in values.items()}


def generator():
    yield 1.0


async def coroutine():
    return 1.0


@tg.gen
def stranger(*_):
    """A generative function of no use here: its only address is nobody's."""
    return tg.sample("nobody", dist.Normal(0.0, 1.0))


class Thing:
    """A class, given for an instance or a function."""


def _first(choices, change):
    """Choices with the first value changed."""
    address, value = next(iter(choices.items()))
    return choices | {address: change(value)}


NAN, INF = float("nan"), float("inf")
NUMBERS = always(nan=NAN, inf=INF, text="1", none=None, complex=1j, a_list=[1.0], a_dict={}, a_class=Thing)

COUNTS = NUMBERS | always(zero=0, negative=-1, half=2.5, true=True, an_array=jnp.ones(2, int), a_key=jax.random.key(0))

KINDS = {
    "count": Kind(COUNTS, {"numpy": np.int64}, ("number of", "integer")),
    "count where there is none": Kind(COUNTS, {}, ("number of", "integer")),
    "copies": Kind(NUMBERS | always(negative=-1, half=2.5, true=True), {"numpy": np.int64}, ("number of", "integer")),
    "positive": Kind(
        NUMBERS | always(zero=0.0, negative=-1.0, vector=np.ones(3), true=True), {"numpy": np.float32}, ("positive",)
    ),
    "number": Kind(NUMBERS | always(vector=np.ones(3)), {"numpy": np.float32}),
    "share": Kind(NUMBERS | always(negative=-0.5, above=2.0, vector=np.ones(3)), {}, ("between",)),
    "key": Kind(
        always(number=0, none=None, text="key", old=jax.random.PRNGKey(0), two=jax.random.split(jax.random.key(0)))
        | always(floats=jnp.zeros(2), a_function=jax.random.key),
        {},
        ("key",),
    ),
    "flag": Kind(
        always(text="no", none=None, two=2, half=0.5, vector=np.array([True, False]), a_list=[], nan=NAN),
        {"numpy": np.bool_},
        ("flag", "True or False", "boolean"),
    ),
    "address": Kind(
        always(number=3, none=None, empty="", pair=("a", "b"), path="a/b", octets=b"a", a_list=["a"], star="*"),
        {},
        ("address",),
    ),
    "history": Kind(
        always(none=None, text="1", number=3.0, a_dict={}, a_class=Thing, matrix=np.ones((2, 2))), {}, ("history",)
    ),
    "telling": Kind(
        always(number=3, text="u", a_list=["u"], a_class=Thing, a_generator=generator, a_key=jax.random.key(0))
        | always(nothing=lambda choices: None, empty=lambda choices: {}),
        {},
        ("function", "there and back"),
    ),
    "choices": Kind(
        always(none=None, number=3, text="x", a_list=[1.0], array=jnp.ones(2), a_class=Thing)
        | {
            "unknown": lambda c: c | {"Y": 1.0},
            "number_key": lambda c: c | {3: 1.0},
            "nested": lambda c: _first(c, lambda x: {"a": x}),
            "shape": lambda c: _first(c, lambda x: np.ones((7, 5))),
            "nan": lambda c: _first(c, lambda x: np.full(np.shape(x), NAN)),
            "text_value": lambda c: _first(c, lambda x: "1"),
            "none_value": lambda c: _first(c, lambda x: None),
            "complex": lambda c: _first(c, lambda x: np.full(np.shape(x), 1j)),
        },
        {"numpy": lambda c: _first(c, lambda x: np.asarray(x, np.asarray(x).dtype))},
        ("choice", "dict"),
    ),
    "dicts": Kind(
        always(none=None, number=3, text="x", a_list=[1.0], array=jnp.ones(2), a_class=Thing)
        | {"number_key": lambda c: c | {3: 1.0}, "empty_key": lambda c: c | {"": 1.0}},
        {},
        ("choice", "dict"),
    ),
    "all choices": Kind({}, {}, ("choice", "dict")),
    "function": Kind(
        always(none=None, number=3, text="model", plain=lambda *args: 0.0, a_class=Thing, a_distribution=dist.Normal)
        | always(stranger=stranger, a_list=[stranger], estimator=tg.mvd(), a_call=stranger()),
        {},
        ("generative function",),
    ),
    "body": Kind(
        always(none=None, number=3, text="f", generator=generator, coroutine=coroutine, a_class=Thing, a_dict={})
        | {"jitted": jax.jit},
        {"generative": tg.gen},
        ("function",),
    ),
    "callable": Kind(
        always(none=None, number=3, text="f", a_dict={}, estimator=tg.mvd(), a_class=Thing, generative=stranger)
        | {
            "generator": lambda f: lambda *args: (f(*args) for _ in range(1)),
            "coroutine": lambda f: _asynchronous(f),
            "returns_none": lambda f: lambda *args: (f(*args), None)[1],
            "returns_text": lambda f: lambda *args: "1",
            "returns_complex": lambda f: lambda *args: f(*args) * (1.0 + 0j),
        },
        {},
        ("function", "objective", "return"),
    ),
    "procedure": Kind(
        always(none=None, number=3, text="f", a_dict={}, estimator=tg.mvd(), a_class=Thing, generative=stranger)
        | {
            "generator": lambda f: lambda *args: (f(*args) for _ in range(1)),
            "returns_none": lambda f: lambda *args: None,
            "returns_choices": lambda f: lambda *args: {"z": 0.0},
        },
        {},
        ("procedure", "posterior"),
    ),
    "drawn": Kind(
        always(none=None, number=3, text="Normal", a_class=dist.Normal, stranger=stranger, plain=lambda: 0.0)
        | always(scale=dist.Normal(0.0, -1.0, validate_args=False), a_list=[], improper=dist.ImproperUniform),
        {},
        ("distribution",),
    ),
    "estimator": Kind(
        always(text="mvd", number=3, maker=tg.mvd, a_class=Thing, unfit=tg.enum(), a_list=[tg.mvd()]),
        {},
        ("estimator",),
    ),
    "estimators": Kind(
        always(none=None, number=3, text="z", a_list=[tg.mvd()], no_match={"zz": tg.reinforce()}, maker={"z": tg.mvd})
        | always(number_key={3: tg.reinforce()}, empty_key={"": tg.reinforce()}, unfit={"z": tg.enum()}),
        {},
        ("estimator", "pattern"),
    ),
    "selection": Kind(
        always(none=None, number=3, empty="", no_match="zz", pair=("z", 3), a_dict={"z": 1.0}, octets=b"z"),
        {"select": tg.select},
        ("select", "pattern"),
    ),
    "trace": Kind(
        always(none=None, number=3, a_dict={"z": 0.0}, a_class=tg.Trace)
        | {"another": lambda _: stranger.simulate(jax.random.key(0)), "choices": lambda tr: tr.choices},
        {},
        ("trace",),
    ),
    "target": Kind(
        always(none=None, number=3, a_dict={"x": 1.0}, stranger=stranger, a_class=tg.Target, text="target"),
        {},
        ("Target",),
    ),
    "algorithm": Kind(
        always(none=None, number=3, text="importance", maker=tg.importance, a_class=Thing, stranger=stranger),
        {},
        ("algorithm",),
    ),
    "optimizer": Kind(always(none=None, number=3, text="adam", maker=optax.adam, a_dict={}), {}, ("optimi",)),
    "params": Kind(
        always(none=None, integers=jnp.ones(2, int), nan=jnp.array(NAN), text="w", empty={}), {}, ("params", "loc")
    ),
    "floats": Kind(
        always(none=None, text="1", a_dict={}, a_class=Thing)
        | {
            "rank": lambda x: np.ones((2, 3, 5)),
            "size": lambda x: np.ones(np.shape(x)[:-1] + (7,)),
            "complex": lambda x: np.asarray(x) * (1 + 0j),
            "nan": lambda x: np.full(np.shape(x), NAN),
            "inf": lambda x: np.full(np.shape(x), INF),
        },
        {"numpy": lambda x: np.asarray(x, np.float32)},
        ("shape", "array", "finite"),
    ),
    "start": Kind(
        always(none=None, text="1", a_dict={}, a_class=Thing, true=True, ragged=[[1.0], [1.0, 2.0]], texts=["a"])
        | {
            "outside": lambda x: -x - 1.0,
            "complex": lambda x: np.asarray(x) * (1 + 0j),
            "nan": lambda x: np.full(np.shape(x), NAN),
            "inf": lambda x: np.where(np.asarray(x) > 0, INF, x),
        },
        {"numpy": np.asarray, "nested_list": lambda x: np.asarray(x).tolist()},
        ("start",),
    ),
    "scales": Kind(
        always(
            none=None, number=3, text="x", a_list=[2.0], no_match={"zz": 2.0}, number_key={3: 2.0}, negative={"x": -1.0}
        )
        | always(empty_key={"": 2.0}, text_value={"x": "2"}, none_value={"x": None}, nan={"x": NAN})
        | always(
            vector={"x": np.ones(3)}, inf={"x": INF}, complex={"x": 1j}, true={"x": True}, a_dict={"x": {"a": 2.0}}
        ),
        {
            "numpy": lambda s: {k: np.float32(x) for k, x in s.items()},
            "path": lambda s: {(k,): x for k, x in s.items()},
        },
        ("scale",),
    ),
    "coordinates": Kind(
        always(none=None, number=3, text="z", a_list=[tg.noncentred()], no_match={"zz": tg.noncentred()})
        | always(number_key={3: tg.noncentred()}, empty_key={"": tg.noncentred()}, maker={"z": tg.noncentred})
        | always(word={"z": "noncentred"}, a_class={"z": dist.transforms.ExpTransform}, none_value={"z": None})
        | always(unfit={"z": dist.transforms.ExpTransform()}, vector={"z": dist.transforms.StickBreakingTransform()}),
        {"path": lambda c: {(k,): x for k, x in c.items()}},
        ("coordinates",),
    ),
    "data": Kind(
        always(number=3, text="data", empty=jnp.zeros(0), scalar=jnp.zeros(()), ragged=(jnp.zeros(3), jnp.zeros(4)))
        | {"nan": lambda x: np.full(np.shape(x), NAN), "ragged_list": lambda _: [[1.0], [1.0, 2.0]]},
        {"numpy": lambda x: np.asarray(x)},
        ("data",),
    ),
    "name": Kind(always(none=None, number=3, empty="", misspelt="systematik", a_list=[]), {}, ()),
    "mesh": Kind(always(number=8, text="i", a_list=[], devices=jax.devices()), {}, ("mesh",)),
    "path": Kind(always(number=0.5, a_list=[], a_dict={}, a_class=Thing), {}, ("path",)),
    "axes": Kind(
        always(text="1", complex=1j, nan=NAN, a_class=Thing, half=0.5, beyond=3, tuple_of_two=(0, 0)),
        {},
        ("in_axes", "axis"),
    ),
    "index": Kind(
        NUMBERS | always(beyond=2, negative=-1, half=0.5, vector=np.ones(2, int)),
        {"numpy": np.int64},
        ("index", "chosen by", "the number of one of"),
    ),
    "pattern": Kind(always(none=None, number=3, empty="", pair=("z", 3), a_dict={}, a_list=["z"]), {}, ("pattern",)),
    "posterior": Kind(
        always(none=None, number=3, a_dict={"z": 1.0}, text="draws", a_class=tg.Posterior, stranger=stranger),
        {},
        ("nuts", "posterior"),
    ),
    "groups": Kind(
        always(number=3, text="prior", misspelt=["log_likelyhood"], numbers=[1], a_dict={"prior": 1}), {}, ("groups",)
    ),
    "stacked": Kind({}, {}, ("draws", "dict")),
    "shares": Kind(
        always(none=None, number=3, text="betas", empty=(), falling=(0.5, 0.0), above=(0.0, 2.0), nan=(0.0, NAN))
    ),
    "functions": Kind(
        always(none=None, number=3, empty=[], a_dict={}, numbers=[1, 2]) | {"short": lambda fs: fs[:-1]},
        {},
        ("kernel", "densit"),
    ),
    "callback": Kind(always(number=3, text="f", a_dict={}, generator=generator), {}, ("function",)),
    "shape": Kind(always(none=None, text="2", negative=(-1,), half=(0.5,), a_float=2.0), {}, ("shape",)),
    "candidates": Kind(
        always(
            none=None, number=3, a_list=[tg.mvd()], no_match={"zz": [tg.mvd()]}, one={"z": tg.mvd()}, empty={"z": []}
        )
        | always(names={"z": ["mvd"]}, unfit={"z": [tg.reparam()]}),
        {},
        ("estimator",),
    ),
    "exact": Kind(always(text="1", shape=np.ones(3), nan=NAN, a_class=Thing, inf=INF, complex=1j), {}, ()),
}
KINDS["logits"] = KINDS["floats"]._replace(
    bad={k: v for k, v in KINDS["floats"].bad.items() if k not in ("rank", "size")}
)
# Of draws the wrong shape is that of a draw, or no leading axis.
KINDS["stacked"] = KINDS["stacked"]._replace(
    bad=KINDS["choices"].bad | {"scalar": lambda c: _first(c, lambda x: 1.0), "empty": lambda _: {}},
    good=KINDS["choices"].good,
)
KINDS["value"] = KINDS["floats"]._replace(
    bad=always(none=None, text="1", a_dict={"a": 1.0}, a_class=Thing, a_list=[1.0, 2.0])
)
KINDS["vector start"] = KINDS["start"]._replace(bad=KINDS["start"].bad | always(scalar=0.5))
KINDS["branch"] = KINDS["function"]._replace(bad={k: v for k, v in KINDS["function"].bad.items() if k != "stranger"})
KINDS["parameter"] = KINDS["positive"]._replace(
    bad={k: v for k, v in KINDS["positive"].bad.items() if k not in ("vector", "true")}
)
KINDS["all choices"] = KINDS["choices"]._replace(
    bad=KINDS["choices"].bad | {"missing": lambda c: dict(list(c.items())[1:])}
)


def _asynchronous(f):
    async def g(*args):
        return f(*args)

    return g


KINDS["initial"] = KINDS["choices"]._replace(
    bad={k: v for k, v in KINDS["choices"].bad.items() if k != "array"}
    | always(a_rule="mode")
    | {"one entry too many": lambda c: _first(c, lambda x: jnp.ones(7))},
    nouns=("initial", "choice", "dict"),
)
