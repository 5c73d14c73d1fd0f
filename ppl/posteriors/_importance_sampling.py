"""Importance sampling of a target: weighted draws, the evidence, and diagnostics that say whether to believe them."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from jaxtyping import Array, Float, Key

from .._extras import require
from ..algorithms._base import at_index, each, effective_size, log_mean_exp
from ..algorithms._proposal import nothing, source_of
from ..core._addresses import Choices, nest, paths
from ..core._arguments import chunk, count
from ..core._generative import GenerativeFunction
from ..core._overrides import isolated
from ..core._target import Target, checked_target
from ..transforms import ArgumentError
from ..transforms._internal import check_key, function, is_boolean, is_numeric
from ._doubts import k_hat_or_none, weights_doubts
from ._posterior import Posterior, asked, key_of_summary
from ._summary import Summary, scalars, summarised
from ._visits import with_deterministics

NEAR = 11
"""Draws that are near in a quantity, odd: enough that what it does not explain averages out, few enough for a tail."""
EVEN = 1e-3
"""A range of log weights, in nats, below which they have no tail to fit but rounding."""


class WeightedDraws(Posterior):
    """Draws with their importance weights: a posterior, whose draws are these, drawn again by weight.

    Attributes:
        choices: the latent choices, each stacked to (n, ...).
        log_weights: log gamma(z) / q(z) of each, shape (n,), in nats.
        target: the `Target`, or None where it is not known.

    Examples:
        >>> import jax.numpy as jnp, tracegrad as tg
        >>> found = tg.WeightedDraws({"z": jnp.array([0.0, 1.0])}, jnp.log(jnp.array([1.0, 3.0])))
        >>> round(float(found.log_evidence), 4), round(float(found.ess), 4)
        (0.6931, 1.6)
    """

    choices: Choices
    log_weights: Float[Array, " n"]
    target: Target | None = None

    def latents(self, key: Key[Array, ""], n: int) -> Choices:
        """Draws by weight, with replacement."""
        index = jax.random.categorical(key, self.log_weights, shape=(asked(self, "latents", key, n),))
        return at_index(self.choices, index)

    def log_density(self, latents: Choices, key: Any = None) -> Float[Array, ""]:
        """Log gamma(latents) minus the log evidence, as it is estimated."""
        return super().log_density(latents, key) - self.log_evidence

    def summary(self, *, key: Key[Array, ""] | None = None, n: int | None = None) -> Summary:
        """As of every posterior, by all weighted draws; the weights are smoothed (see `psis`) where arviz is there."""
        choices, many, key = self.choices, len(self.log_weights), key_of_summary(self, key)
        if self.target is not None:
            choices = with_deterministics(self.target, key, choices, many)
        log_weights = self.log_weights if k_hat_or_none(self) is None else self.psis()[0]
        alone = jax.tree.map(lambda x: x[None], choices)
        return summarised(repr(self), alone, log_weights, tuple(weights_doubts(self)))

    def __repr__(self):
        what = "" if self.target is None else f" from the posterior of {self.target.function.name}"
        return f"WeightedDraws: {len(self.log_weights)} weighted draws{what}"

    @property
    def log_evidence(self) -> Float[Array, ""]:
        """The log of the mean weight: exp of it is unbiased for Z, itself it is a lower bound in expectation."""
        return log_mean_exp(self.log_weights)

    @property
    def ess(self) -> Float[Array, ""]:
        """The effective sample size of Kong, (sum w)^2 / sum w^2, between 1 and n."""
        return effective_size(self.log_weights)

    def psis(self) -> tuple[Float[Array, " n"], float]:
        """Pareto smoothed log weights, normalised, shape (n,), and the shape k-hat of the tail.

        Below 0.7 the estimates can be relied on; above it the proposal misses a part of the target, and neither the
        weights nor the evidence mean much. An ELBO's gap is not such a sign. It is minus infinity where the weights are
        all the same, to a thousandth: the proposal is the posterior.

        Raises:
            ImportError: arviz is missing.

        Source: Vehtari et al., Pareto Smoothed Importance Sampling, 2024; Yao et al., Yes, but Did It Work?, 2018.
        """
        log_weights = np.array(self.log_weights, np.float64)
        if np.ptp(log_weights) < EVEN:
            return self.log_weights - jax.nn.logsumexp(self.log_weights), -np.inf
        smoothed, k_hat = _psislw(log_weights)
        return jnp.asarray(np.asarray(smoothed), self.log_weights.dtype), float(k_hat)

    @property
    def k_hat(self) -> float:
        """The k-hat of `psis`."""
        return self.psis()[1]

    @property
    def k_hats(self) -> dict[str, float]:
        """By address, the k-hat of what its choices explain of the weights: where it is high, there the proposal fails.

        For each scalar the log weights are averaged over the 11 draws that are nearest in it, which leaves of them what
        depends on it; of an array the largest of its entries counts.

        Raises:
            ImportError: arviz is missing.

        Examples:
            >>> import jax, tracegrad as tg
            >>> @tg.gen
            ... def of(scale):
            ...     tg.sample("a", tg.dist.Normal(0.0, 1.0))
            ...     tg.sample("b", tg.dist.Normal(0.0, scale))
            >>> found = tg.importance_sampling(tg.Target(of, 2.0), of, 1.0, key=jax.random.key(0), n=2000).k_hats
            >>> max(found, key=found.get)
            'b'
        """
        log_weights = np.asarray(self.log_weights, np.float64)
        finite = np.isfinite(log_weights)
        log_weights = np.where(finite, log_weights, np.min(log_weights, initial=0.0, where=finite))
        found = {}
        for path, value in paths(self.choices):
            parts = [_explained(log_weights, x) for _, x in scalars(nest({path: value}), 1)]
            k_hats = [-np.inf if np.ptp(part) < EVEN else float(_psislw(part)[1]) for part in parts]
            found["/".join(path)] = max(k_hats, default=-np.inf)
        return found

    def mean(self, fn: Any = None) -> Any:
        """The self-normalised estimate of E[fn(choices)] under the posterior; of the choices where fn is None."""
        values = self.choices if fn is None else jax.vmap(_summary(fn))(self.choices)
        weights = jax.nn.softmax(self.log_weights)
        return jax.tree.map(lambda x: jnp.tensordot(weights, x.astype(weights.dtype), axes=1), values)

    def resample(self, key: Key[Array, ""], n: int) -> Choices:
        """Draw n of the choices by weight, with replacement: sampling importance resampling. Each is (n, ...)."""
        check_key(key, "resample")
        return self.latents(key, count("resample", "n", n))


def _explained(log_weights, x):
    """The log weights averaged over draws that are near in one quantity; of fewer at the ends."""
    order = np.argsort(x, kind="stable")
    total = np.concatenate([[0.0], np.cumsum(log_weights[order])])
    at = np.arange(len(x))
    first, last = np.maximum(at - NEAR // 2, 0), np.minimum(at + NEAR // 2 + 1, len(x))
    part = np.empty_like(log_weights)
    part[order] = (total[last] - total[first]) / (last - first)
    return part


def _summary(fn):
    """A function of the choices that returns numbers."""
    if isinstance(fn, GenerativeFunction):
        raise ArgumentError("mean: fn is a function of the choices, and got a generative function, which draws others.")
    function("mean", "a function fn of the choices", fn, ArgumentError)

    def checked(choices):
        out = fn(choices)
        for leaf in jax.tree.leaves(out, is_leaf=lambda x: x is None):
            if not (is_numeric(leaf) or is_boolean(leaf)):
                raise ArgumentError(f"mean: fn must return real numbers, and returned {type(leaf).__name__}.")
        return jax.tree.map(jnp.asarray, out)

    return checked


def _psislw(log_weights):
    """ArviZ's Pareto smoothing: before its version 1 of log weights, from then on of log likelihoods, minus those."""
    arviz = require("arviz", "plots", "PSIS k-hat")
    with np.errstate(all="ignore"):  # Of heavy tails some of its exponentials overflow, to a weight of zero.
        if hasattr(arviz, "psislw"):
            return arviz.psislw(log_weights)
        return require("arviz_stats.base", "plots", "PSIS k-hat").array_stats.psislw(-log_weights)


def importance_sampling(
    target: Target,
    proposal: GenerativeFunction | None = None,
    proposal_args: Any = (),
    *,
    key: Key[Array, ""],
    n: int = 1000,
    chunk_size: int | None = None,
) -> WeightedDraws:
    """Draw from a proposal and weigh by the target: w = gamma(z) / q(z), so that E[w] = Z.

    With a fitted variational family as the proposal, k-hat says whether the fit covers the posterior, and the weights
    correct what is left. (As a generative function with a density, use `normalize(target, sir(n, proposal))`.)

    Args:
        target: a `Target`.
        proposal: a generative function over all latent addresses; None draws as the program itself does.
        proposal_args: its arguments, a tuple; what is not a tuple is the only argument.
        key: one typed key.
        n: the number of draws.
        chunk_size: run at most about this many at a time; None runs all in one `vmap`.

    Returns:
        `WeightedDraws`: choices (n, ...), log_weights (n,), and `log_evidence`, `ess`, `k_hat`, `psis()`, `mean(fn)`,
        `resample(key, n)`.

    Raises:
        AddressError: the proposal's addresses are not those of the latents.

    Source: Rubin, Using the SIR Algorithm to Simulate Posterior Distributions, 1988; Kong, A Note on Importance
    Sampling Using Standardized Weights, 1992.

    Examples:
        >>> import jax, tracegrad as tg
        >>> model = tg.gen(lambda: tg.sample("x", tg.dist.Normal(tg.sample("z", tg.dist.Normal(0.0, 1.0)), 1.0)))
        >>> guide = tg.gen(lambda m: tg.sample("z", tg.dist.Normal(m, 0.8)))
        >>> found = tg.importance_sampling(tg.Target(model, observed={"x": 2.0}), guide, 1.0, key=jax.random.key(0))
        >>> exact = tg.dist.Normal(0.0, 2.0**0.5).log_prob(2.0)
        >>> bool(abs(found.log_evidence - exact) < 0.05), bool(found.ess > 800.0)
        (True, True)
    """
    check_key(key, "importance_sampling")
    checked_target("importance_sampling", target)
    n, chunk_size = count("importance_sampling", "n", n), chunk("importance_sampling", chunk_size)
    source = source_of("importance_sampling", proposal, proposal_args, nothing)

    def one(key):
        with isolated():
            return source.weighed(key, target)[:2]

    run = jax.jit(lambda keys: each(one, keys, chunk_size))
    choices, log_weights = run(jax.random.split(key, n))
    return WeightedDraws(choices, log_weights, target)
