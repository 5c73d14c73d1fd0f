"""The three kinds of gradient estimator. A new estimator is a class of one of them with one method.

An estimator sees one lane: the distribution without the `vmap`s around its site. The transformation adds the lanes,
the loop steps and the branches. Estimators are Equinox modules, so arrays among their fields (a baseline, say) are
traced and differentiated like any other.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
from jaxtyping import Array, Float, Key, Shaped

from ._distribution import WeakDerivative


class Estimator(eqx.Module):
    """What a site does when the expectation around it is differentiated.

    One of your own is a class of one of three kinds, `Direct`, `Fork` or `Enumerate`.

    Examples:
        >>> import numpyro.distributions as dist
        >>> from tracegrad.transforms import Estimator, mvd
        >>> isinstance(mvd(), Estimator), mvd().refuses(dist.Poisson(2.0))
        (True, None)
        >>> mvd().refuses(dist.Beta(2.0, 2.0))
        'Beta has no measure-valued derivative here. ...'
    """

    pathwise: ClassVar[bool] = False
    """Whether the derivative of the plain draw is already the right one."""

    def refuses(self, distribution: Any) -> str | None:
        """Why this estimator cannot serve this distribution, and what to write instead; None where it can."""
        return None

    def __repr__(self):
        given = ", ".join(f"{k}={v!r}" for k, v in vars(self).items() if v is not None)
        return f"{type(self).__name__.lower()}({given})"


class Path(Estimator):
    """An estimator that takes derivatives along a path, whole or in part: jumps on the way are missed.

    A `Direct` one that leaves the derivative in its value is of this kind, too, so that `expectation` warns of jumps
    on the way: `class Mine(Path, Direct)`. Its constructor may take `continuous=True`, which says there are none.

    Examples:
        >>> import jax, numpyro.distributions as dist
        >>> from tracegrad.transforms import Direct, Drawn, Path, expectation, noise, sample
        >>> class Along(Path, Direct):
        ...     pathwise = True
        ...     def draw(self, key, distribution):
        ...         return Drawn(noise(key, distribution))
        >>> f = expectation(lambda key, m: sample(key, dist.Normal(m, 1.0), estimator=Along()))
        >>> float(jax.grad(f, argnums=1)(jax.random.key(0), 3.0))
        1.0
    """

    continuous: bool = eqx.field(static=True, default=False, kw_only=True)
    """Whether the user vouches that there are none."""

    def relaxation(self, distribution: Any) -> tuple[Callable, jax.ShapeDtypeStruct] | None:
        """The function whose path is taken, and what it takes; None where it is what follows the drawn value."""
        return None

    def vouch(self) -> str:
        """What to write where there are none."""
        return f"{type(self).__name__.lower()}(..., continuous=True)"


class Drawn(NamedTuple):
    """What a direct estimator gives back.

    `score` (any shape, summed) is a log density term whose derivative multiplies what depends on the value;
    `baseline`, broadcastable to it, is subtracted from the objective there and must not depend on the value.
    `control` (any shape, summed) is a control variate: its derivative is added to that of the objective, its value is
    not, and the derivative must have expectation zero.

    Examples:
        >>> import jax.numpy as jnp, numpyro.distributions as dist
        >>> from tracegrad.transforms import Drawn, log_density
        >>> drawn = Drawn(jnp.array(1), log_density(dist.Bernoulli(0.5), 1), baseline=jnp.array(2.0))
        >>> float(drawn.baseline), drawn.control
        (2.0, None)
    """

    value: Any
    score: Float[Array, "*shape"] | None = None
    baseline: Float[Array, "*below"] | None = None
    control: Float[Array, "*other"] | None = None


class Direct(Estimator):
    """Draws once, and gives back the value and a score term.

    Examples:
        >>> import jax, numpyro.distributions as dist
        >>> from tracegrad.transforms import Direct, Drawn, exact_expectation, expectation, log_density, noise, sample
        >>> class Score(Direct):
        ...     def draw(self, key, distribution):
        ...         value = jax.lax.stop_gradient(noise(key, distribution))
        ...         return Drawn(value, log_density(distribution, value))
        >>> f = expectation(lambda key, p: 4.0 * sample(key, dist.Bernoulli(p), estimator=Score()))
        >>> round(float(jax.grad(exact_expectation(f), argnums=1)(jax.random.key(0), 0.25)), 5)
        4.0
    """

    @abc.abstractmethod
    def draw(self, key: Key[Array, ""], distribution: Any) -> Drawn:
        """Draw through `noise(key, ...)` and return the value with its score term."""


class Fork(Estimator):
    """Draws once, and names alternatives to its value, whose objectives are then compared with the drawn one's.

    Examples:
        >>> import jax, numpyro.distributions as dist
        >>> from tracegrad.transforms import Fork, WeakDerivative, expectation, sample
        >>> class OneMore(Fork):                   # d/drate E f(X) = E[f(X + 1) - f(X)] for a Poisson variable X
        ...     def fork(self, key, distribution, value):
        ...         return WeakDerivative((value + 1)[None], distribution.rate[None])
        >>> f = expectation(lambda key, rate: 3.0 * sample(key, dist.Poisson(rate), estimator=OneMore()))
        >>> float(jax.grad(f, argnums=1)(jax.random.key(0), 2.5))
        3.0
    """

    @abc.abstractmethod
    def fork(self, key: Key[Array, ""], distribution: Any, value: Any) -> WeakDerivative:
        """Alternatives to the drawn value, and their coefficients; `key` is for the estimator's own randomness."""


class Enumerate(Estimator):
    """Runs the rest of the program at every value of a finite support, and sums.

    Examples:
        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist
        >>> from tracegrad.transforms import Enumerate, expectation, sample
        >>> class Sides(Enumerate):
        ...     def enumerate(self, distribution):
        ...         return jnp.array([0, 1]), jnp.stack([1.0 - distribution.probs, distribution.probs])
        >>> f = expectation(lambda key, p: 4.0 * sample(key, dist.Bernoulli(p), estimator=Sides()))
        >>> float(jax.grad(f, argnums=1)(jax.random.key(0), 0.25))
        4.0
    """

    @abc.abstractmethod
    def enumerate(self, distribution: Any) -> tuple[Shaped[Array, " k *value"], Float[Array, " k"]]:
        """All values, along a leading axis, and their probabilities (not their logarithms), shape (k,)."""
