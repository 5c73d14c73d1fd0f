"""What an algorithm for marginals and posteriors is: two functions of a target.

Let gamma(z) be the density of a target and Z its integral. An algorithm estimates Z on either side:

- `estimate(key, target)` gives Ẑ with E[Ẑ] = Z, and can draw latents from what it ran;
- `estimate_given(key, target, retained)` gives Ẑ with E[1/Ẑ | z] = 1/Z where z ~ gamma / Z is retained: it is one of
  the runs.

A new algorithm is a subclass with these two; `marginal` and `normalize` take it as they take the library's own. All
names here are public, as `tracegrad.algorithms`.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import numpyro.distributions as dist
from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Float, Int, Key

from ..core._addresses import Choices, Path, show
from ..core._bound_methods import Plain
from ..core._generative import GenerativeFunction
from ..core._operations import Given, Operation, Outcome
from ..core._overrides import draw_at
from ..core._target import Target
from ..transforms import RandomKeyError


class Estimate(NamedTuple):
    """An estimate of log Z, and a function `draw(key)` that draws (latents, log gamma) from what was run.

    With many runs, or particles, the draw is one of them by its weight (`choose`).

    Examples:
        >>> import jax, tracegrad as tg
        >>> model = tg.gen(lambda: tg.sample("x", tg.dist.Normal(tg.sample("z", tg.dist.Normal(0.0, 1.0)), 1.0)))
        >>> estimate = tg.importance(5).estimate(jax.random.key(0), tg.Target(model, observed={"x": 2.0}))
        >>> latents, log_gamma = estimate.draw(jax.random.key(1))
        >>> estimate.log_z.shape, sorted(latents), log_gamma.shape
        ((), ['z'], ())
    """

    log_z: Float[Array, ""]
    draw: Callable[[Key[Array, ""]], tuple[Choices, Float[Array, ""]]]


class Retained(NamedTuple):
    """Latents with their log gamma, and the log density of the observed alone, from one visit of the program.

    Densities inside the program may be estimates, and the run that made the latents is part of theirs: an algorithm
    uses these numbers, and what it recorded of the visit, and does not weigh the latents again.

    Examples:
        >>> import jax, tracegrad as tg
        >>> from tracegrad.algorithms import Retained
        >>> model = tg.gen(lambda: tg.sample("x", tg.dist.Normal(tg.sample("z", tg.dist.Normal(0.0, 1.0)), 1.0)))
        >>> target = tg.Target(model, observed={"x": 2.0})
        >>> latents, log_observed, log_gamma = target.draw(jax.random.key(0))
        >>> kept = Retained(latents, log_gamma, log_observed)
        >>> bool(tg.importance(1).estimate_given(jax.random.key(1), target, kept) == log_observed)
        True
    """

    latents: Choices
    log_gamma: Float[Array, ""]
    log_observed: Float[Array, ""]
    record: Any = None


class Algorithm(Plain):
    """How to estimate the integral Z of a target's density gamma, from either side.

    One of your own is a subclass with two methods, `estimate` and `estimate_given`; `marginal`, `normalize` and the
    bounds take it as they take the library's. It asks the target for `draw(key)`, `log_prob(latents, key=key)` and
    `latents()`. Fields are declared as in any Equinox module.

    Examples:
        >>> import jax, tracegrad as tg
        >>> from tracegrad.algorithms import Algorithm, Estimate
        >>> class Once(Algorithm):                       # one draw from the program, weighed by what is observed
        ...     def estimate(self, key, target):
        ...         latents, log_weight, log_gamma = target.draw(key)
        ...         return Estimate(log_weight, lambda key: (latents, log_gamma))
        ...     def estimate_given(self, key, target, retained):
        ...         return retained.log_observed
        >>> coin = lambda address, p: tg.sample(address, tg.dist.Bernoulli(p))
        >>> x = tg.marginal(tg.gen(lambda: coin("x", 0.2 + 0.6 * coin("z", 0.5))), "x", Once())
        >>> density = tg.expectation(lambda key: jax.numpy.exp(x.assess({"x": 1}, key=key)[0]))
        >>> round(float(tg.exact_expectation(density)(jax.random.key(0))), 4)
        0.5
    """

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
    def estimate(self, key: Key[Array, ""] | None, target: Target) -> Estimate:
        """Estimate log Z from fresh draws."""

    @abc.abstractmethod
    def estimate_given(self, key: Key[Array, ""] | None, target: Target, retained: Retained) -> Float[Array, ""]:
        """Estimate log Z with the retained latents among the draws."""


# ---- what algorithms share ------------------------------------------------------------------------------------------


def split(key: Key[Array, ""] | None, n: int, target: Target, what: str) -> Key[Array, " n"]:
    """Keys for an algorithm that draws, or an error that says who needs a key and how to give one.

    Args:
        key: one typed key, or None where the user gave none.
        n: how many keys.
        target: the target.
        what: the name of the algorithm.

    Raises:
        RandomKeyError: the key is None.

    Examples:
        >>> import jax, tracegrad as tg
        >>> target = tg.Target(tg.gen(lambda: tg.sample("z", tg.dist.Normal(0.0, 1.0))))
        >>> tg.algorithms.split(jax.random.key(0), 3, target, "mine").shape
        (3,)
        >>> tg.algorithms.split(None, 3, target, "mine")
        Traceback (most recent call last):
            ...
        tracegrad...RandomKeyError: The density at ... is estimated (mine), so this operation needs a key...
    """
    if key is None:
        raise RandomKeyError(
            f"The density at {show(target.path)} is estimated ({what}), so this operation needs a key: "
            "`assess(choices, ..., key=key)`."
        )
    return jax.random.split(key, n)


def each(fn: Callable, xs: Any, chunk_size: int | None) -> Any:
    """`fn` of every entry of `xs`, by one `vmap`, or by a loop over chunks of it, run again for their derivative.

    Args:
        fn: a function of one entry.
        xs: a pytree of arrays, stacked along a leading axis.
        chunk_size: how many entries at a time; None for all of them.

    Returns:
        The results, stacked.

    Examples:
        >>> import jax.numpy as jnp
        >>> from tracegrad.algorithms import each
        >>> each(lambda x: x**2, jnp.arange(5), chunk_size=2).tolist()
        [0, 1, 4, 9, 16]
    """
    return jax.vmap(fn)(xs) if chunk_size is None else lax.map(jax.checkpoint(fn), xs, batch_size=chunk_size)


def log_mean_exp(xs: Float[Array, " n *shape"]) -> Float[Array, "*shape"]:
    """Log mean exp along the leading axis.

    Examples:
        >>> import jax.numpy as jnp
        >>> from tracegrad.algorithms import log_mean_exp
        >>> round(float(jnp.exp(log_mean_exp(jnp.log(jnp.array([1.0, 3.0]))))), 5)
        2.0
    """
    return jax.nn.logsumexp(xs, axis=0) - jnp.log(float(xs.shape[0]))


def effective_size(log_weights: Float[Array, " n"]) -> Float[Array, ""]:
    """The effective sample size of Kong, (sum w)^2 / sum w^2, between 1 and n, from log weights of shape (n,).

    Source: Kong, A Note on Importance Sampling Using Standardized Weights, 1992.

    Examples:
        >>> import jax.numpy as jnp
        >>> from tracegrad.algorithms import effective_size
        >>> round(float(effective_size(jnp.log(jnp.array([1.0, 3.0])))), 5)
        1.6
    """
    return jnp.exp(2.0 * jax.nn.logsumexp(log_weights) - jax.nn.logsumexp(2.0 * log_weights))


def choose(key: Key[Array, ""], logits: Float[Array, " n"], target: Target, address: str = "index") -> Int[Array, ""]:
    """Draw an index with these log weights, at an address beside those of the target: it carries an estimator.

    Name the address in the algorithm's `indices`, so that `with_estimators` knows it.

    Args:
        key: one typed key.
        logits: log weights, shape (n,), which need not be normalised.
        target: the target.
        address: the last component of the index's address.

    Returns:
        An integer array of shape ().

    Examples:
        >>> import jax, jax.numpy as jnp, tracegrad as tg
        >>> target = tg.Target(tg.gen(lambda: tg.sample("z", tg.dist.Normal(0.0, 1.0))))
        >>> int(tg.algorithms.choose(jax.random.key(0), jnp.array([-50.0, 0.0]), target))
        1
    """
    path = (*target.path, address)
    # A weight of zero is no mistake: what is observed may be out of a particle's reach.
    return draw_at(path, key, dist.Categorical(logits=logits, validate_args=False))


def at_index(tree: Any, index: Any) -> Any:
    """The entries of a pytree at an index of the leading axis.

    Examples:
        >>> import jax.numpy as jnp
        >>> from tracegrad.algorithms import at_index
        >>> {name: int(x) for name, x in at_index({"a": jnp.arange(3), "b": jnp.arange(3) ** 2}, 2).items()}
        {'a': 2, 'b': 4}
    """
    return jax.tree.map(lambda x: x[index], tree)
