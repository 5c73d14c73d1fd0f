"""What the transformation asks of a distribution, and how a family of distributions answers.

A distribution is any object with `sample(key)` and `log_prob(value)`. The interface below adds the questions
that gradient estimators ask. Each has an answer for such a plain object, and the language above registers better
ones for the families that it knows; this layer knows none.

    @reparameterised.register(MyNormal)
    def _(distribution): return True
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float, Key, Shaped

from ._jax import on_mesh
from ._lifting import Opaque, drop, lift
from ._pytree import KINDS, Spec, partition, stop_gradient


def dismantle(distribution: Any) -> tuple[list, Spec]:
    """Split a distribution into its arrays and a hashable rest, whether or not its class is a pytree."""
    lifted = lift(distribution)
    if lifted is distribution and jax.tree_util.all_leaves([distribution]) and hasattr(distribution, "__dict__"):
        lifted = Opaque(distribution)
    arrays, spec = partition(lifted)
    return [jnp.asarray(x) for x in arrays], spec


def restore(spec: Spec, arrays) -> Any:
    """Undo `dismantle`."""
    return drop(spec.combine(arrays))


def held(distribution: Any) -> Any:
    """The same distribution at parameters without derivative."""
    return drop(stop_gradient(lift(distribution)))


@contextlib.contextmanager
def lenient():
    """Run code of others: a family promotes types and ranks as JAX does by default, however strict the caller is."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@functools.lru_cache(maxsize=KINDS)
def drawer(spec: Spec):
    """A jitted `draw(key, *arrays)`, one per kind of distribution: a thousand equal sites are traced once."""

    def site_draw(key, *arrays):
        with lenient():
            return restore(spec, arrays).sample(key)

    return jax.jit(site_draw)


@functools.singledispatch
def log_prob(distribution: Any, value: Any) -> Float[Array, "*batch"]:
    """`distribution.log_prob(value)`; a family registers another formula where its own has a wrong derivative."""
    return distribution.log_prob(value)


@functools.singledispatch
def guarded(distribution: Any) -> Any:
    """The same distribution, its log density -inf with a derivative of zero where a value is outside the support."""
    return distribution


@functools.singledispatch
def law(distribution: Any) -> Any:
    """The law of a draw: the same distribution without what changes only the density that a draw counts with."""
    return distribution


@functools.lru_cache(maxsize=KINDS)
def _density(spec: Spec, inside: bool):  # noqa: FBT001  (a key of the cache)
    def site_log_density(value, *arrays):
        with lenient():
            distribution = restore(spec, list(map(_wide, arrays)))
            logp = log_prob(distribution if inside else guarded(distribution), jax.tree.map(_wide, value))
            return _wide(logp)

    return jax.jit(site_log_density)


HALVES = {jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16)}
"""Types of two or three digits: a sum of log densities in one of them would have no more."""


def _wide(x):
    """A number of half precision in single; anything else as it is."""
    return x.astype(jnp.float32) if getattr(x, "dtype", None) in HALVES else x


def log_density(distribution: Any, value: Any, *, inside: bool = False) -> Float[Array, "*batch"]:
    """`distribution.log_prob(value)`, traced once per kind of distribution. Shape: the distribution's batch shape.

    It is computed in single precision at least, whatever the types of the parameters and of the value. A value outside
    the support has the log density -inf; `inside` says that it is known to be in the support, because
    it was drawn from there or enumerated, and saves the look.

    Examples:
        >>> import jax.numpy as jnp, numpyro.distributions as dist
        >>> log_density(dist.Exponential(1.0), jnp.array([2.0, -1.0])).tolist()
        [-2.0, -inf]
    """
    arrays, spec = dismantle(distribution)
    return on_mesh(_density(spec, inside))(value, *arrays)


class WeakDerivative(NamedTuple):
    """The derivative of a distribution as a difference of distributions, ready for a fork.

    `alternatives` has the shape (m, *value.shape); `coefficients` (m, *elements), where `elements` are the leading
    dimensions of the value along which its elements are independent. For every function `l` of the value,
    dE[l] = E[ sum_i (l(alternative_i) - l(value)) d coefficient_i ]. Coefficients need not be zero in value.

    Examples:
        >>> import jax.numpy as jnp
        >>> from tracegrad.transforms import WeakDerivative
        >>> value, rate = jnp.array([3, 0]), jnp.array([2.0, 0.5])            # two Poisson variables, one alternative
        >>> WeakDerivative((value + 1)[None], rate[None]).alternatives.tolist()
        [[4, 1]]
    """

    alternatives: Shaped[Array, " m *value"]
    coefficients: Float[Array, " m *elements"]


@functools.singledispatch
def reparameterised(distribution: Any) -> bool:
    """Whether `sample` is differentiable in the parameters and its derivative is the pathwise one.

    A class of one's own says so in one line: `has_rsample = True`. One of numpyro's kind may name its parameters
    instead, `reparametrized_params = ["loc", "scale"]`.

    Examples:
        >>> import jax
        >>> from tracegrad.transforms import reparameterised
        >>> class Near:
        ...     has_rsample = True
        ...     def __init__(self, loc):
        ...         self.loc = loc
        ...     def sample(self, key):
        ...         return self.loc + jax.random.normal(key)
        ...     def log_prob(self, value):
        ...         return jax.scipy.stats.norm.logpdf(value, self.loc)
        >>> reparameterised(Near(0.0))
        True
    """
    return bool(getattr(distribution, "has_rsample", False))


@functools.singledispatch
def support(distribution: Any) -> Shaped[Array, " k *event"] | None:
    """The finite support of one element, shape (k, *event_shape), or None where it is not finite.

    A plain class answers by a method `enumerate_support()`.

    Examples:
        >>> import numpyro.distributions as dist
        >>> support(dist.Binomial(3, probs=0.5)).tolist(), support(dist.Poisson(2.0))
        ([0, 1, 2, 3], None)
    """
    values = getattr(distribution, "enumerate_support", None)
    return None if values is None else values()


@functools.singledispatch
def moving_support(distribution: Any) -> bool:
    """Whether the support depends on parameters that a derivative could be taken in; scores then miss its edge.

    A plain class of which that is true must register it: `reinforce()` refuses such a distribution.

    Examples:
        >>> import jax.numpy as jnp, numpyro.distributions as dist
        >>> moving_support(dist.Uniform(0.0, jnp.array(2.0))), moving_support(dist.Normal(jnp.array(2.0), 1.0))
        (True, False)
    """
    return False


@functools.singledispatch
def probabilities(distribution: Any, values: Shaped[Array, " k *event"]) -> Float[Array, " k *batch"] | None:
    """The probabilities of support points where they are parameters, or polynomials of parameters; else None.

    At a probability of zero exp(log_prob) has no derivative, and these have. `values` has the shape (k, *event_shape),
    the answer the shape (k, *batch_shape). None stands for exp(log_prob), where what is zero has no derivative either.

    Examples:
        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist
        >>> from tracegrad.transforms import probabilities
        >>> heads = lambda p: probabilities(dist.Bernoulli(probs=p), jnp.array([0, 1]))[1]
        >>> float(jax.grad(heads)(0.0))
        1.0
    """
    return None


@functools.singledispatch
def positive_support(distribution: Any) -> bool:
    """Whether every entry of what is drawn is above zero, so that one can divide by it.

    Where it is not known to be, a reparameterised draw that is divided by has a pole, which `expectation` warns of.

    Examples:
        >>> import numpyro.distributions as dist
        >>> positive_support(dist.Gamma(2.0, 1.0)), positive_support(dist.Normal(2.0, 1.0))
        (True, False)
    """
    return False


@functools.singledispatch
def elementwise(distribution: Any) -> Any:
    """The same distribution with its independent event dimensions read as batch dimensions.

    An estimator that serves one element at a time asks the result: its elements are apart.

    Examples:
        >>> import jax.numpy as jnp, numpyro.distributions as dist
        >>> coins = dist.Bernoulli(probs=0.5 * jnp.ones(3)).to_event(1)
        >>> coins.event_shape, elementwise(coins).batch_shape
        ((3,), (3,))
    """
    return distribution


@functools.singledispatch
def weak_derivative(distribution: Any, key: Key[Array, ""], value: Shaped[Array, "*value"]) -> WeakDerivative | None:
    """A measure-valued derivative at the drawn `value`, or None where the family has none here.

    What a family registers here is what `mvd()` does at its sites. `key` is for randomness of its own, by `noise`.

    Examples:
        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist
        >>> from tracegrad.transforms import WeakDerivative, expectation, mvd, sample, weak_derivative
        >>> class Count(dist.Poisson):
        ...     pass
        >>> @weak_derivative.register(Count)
        ... def _(distribution, key, value):
        ...     return WeakDerivative((value + 1)[None], jnp.broadcast_to(distribution.rate, value.shape)[None])
        >>> f = expectation(lambda key, rate: 3.0 * sample(key, Count(rate), estimator=mvd()))
        >>> float(jax.grad(f, argnums=1)(jax.random.key(0), 2.5))
        3.0
    """
    return None


def batch_shape(distribution: Any) -> tuple[int, ...]:
    """The batch shape; a plain object is one draw, so ()."""
    return tuple(getattr(distribution, "batch_shape", ()))


def log_density_at_support(distribution: Any, values: Shaped[Array, " k *event"]) -> Float[Array, " k *batch"]:
    """Log probabilities of each support point at each element, shape (k, *batch_shape).

    `values` has the shape (k, *event_shape).
    """
    batch = batch_shape(distribution)
    spread = jnp.reshape(values, values.shape[:1] + (1,) * len(batch) + values.shape[1:])
    spread = jnp.broadcast_to(spread, values.shape[:1] + batch + values.shape[1:])
    return jax.vmap(lambda v: log_density(distribution, v, inside=True))(spread)
