"""Visits that draws are made into something by: predictions with deterministic values, log likelihoods point by point.

Each is an operation that puts on record what it is for, run for every draw in turn, many to a `vmap`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
from jax import numpy as jnp

from .._errors import ChoiceError, DistributionError
from ..algorithms._base import each
from ..core._addresses import Choices, Path, check_known, lookup, merge, nest, paths, show
from ..core._given_values import validates
from ..core._operations import Assess, At, Generate, Given, Outcome, Visit
from ..core._overrides import isolated
from ..core._target import Target
from ..transforms import elementwise, log_density

NUMBERS = 2**24
"""So many numbers at a time, 64 MiB of them in single precision, come out of lanes that run side by side."""


class Predict(Generate):
    """Take what is given and draw the rest; deterministic values are on record, factors count for nothing."""

    def note(self, path: Path, value: Any) -> Any:
        """The value."""
        if not eqx.is_array_like(value):
            raise ChoiceError(
                f"deterministic at {show(path)}: the value is an array or a number, and got {type(value).__name__}. "
                "Give each part of it an address of its own."
            )
        return jnp.asarray(value)

    def factor(self, path: Path, logp: Any, what: str = "a factor") -> Any:
        """Nothing: a term of the density is nothing that is drawn."""
        return jnp.zeros_like(logp)


class Pointwise(Assess):
    """Take every value; on record is the log density of what is observed, one number for each independent element."""

    def __init__(self, observed: Mapping):
        self.observed = observed

    def site(self, at: At, given: Given) -> Visit:
        """Visit one site."""
        visit = super().site(at, given)
        if lookup(self.observed, at.path) is None:
            return visit
        logp = log_density(elementwise(at.distribution), visit.goes_on_with)
        return visit._replace(record=jnp.where(at.attitude.live, logp, jnp.zeros_like(logp)))

    def asks_for(self, path: Path) -> bool:
        """Where it is observed."""
        return lookup(self.observed, path) is not None


def predicted(target: Target, key: Any, given: Mapping) -> Outcome:
    """One visit of a target's program by `Predict`."""
    with isolated():
        return target.visit(Predict(), key, given, what="draws")


def predicted_shapes(target: Target) -> Outcome:
    """What such a visit gives where nothing is given, as `jax.ShapeDtypeStruct`s; without what has no shape."""

    def run(key):
        with isolated():
            out = target.visit(Predict().but(in_place=True), key, {}, what="draws")
        return out._replace(retval=arrays_of(out.retval))

    return jax.eval_shape(run, jax.random.key(0))


def has_prior(target: Target) -> bool:
    """Whether the program can be drawn from: an improper prior cannot."""
    try:
        jax.eval_shape(lambda key: predicted(target, key, {}).choices, jax.random.key(0))
    except DistributionError:
        return False
    return True


def arrays_of(retval: Any) -> Any:
    """What a program returned, if it is made of arrays and numbers alone; else None."""
    return retval if all(map(eqx.is_array_like, jax.tree.leaves(retval))) else None


def latents_in(target: Target, choices: Mapping) -> Choices:
    """The choices without the deterministic values among them, which are computed anew.

    Raises:
        AddressError: an address that the program does not have.
    """
    shapes = predicted_shapes(target)
    check_known(choices, merge(shapes.choices, shapes.records), target.function.name, "draws")
    return nest({p: x for p, x in paths(choices) if lookup(shapes.records, p) is None})


class _Counted(Predict):
    """Draw everything; noted is where a value counts, and is checked."""

    def __init__(self, found: set[Path]):
        self.found = found

    def site(self, at: At, given: Given) -> Visit:
        """Visit one site."""
        if at.attitude.live is True and validates(at.distribution):
            self.found.add(at.path)
        return super().site(at, given)


def refuse_nan(what: str, target: Target, draws: Mapping) -> None:
    """Refuse draws that are NaN where they count, which is all but under a mask; what is traced passes."""
    gone = [(*target.path, *p) for p, x in paths(draws) if holds_nan(x)]
    if not gone:
        return
    counted: set[Path] = set()
    with isolated():
        jax.eval_shape(lambda key: target.visit(_Counted(counted), key).choices, jax.random.key(0))
    for path in counted.intersection(gone):
        raise ChoiceError(f"{what}: there is NaN among the draws at {show(path)}. Leave those draws out.")


def holds_nan(x: Any) -> bool:
    """Whether an array is known to hold NaN."""
    if isinstance(x, jax.core.Tracer) or not (eqx.is_array_like(x) and jnp.issubdtype(jnp.result_type(x), jnp.inexact)):
        return False
    return bool(jnp.any(jnp.isnan(x)))


def with_deterministics(target: Target, key: Any, latents: Choices, n: int) -> Choices:
    """Draws of the latents, stacked to (n, ...), with the deterministic values of the program at each."""
    if not predicted_shapes(target).records:
        return latents

    def one(at):
        return predicted(target, *at).records

    return merge(latents, lanes(one, (jax.random.split(key, n), latents)))


def lanes(fn: Callable, xs: Any, chunk_size: int | None = None) -> Any:
    """`fn` of every entry of `xs`, compiled; so many side by side as fit, unless it is said."""
    n = jax.tree.leaves(xs)[0].shape[0]
    if chunk_size is None:
        one = jax.eval_shape(fn, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), xs))
        chunk_size = as_many_as_fit(one, n)
    return jax.jit(lambda xs: each(fn, xs, chunk_size))(xs)


def as_many_as_fit(one: Any, n: int) -> int | None:
    """How many lanes of such a result hold `NUMBERS` numbers; None for all n of them."""
    most = max(1, NUMBERS // max(1, sum(math.prod(jnp.shape(x)) for x in jax.tree.leaves(one))))
    return None if n <= most else most
