"""What an objective is estimated from: a model at its observations and a guide, each with its arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Float, Key

from ..algorithms._proposal import Proposal, explained, nothing, proposal_of
from ..core._addresses import Choices
from ..core._attitudes import Weighed, compared
from ..core._by_address import ByAddress
from ..core._generative import Chosen, GenerativeFunction
from ..core._overrides import isolated
from ..core._scales import scales_of
from ..core._target import Target
from ..core._trace import Trace
from ..transforms import held
from ..transforms._internal import stop_gradient


def terms(scale_both: Mapping | None) -> ByAddress | None:
    """Weights of the terms of a bound by address, checked."""
    return None if scale_both is None else scales_of(scale_both)


class Pair(NamedTuple):
    """A model at its observations, a target, and a guide, a proposal for it."""

    model: Target
    guide: Proposal

    @classmethod
    def of(
        cls, model: GenerativeFunction, guide: GenerativeFunction, observed: Mapping, model_args: Any, guide_args: Any
    ) -> Pair:
        """Gather them. Arguments are tuples, or the only ones."""
        return cls(Target(model, model_args, observed), proposal_of("The pair", guide, guide_args, nothing))

    def compared(self) -> Pair:
        """The same, in which the model warns of values that the guide draws from a larger support than its own."""
        guide, model = compared(self.guide.function, self.model.function)
        return Pair(Target(model, self.model.args, self.model.observed), Proposal(guide, self.guide.args))

    def with_terms_scaled(self, scale: ByAddress | None) -> Pair:
        """The same, the terms log p - log q weighed by address; None leaves them as they are."""
        if scale is None:
            return self
        guide, model = Weighed(self.guide.function, scale), Chosen(self.model.function, "scales", scale)
        return Pair(Target(model, self.model.args, self.model.observed), Proposal(guide, self.guide.args))

    def with_model_held(self) -> Pair:
        """The same at model arguments without derivative."""
        model = self.model
        return self._replace(model=Target(model.function, stop_gradient(model.args), model.observed))

    # ---- one draw ----

    def simulate(self, key: Key[Array, ""]) -> Trace:
        """One run of the guide."""
        return self.guide.function.simulate(key, *self.guide.args)

    def logp(self, latents: Mapping, key: Key[Array, ""] | None = None) -> Float[Array, ""]:
        """Log p(latents, observed)."""
        with explained(self.model, self.guide.function.name, latents):
            return self.model.log_prob(latents, key=key)

    def logq(self, latents: Mapping, key: Key[Array, ""] | None = None) -> Float[Array, ""]:
        """Log q(latents)."""
        return self.guide.function.assess(latents, *self.guide.args, key=key)[0]

    def log_weight(self, key: Key[Array, ""]) -> Float[Array, ""]:
        """Log p(z, observed) - log q(z) at z drawn from the guide; the derivative is the draw's and the densities'."""
        model, guide = self.compared()
        with isolated():
            return guide.weighed(key, model).log_weight

    # ---- n draws ----

    def log_weights(self, key: Key[Array, ""], n: int) -> Float[Array, " n"]:
        """The log weights of n draws, shape (n,)."""
        return jax.vmap(self.log_weight)(jax.random.split(key, n))

    def fixed_draws(self, key: Key[Array, ""], n: int, proposal: GenerativeFunction | None = None) -> Fixed:
        """N draws from the guide, or from another program of its arguments, as though they were data."""
        source = self.guide if proposal is None else Proposal(proposal, self.guide.args)
        pair = self._replace(guide=source)

        def one(key):
            draw, p, q = jax.random.split(key, 3)
            latents, drawn = as_data(pair.simulate, draw)
            return Fixed(pair.logp(latents, p), self.logq(latents, q), drawn)

        return jax.vmap(one)(jax.random.split(key, n))


class Fixed(NamedTuple):
    """log p(z, observed) and log q(z) with their derivatives at given z, and log q of the draw that made them."""

    logp: Float[Array, " n"]
    logq: Float[Array, " n"]
    drawn: Float[Array, " n"]

    @property
    def log_weights(self) -> Float[Array, " n"]:
        """Log p(z, observed) over the density that z was drawn with, which has no derivative."""
        return self.logp - self.drawn

    def control(self, baselines: Float[Array, " n"]) -> Float[Array, ""]:
        """Zero, with the derivative 1/n sum_i b_i d log q(z_i): of mean zero where no b_i depends on its own z_i."""
        ratio = jnp.exp(self.logq - self.drawn)
        return jnp.mean(lax.stop_gradient(baselines) * (ratio - lax.stop_gradient(ratio)))


def as_data(simulate: Any, key: Key[Array, ""]) -> tuple[Choices, Float[Array, ""]]:
    """The choices of a trace and their log density without derivative, be it in arguments or in what is closed over."""

    def run(key):
        trace = simulate(key)
        return trace.choices, trace.logp

    return stop_gradient(held(run)(key))
