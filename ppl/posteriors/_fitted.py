"""A posterior by a fitted guide: a family with its parameters, `normalize(...)`, or a program of one's own."""

from __future__ import annotations

from typing import Any

import jax
from jaxtyping import Array, Float, Key

from ..algorithms._proposal import check_latents
from ..core._addresses import Choices
from ..core._arguments import count, generative, positional
from ..core._generative import GenerativeFunction
from ..core._target import Target, checked_target
from ._doubts import fit_doubts
from ._importance_sampling import WeightedDraws, importance_sampling
from ._posterior import Posterior, asked, key_of_summary
from ._summary import Summary, summarised
from ._visits import as_many_as_fit, lanes, with_deterministics

WEIGHED = 5000
"""Draws of which k-hat is taken: enough that its standard error is about 0.1."""


class Fitted(Posterior):
    """A guide with its arguments as the posterior of a target.

    `family.posterior(params)` makes one of an automatic family, `normalize(...).posterior()` one of an algorithm; a
    guide of your own is `Fitted(target, guide, (params,))`.

    Attributes:
        target: the `Target`.
        guide: a generative function over its latent addresses.
        args: the guide's arguments, a tuple; what is not a tuple is the only argument.

    Examples:
        >>> import jax, tracegrad as tg
        >>> model = tg.gen(lambda: tg.sample("x", tg.dist.Normal(tg.sample("z", tg.dist.Normal(0.0, 1.0)), 1.0)))
        >>> guide = tg.gen(lambda m: tg.sample("z", tg.dist.Normal(m, 0.5**0.5)))
        >>> posterior = tg.Fitted(tg.Target(model, observed={"x": 2.0}), guide, 1.0)
        >>> posterior.sample(jax.random.key(0), 3)["z"].shape, round(float(posterior.log_prob({"z": 1.0})), 4)
        ((3,), -0.5724)
    """

    target: Target
    guide: GenerativeFunction
    args: tuple

    def __init__(self, target: Target, guide: GenerativeFunction, args: Any = ()):
        self.target = checked_target("Fitted", target)
        self.guide = generative("Fitted", guide, role=" over the latents")
        self.args = positional(args, self.guide)

    @property
    def params(self) -> Any:
        """The parameters of a family, the guide's only argument; of another guide all its arguments."""
        return self.args[0] if len(self.args) == 1 else self.args

    def latents(self, key: Key[Array, ""], n: int) -> Choices:
        """Draws from the guide.

        Raises:
            AddressError: its addresses are not those of the latents.
        """
        keys = jax.random.split(key, asked(self, "latents", key, n))
        drawn = lanes(lambda key: self.guide.simulate(key, *self.args).choices, keys)
        check_latents(self.target, self.guide.name, drawn)
        return drawn

    def log_density(self, latents: Choices, key: Any = None) -> Float[Array, ""]:
        """The guide's own."""
        return self.guide.assess(latents, *self.args, key=key)[0]

    def weighted(self, key: Key[Array, ""], n: int = WEIGHED, *, chunk_size: int | None = None) -> WeightedDraws:
        """Draws from the guide with their importance weights, which correct what the guide misses of the posterior.

        They are a posterior themselves, and can be trusted where their `k_hat` is below 0.7.

        Args:
            key: one typed key.
            n: the number of draws.
            chunk_size: run at most about this many at a time; None finds out how many times the data fit 64 MiB.
        """
        n = count("Fitted.weighted", "n", n)
        chunk_size = as_many_as_fit(self.target.observed, n) if chunk_size is None else chunk_size
        return importance_sampling(self.target, self.guide, self.args, key=key, n=n, chunk_size=chunk_size)

    @property
    def k_hat(self) -> float:
        """The k-hat of 5000 weighted draws, by `jax.random.key(0)`; below 0.7 the guide covers the posterior.

        Raises:
            ImportError: arviz is missing.
        """
        return self.weighted(jax.random.key(0)).k_hat

    def summary(self, *, key: Key[Array, ""] | None = None, n: int = WEIGHED) -> Summary:
        """As of every posterior; the doubts are those that importance weights of the same draws raise."""
        draw, rest = jax.random.split(key_of_summary(self, key))
        weighted = self.weighted(draw, n)
        choices = with_deterministics(self.target, rest, weighted.choices, n)
        alone = jax.tree.map(lambda x: x[None], choices)
        return summarised(repr(self), alone, doubts=tuple(fit_doubts(weighted)))

    def __repr__(self):
        return f"Fitted: the posterior of {self.target.function.name} by {self.guide.name}"
