"""Objectives over sequences: bounds by sequential Monte Carlo, and inference nested through a path of targets."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import jax
from jax import numpy as jnp

from .._errors import DensityError
from ..algorithms._smc import smc
from ..core._addresses import paths
from ..core._arguments import generative, generatives, listed, observations, particles, positional, posterior
from ..core._function import gen
from ..core._generative import GenerativeFunction
from ..core._target import Target
from ..densities._marginal_and_normalize import marginal, normalize
from ..transforms import ArgumentError, held
from ..transforms._internal import function as check_function
from ..transforms._internal import stop_gradient
from ._objective import Objective, estimated
from ._pair import as_data


def smc_bound(
    model: GenerativeFunction,
    guide: GenerativeFunction | None,
    observed: Mapping,
    *,
    n: int,
    resampling: str = "multinomial",
) -> Objective:
    """The bound of a particle filter, E[log Ẑ] <= log p(observed), Ẑ = prod_t 1/n sum_k w_t^k (FIVO, AESMC, VSMC).

    It tends to log p(observed) as n grows; at n = 1 it is the ELBO of the guide run step by step. The ancestors' score
    terms are in the derivative, which is unbiased for that of the bound at every n (leaving them out, as is common, is
    not); they are samples at the address "ancestor", and other estimators can be chosen for them.

    Args:
        model: a scan, `step.scan()`, over the latent and the observed addresses of its steps.
        guide: a proposal for one step, called as `guide(observed, carry, x, *guide_args)`; None proposes by the model.
        observed: values at the observed addresses, stacked over the steps.
        n: the number of particles.
        resampling: "multinomial" or "systematic".

    Returns:
        An objective `(key, model_args=(), guide_args=()) -> scalar`, in nats, to be maximised; model_args is
        (init, xs).

    Source: Maddison et al., Filtering Variational Objectives, 2017; Le et al., Auto-Encoding SMC, 2018; Naesseth et
    al., Variational SMC, 2018.

    Examples:
        >>> import jax, jax.numpy as jnp, tracegrad as tg
        >>> @tg.gen
        ... def step(z, x):
        ...     z = tg.sample("z", tg.dist.Normal(z, 1.0))
        ...     tg.sample("y", tg.dist.Normal(z, 1.0))
        ...     return z, None
        >>> guide = tg.gen(lambda observed, z, x, a: tg.sample("z", tg.dist.Normal(z + a * (observed["y"] - z), 0.7)))
        >>> objective = tg.smc_bound(step.scan(length=3), guide, {"y": jnp.array([0.0, 1.0, 2.0])}, n=10)
        >>> objective(jax.random.key(0), (0.0,), (0.5,)).shape
        ()
    """
    observed, n = observations("smc_bound", observed), particles("smc_bound", n)
    generative("smc_bound", model, role=" as its model")
    smc(n, guide, resampling=resampling)  # The arguments of the guide are not known yet; what is wrong now is said now.
    keep = [path for path, _ in paths(observed)]

    def bound(args, key):
        model_args, guide_args = args
        filtered = marginal(model, keep, smc(n, guide, guide_args, resampling=resampling))
        return filtered.assess(observed, *model_args, key=key)[0]

    return estimated(bound, _of_steps(model, guide))


def smc_wake_phi(model: GenerativeFunction, guide: GenerativeFunction, observed: Mapping, *, n: int) -> Objective:
    """Neural adaptive SMC: E[log q(z)] over paths z of a particle filter, held fixed.

    Maximising it minimises KL(p(z | observed) || q) up to the filter's error, which is O(1/n): `wake_phi` with the
    weights of a filter. The filter runs at stopped parameters; only log q of its path, step by step, is differentiated.

    Args:
        model: a scan, `step.scan()`, over the latent and the observed addresses of its steps.
        guide: a proposal for one step, called as `guide(observed, carry, x, *guide_args)`.
        observed: values at the observed addresses, stacked over the steps.
        n: the number of particles.

    Returns:
        An objective `(key, model_args=(), guide_args=()) -> scalar`, in nats, to be maximised in the guide.

    Source: Gu, Ghahramani and Turner, Neural Adaptive Sequential Monte Carlo, 2015.

    Examples:
        >>> import jax, jax.numpy as jnp, tracegrad as tg
        >>> @tg.gen
        ... def step(z, x):
        ...     z = tg.sample("z", tg.dist.Normal(z, 1.0))
        ...     tg.sample("y", tg.dist.Normal(z, 1.0))
        ...     return z, None
        >>> guide = tg.gen(lambda observed, z, x, a: tg.sample("z", tg.dist.Normal(z + a * (observed["y"] - z), 0.7)))
        >>> objective = tg.smc_wake_phi(step.scan(length=3), guide, {"y": jnp.array([0.0, 1.0, 2.0])}, n=10)
        >>> objective(jax.random.key(0), (0.0,), (0.5,)).shape
        ()
    """
    observed, n = posterior("smc_wake_phi", model, guide, observed), particles("smc_wake_phi", n)

    def loss(args, key):
        model_args, guide_args = args
        draw, density = jax.random.split(key)
        target = Target(model, stop_gradient(model_args), observed)
        path, _ = as_data(normalize(target, smc(n, guide, guide_args)).simulate, draw)
        # What one particle follows is the guide itself.
        return normalize(target, smc(1, guide, guide_args)).assess(path, key=density)[0]

    return estimated(loss, _of_steps(model, guide))


TOLD = 3
"""What a proposal for a step is told: what is observed there, the carry and the input."""


def _of_steps(model, guide):
    """The arguments of a chain and of a proposal for its steps, each as a tuple."""
    return lambda p, q: (positional(p, model), positional(q, guide, told=TOLD))


def nested_vi(
    log_gammas: Sequence[Callable],
    forwards: Sequence[GenerativeFunction],
    reverses: Sequence[GenerativeFunction],
    *,
    n: int,
) -> Objective:
    """Nested variational inference: sum_k KL(pi_{k-1}(z) q_k(z' | z) || pi_k(z') r_k(z | z')) over a path of targets.

    pi_k ~ gamma_k. Level k takes n draws z of level k - 1, moves them by q_k, and weighs them by v = gamma_k(z')
    r_k(z | z') / (gamma_{k-1}(z) q_k(z' | z)); its term is -sum_i W_i log v_i, with W_i the normalised weights so far,
    plus log Ẑ_k / Ẑ_{k-1}. It is differentiated in the kernels (guide_args): the densities, log Ẑ and what comes from
    the level before are held fixed, so each level is drawn twice, once to be differentiated and once, at stopped
    parameters, to be passed on. Self-normalised: biased by O(1/n) from the second level on, exact at the first.

    Args:
        log_gammas: K functions `log_gamma(choices, *model_args)`, the unnormalised log densities of the path.
        forwards: K generative functions: the first called as `q(*guide_args)`, the others as `q(choices, *guide_args)`.
        reverses: K - 1 generative functions, called as `r(choices, *guide_args)` with the later choices, over the
            addresses of the earlier ones.
        n: the number of draws.

    Returns:
        An objective `(key, model_args=(), guide_args=()) -> scalar`, in nats, to be minimised.

    Source: Zimmermann et al., Nested Variational Inference, 2021.

    Examples:
        >>> import jax, tracegrad as tg
        >>> hot = lambda z: -0.25 * z["z"] ** 2
        >>> cold = lambda z: -((z["z"] - 1.0) ** 2)
        >>> start = tg.gen(lambda a: tg.sample("z", tg.dist.Normal(0.0, 1.4)))
        >>> move = tg.gen(lambda z, a: tg.sample("z", tg.dist.Normal(a * z["z"], 0.7)))
        >>> back = tg.gen(lambda z, a: tg.sample("z", tg.dist.Normal(a * z["z"], 1.0)))
        >>> objective = tg.nested_vi([hot, cold], [start, move], [back], n=10)
        >>> objective(jax.random.key(0), (), (0.5,)).shape
        ()
    """
    n = particles("nested_vi", n)
    for density in listed("nested_vi", log_gammas, " of log densities"):
        check_function("nested_vi", "as a log density a function of choices", density, ArgumentError)
    forwards = generatives("nested_vi", forwards, role=" of forward kernels")
    reverses = generatives("nested_vi", reverses, role=" of reverse kernels")
    if not len(log_gammas) == len(forwards) == len(reverses) + 1:
        raise DensityError(
            f"nested_vi: K densities need K forward kernels and K - 1 reverse ones, and got {len(log_gammas)}, "
            f"{len(forwards)} and {len(reverses)}."
        )

    def level(k, kernels, key, before, model_args, guide_args):
        """Draws of level k from those before, and their log v."""
        forward, back = kernels

        def move(key, *before):
            after = forward[k].simulate(key, *before, *guide_args)
            log_v = log_gammas[k](after.choices, *model_args) - after.logp
            for z in before:
                log_v += back[k - 1].assess(z, after.choices, *guide_args)[0] - log_gammas[k - 1](z, *model_args)
            return after.choices, log_v

        return jax.vmap(move)(jax.random.split(key, n), *before)

    def loss(args, key):
        densities, guide_args, live = stop_gradient(args[0]), args[1], (forwards, reverses)
        total, log_w = jnp.zeros(()), jnp.zeros((n,))
        before: tuple = ()
        for k in range(len(forwards)):
            here, onward = jax.random.split(jax.random.fold_in(key, k))
            _, log_v = level(k, live, here, before, densities, guide_args)
            again = functools.partial(level, k, live, before=before, model_args=densities, guide_args=guide_args)
            choices, still = stop_gradient(held(again)(onward))
            log_z = jax.nn.logsumexp(log_w + still) - jax.nn.logsumexp(log_w)
            total += log_z - jnp.dot(jax.nn.softmax(log_w), log_v)
            log_w, before = log_w + still, (choices,)
        return total

    def gather(p, q):
        for density in map(gen, log_gammas):
            p = positional(p, density, told=1)
        for k, kernel in enumerate((*forwards, *reverses)):
            q = positional(q, kernel, told=min(k, 1))
        return p, q

    return estimated(loss, gather)
