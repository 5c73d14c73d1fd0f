"""The shapes and types that signatures state, held against calls: users never pay for them.

Of a call, every argument, what it returns and the fields of that are looked at where they are annotated by jaxtyping.
Axes of one name have one size throughout a call.
"""

import dataclasses
import importlib
import inspect
import types
import typing

import jax
import jaxtyping
import pytest
from contracts import CONTRACTS
from contracts.programs import FAMILY, POINT, POSTERIOR, SPACE, TRACE, guide, model, switches
from jax import numpy as jnp
from jaxtyping import AbstractArray, Array, Float, Key
from source_tree import sources

import tracegrad as tg
from tracegrad import dist, transforms
from tracegrad.algorithms._base import effective_size, log_mean_exp
from tracegrad.objectives._pair import Pair

KEY = jax.random.key(0)
X = {"x": 1.0}
WEIGHTED = tg.WeightedDraws({"z": jnp.zeros(3)}, jnp.zeros(3))
PAIR = Pair.of(model, guide, X, (), (0.0,))
POISSON = dist.Poisson(jnp.array([2.0, 0.5]))
DRAWS = tg.Draws({"z": jnp.zeros((2, 4))}, {"lp": jnp.zeros((2, 4))}, jnp.ones(2))


CALLS = {
    "simulate": (model.simulate, KEY),
    "propose": (model.propose, KEY),
    "assess": (model.assess, X | {"z": 0.5}),
    "generate": (model.generate, KEY, X),
    "update": (model.update, KEY, TRACE, X),
    "regenerate": (model.regenerate, KEY, TRACE, "z"),
    "project": (model.project, TRACE, "z"),
    "Target.log_prob": (POSTERIOR.log_prob, {"z": 0.0}),
    "Target.draw": (POSTERIOR.draw, KEY),
    "estimate": (tg.importance(3).estimate, KEY, POSTERIOR),
    "estimate, exactly": (tg.exact().estimate, None, tg.Target(switches, (), X)),
    "log_mean_exp": (log_mean_exp, jnp.zeros((3, 2))),
    "effective_size": (effective_size, jnp.zeros(3)),
    "log_weights": (PAIR.log_weights, KEY, 4),
    "fixed_draws": (PAIR.fixed_draws, KEY, 4),
    "init": (FAMILY.init, KEY),
    "draw of a family": (FAMILY.draw, KEY, FAMILY.init(KEY), ()),
    "weigh of a family": (FAMILY.weigh, FAMILY.init(KEY), POINT),
    "log_prob of a point": (SPACE.log_prob, POINT),
    "constrain": (SPACE.constrain, POINT),
    "unconstrain": (SPACE.unconstrain, {"z": 0.3}),
    "forward": (SPACE.forward, {"z": jnp.array(0.3)}),
    "backward": (SPACE.backward, {"z": jnp.array(0.3)}),
    "resample": (WEIGHTED.resample, KEY, 2),
    "psis": (WEIGHTED.psis,),
    "baseline_loss": (tg.baseline_loss, jnp.ones(3), jnp.zeros(3)),
    "update of an average": (tg.MovingAverage(shape=(2,)).update, jnp.ones(2)),
    "sample": (transforms.sample, KEY, dist.Normal(0.0, 1.0)),
    "log_density": (transforms.log_density, POISSON, jnp.array([3, 0])),
    "support": (transforms.support, dist.Bernoulli(0.5)),
    "probabilities": (transforms.probabilities, dist.Bernoulli(jnp.full(2, 0.5)), jnp.arange(2)),
    "weak_derivative": (transforms.weak_derivative, POISSON, KEY, jnp.array([3, 0])),
    "draw of reinforce": (tg.reinforce().draw, KEY, dist.Bernoulli(0.5)),
    "fork of mvd": (tg.mvd().fork, KEY, POISSON, jnp.array([3, 0])),
    "enumerate": (tg.enum().enumerate, dist.Bernoulli(jnp.array([0.5, 0.2]))),
    "scored": (transforms.scored(lambda key: transforms.sample(key, dist.Bernoulli(0.5))), KEY),
    "with_surrogate": (transforms.with_surrogate, jnp.array(1.0), jnp.array(2.0)),
    "magic_box": (transforms.magic_box, jnp.ones((2, 3))),
}


def fits(value, hint):
    """Whether a value is what an annotation says, as far as that speaks of arrays."""
    kinds = typing.get_args(hint)
    if inspect.isclass(hint) and issubclass(hint, AbstractArray):
        return isinstance(value, hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return any(fits(value, kind) for kind in kinds)
    if typing.get_origin(hint) is tuple and Ellipsis not in kinds:
        return len(value) == len(kinds) and all(map(fits, value, kinds))
    if typing.get_origin(hint) is dict:
        return all(fits(x, kinds[1]) for x in value.values())
    if hint is type(None):
        return value is None
    if hint is not typing.Any and isinstance(hint, type) and isinstance(value, hint):
        return all(fits(getattr(value, name), kind) for name, kind in fields(hint))
    return True


def fields(kind):
    """The annotated fields of a class that has them."""
    stated = dataclasses.is_dataclass(kind) or hasattr(kind, "_fields")
    return [] if not stated else [(n, h) for n, h in typing.get_type_hints(kind).items() if not n.startswith("_")]


def check(call, *args):
    """Run a call, and hold what goes in and comes out against its signature."""
    given = inspect.signature(call).bind(*args).arguments
    hints = typing.get_type_hints(call)
    out = call(*args)
    with jaxtyping.jaxtyped("context"):
        for name, hint in hints.items():
            value = out if name == "return" else given.get(name)
            if name in given or name == "return":
                assert fits(value, hint), f"{name}: {hint} is not {value!r}"


@pytest.mark.table
@pytest.mark.parametrize("name", CALLS)
def test_arguments_and_results_have_the_shapes_of_their_annotations(name):
    call, *args = CALLS[name]
    check(call, *args)


@pytest.mark.parametrize("module", [source.module for source in sources()])
def test_annotations_of_shapes_can_be_read(module):
    """Nothing reads them but tools, so nothing else would say that one is misspelt."""
    found = vars(importlib.import_module(module)).values()
    own = [thing for thing in found if getattr(thing, "__module__", None) == module]
    methods = [member for thing in own if inspect.isclass(thing) for member in vars(thing).values()]
    for thing in (*own, *methods):
        thing = getattr(thing, "fget", thing)
        if "Array, " in str(getattr(thing, "__annotations__", "")):
            typing.get_type_hints(thing)


OBJECTIVES = [name for name in CONTRACTS if name in tg.objectives.__all__ and "observed" in CONTRACTS[name].arguments]


@pytest.mark.table
@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_is_a_scalar(name):
    arguments = {a: given.value for a, given in CONTRACTS[name].arguments.items()}
    assert fits(CONTRACTS[name].call(**arguments), Float[Array, ""])


def test_what_has_another_shape_is_seen():
    """Of a call, of a field, and of two axes of one name."""

    def flat(key: Key[Array, ""]) -> Float[Array, " n"]:
        return jax.random.normal(key, (2, 2))

    def two(x: Float[Array, " n"], y: Float[Array, " n"]) -> Float[Array, ""]:
        return jnp.sum(x) + jnp.sum(y)

    def statistics() -> tg.Draws:
        return dataclasses.replace(DRAWS, step_size=jnp.ones(3))

    check(two, jnp.ones(3), jnp.ones(3))
    for call, *args in (
        (flat, KEY),
        (two, jnp.ones((2, 2)), jnp.ones(4)),
        (two, jnp.ones(3), jnp.ones(4)),
        (statistics,),
    ):
        with pytest.raises(AssertionError, match="is not"):
            check(call, *args)
