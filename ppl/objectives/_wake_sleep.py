"""The objectives of wake-sleep and its kin: the model and the guide are trained apart, each on draws held fixed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

import jax
from jax import lax
from jax import numpy as jnp

from .._errors import AddressError
from ..algorithms._base import log_mean_exp
from ..core._addresses import as_selection, nest, paths
from ..core._arguments import generative, particles, positional
from ..core._generative import GenerativeFunction
from ._objective import Objective, Shared, estimated, objective
from ._pair import as_data


@objective
def wake_theta(
    model: GenerativeFunction, guide: GenerativeFunction, observed: Mapping, *, n: int = 10, **shared: Unpack[Shared]
) -> Objective:
    """The wake phase of the model: E[log 1/n sum_i p(z_i, observed) / q(z_i)] <= log p(observed), the guide held fixed.

    Its value is the IWELBO; its derivative in the model is sum_i W_i d log p(z_i, observed), W_i ~ w_i, and zero in the
    guide. Unbiased for the IWELBO at every n, and for log p(observed) up to O(1/n).

    Args:
        n: the number of draws.

    Returns:
        An objective `(key, model_args=(), guide_args=()) -> scalar`, in nats, to be maximised in the model.

    Source: Bornschein and Bengio, Reweighted Wake-Sleep, 2015.

    Examples:
        >>> import jax, tracegrad as tg
        >>> model = tg.gen(lambda m: tg.sample("x", tg.dist.Normal(tg.sample("z", tg.dist.Normal(m, 1.0)), 1.0)))
        >>> guide = tg.gen(lambda m: tg.sample("z", tg.dist.Normal(m, 1.0)))
        >>> tg.wake_theta(model, guide, {"x": 2.0}, n=10)(jax.random.key(0), (0.0,), (1.0,)).shape
        ()
    """
    n = particles("wake_theta", n)
    return lambda pair, key: log_mean_exp(pair.fixed_draws(key, n).log_weights)


@objective
def wake_phi(
    model: GenerativeFunction, guide: GenerativeFunction, observed: Mapping, *, n: int = 10, **shared: Unpack[Shared]
) -> Objective:
    """The wake phase of the guide: sum_i W_i log q(z_i), with draws z_i and weights W_i ~ w_i held fixed.

    An estimate of E_p[log q(z)], p the posterior: maximising it minimises KL(p || q). The draws are from the guide at
    stopped parameters, so its derivative is sum_i W_i d log q(z_i), no more; that is self-normalised, and biased for
    the derivative of the divergence by O(1/n). No estimator is needed for the guide's sites, discrete or not.

    Args:
        model: a generative function over the latent and the observed addresses.
        guide: one over the latent addresses, its parameters passed as arguments.
        observed: values at the observed addresses.
        n: the number of draws; at n = 1 the derivative is zero in expectation.

    Returns:
        An objective `(key, model_args=(), guide_args=()) -> scalar`, in nats, to be maximised in the guide.

    Source: Bornschein and Bengio, Reweighted Wake-Sleep, 2015; Le et al., Revisiting Reweighted Wake-Sleep, 2019.

    Examples:
        >>> import jax, tracegrad as tg
        >>> model = tg.gen(lambda: tg.sample("x", tg.dist.Normal(tg.sample("z", tg.dist.Normal(0.0, 1.0)), 1.0)))
        >>> guide = tg.gen(lambda m: tg.sample("z", tg.dist.Normal(m, 1.0)))
        >>> tg.wake_phi(model, guide, {"x": 2.0}, n=10)(jax.random.key(0), (), (1.0,)).shape
        ()
    """
    n = particles("wake_phi", n)

    def loss(pair, key):
        draws = pair.with_model_held().fixed_draws(key, n)
        return jnp.dot(lax.stop_gradient(jax.nn.softmax(draws.log_weights)), draws.logq)

    return loss


def sleep(model: GenerativeFunction, guide: GenerativeFunction, observe: Any) -> Objective:
    """The sleep phase of the guide: E[log q(z; x)] over (z, x) dreamed by the model, held fixed.

    Maximising it minimises E_x KL(p(z | x) || q(z; x)) over the model's own observations x. Unbiased.

    Args:
        model: a generative function over the latent and the observed addresses.
        guide: one over the latent addresses, called as `guide(observed, *guide_args)` with the dreamed observations, a
            dict, in front.
        observe: which addresses are observed: a name or pattern, a list or tuple of them, or a `select(...)`.

    Returns:
        An objective `(key, model_args=(), guide_args=()) -> scalar`, in nats, to be maximised in the guide.

    Source: Hinton, Dayan, Frey and Neal, The Wake-Sleep Algorithm for Unsupervised Neural Networks, 1995.

    Examples:
        >>> import jax, tracegrad as tg
        >>> model = tg.gen(lambda: tg.sample("x", tg.dist.Normal(tg.sample("z", tg.dist.Normal(0.0, 1.0)), 1.0)))
        >>> guide = tg.gen(lambda observed, a: tg.sample("z", tg.dist.Normal(a * observed["x"], 0.7)))
        >>> tg.sleep(model, guide, "x")(jax.random.key(0), (), (0.5,)).shape
        ()
    """
    generative("sleep", model, role=" as its model")
    generative("sleep", guide, role=" as its guide")
    selection = as_selection(list(observe) if isinstance(observe, tuple) else observe)

    def loss(args, key):
        model_args, guide_args = args
        draw, density = jax.random.split(key)
        dream, _ = as_data(lambda key: model.simulate(key, *model_args), draw)
        selection.check((p for p, _ in paths(dream)), f"sleep, `observe` of {model.name}")
        x = nest({p: value for p, value in paths(dream) if p in selection})
        z = nest({p: value for p, value in paths(dream) if p not in selection})
        if not x or not z:
            raise AddressError(f"sleep: `observe` selects {'all' if x else 'none'} of the choices of {model.name}.")
        return guide.assess(z, x, *guide_args, key=density)[0]

    return estimated(loss, lambda p, q: (positional(p, model), positional(q, guide, told=1)))
