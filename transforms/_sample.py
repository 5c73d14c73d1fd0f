"""The public way to draw: `sample`, with the default rule for estimators."""

from __future__ import annotations

from typing import Any

from jaxtyping import Array, Key

from ._distribution import law, reparameterised
from ._errors import EstimatorError, name_of
from ._estimator import Estimator
from .estimators._reinforce import reinforce
from .estimators._reparam import reparam
from .program._site import bind_site, check_key


def default_estimator(distribution: Any) -> Estimator:
    """The default rule: reparameterise where the distribution can, else score function."""
    return reparam() if reparameterised(distribution) else reinforce()


def sample(key: Key[Array, ""], distribution: Any, *, estimator: Any = None, label: Any = ()) -> Any:
    """Draw from a distribution, leaving a mark that `expectation` reads.

    Args:
        key: one typed key (`jax.random.key`).
        distribution: any object with `sample(key)` and `log_prob(value)`; a numpyro distribution is one.
        estimator: the gradient estimator, or None for the default rule: reparameterise where the distribution can,
            else score function.
        label: anything; it names the site in messages, reports and in the choice of estimators from outside.

    Returns:
        The value; its shape and dtype are those of `distribution.sample(key)`.

    Raises:
        RandomKeyError: `key` is not one typed key.
        EstimatorError: the estimator does not fit the distribution.

    Examples:
        >>> import jax, numpyro.distributions as dist
        >>> sample(jax.random.key(0), dist.Bernoulli(probs=0.5)).shape
        ()
    """
    check_key(key, f"The sample at {name_of(label)}")
    distribution = law(distribution)
    if estimator is None:
        estimator = default_estimator(distribution)
    elif not isinstance(estimator, Estimator):
        raise EstimatorError(f"The sample at {name_of(label)} takes an estimator like `mvd()`, and got {estimator!r}.")
    reason = estimator.refuses(distribution)
    if reason:
        raise EstimatorError(f"{estimator} at {name_of(label)}: {reason}")
    return bind_site(label, key, distribution, estimator)
