"""What an algorithm for marginals and posteriors is: two functions of a target.

Let gamma(z) be the density of a target and Z its integral. An algorithm estimates Z on either side:

- `estimate(key, target)` gives Ẑ with E[Ẑ] = Z, and can draw latents from what it ran;
- `estimate_given(key, target, retained)` gives Ẑ with E[1/Ẑ | z] = 1/Z where z ~ gamma / Z is retained: it is one of
  the runs.

A new algorithm is a subclass with these two; `marginal` and `normalize` take it as they take the library's own.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import numpyro.distributions as dist
from jax import lax
from jax import numpy as jnp

from ..core._addresses import Choices, Path, show
from ..core._bound_methods import Plain
from ..core._generative import GenerativeFunction
from ..core._operations import Given, Operation, Outcome
from ..core._overrides import draw_at
from ..core._target import Target
from ..transforms import RandomKeyError


class Estimate(NamedTuple):
    """An estimate of log Z, and a function `draw(key)` that draws (latents, log gamma) from what was run."""

    log_z: jax.Array
    draw: Callable[[jax.Array], tuple[Choices, jax.Array]]


class Retained(NamedTuple):
    """Latents with their log gamma, and the log density of the observed alone, from one visit of the program.

    Densities inside the program may be estimates, and the run that made the latents is part of theirs: an algorithm
    uses these numbers, and what it recorded of the visit, and does not weigh the latents again.
    """

    latents: Choices
    log_gamma: jax.Array
    log_observed: jax.Array
    record: Any = None


class Algorithm(Plain):
    """How to estimate the integral of a target; see the module."""

    indices: ClassVar[tuple[str, ...]] = ()
    """Addresses, beside those of the target, at which the algorithm draws indices of its own."""

    def visit(
        self,
        function: GenerativeFunction,
        operation: Operation,
        key: Any,
        given: Given,
        path: Path,
        args: tuple,
        kwargs,
    ) -> tuple[Outcome, Any]:
        """The visit that makes or weighs latents to be retained, and what the algorithm records of it."""
        return function.visit(operation, key, given, path, args, kwargs), None

    @abc.abstractmethod
    def estimate(self, key: Any, target: Target) -> Estimate:
        """Estimate log Z from fresh draws."""

    @abc.abstractmethod
    def estimate_given(self, key: Any, target: Target, retained: Retained) -> jax.Array:
        """Estimate log Z with the retained latents among the draws."""


# ---- what algorithms share ------------------------------------------------------------------------------------------


def split(key: Any, n: int, target: Target, what: str) -> jax.Array:
    """Keys for an algorithm that needs them."""
    if key is None:
        raise RandomKeyError(
            f"The density at {show(target.path)} is estimated ({what}), so this operation needs a key: "
            "`assess(choices, ..., key=key)`."
        )
    return jax.random.split(key, n)


def each(fn: Callable, xs: Any, chunk_size: int | None) -> Any:
    """`fn` of every entry of `xs`, by one `vmap`, or by a loop over chunks of it, run again for their derivative."""
    return jax.vmap(fn)(xs) if chunk_size is None else lax.map(jax.checkpoint(fn), xs, batch_size=chunk_size)


def log_mean_exp(xs: jax.Array) -> jax.Array:
    """Log mean exp along the leading axis."""
    return jax.nn.logsumexp(xs, axis=0) - jnp.log(float(xs.shape[0]))


def effective_size(log_weights: jax.Array) -> jax.Array:
    """The effective sample size of Kong, (sum w)^2 / sum w^2, between 1 and n."""
    return jnp.exp(2.0 * jax.nn.logsumexp(log_weights) - jax.nn.logsumexp(2.0 * log_weights))


def choose(key: jax.Array, logits: jax.Array, target: Target, address: str = "index") -> jax.Array:
    """Draw an index with these log weights, at an address beside those of the target: it carries an estimator."""
    path = (*target.path, address)
    return draw_at(path, key, dist.Categorical(logits=logits))


def at_index(tree: Any, index: Any) -> Any:
    """The entries of a pytree at an index of the leading axis."""
    return jax.tree.map(lambda x: x[index], tree)
