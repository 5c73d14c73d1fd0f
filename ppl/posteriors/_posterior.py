"""What every posterior is: draws of the latents, their density, and a summary, whatever made it."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
from jaxtyping import Array, Float, Key, Shaped

from .._errors import AddressError, DensityError
from ..core._addresses import Choices, as_arrays
from ..core._arguments import count, mapping
from ..core._bound_methods import Plain
from ..core._target import Target
from ..transforms._internal import check_key
from ._summary import Summary, summarised
from ._visits import latents_in, with_deterministics


def asked(posterior: Posterior, method: str, key: Any, n: Any) -> int:
    """How many draws are asked for, once the key is checked; none may be."""
    what = f"{type(posterior).__name__}.{method}"
    check_key(key, what)
    return count(what, "n", n, least=0)


def key_of_summary(posterior: Posterior, key: Any) -> Key[Array, ""]:
    """The key that a summary is made by, the same one where none is given."""
    if key is None:
        return jax.random.key(0)
    check_key(key, f"{type(posterior).__name__}.summary")
    return key


class Posterior(Plain):
    """A posterior of a target: `sample(key, n)`, `log_prob(choices)`, `summary()`, and all that takes one.

    A fit (`family.posterior(params)`, `vi`), importance weights, `normalize(...).posterior()` and Markov chains are
    posteriors. One of your own is a subclass with a field `target` and a method `latents(key, n)`; it says its density
    by `log_density(latents, key)`, where it has another than that of its target.

    Examples:
        >>> import jax, tracegrad as tg
        >>> class Exact(tg.Posterior):                       # of z ~ N(0, 1), x ~ N(z, 1) at x = 2
        ...     target: tg.Target
        ...     def latents(self, key, n):
        ...         return {"z": 1.0 + 0.5**0.5 * jax.random.normal(key, (n,))}
        >>> model = tg.gen(lambda: tg.sample("x", tg.dist.Normal(tg.sample("z", tg.dist.Normal(0.0, 1.0)), 1.0)))
        >>> posterior = Exact(tg.Target(model, observed={"x": 2.0}))
        >>> posterior.sample(jax.random.key(0), 100)["z"].shape, posterior.log_prob({"z": 1.0}).shape
        ((100,), ())
    """

    if TYPE_CHECKING:

        @property
        def target(self) -> Target | None:
            """The target: a field that subclasses declare, each in its own order of fields."""

    @abc.abstractmethod
    def latents(self, key: Key[Array, ""], n: int) -> Choices:
        """Draw n times the choices at the latent addresses, each stacked to (n, ...)."""

    def log_density(self, latents: Choices, key: Any = None) -> Float[Array, ""]:
        """Log gamma(latents), the density of the target, which is unnormalised."""
        return self.known_target.log_prob(latents, key=key)

    def sample(self, key: Key[Array, ""], n: int = 1000) -> Choices:
        """Draw from the posterior.

        Args:
            key: one typed key.
            n: the number of draws.

        Returns:
            A nested dict with the choices at the latent addresses and the `deterministic` values of the program, each
            of the shape (n, ...).
        """
        n = asked(self, "sample", key, n)
        draw, rest = jax.random.split(key)
        latents = self.latents(draw, n)
        return latents if self.target is None else with_deterministics(self.target, rest, latents, n)

    def log_prob(self, choices: Mapping, *, key: Key[Array, ""] | None = None) -> Float[Array, ""]:
        """The log density of one draw: a float scalar in nats.

        It is normalised where a family, or `normalize`, has a density of its own; of weighted draws it is log gamma
        minus the log evidence that they estimate; of Markov chains log gamma, which is unnormalised.

        Args:
            choices: a value at every latent address; deterministic values among them are passed over.
            key: needed where the density is an estimate.

        Raises:
            AddressError: an address is missing or unknown.
            DensityError: the target is not known.
        """
        what, example = f"{type(self).__name__}.log_prob", "from addresses to values, like {'z': 1.0}"
        if key is not None:
            check_key(key, what)
        choices = as_arrays(mapping(what, "choices", choices, example, AddressError))
        return self.log_density(latents_in(self.known_target, choices), key)

    def summary(self, *, key: Key[Array, ""] | None = None, n: int = 4000) -> Summary:
        """What the posterior is like, as a table of moments and quantiles, and in words what is not trustworthy.

        Args:
            key: for the draws that it is made from; None takes `jax.random.key(0)`, so that the summary of a posterior
                is always the same.
            n: the number of draws, where they are made anew.
        """
        key, n = key_of_summary(self, key), count(f"{type(self).__name__}.summary", "n", n)
        unknown = "Nothing was looked at that would say whether these draws are right: `sbc` asks that of a procedure."
        return summarised(repr(self), self.chains(key, n), doubts=(unknown,))

    def chains(self, key: Key[Array, ""], n: int) -> Choices:
        """Draws as chains, each stacked to (chain, draw, ...): n in one chain, where there are no others."""
        return jax.tree.map(lambda x: x[None], self.sample(key, n))

    def diagnostics(self) -> dict[str, Shaped[Array, "chain draw"]]:
        """By name, what the sampler said of the draws of `chains`, each of the shape (chain, draw)."""
        return {}

    @property
    def known_target(self) -> Target:
        """The target.

        Raises:
            DensityError: there is none.
        """
        if self.target is None:
            name = type(self).__name__
            raise DensityError(
                f"{name}: the target of these draws is not known, and this needs it. Give it last: "
                f"`{name}(..., target)`."
            )
        return self.target

    def __repr__(self):
        what = "draws" if self.target is None else f"the posterior of {self.target.function.name}"
        return f"{type(self).__name__}: {what}"
