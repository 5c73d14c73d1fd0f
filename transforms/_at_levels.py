"""Levels for `reinforce(baseline="auto")`: the same program with a baseline, which can learn, at each such site.

A site has a level for each element of its draw, in each lane and in each step of a loop that its `expectation` has
inside: of shape (steps of loops, lanes, elements), outermost first. Lanes around an `expectation`, those of a minibatch
say, share one, and so do turns of a `while_loop`, whose number is not known.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax import numpy as jnp

from ._choose_estimators import expectation_under
from ._errors import name_of
from ._jax import Lane
from ._pytree import partition
from .estimators._reinforce import AutoReinforce, NoLevelError
from .program._interpreter import run
from .program._plan import plan_of
from .program._rewriting import Rewriting
from .program._site import rebind
from .program._site_terms import score_shape
from .program._trace_call import trace_call

Place = Callable[[str, tuple[int, ...]], tuple[jax.Array, jax.Array]]
"""From the name of a site and the shape of its levels to the levels and the counts."""


class _AtLevels(Rewriting):
    """Puts a level at each site that is to have one, and knows in which step of which loops it is."""

    def __init__(self, place: Place):
        super().__init__(
            self._at_site,
            nested=lambda step, operands: expectation_under(self, step, operands, {}),
            refusal="`reinforce(baseline='auto')` is for programs without samples in a `while_loop` under a `vmap`, in "
            "which lanes end apart. Write the bounded loop, `lax.scan` with the steps past the end masked; or "
            "`reinforce()` at the sites.",
        )
        self._place = place
        self._turns: list[tuple[jax.Array, int]] = []

    def scan(self, loop, step, init, xs):
        """The same loop, its steps counted."""

        def counted(carry, x):
            x, t = x
            self._turns.append((t, loop.length))
            try:
                return step(carry, x)
            finally:
                self._turns.pop()

        return loop.scan(counted, init, (xs, jnp.arange(loop.length)))

    def _at_site(self, site, operands, lanes):
        kind = site.prototype()
        if not isinstance(kind, AutoReinforce) or site.estimator.count:
            return rebind(operands, site, lanes)
        shape = (*(n for _, n in self._turns), *(score_shape(site, operands, lanes) or ()))
        given = [functools.reduce(_entry, self._turns, x) for x in self._place(_name(site.label), shape)]
        arrays, spec = partition(kind.at(*given))
        n = 1 + site.distribution.count
        lanes = tuple(Lane(lane.size, (*lane.mapped[:n], *(True for _ in arrays))) for lane in lanes)
        return rebind([*operands[:n], *arrays], site._replace(estimator=spec), lanes)


def _entry(levels, turn):
    return jax.lax.dynamic_index_in_dim(levels, turn[0], keepdims=False)


def _name(label) -> str:
    return name_of(label).strip("'\"")


def _found(known: Mapping[str, Any], name: str, shape: tuple[int, ...]) -> str:
    """The name of levels of this shape: sites of one name share them, unless their shapes are different."""
    names = (name if i == 0 else f"{name} ({i + 1})" for i in itertools.count())
    return next(n for n in names if n not in known or known[n] == shape)


def _placed(fun: Callable, place: Place) -> Callable:
    def placed(*args, **kwargs):
        traced = trace_call(fun, args, kwargs)
        outs, _ = run(plan_of(traced.jaxpr, nested=True), traced.operands, _AtLevels(place))
        return jax.tree.unflatten(jax.tree.structure(traced.out), outs)

    return placed


def level_shapes(fun: Callable, *args: Any, **kwargs: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of the levels of a function's sites, by name; nothing is run."""
    shapes: dict[str, tuple[int, ...]] = {}

    def place(name, shape):
        shapes[_found(shapes, name, shape)] = shape
        return jnp.zeros(shape), jnp.zeros(shape)

    jax.eval_shape(_placed(fun, place), *args, **kwargs)
    return shapes


def at_levels(fun: Callable, levels: Mapping[str, tuple[jax.Array, jax.Array]]) -> Callable:
    """The same function with these levels, each with its count.

    Its derivative in a level is the sum of what scores are multiplied by less the level; that in a count is the sum of
    the weights that these have in the function.

    Raises:
        NoLevelError: there is none for a site.
    """
    shapes = {name: level.shape for name, (level, _) in levels.items()}

    def place(name, shape):
        found = _found(shapes, name, shape)
        if found not in levels:
            raise NoLevelError(f"reinforce(baseline='auto') at {name!r}: there is no level for it.")
        return levels[found]

    return _placed(fun, place)
