"""`relabel`: the image of a program under a bijection of its choices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax import numpy as jnp
from jax.flatten_util import ravel_pytree

from .._errors import AddressError, ChoiceError, DensityError
from ..core._addresses import Choices, lookup, nest, paths, show
from ..core._arguments import generative
from ..core._generative import GenerativeFunction
from ..core._operations import Assess, Generate, Given, Simulate
from ..core._rearrangement import renaming, retelling
from ..core._relabelled import Relabelled
from ..transforms._internal import function as check_function
from ._estimated import Estimated


class Image(Estimated):
    """A program whose choices are computed from those of another by a bijection with an inverse."""

    function: GenerativeFunction
    told: Callable = eqx.field(static=True)
    inverse: Callable = eqx.field(static=True)

    @property
    def name(self) -> str:
        """That of the function, told otherwise."""
        return f"relabel({self.function.name})"

    @property
    def origin(self) -> Any:
        """That of the function, and how it is told."""
        return type(self), getattr(self.told, "__code__", self.told), self.function.origin

    def draw(self, key, path, args, kwargs):
        """Draw as the function does, and tell it otherwise."""
        out = self.function.visit(Simulate(), key, Given(), path, args, kwargs)
        return self._told(out.choices), out.logp - self._log_det(self._told, self._before, out.choices)

    def weigh(self, key, choices, path, args, kwargs):
        """The density of the function at the choices that are told so."""
        for p, expected in paths(self.shapes(path, args, kwargs)):
            if (came := jnp.shape(lookup(choices, p))) != expected.shape:
                raise ChoiceError(
                    f"The choice at {show((*path, *p))} has the wrong shape: expected {list(expected.shape)}, got "
                    f"{list(came)}."
                )
        out = self.function.visit(Assess(), key, Given(self._before(choices)), path, args, kwargs)
        return out.logp + self._log_det(self._before, self._told, choices)

    def shapes(self, path, args, kwargs):
        """The shapes of the choices as they are told."""

        def run(key):
            return self._told(self.function.visit(Generate(), key, Given(), path, args, kwargs).choices)

        return jax.eval_shape(run, jax.random.key(0))

    def _told(self, choices):
        return retelling(self.name, self.told, choices)

    def _before(self, choices):
        return retelling(self.name, self.inverse, choices)

    def _log_det(self, there, back, choices):
        """The log volume of a map at choices, once it is seen to have the other one as its inverse."""
        self._check_inverse(choices, back(there(choices)))
        point, build = _floats(choices)
        if not point.size:
            return jnp.zeros(())
        jacobian = jax.jacfwd(lambda x: _floats(there(build(x)))[0])(point)
        if jacobian.shape[0] != jacobian.shape[1]:
            raise DensityError(
                f"{self.name}: the function makes {jacobian.shape[0]} real numbers of {jacobian.shape[1]}, so it is no "
                "bijection."
            )
        return jnp.linalg.slogdet(jacobian)[1]

    def _check_inverse(self, choices, again):
        """Refuse an inverse that is none, where the values are known."""
        one, other = dict(paths(choices)), dict(paths(again))
        if one.keys() != other.keys():
            raise DensityError(f"{self.name}: there and back leads from {_names(one)} to {_names(other)}.")
        for p, x in one.items():
            y = other[p]
            if jnp.shape(x) != jnp.shape(y) or (_known(x) and _known(y) and not _near(x, y)):
                raise DensityError(f"{self.name}: there and back leads at {show(p)} from {x} to {y}.")


def _names(found):
    return ", ".join(map(show, sorted(found)))


def _known(x):
    return not isinstance(x, jax.core.Tracer)


NEAR = 1e-3
"""There and back loses some of the digits of single precision; a wrong inverse loses more."""


def _near(x, y):
    x, y = np.asarray(x), np.asarray(y)
    return np.allclose(x, y, rtol=NEAR, atol=NEAR, equal_nan=True)


def _floats(choices):
    """The real numbers among choices as a vector, and the way back, which leaves the others as they are."""
    flat = {p: jnp.asarray(x) for p, x in paths(choices)}
    real = [p for p, x in flat.items() if jnp.issubdtype(x.dtype, jnp.floating)]
    vector, build = ravel_pytree([flat[p] for p in real])
    return vector, lambda v: nest(flat | dict(zip(real, build(v), strict=True)))


def relabel(
    function: GenerativeFunction, told: Callable[[Choices], Choices] | Mapping, *, inverse: Callable | None = None
) -> GenerativeFunction:
    """The same distribution, its choices told in another way: under other addresses, or in another order.

    Two programs that tell one path forwards and backwards, as diffusions and annealed importance sampling do, so come
    to sample at the same addresses, and every objective of a model and a guide can compare them. The density is that of
    the image. A rearrangement of the choices, found out by moving numbers in their place, has the density of what it
    rearranges, and its inverse is known. Of any other bijection `inverse` is to be given; then the density has the
    determinant of its Jacobian (a dense one), and what the program returns is its choices.

    Whatever is given or chosen by address (observations, estimators, scales, selections) goes by the new addresses.
    What was drawn at one address and is told at several is given, selected and weighed together or not at all.

    Args:
        function: a generative function.
        told: a function from its choices to the new ones; or a dict from old addresses to new ones ('a', 'a/b'; an
            address takes all beneath it with it), the others staying what they are.
        inverse: the function from new choices to old ones, where `told` computes with them.

    Returns:
        A generative function of the same arguments.

    Raises:
        AddressError: a dict with an address that the function does not have, or that leads to one that is taken.
        ChoiceError: when it runs, `told` returns no choices, or makes one value of values of different types.
        DensityError: when it runs, `told` loses, repeats or computes an entry and has no inverse; the inverse is none;
            values are given at a part of what was drawn together.

    Examples:
        >>> import jax, jax.numpy as jnp, tracegrad as tg
        >>> @tg.gen
        ... def forwards():
        ...     first = tg.sample("first", tg.dist.Normal(0.0, 1.0))
        ...     tg.sample("last", tg.dist.Normal(first, 0.5))
        >>> path = tg.relabel(forwards, lambda choices: {"path": jnp.stack([choices["last"], choices["first"]])})
        >>> logp, _ = path.assess({"path": jnp.array([1.0, 2.0])})
        >>> bool(logp == forwards.assess({"first": 2.0, "last": 1.0})[0])
        True
        >>> sorted(tg.relabel(forwards, {"last": "next/z"}).simulate(jax.random.key(0)).choices)
        ['first', 'next']
    """
    generative("relabel", function)
    if isinstance(told, Mapping):
        if inverse is not None:
            raise DensityError("relabel: a dict of addresses is its own inverse's description; leave `inverse` out.")
        return Relabelled(function, renaming(told))
    check_function("relabel", "as `told` a function of choices", told, AddressError)
    if inverse is None:
        return Relabelled(function, told)
    return Image(function, told, check_function("relabel", "as `inverse` a function of choices", inverse, AddressError))
