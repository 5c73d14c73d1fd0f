"""What objectives share: draws from a guide, weighed against a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
from jax import lax
from jax import numpy as jnp

from ..core._addresses import Choices, merge
from ..core._attitudes import compared
from ..core._generative import GenerativeFunction
from ..core._target import splat
from ..transforms import held


class Pair(NamedTuple):
    """A model with its observations and a guide, each with its arguments."""

    model: GenerativeFunction
    guide: GenerativeFunction
    observed: Mapping
    model_args: tuple
    guide_args: tuple

    def log_weight(self, key: jax.Array) -> jax.Array:
        """Log p(z, observed) - log q(z) at z drawn from the guide; the derivative is the draw's and the densities'."""
        draw, density = jax.random.split(key)
        guide, model = compared(self.guide, self.model)
        q = guide.simulate(draw, *self.guide_args)
        logp, _ = model.assess(merge(q.choices, self.observed), *self.model_args, key=density)
        return logp - q.logp

    def log_weights(self, key: jax.Array, n: int) -> jax.Array:
        """The log weights of n draws, shape (n,)."""
        return jax.vmap(self.log_weight)(jax.random.split(key, n))

    def fixed_draws(self, key: jax.Array, n: int) -> Fixed:
        """N draws from the guide, as though they were data."""

        def one(key):
            draw, p, q = jax.random.split(key, 3)
            choices, drawn = as_data(lambda key: self.guide.simulate(key, *self.guide_args), draw)
            logp, _ = self.model.assess(merge(choices, self.observed), *self.model_args, key=p)
            logq, _ = self.guide.assess(choices, *self.guide_args, key=q)
            return Fixed(logp, logq, drawn)

        return jax.vmap(one)(jax.random.split(key, n))


class Fixed(NamedTuple):
    """log p(z, observed) and log q(z) with their derivatives at given z, and log q of the draw that made them."""

    logp: jax.Array
    logq: jax.Array
    drawn: jax.Array

    @property
    def log_weights(self) -> jax.Array:
        """Log p(z, observed) over the density that z was drawn with, which has no derivative."""
        return self.logp - self.drawn

    def control(self, baselines: jax.Array) -> jax.Array:
        """Zero, with the derivative 1/n sum_i b_i d log q(z_i): of mean zero where no b_i depends on its own z_i."""
        ratio = jnp.exp(self.logq - self.drawn)
        return jnp.mean(lax.stop_gradient(baselines) * (ratio - lax.stop_gradient(ratio)))


def pair(model, guide, observed, model_args, guide_args) -> Pair:
    """Gather them; arguments that are not tuples are the only ones."""
    return Pair(model, guide, observed, splat(model_args), splat(guide_args))


def fixed(tree: Any) -> Any:
    """A pytree at stopped gradient."""
    return jax.tree.map(lambda x: lax.stop_gradient(x) if eqx.is_inexact_array(x) else x, tree)


def as_data(simulate: Any, key: jax.Array) -> tuple[Choices, jax.Array]:
    """The choices of a trace and their log density without derivative, be it in arguments or in what is closed over."""

    def run(key):
        trace = simulate(key)
        return trace.choices, trace.logp

    return fixed(held(run)(key))


def log_mean(log_weights: jax.Array) -> jax.Array:
    """The log of the mean weight."""
    return jax.nn.logsumexp(log_weights) - jnp.log(float(log_weights.shape[0]))
