"""Pathwise derivatives: the value is a differentiable function of the parameters and of noise."""

from __future__ import annotations

from typing import Any, ClassVar

from jaxtyping import Array, Key

from .._arguments import flag
from .._distribution import reparameterised
from .._errors import EstimatorError
from .._estimator import Direct, Drawn, Path
from ..program._site import noise


class Reparam(Path, Direct):
    """See `reparam`."""

    pathwise: ClassVar[bool] = True

    def __repr__(self):
        return self.vouch() if self.continuous else "reparam()"

    def vouch(self) -> str:
        """Without dots: there is no other option."""
        return "reparam(continuous=True)"

    def refuses(self, distribution: Any) -> str | None:
        """Refuse distributions whose sampler has no pathwise derivative."""
        if reparameterised(distribution):
            return None
        return (
            f"{type(distribution).__name__} has no reparameterised sampler, so its pathwise derivative would be "
            "biased. Write `reinforce()`, or `mvd()`, `local_expectation()` or `enum()` where its support is finite."
        )

    def draw(self, key: Key[Array, ""], distribution: Any) -> Drawn:
        """Draw, keeping the derivative of the sampler."""
        return Drawn(noise(key, distribution))


def reparam(*, continuous: bool = False) -> Reparam:
    """Reparameterisation, or pathwise, gradient: d/dtheta E f(g(eps, theta)) = E f'(g) dg/dtheta.

    For distributions whose sampler is differentiable in its parameters; among them the gamma, beta, Dirichlet and
    Student's t, whose samplers carry implicit derivatives. Unbiased where the rest of the program is continuous in
    the value: where it reaches an operation that is not (a comparison that selects, rounding, a branch), `expectation`
    warns. Right to every order.

    Args:
        continuous: you know that the objective is continuous in the value, whatever operations it goes through (as in
            bilinear interpolation): no warning at this site.

    Raises:
        EstimatorError: the distribution has no such sampler.

    Source: Kingma and Welling, Auto-Encoding Variational Bayes, 2014; Figurnov et al., Implicit Reparameterization
    Gradients, 2018.

    Examples:
        >>> import jax, numpyro.distributions as dist
        >>> from tracegrad.transforms import expectation, reparam, sample
        >>> f = expectation(lambda key, m: sample(key, dist.Normal(m, 1.0), estimator=reparam()))
        >>> float(jax.grad(f, argnums=1)(jax.random.key(0), 3.0))
        1.0
    """
    return Reparam(continuous=flag("reparam", "continuous", continuous, EstimatorError))
