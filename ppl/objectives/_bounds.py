"""The library's objectives, written in the language: each is an example, and nothing in it is privileged.

Here are the bounds on log p(observed). What is differentiated is the expectation of the estimate that the docstring
names, by the estimators of the sample sites; a hierarchical bound (HVI, IWHVI, DIWHVI) is `elbo` or `iwelbo` with a
`marginal` as the guide. What all of them take (model, guide, observed) is described in `_objective`, and in their help.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Unpack

import jax
import numpy as np
from jax import numpy as jnp

from .._errors import DensityError
from ..algorithms._base import log_mean_exp
from ..core._arguments import listed, particles
from ..core._generative import GenerativeFunction
from ..transforms._internal import finite_real, real
from ._objective import Objective, Shared, objective
from ._pair import terms


@objective
def elbo(
    model: GenerativeFunction,
    guide: GenerativeFunction,
    observed: Mapping,
    *,
    scale_both: Mapping | None = None,
    **shared: Unpack[Shared],
) -> Objective:
    """The evidence lower bound, E_q[log p(z, observed) - log q(z)] <= log p(observed).

    Args:
        scale_both: weights of its terms by address, each of the model's density and the guide's alike: `{'data': N /
            B}` for a batch in which every datum has latents of its own (`scale` weighs the model alone, which is right
            where 'data' holds observations and nothing else); `{'z': beta}` for a beta-VAE.

    Returns:
        An objective `(key, model_args=(), guide_args=()) -> scalar`, in nats, to be maximised. The arguments are
        tuples; one that is not a tuple of Python's own is taken as the only argument.

    Source: Jordan et al., An Introduction to Variational Methods for Graphical Models, 1999.

    Examples:
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
    scale = terms(scale_both)
    return lambda pair, key: pair.with_terms_scaled(scale).log_weight(key)


@objective
def iwelbo(
    model: GenerativeFunction, guide: GenerativeFunction, observed: Mapping, *, n: int, **shared: Unpack[Shared]
) -> Objective:
    """The importance weighted bound, E[log 1/n sum_i p(z_i, observed) / q(z_i)] <= log p(observed).

    It grows with the number of particles n, and is the ELBO at n = 1. Particles are lanes of one `vmap`.

    Args:
        n: the number of particles.

    Returns:
        An objective `(key, model_args=(), guide_args=()) -> scalar`, in nats, to be maximised.

    Source: Burda, Grosse and Salakhutdinov, Importance Weighted Autoencoders, 2016.

    Examples:
        >>> import jax, tracegrad as tg
        >>> model = tg.gen(lambda: tg.sample("x", tg.dist.Normal(tg.sample("z", tg.dist.Normal(0.0, 1.0)), 1.0)))
        >>> guide = tg.gen(lambda m: tg.sample("z", tg.dist.Normal(m, 0.7)))
        >>> tg.iwelbo(model, guide, {"x": 2.0}, n=10)(jax.random.key(0), (), (1.0,)).shape
        ()
    """
    n = particles("iwelbo", n)
    return lambda pair, key: log_mean_exp(pair.log_weights(key, n))


@objective
def renyi(
    model: GenerativeFunction,
    guide: GenerativeFunction,
    observed: Mapping,
    *,
    alpha: float = 0.5,
    n: int = 10,
    **shared: Unpack[Shared],
) -> Objective:
    """The variational Renyi bound, L_alpha = 1 / (1 - alpha) log E_q[w^(1 - alpha)], w = p(z, observed) / q(z).

    log p(observed) - L_alpha is the Renyi divergence D_alpha(q || p): a lower bound for alpha > 0, an upper one for
    alpha < 0, log p(observed) at alpha = 0, the ELBO as alpha -> 1. For alpha >= 0 the estimate is 1 / (1 - alpha) log
    1/n sum_i w_i^(1 - alpha), and its expectation is what is differentiated: it lies between the ELBO, which it is at n
    = 1, and L_alpha, to which it comes by O(1/n), and so is a lower bound at every n. For alpha < 0 that interval would
    hold log p(observed): the objective is `cubo` of order 1 - alpha, which says what is done instead.

    Args:
        alpha: the order, a float other than 1.
        n: the number of particles.

    Returns:
        An objective `(key, model_args=(), guide_args=()) -> scalar`, in nats, to be maximised; for alpha < 0 that of
        `cubo`, to be minimised.

    Raises:
        DensityError: alpha is 1; use `elbo`.

    Source: Li and Turner, Renyi Divergence Variational Inference, 2016.

    Examples:
        >>> import jax, tracegrad as tg
        >>> model = tg.gen(lambda: tg.sample("x", tg.dist.Normal(tg.sample("z", tg.dist.Normal(0.0, 1.0)), 1.0)))
        >>> guide = tg.gen(lambda m: tg.sample("z", tg.dist.Normal(m, 0.7)))
        >>> tg.renyi(model, guide, {"x": 2.0}, alpha=0.5, n=10)(jax.random.key(0), (), (1.0,)).shape
        ()
    """
    n = particles("renyi", n)
    finite_real("renyi", "alpha", alpha, DensityError)
    if alpha == 1:
        raise DensityError("renyi: alpha = 1 is the ELBO. Write `elbo(model, guide, observed)`, or another alpha.")
    if alpha < 0:
        return _chi(1.0 - alpha, n)
    return lambda pair, key: log_mean_exp((1.0 - alpha) * pair.log_weights(key, n)) / (1.0 - alpha)


def _chi(order, n):
    """The formula of `cubo`."""

    def bound(pair, key, log_z=None):
        particles("cubo" if log_z is not None else "cubo without log_z", n, least=1 if log_z is not None else 2)
        draws = pair.fixed_draws(key, n)
        log_powers = order * draws.logp + (1.0 - order) * draws.logq - draws.drawn
        if log_z is None:
            return log_mean_exp(log_powers) / order + (1.0 - 1.0 / order) * draws.control(jnp.ones(n))
        powers = jnp.exp(log_powers - order * log_z)
        others = (jnp.sum(powers) - powers) / max(n - 1, 1)
        return log_z + (jnp.mean(powers) - 1.0) / order + (1.0 - 1.0 / order) * draws.control(others)

    return bound


@objective
def cubo(
    model: GenerativeFunction,
    guide: GenerativeFunction,
    observed: Mapping,
    *,
    order: float = 2.0,
    n: int = 10,
    **shared: Unpack[Shared],
) -> Objective:
    """The chi upper bound, CUBO_m = 1/m log E_q[w^m] >= log p(observed), m = order, w = p(z, observed) / q(z).

    A mean inside a log is estimated from below: 1/m log 1/n sum_i w_i^m comes to the bound by O(1/n) from the ELBO, on
    the other side of log p(observed), and a guide that goes down its slope leaves the posterior for wherever it is
    smallest. So the draws are held and only the densities are differentiated, in one of two forms:

    - With `log_z`, a guess c of log p(observed), it is c + 1/m (1/n sum_i (w_i / e^c)^m - 1). Value and derivatives are
      unbiased at every n, and the expectation is above CUBO_m whatever c is (a tangent is above the logarithm), and
      equals it at its minimum over c, which may be learnt with the guide. Its derivative in the guide is that of
      E_q[w^m], E_q[(1 - m) w^m d log q], times a constant.
    - Without, the value is the estimate 1/m log 1/n sum_i w_i^m: no bound, for its expectation is below CUBO_m. The
      derivative is that of CUBO_m, self-normalised as in `forward_kl`: with W_i ~ w_i^m, it is sum_i W_i (d log p(z_i,
      observed) - (1 - 1/m) d log q(z_i)), biased by O(1/n). It vanishes where the guide is the posterior, and needs no
      w of a known size: the form to begin with.

    Args:
        model: a generative function over the latent and the observed addresses.
        guide: one over the latent addresses, with tails no lighter than the posterior's.
        observed: values at the observed addresses.
        order: m >= 1, a float.
        n: the number of particles, at least 2 without `log_z`.

    Returns:
        An objective `(key, model_args=(), guide_args=(), log_z=None) -> scalar`, in nats, to be minimised; log_z is a
        float scalar, to be learned or held, or None.

    Raises:
        DensityError: the order is below 1, where there is no bound; or one particle and no `log_z`.

    Source: Dieng et al., Variational Inference via chi Upper Bound Minimization, 2017.

    Examples:
        >>> import jax, tracegrad as tg
        >>> model = tg.gen(lambda: tg.sample("x", tg.dist.Normal(tg.sample("z", tg.dist.Normal(0.0, 1.0)), 1.0)))
        >>> guide = tg.gen(lambda m: tg.sample("z", tg.dist.Normal(m, 1.0)))
        >>> tg.cubo(model, guide, {"x": 2.0}, n=10)(jax.random.key(0), (), (1.0,)).shape
        ()
        >>> tg.cubo(model, guide, {"x": 2.0}, n=10)(jax.random.key(0), (), (1.0,), -2.2).shape
        ()
    """
    real("cubo", "order", order, DensityError, "a number of at least 1", lambda m: (m >= 1) & np.isfinite(m))
    return _chi(order, particles("cubo", n))


@objective
def tvo(
    model: GenerativeFunction,
    guide: GenerativeFunction,
    observed: Mapping,
    *,
    betas: Sequence[float] = (0.0, 0.01, 0.03, 0.1, 0.3),
    n: int = 10,
    **shared: Unpack[Shared],
) -> Objective:
    """The thermodynamic bound, sum_k (b_{k+1} - b_k) E_{pi_k}[log w] <= log p(observed), pi_k ~ q w^{b_k}.

    A left Riemann sum of log p = integral_0^1 E_{pi_b}[log w] db, whose integrand does not decrease; with b = (0,) it
    is the ELBO. The expectation under pi_k is self-normalised over n draws from the guide: biased by O(1/n), to q's
    side and so downwards. The expectation of that estimate is what is differentiated.

    Args:
        betas: left ends of the intervals, increasing from 0; the last one ends at 1.
        n: the number of particles.

    Returns:
        An objective `(key, model_args=(), guide_args=()) -> scalar`, in nats, to be maximised.

    Source: Masrani, Le and Wood, The Thermodynamic Variational Objective, 2019.

    Examples:
        >>> import jax, tracegrad as tg
        >>> model = tg.gen(lambda: tg.sample("x", tg.dist.Normal(tg.sample("z", tg.dist.Normal(0.0, 1.0)), 1.0)))
        >>> guide = tg.gen(lambda m: tg.sample("z", tg.dist.Normal(m, 0.7)))
        >>> tg.tvo(model, guide, {"x": 2.0}, n=10)(jax.random.key(0), (), (1.0,)).shape
        ()
    """
    n = particles("tvo", n)
    for beta in listed("tvo", betas, " of betas"):
        finite_real("tvo", "each of the betas", beta, DensityError)
    if not betas or betas[0] != 0.0 or any(b >= c for b, c in itertools.pairwise((*betas, 1.0))):
        raise DensityError(f"tvo: betas increase from 0.0 and stay below 1.0, and are {tuple(betas)}.")

    def bound(pair, key):
        log_w = pair.log_weights(key, n)
        ends = jnp.array((*betas, 1.0), dtype=log_w.dtype)
        tempered = jax.nn.softmax(jnp.outer(ends[:-1], log_w), axis=1)
        return jnp.dot(jnp.diff(ends), tempered @ log_w)

    return bound
