"""Reparameterisation through a rejection sampler, or any map of noise whose law still depends on the parameters."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
from jax import lax
from jaxtyping import Array, Key

from .._arguments import flag, whole
from .._distribution import elementwise, held
from .._errors import EstimatorError
from .._estimator import Direct, Drawn, Path
from .._pytree import stop_gradient
from ..program._site import auxiliary, noise


class Accepted(NamedTuple):
    """A drawn value as a function of accepted noise: the value, with its derivative, and the noise's log density.

    `value` is `h(stop_gradient(noise), theta)` and equals the draw; `score` is log q(h(noise, theta); theta) +
    log |dh/dnoise| with the noise stopped, one for each element.

    Examples:
        >>> import jax.numpy as jnp
        >>> from tracegrad.transforms import Accepted
        >>> Accepted(value=jnp.array([1.5]), score=jnp.array([-0.3])).score.shape
        (1,)
    """

    value: jax.Array
    score: jax.Array


@functools.singledispatch
def accepted_noise(distribution: Any, key: jax.Array, value: jax.Array, augmentation: int) -> Accepted:
    """The noise that a rejection sampler accepted to make `value`.

    `augmentation` is the number of augmentation steps; `key` is for randomness given the value. What a family registers
    here is what `rsvi()` does at its sites.

    Examples:
        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist
        >>> value = jnp.array([0.5, 3.0])
        >>> found = accepted_noise(dist.Gamma(2.0, jnp.ones(2)), jax.random.key(0), value, 1)
        >>> bool(jnp.allclose(found.value, value, rtol=1e-4)), found.score.shape
        (True, (2,))
    """
    raise EstimatorError(f"{type(distribution).__name__} has no rejection sampler here.")


class Rsvi(Path, Direct):
    """See `rsvi`."""

    augmentation: int = 1

    def __repr__(self):
        return f"rsvi({self.augmentation}{', continuous=True' * self.continuous})"

    def refuses(self, distribution: Any) -> str | None:
        """Refuse families without a rejection sampler here."""
        flat = elementwise(distribution)
        if accepted_noise.dispatch(type(flat)) is not accepted_noise.dispatch(object):
            return None
        return (
            f"{type(flat).__name__} has no rejection sampler here; the gamma has. Write `reparam()` where the "
            "distribution can, else `reinforce()`, or register one with `accepted_noise.register`."
        )

    def draw(self, key: Key[Array, ""], distribution: Any) -> Drawn:
        """The usual draw, its path through the accepted noise, and the score of that noise."""
        value = stop_gradient(noise(key, held(distribution)))
        found = accepted_noise(elementwise(distribution), auxiliary(key), value, self.augmentation)
        return Drawn(value + (found.value - lax.stop_gradient(found.value)).astype(value.dtype), found.score)


def rsvi(augmentation: int = 1, *, continuous: bool = False) -> Rsvi:
    """Rejection sampling variational inference: the path through accepted noise, and the score of what is left.

        d E f = E[f'(z) d h(eps) + f(z) d (log q(h(eps); theta) + log |dh/deps|)],   z = h(eps; theta), eps as accepted

    For the gamma distribution (also chi-squared), in both parameters, with the map of Marsaglia and Tsang. With B
    augmentation steps the sampler is that of shape a + B, whose noise hardly depends on the parameters, and the value
    is brought back by uniforms, z = h prod_i U_i^(1 / (a + i - 1)): the score part vanishes as B grows. Unbiased where
    the rest of the program is continuous in the value: where it is not, `expectation` warns, as for `reparam()`. Right
    to every order. JAX's own gamma sampler has an implicit path (`reparam()`), with less variance.

    Args:
        augmentation: B, the number of augmentation steps, at least 0.
        continuous: you know that the objective is continuous in the value: no warning at this site.

    Raises:
        EstimatorError: the family has no rejection sampler here; B is no integer of at least 0.

    Source: Naesseth, Ruiz, Linderman and Blei, Reparameterization Gradients through Acceptance-Rejection Sampling
    Algorithms, AISTATS 2017.

    Examples:
        >>> import jax, tracegrad as tg
        >>> from tracegrad.transforms import expectation, rsvi, sample
        >>> f = expectation(lambda key, a: sample(key, tg.dist.Gamma(a, 1.0), estimator=rsvi(4)) ** 2)
        >>> jax.grad(f, argnums=1)(jax.random.key(0), 2.0).shape
        ()
    """
    augmentation = whole("rsvi", "augmentation", augmentation, EstimatorError, least=0)
    return Rsvi(augmentation, continuous=flag("rsvi", "continuous", continuous, EstimatorError))
