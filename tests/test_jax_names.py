"""What is read of JAX by its names is there: a primitive or a parameter that JAX renames must not be missed in silence.

A rule that is looked up by a name that no longer exists is never found, and an analysis then knows less without a word.
"""

import ast
import gc
import importlib
import re

import jax
import pytest
from jax import lax
from jax import numpy as jnp
from source_tree import sources
from test_dependence import KEPT, MIXED, X

from tracegrad import dist
from tracegrad.transforms import NoRuleError, expectation, sample
from tracegrad.transforms._jax import open_jaxpr, param
from tracegrad.transforms.analysis import _dependence as dep
from tracegrad.transforms.analysis._sources import source

SOURCES = [source for source in sources() if source.label.startswith("transforms/")]

OTHER_VERSIONS = {
    "closed_call": "gone in jax 0.12",
    "log2": "new in jax 0.12",
    "one_minus_square": "new in jax 0.12",
    "polynomial": "new in jax 0.12",
    "reduced_vary_cast": "the name in jax 0.12",
    "reduced_vary_cast_p": "the name in jax 0.10",
    "vary_unreduced_cast": "the name in jax 0.12",
    "vary_unreduced_cast_p": "the name in jax 0.10",
}
"""Primitives that one supported version of JAX has and another has not."""

NO_PRIMITIVES = {"BATCHED_OTHERWISE", "CONTINUOUS", "LIBRARIES", "JUMPING", "OPAQUE", "LAWS", "PROBABILITIES"}
"""Tables of other names: of functions, of packages, of laws, of generators."""


def installed() -> set[str]:
    """The names of all primitives that were ever made in this process."""
    jax.random.gamma(jax.random.key(0), 1.0)
    gc.unfreeze()  # what was there when the tests began is set apart, and would not be among the objects
    return {p.name for p in gc.get_objects() if isinstance(p, type(lax.add_p))}


def tables():
    """Every table of strings among the constants of a module."""
    for found in SOURCES:
        module = importlib.import_module(found.module)
        for name, value in vars(module).items():
            if name.isupper() and name not in NO_PRIMITIVES and isinstance(value, set | frozenset | dict):
                if value and all(isinstance(key, str) for key in value):
                    yield f"{found.label}: {name}", set(value)
    yield "program/control", set(importlib.import_module("tracegrad.transforms.program.control._base")._TABLE)


def compared():
    """Every string that the name of a primitive is compared with."""
    for found in (found for found in SOURCES if ".primitive" in found.path.read_text()):
        for node in ast.walk(found.tree):
            if isinstance(node, ast.Compare) and re.search(r"(^|primitive\.)name$", ast.unparse(node.left)):
                strings = [x.value for c in node.comparators for x in ast.walk(c) if isinstance(x, ast.Constant)]
                yield from ((f"{found.label}:{node.lineno}", x) for x in strings if isinstance(x, str))


def test_every_primitive_that_is_named_exists():
    known = {*installed(), *OTHER_VERSIONS}
    found = dict(tables())
    assert len(found) > 20
    assert {where: names - known for where, names in found.items() if names - known} == {}
    strings = list(compared())
    assert len(strings) > 50
    assert [(where, x) for where, x in strings if x not in known] == []


# ---- parameters -----------------------------------------------------------------------------------------------------


def read_parameters():
    """Every name of a parameter that is asked for."""
    for found in SOURCES:
        for node in ast.walk(found.tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "param":
                yield ast.literal_eval(node.args[1]), f"{found.label}:{node.lineno}"  # not a computed name


def draw(key, p):
    return sample(key, dist.Bernoulli(p)).astype(float)


KEY = jax.random.key(0)
MORE = [
    lambda: jax.random.bits(jax.random.split(KEY)[0]),
    lambda: lax.integer_pow(X, 3),
    lambda: jax.jit(jax.checkpoint(jnp.sin))(X),
    lambda: jax.nn.relu(X),
    lambda: lax.while_loop(lambda x: x < 3.0, lambda x: x + 1.0, 0.0),
    lambda: lax.sort((X, X), num_keys=1),
    lambda: X[0],
    lambda: expectation(draw)(KEY, 0.3),
    lambda: draw(KEY, 0.3),
]
VERSIONS = [{"num_consts", "num_carry"}, {"ft_in"}]
"""Parameters of which an equation of any one version of JAX has one set."""


def parameters_of(jaxpr) -> set[str]:
    names: set[str] = set()
    for eqn in open_jaxpr(jaxpr).eqns:
        names.update(eqn.params)
        for value in eqn.params.values():
            for item in value if isinstance(value, tuple | list) else (value,):
                if hasattr(item, "eqns") or hasattr(getattr(item, "jaxpr", None), "eqns"):
                    names |= parameters_of(item)
    return names


def test_every_parameter_that_is_read_exists():
    jaxprs = [*(jax.make_jaxpr(f)(X) for f in (*KEPT.values(), *MIXED.values())), *(jax.make_jaxpr(f)() for f in MORE)]
    known = set().union(*map(parameters_of, jaxprs))
    assert any(names <= known for names in VERSIONS)
    known |= set().union(*VERSIONS)
    asked = list(read_parameters())
    assert len(asked) > 40
    assert [(name, where) for name, where in asked if name not in known] == []


def test_parameters_are_read_in_one_place():
    """By `param`, which says what is missing; `get` and `getattr` with a default would say nothing."""
    wrong = [
        (found.label, node.lineno)
        for found in SOURCES
        for node in ast.walk(found.tree)
        if isinstance(node, ast.Attribute) and node.attr == "params" and found.label != "transforms/_jax.py"
    ]
    assert wrong == []


def test_a_parameter_that_was_renamed_is_named():
    (eqn,) = jax.make_jaxpr(lambda x: x.sum(0))(X).jaxpr.eqns
    assert dep.after(eqn, [source(0, (3,))])
    params = {("dimensions" if name == "axes" else name): value for name, value in eqn.params.items()}
    text = rf"'reduce_sum' has no parameter 'axes' in jax {re.escape(jax.__version__)}, but .*dimensions.*older JAX"
    with pytest.raises(NoRuleError, match=text):
        dep.after(eqn.replace(params=params), [source(0, (3,))])


# ---- all else -------------------------------------------------------------------------------------------------------


def test_types_of_arrays_say_where_and_how_they_vary():
    aval = jax.typeof(X)
    assert aval.mat.varying == frozenset()
    assert aval.sharding.mesh.empty


def test_traced_functions_say_where_they_are_from():
    (eqn,) = jax.make_jaxpr(jax.jit(draw))(KEY, 0.3).jaxpr.eqns
    assert param(eqn, "jaxpr").jaxpr.debug_info.func_src_info.startswith("draw at ")


def test_the_switch_that_numbers_the_keys_of_a_split_is_there():
    """Without it, keys that are split off are not told from those that are folded in (`_key_numbers`)."""
    assert jax.config.jax_threefry_partitionable is True
