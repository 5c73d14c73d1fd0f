"""Divergences between the posterior and the guide, and losses that vanish where they agree.

Let w = p(z, observed) / q(z). Those whose gradient is taken at given samples draw from the guide at stopped
parameters and keep the derivatives of both densities at the draws; they need no estimator for the guide's sites.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Unpack

import jax
from jax import numpy as jnp
from jax.scipy.special import xlogy
from jaxtyping import Array, Float

from .._errors import DensityError
from ..algorithms._base import log_mean_exp
from ..core._arguments import generative, particles
from ..core._generative import GenerativeFunction
from ..transforms._internal import finite_real, is_numeric
from ..transforms._internal import function as check_function
from ._objective import Objective, Shared, objective
from ._pair import Fixed


def _cross(draws: Fixed) -> Float[Array, ""]:
    """E_p[log p(z, observed) - log q(z)], self-normalised over the draws."""
    return jnp.dot(jax.nn.softmax(draws.log_weights), draws.logp - draws.logq)


@objective
def forward_kl(
    model: GenerativeFunction, guide: GenerativeFunction, observed: Mapping, *, n: int = 10, **shared: Unpack[Shared]
) -> Objective:
    """The inclusive divergence KL(p(z | observed) || q) = E_p[log w] - log p(observed) >= 0.

    Estimated by self-normalised importance sampling over n draws z_i from the guide at stopped parameters: with W_i ~
    p(z_i, observed) / q(z_i), it is sum_i W_i (log p(z_i, observed) - log q(z_i)) - log 1/n sum_i w_i, and its
    derivative in the guide -sum_i W_i d log q(z_i). Both are biased by O(1/n), the value towards zero (it is zero at
    n = 1); with the exact posterior as the guide both are exact.

    Args:
        n: the number of draws.

    Returns:
        An objective `(key, model_args=(), guide_args=()) -> scalar`, in nats, to be minimised.

    Source: Bornschein and Bengio, Reweighted Wake-Sleep, 2015.

    Examples:
        >>> import jax, tracegrad as tg
        >>> model = tg.gen(lambda: tg.sample("x", tg.dist.Normal(tg.sample("z", tg.dist.Normal(0.0, 1.0)), 1.0)))
        >>> guide = tg.gen(lambda m: tg.sample("z", tg.dist.Normal(m, 1.0)))
        >>> tg.forward_kl(model, guide, {"x": 2.0}, n=10)(jax.random.key(0), (), (1.0,)).shape
        ()
    """
    n = particles("forward_kl", n)

    def divergence(pair, key):
        draws = pair.fixed_draws(key, n)
        return _cross(draws) - log_mean_exp(draws.log_weights)

    return divergence


@objective
def symmetric_kl(
    model: GenerativeFunction, guide: GenerativeFunction, observed: Mapping, *, n: int = 10, **shared: Unpack[Shared]
) -> Objective:
    """The symmetric divergence KL(q || p) + KL(p || q) = E_p[log w] - E_q[log w] >= 0; log p(observed) cancels.

    The first term is self-normalised as in `forward_kl`, biased by O(1/n) downwards; the second is minus the ELBO over
    n fresh draws, unbiased, through the estimators of the guide's sites.

    Args:
        n: the number of draws for each term.

    Returns:
        An objective `(key, model_args=(), guide_args=()) -> scalar`, in nats, to be minimised.

    Source: Jeffreys, An Invariant Form for the Prior Probability in Estimation Problems, 1946.

    Examples:
        >>> import jax, tracegrad as tg
        >>> model = tg.gen(lambda: tg.sample("x", tg.dist.Normal(tg.sample("z", tg.dist.Normal(0.0, 1.0)), 1.0)))
        >>> guide = tg.gen(lambda m: tg.sample("z", tg.dist.Normal(m, 1.0)))
        >>> tg.symmetric_kl(model, guide, {"x": 2.0}, n=10)(jax.random.key(0), (), (1.0,)).shape
        ()
    """
    n = particles("symmetric_kl", n)

    def divergence(pair, key):
        forward, reverse = jax.random.split(key)
        return _cross(pair.fixed_draws(forward, n)) - jnp.mean(pair.log_weights(reverse, n))

    return divergence


@objective
def f_divergence(
    model: GenerativeFunction,
    guide: GenerativeFunction,
    observed: Mapping,
    *,
    f: Callable,
    n: int = 10,
    log_z: float | Float[Array, ""] | None = None,
    **shared: Unpack[Shared],
) -> Objective:
    """The f-divergence D_f(p || q) = E_q[f(w / Z)], Z = p(observed), for a convex f with f(1) = 0.

    With `log_z` the mean of f over n draws is unbiased, value and derivative. Without it Z is the mean weight of the
    same draws, and the estimate is biased downwards by O(1/n); its expectation is what is differentiated.

    Args:
        f: a function of the ratio p / q, elementwise: `lambda r: -jnp.log(r)` is KL(q || p), `xlogy(r, r)` KL(p || q),
            `(r - 1) ** 2` chi squared, `(jnp.sqrt(r) - 1) ** 2` squared Hellinger.
        n: the number of draws; at least 2 without `log_z`.
        log_z: log p(observed) in nats, where it is known.

    Returns:
        An objective `(key, model_args=(), guide_args=()) -> scalar`, to be minimised.

    Raises:
        DensityError: one draw and no `log_z`: the estimate would be f(1) whatever the guide.

    Source: Ali and Silvey, 1966; Wan, Li and Hovakimyan, f-Divergence Variational Inference, 2020.

    Examples:
        >>> import jax, jax.numpy as jnp, tracegrad as tg
        >>> model = tg.gen(lambda: tg.sample("x", tg.dist.Normal(tg.sample("z", tg.dist.Normal(0.0, 1.0)), 1.0)))
        >>> guide = tg.gen(lambda m: tg.sample("z", tg.dist.Normal(m, 1.0)))
        >>> hellinger = tg.f_divergence(model, guide, {"x": 2.0}, f=lambda r: (jnp.sqrt(r) - 1.0) ** 2, n=20)
        >>> hellinger(jax.random.key(0), (), (1.0,)).shape
        ()
    """
    check_function("f_divergence", "as f a function of the ratio", f, DensityError)
    return _mean_of("f_divergence", f, n, log_z)


def _mean_of(what, f, n, log_z):
    """The formula of an f-divergence."""
    n = particles(what, n, least=2 if log_z is None else 1)
    if log_z is not None:
        finite_real(what, "log_z", log_z, DensityError)

    def divergence(pair, key):
        log_w = pair.log_weights(key, n)
        values = f(jnp.exp(log_w - (log_mean_exp(log_w) if log_z is None else log_z)))
        if not is_numeric(values):
            raise DensityError(f"{what}: f must return real numbers, and returned {values!r}.")
        return jnp.mean(values)

    return divergence


@objective
def jensen_shannon(
    model: GenerativeFunction,
    guide: GenerativeFunction,
    observed: Mapping,
    *,
    n: int = 10,
    log_z: float | Float[Array, ""] | None = None,
    **shared: Unpack[Shared],
) -> Objective:
    """The Jensen-Shannon divergence, half of KL(p || m) + KL(q || m) with m = (p + q) / 2, between 0 and log 2.

    An f-divergence with f(r) = 1/2 (r log r - (1 + r) log((1 + r) / 2)); bias and derivative as in `f_divergence`.

    Args:
        n: the number of draws; at least 2 without `log_z`.
        log_z: log p(observed) in nats, where it is known.

    Returns:
        An objective `(key, model_args=(), guide_args=()) -> scalar`, in nats, to be minimised.

    Source: Lin, Divergence Measures Based on the Shannon Entropy, 1991.

    Examples:
        >>> import jax, tracegrad as tg
        >>> model = tg.gen(lambda: tg.sample("x", tg.dist.Normal(tg.sample("z", tg.dist.Normal(0.0, 1.0)), 1.0)))
        >>> guide = tg.gen(lambda m: tg.sample("z", tg.dist.Normal(m, 1.0)))
        >>> tg.jensen_shannon(model, guide, {"x": 2.0}, n=10)(jax.random.key(0), (), (1.0,)).shape
        ()
    """

    def f(r):
        return 0.5 * (xlogy(r, r) - (1.0 + r) * jnp.log(0.5 * (1.0 + r)))

    return _mean_of("jensen_shannon", f, n, log_z)


def _behaviour(what: str, proposal: Any) -> GenerativeFunction | None:
    """What draws are from, where it is not the guide."""
    return None if proposal is None else generative(what, proposal, role=" as its `proposal`")


@objective
def trajectory_balance(
    model: GenerativeFunction,
    guide: GenerativeFunction,
    observed: Mapping,
    *,
    n: int = 1,
    proposal: GenerativeFunction | None = None,
    **shared: Unpack[Shared],
) -> Objective:
    """Trajectory balance: 1/2 E_q[(log Z + log q(z) - log p(z, observed))^2], zero where q is the posterior.

    The draws are at stopped parameters, and only the square is differentiated: in the guide that gives minus the
    gradient of the ELBO in expectation, for any constant log Z (which acts as a baseline); the best log Z is the ELBO.
    Unbiased at every n. With a `proposal` the expectation is under that, and is no gradient of the ELBO.

    Args:
        n: the number of draws.
        proposal: what the draws are from, where it is not the guide (off policy): a generative function of the guide's
            arguments over the same addresses, such as the guide tempered, mixed with a wide one, or earlier draws
            replayed. The loss is then zero at the posterior whatever draws them, if it may draw everything.

    Returns:
        An objective `(key, model_args=(), guide_args=(), log_z=0.0) -> scalar`, in squared nats, to be minimised; log_z
        is a float scalar, to be learned or held.

    Source: Malkin et al., Trajectory Balance, 2022, and GFlowNets and Variational Inference, 2023.

    Examples:
        >>> import jax, tracegrad as tg
        >>> model = tg.gen(lambda: tg.sample("x", tg.dist.Normal(tg.sample("z", tg.dist.Normal(0.0, 1.0)), 1.0)))
        >>> guide = tg.gen(lambda m: tg.sample("z", tg.dist.Normal(m, 1.0)))
        >>> tg.trajectory_balance(model, guide, {"x": 2.0})(jax.random.key(0), (), (1.0,), -2.5).shape
        ()
    """
    n, proposal = particles("trajectory_balance", n), _behaviour("trajectory_balance", proposal)

    def loss(pair, key, log_z=0.0):
        draws = pair.fixed_draws(key, n, proposal)
        return 0.5 * jnp.mean((log_z + draws.logq - draws.logp) ** 2)

    return loss


@objective
def log_variance(
    model: GenerativeFunction,
    guide: GenerativeFunction,
    observed: Mapping,
    *,
    n: int = 10,
    proposal: GenerativeFunction | None = None,
    **shared: Unpack[Shared],
) -> Objective:
    """The log-variance loss, 1/2 Var_q[log q(z) - log p(z, observed)], zero where q is the posterior.

    The variance over n draws at stopped parameters is unbiased (n - 1 in the denominator), and only the densities are
    differentiated: in the guide that gives minus the gradient of the ELBO with a leave-one-out baseline, draw by
    draw.

    Args:
        n: the number of draws, at least 2.
        proposal: what the draws are from, where it is not the guide (off policy): a generative function of the guide's
            arguments over the same addresses, such as the guide tempered, mixed with a wide one, or earlier draws
            replayed. The loss is then zero at the posterior whatever draws them, if it may draw everything.

    Returns:
        An objective `(key, model_args=(), guide_args=()) -> scalar`, in squared nats, to be minimised.

    Source: Richter et al., VarGrad: A Low-Variance Gradient Estimator for Variational Inference, 2020.

    Examples:
        >>> import jax, tracegrad as tg
        >>> model = tg.gen(lambda: tg.sample("x", tg.dist.Normal(tg.sample("z", tg.dist.Normal(0.0, 1.0)), 1.0)))
        >>> guide = tg.gen(lambda m: tg.sample("z", tg.dist.Normal(m, 1.0)))
        >>> tg.log_variance(model, guide, {"x": 2.0}, n=10)(jax.random.key(0), (), (1.0,)).shape
        ()
    """
    n, proposal = particles("log_variance", n, least=2), _behaviour("log_variance", proposal)

    def loss(pair, key):
        draws = pair.fixed_draws(key, n, proposal)
        return 0.5 * jnp.var(draws.logq - draws.logp, ddof=1)

    return loss
