"""The library's objectives, written in the language: each is an example, and nothing in it is privileged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax import numpy as jnp

from ._addresses import merge
from ._generative import GenerativeFunction
from .transforms import expectation


def _splat(args: Any) -> tuple:
    return args if type(args) is tuple else (args,)


def _log_weight(key, model, guide, observed, model_args, guide_args):
    """log p(z, observed) - log q(z) at z drawn from the guide."""
    draw, density = jax.random.split(key)
    q = guide.simulate(draw, *_splat(guide_args))
    logp, _ = model.assess(merge(q.choices, observed), *_splat(model_args), key=density)
    return logp - q.logp


def elbo(model: GenerativeFunction, guide: GenerativeFunction, observed: Mapping) -> Callable:
    """The evidence lower bound, E_q[log p(z, observed) - log q(z)] <= log p(observed).

    Args:
        model: a generative function over the latent and the observed addresses.
        guide: one over the latent addresses, the variational family.
        observed: values at the observed addresses.

    Returns:
        An objective `(key, model_args=(), guide_args=()) -> scalar`, in nats, to be maximised. The arguments are
        tuples; one that is not a tuple is taken as the only argument.

    Source: Jordan et al., An Introduction to Variational Methods for Graphical Models, 1999.

    Example:
        >>> import jax, tracegrad as tg
        >>> @tg.gen
        ... def model():
        ...     z = tg.sample("z", tg.dist.Normal(0.0, 1.0))
        ...     tg.sample("x", tg.dist.Normal(z, 1.0))
        >>> guide = tg.gen(lambda m: tg.sample("z", tg.dist.Normal(m, 0.7)))
        >>> objective = tg.elbo(model, guide, {"x": 2.0})
        >>> jax.grad(objective, argnums=2)(jax.random.key(0), (), (0.0,))[0].shape
        ()
    """

    @expectation
    def objective(key, model_args=(), guide_args=()):
        return _log_weight(key, model, guide, observed, model_args, guide_args)

    return objective


def iwelbo(model: GenerativeFunction, guide: GenerativeFunction, observed: Mapping, *, n: int) -> Callable:
    """The importance weighted bound, E[log 1/n sum_i p(z_i, observed) / q(z_i)] <= log p(observed).

    It grows with the number of particles n, and is the ELBO at n = 1. Particles are lanes of one `vmap`.

    Args:
        model: a generative function over the latent and the observed addresses.
        guide: one over the latent addresses.
        observed: values at the observed addresses.
        n: the number of particles.

    Returns:
        An objective `(key, model_args=(), guide_args=()) -> scalar`, in nats, to be maximised.

    Source: Burda, Grosse and Salakhutdinov, Importance Weighted Autoencoders, 2016.

    Example:
        >>> import jax, tracegrad as tg
        >>> model = tg.gen(lambda: tg.sample("x", tg.dist.Normal(tg.sample("z", tg.dist.Normal(0.0, 1.0)), 1.0)))
        >>> guide = tg.gen(lambda m: tg.sample("z", tg.dist.Normal(m, 0.7)))
        >>> tg.iwelbo(model, guide, {"x": 2.0}, n=10)(jax.random.key(0), (), (1.0,)).shape
        ()
    """

    @expectation
    def objective(key, model_args=(), guide_args=()):
        def log_weight(key):
            return _log_weight(key, model, guide, observed, model_args, guide_args)

        return jax.nn.logsumexp(jax.vmap(log_weight)(jax.random.split(key, n))) - jnp.log(n)

    return objective
