"""The local expectation gradient: an exact sum over one element's support, the other elements as drawn."""

from __future__ import annotations

from typing import Any

from jax import numpy as jnp
from jaxtyping import Array, Key

from .._distribution import WeakDerivative
from .._estimator import Fork
from ._finite_support import finite, refuse_infinite


class LocalExpectation(Fork):
    """See `local_expectation`."""

    def refuses(self, distribution: Any) -> str | None:
        """Refuse infinite supports."""
        return refuse_infinite(distribution)

    def fork(self, key: Key[Array, ""], distribution: Any, value: Any) -> WeakDerivative:
        """The support points other than the drawn one, with their probabilities as coefficients.

        The drawn value itself would compare the objective with itself: k values need k - 1 runs.
        """
        found = finite(distribution)
        k = found.p.shape[0]
        steps = jnp.reshape(jnp.arange(1, k), (k - 1, *(1 for _ in found.batch)))
        others = (found.which(value)[None] + steps) % k
        return WeakDerivative(found.alternatives(others, value), jnp.take_along_axis(found.p, others, axis=0))

    def __repr__(self):
        return "local_expectation()"


def local_expectation() -> LocalExpectation:
    """Local expectation gradient: sum over values v of one element of dp(v) E[f | that element = v, others as drawn].

    For distributions of finite support, anywhere: loops, branches, plates. It costs one run of what follows for each
    other value of each element, all with the same noise. First order only.

    Raises:
        EstimatorError: the support is not finite.
        HigherOrderError: a second derivative was asked for.

    Source: Titsias and Lazaro-Gredilla, Local Expectation Gradients for Black Box Variational Inference, 2015.

    Examples:
        >>> import jax, numpyro.distributions as dist
        >>> from tracegrad.transforms import expectation, local_expectation, sample
        >>> f = expectation(lambda key, p: 4.0 * sample(key, dist.Bernoulli(p), estimator=local_expectation()))
        >>> float(jax.grad(f, argnums=1)(jax.random.key(0), 0.25))
        4.0
    """
    return LocalExpectation()
