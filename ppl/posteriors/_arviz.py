"""Posteriors as ArviZ holds them, so that its plots and comparisons run on every kind."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Key

from .._errors import ChoiceError
from .._extras import require
from ..core._addresses import Choices, lookup, nest, paths
from ..core._arguments import count, listed
from ..core._target import Target
from ..transforms import RandomKeyError
from ..transforms._internal import check_key, one_of
from ._posterior import Posterior
from ._predictive import draws_of, pointwise, predictions
from ._visits import has_prior, latents_in

PREDICTED, PRIOR, PRIOR_PREDICTED = "posterior_predictive", "prior", "prior_predictive"
OBSERVED, LIKELIHOOD, STATISTICS = "observed_data", "log_likelihood", "sample_stats"
DRAWN = (PREDICTED, PRIOR, PRIOR_PREDICTED)
"""Groups that are drawn, and so need a key."""
GROUPS = (*DRAWN, OBSERVED, LIKELIHOOD, STATISTICS)
"""All groups beside `posterior`, which is always there."""


def to_arviz(
    posterior: Posterior, *, key: Key[Array, ""] | None = None, n: int = 1000, groups: Collection[str] | None = None
) -> Any:
    """A posterior of any kind as ArviZ holds them: InferenceData before its version 1, a DataTree from then on.

    So `az.loo`, `az.compare`, `az.plot_ppc`, `az.plot_trace` and the rest run on a variational fit as on chains.

    Args:
        posterior: Markov chains (`nuts`, `hmc`), a fit, weighted draws (drawn again, by weight), or any other.
        key: one typed key, for what is drawn: all but the draws of chains. Without one those groups are left out.
        n: the number of draws, of the prior too; of chains all draws are taken.
        groups: which of "posterior_predictive", "prior", "prior_predictive", "observed_data", "log_likelihood" and
            "sample_stats" to make beside "posterior"; None makes all that can be made. The prior of a program with a
            `factor` is that without it. Of many data the log likelihood may be too large to keep: leave it out.

    Returns:
        The groups. A variable stands for each address, nested ones named "a.b", the deterministic values among them, of
        the shape (chain, draw, ...); a posterior that has no chains is one. In "sample_stats" is what a sampler said,
        and "lp", the log density, in nats: of chains on the unconstrained space, of all else that of the target.

    Raises:
        ChoiceError: something that is no posterior is given.
        RandomKeyError: a key is missing, where the draws themselves or a group that is named need one.
        ImportError: arviz is missing.

    Source: Kumar et al., ArviZ, 2019.

    Examples:
        >>> import jax, tracegrad as tg
        >>> @tg.gen
        ... def model():
        ...     z = tg.sample("z", tg.dist.Normal(0.0, 1.0))
        ...     tg.sample("x", tg.dist.Normal(z, 1.0).expand([5]))
        >>> target = tg.Target(model, observed={"x": jax.numpy.arange(5.0)})
        >>> family = tg.auto.laplace(target)
        >>> data = tg.to_arviz(family.posterior(family.init(jax.random.key(0))), key=jax.random.key(1), n=50)
        >>> data["posterior"]["z"].shape, data["log_likelihood"]["x"].shape, data["posterior_predictive"]["x"].shape
        ((1, 50), (1, 50, 5), (1, 50, 5))
    """
    arviz = require("arviz", "plots", "to_arviz")
    if not isinstance(posterior, Posterior):
        raise ChoiceError(
            f"to_arviz takes what `nuts` or `hmc` returned, or another posterior, and got {type(posterior).__name__}."
        )
    wanted = _wanted(posterior, key, groups)
    made = {name: _variables(group) for name, group in _made(posterior, key, count("to_arviz", "n", n), wanted).items()}
    if int(arviz.__version__.partition(".")[0]) >= 1:
        return arviz.from_dict(made)
    return arviz.from_dict(**made)


def _variables(group: Mapping) -> dict[str, np.ndarray]:
    return {".".join(path): np.asarray(x) for path, x in paths(group)}


def _wanted(posterior, key, groups) -> set[str]:
    """The names of the groups that are to be made."""
    if key is not None:
        check_key(key, "to_arviz")
    if groups is not None:
        for name in listed("to_arviz", groups, " of groups"):
            one_of("to_arviz", "each of the groups", name, GROUPS, ChoiceError)
        if key is None and set(groups) & set(DRAWN):
            raise RandomKeyError(f"to_arviz: {sorted(set(groups) & set(DRAWN))} are drawn. Give `key=`.")
        return set(groups)
    without = set() if posterior.target is not None else {*DRAWN, OBSERVED, LIKELIHOOD}
    if posterior.target is not None and not has_prior(posterior.target):
        without = {PRIOR, PRIOR_PREDICTED}
    return set(GROUPS) - without - (set(DRAWN) if key is None else set())


def _made(posterior, key, n, wanted) -> dict[str, Choices]:
    """The groups, each a nested dict; what is drawn has the axes (chain, draw, ...)."""
    draw, later, before, density = (None,) * 4 if key is None else jax.random.split(key, 4)
    choices = posterior.chains(draw, n)
    if not jax.tree.leaves(choices):
        raise ChoiceError("to_arviz: there are no latents and no deterministic values to make a posterior of.")
    out, statistics = {"posterior": choices}, posterior.diagnostics()
    if wanted - {STATISTICS}:
        target = posterior.known_target
        free = Target(target.function, target.args, kwargs=target.kwargs)
        if OBSERVED in wanted:
            out[OBSERVED] = target.observed
        if PREDICTED in wanted:
            given, many = latents_in(target, _flat(choices)), draws_of("to_arviz", _flat(choices))
            made = predictions(free, given, later, many or 0)[0]
            out[PREDICTED] = _as_chains(choices, _seen(target, made))
        if {PRIOR, PRIOR_PREDICTED} & wanted:
            made = jax.tree.map(lambda x: x[None], predictions(free, {}, before, n)[0])
            out |= {PRIOR: target.without_observed(made), PRIOR_PREDICTED: _seen(target, made)}
        if LIKELIHOOD in wanted and target.observed:
            likelihood, log_gamma = pointwise(target, _flat(choices), density)
            out[LIKELIHOOD] = _as_chains(choices, likelihood)
            statistics = _as_chains(choices, {"lp": log_gamma}) | statistics
    out[STATISTICS] = statistics
    return {name: group for name, group in out.items() if group and name in {"posterior", *wanted}}


def _seen(target, choices) -> Choices:
    """The choices at observed addresses."""
    return nest({p: x for p, x in paths(choices) if lookup(target.observed, p) is not None})


def _flat(choices):
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), choices)


def _as_chains(choices, flat):
    """Results of draws, (n, ...), with the axes (chain, draw, ...) of those draws."""
    lead = jax.tree.leaves(choices)[0].shape[:2]
    return jax.tree.map(lambda x: x.reshape(*lead, *x.shape[1:]), flat)
