"""Arrays that a pytree does not show: in attributes that a class does not declare as its parts, and in closures.

A distribution may hold the drift of its equation as a function of a parameter, or a model of its own as an attribute.
To be operands of a primitive such arrays must be leaves, so `lift` puts in the place of their holder a pytree of its
attributes, or of what the function closes over; `drop` puts holders like them back.
"""

from __future__ import annotations

import types
from typing import Any, NamedTuple

import jax

from ._errors import EstimatorError
from ._pytree import is_array


class Opaque:
    """An object made a pytree: its attributes are its children, its class is static."""

    def __init__(self, inner: Any):
        self.inner = inner


def _flatten_object(opaque):
    names = tuple(sorted(vars(opaque.inner)))
    return [lift(vars(opaque.inner)[name]) for name in names], (type(opaque.inner), names)


def _unflatten_object(aux, children):
    cls, names = aux
    inner = object.__new__(cls)
    inner.__dict__.update(zip(names, map(drop, children), strict=True))
    return Opaque(inner)


class Closure:
    """A function made a pytree: what it closes over and its defaults are its children, its code is static."""

    def __init__(self, inner: types.FunctionType):
        self.inner = inner


class _Globals:
    """The globals of a function, alike where they are the same dict."""

    def __init__(self, names: dict):
        self.names = names

    def __hash__(self):
        return id(self.names)

    def __eq__(self, other):
        return isinstance(other, _Globals) and self.names is other.names


def _flatten_function(closure):
    f = closure.inner
    return [lift(x) for x in _unseen(f)], (f.__code__, _Globals(f.__globals__), f.__name__, f.__qualname__)


def _unflatten_function(aux, children):
    code, names, name, qualname = aux
    *cells, defaults, keywords = map(drop, children)
    inner = types.FunctionType(code, names.names, name, defaults, tuple(map(types.CellType, cells)))
    inner.__kwdefaults__, inner.__qualname__ = keywords, qualname
    return Closure(inner)


jax.tree_util.register_pytree_node(Opaque, _flatten_object, _unflatten_object)
jax.tree_util.register_pytree_node(Closure, _flatten_function, _unflatten_function)


def lift(tree: Any) -> Any:
    """The same pytree with every hidden array a leaf."""
    return _replace(tree, _hides, _wrap)


def drop(tree: Any) -> Any:
    """Undo `lift`."""
    return _replace(tree, _wrapped, lambda x: x.inner)


def _replace(tree, which, new):
    """The same pytree with some of its nodes replaced; itself, and not made anew, where there are none."""
    if not any(map(which, jax.tree.leaves(tree, is_leaf=which))):
        return tree
    return jax.tree.map(lambda x: new(x) if which(x) else x, tree, is_leaf=which)


def _wrapped(x):
    return isinstance(x, Opaque | Closure)


def _wrap(x):
    return Closure(x) if isinstance(x, types.FunctionType) else Opaque(x)


def _hides(x):
    """Whether an object holds arrays that are no leaves of its own, or would come back without some attribute."""
    if not isinstance(x, types.FunctionType):
        if not _is_object(x):
            return False
        if _parts(x).lost:
            return True
    return any(_holds(held, (x,)) for held in _unseen(x))


def _holds(tree, inside):
    """Whether there are arrays of JAX in it, seen or not; those of NumPy may stay where they are, constants."""
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array):
            return True
        if any(leaf is holder for holder in inside):
            raise EstimatorError(
                f"A distribution or an estimator holds {getattr(leaf, '__qualname__', type(leaf).__name__)}, which "
                "holds itself, so that its arrays cannot be told apart. Write it without naming itself, or keep its "
                "arrays as attributes of the distribution."
            )
        if any(_holds(held, (*inside, leaf)) for held in _unseen(leaf)):
            return True
    return False


def _unseen(x) -> list:
    """What an object holds besides the children that JAX sees; what its class derives from them is left out."""
    if isinstance(x, types.FunctionType):
        return [*(cell.cell_contents for cell in x.__closure__ or ()), x.__defaults__, x.__kwdefaults__]
    return [vars(x)[name] for name in _parts(x).unseen] if _is_object(x) else []


def _is_object(x):
    """Whether this is an object of some Python class, with attributes."""
    return hasattr(x, "__dict__") and not is_array(x) and not isinstance(x, type | types.ModuleType | Opaque | Closure)


class _Parts(NamedTuple):
    """The attributes that are no children of an object, and whether some are lost where JAX takes it apart."""

    unseen: tuple[str, ...]
    lost: bool


_known: dict[tuple, _Parts] = {}


def _parts(x) -> _Parts:
    """The same for all objects of a class with the same attributes."""
    key = type(x), tuple(vars(x))
    if key not in _known:
        _known[key] = _find_parts(x, [name for name in vars(x) if not hasattr(type(x), name)])
    return _known[key]


def _find_parts(x, names):
    if jax.tree_util.all_leaves([x]):
        return _Parts(tuple(names) if type(x).__new__ is object.__new__ else (), lost=False)
    try:
        children, tree = jax.tree.flatten(x, is_leaf=lambda y: y is not x)
        marks = [object() for _ in children]
        again = vars(jax.tree.unflatten(tree, marks))
    except Exception:  # A class of others' that says it is a pytree and is none, as tinygp's and flowjax's for numpyro.
        return _Parts(tuple(names), lost=True)
    unseen = tuple(name for name in names if not any(again.get(name) is mark for mark in marks))
    return _Parts(unseen, lost=any(name not in again for name in names))
