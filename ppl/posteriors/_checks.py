"""Checks of a model by its posterior: do replicated data look like the observed, and what did the data say of what?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Key

from .._errors import ChoiceError, DensityError
from ..core._addresses import lookup, nest, paths
from ..core._arguments import count
from ..core._generative import GenerativeFunction
from ..core._target import Target
from ..transforms import ArgumentError
from ..transforms._internal import check_key, function, is_boolean, is_numeric
from ._posterior import Posterior
from ._predictive import predictions
from ._summary import scalars
from ._visits import latents_in

USUAL = (0.025, 0.975)
"""Between these a statistic of the observed is one that replicated data have, too."""


@dataclass(frozen=True)
class PredictiveCheck:
    """What `predictive_check` found; it prints in words.

    Attributes:
        p: the share of replications whose statistic is above the observed one, half of those where it is the same;
            near 0 or 1 the model does not make such data. Of the structure of the statistic.
        observed: the statistic of the observed.
        replicated: those of the replications, with a leading axis.

    Examples:
        >>> import numpy as np, tracegrad as tg
        >>> print(tg.PredictiveCheck(np.array(0.4), np.array(2.0), np.arange(5.0)))
        p = 0.4: the observed is 2, of replications the mean is 2 and the sd 1.41; usual
    """

    p: Any
    observed: Any
    replicated: Any

    def __str__(self):
        lines = []
        for (path, p), observed, replicated in zip(
            jax.tree.leaves_with_path(self.p),
            jax.tree.leaves(self.observed),
            jax.tree.leaves(self.replicated),
            strict=True,
        ):
            for i in np.ndindex(p.shape):
                name = jax.tree_util.keystr(path) + (str(list(i)) if i else "")
                x = np.asarray(replicated)[(slice(None), *i)]
                usual = "usual" if USUAL[0] <= p[i] <= USUAL[1] else "UNUSUAL: the model does not make such data"
                lines.append(
                    f"{name + ': ' if name else ''}p = {p[i]:.3g}: the observed is {observed[i]:.3g}, of replications "
                    f"the mean is {x.mean():.3g} and the sd {x.std():.3g}; {usual}"
                )
        return "\n".join(lines)

    __repr__ = __str__


def predictive_check(
    posterior: Posterior, statistic: Callable, *, key: Key[Array, ""], n: int = 1000
) -> PredictiveCheck:
    """Compare a statistic of the observed with those of data that the fitted model makes anew.

    Data that were fitted are used again to check the fit, so that p is drawn to 1/2 where the statistic is one that the
    fit itself gets right (a mean, of a model with a free mean): choose one that it need not.

    Args:
        posterior: a posterior of a target with observed choices.
        statistic: a function of observed choices, a nested dict, to a number or a pytree of arrays.
        key: one typed key.
        n: the number of replications.

    Returns:
        A `PredictiveCheck`: `p`, the share of replications above, `observed`, `replicated`.

    Raises:
        ArgumentError: the statistic returns something else than numbers.
        DensityError: nothing is observed; the target is not known.

    Source: Gelman, Meng and Stern, Posterior Predictive Assessment of Model Fitness via Realized Discrepancies, 1996.

    Examples:
        >>> import jax, jax.numpy as jnp, tracegrad as tg
        >>> @tg.gen
        ... def model():
        ...     z = tg.sample("z", tg.dist.Normal(0.0, 1.0))
        ...     tg.sample("x", tg.dist.Normal(z, 1.0).expand([20]))
        >>> target = tg.Target(model, observed={"x": jnp.zeros(20).at[0].set(8.0)})      # one of them is far out
        >>> family = tg.auto.laplace(target)
        >>> posterior = family.posterior(family.init(jax.random.key(0)))
        >>> bool(tg.predictive_check(posterior, lambda data: data["x"].max(), key=jax.random.key(1)).p < 0.01)
        True
    """
    check_key(key, "predictive_check")
    function("predictive_check", "a statistic(observed)", statistic, ArgumentError)
    if isinstance(statistic, GenerativeFunction):
        raise ArgumentError(
            f"predictive_check: the statistic is a function of observed choices, and got {statistic.name}, a "
            "generative function, which draws others."
        )
    n, target = count("predictive_check", "n", n), _target_of("predictive_check", posterior)
    if not target.observed:
        raise DensityError("predictive_check: nothing is observed. Give `Target(model, args, observed)`.")
    draw, later = jax.random.split(key)
    given = latents_in(target, posterior.sample(draw, n))
    made = predictions(Target(target.function, target.args, kwargs=target.kwargs), given, later, n)[0]
    again = nest({p: x for p, x in paths(made) if lookup(target.observed, p) is not None})
    observed = statistic(target.observed)
    if not all(is_numeric(x) or is_boolean(x) for x in jax.tree.leaves(observed, is_leaf=lambda x: x is None)):
        raise ArgumentError(f"predictive_check: the statistic must return real numbers, and returned {observed!r}.")
    observed, replicated = jax.tree.map(np.asarray, (observed, jax.jit(jax.vmap(statistic))(again)))
    p = jax.tree.map(lambda x, xs: (xs > x).mean(0) + 0.5 * (xs == x).mean(0), observed, replicated)
    return PredictiveCheck(p, observed, replicated)


def shrinkage(posterior: Posterior, *, key: Key[Array, ""], n: int = 4000) -> dict[str, float]:
    """How much the data say of every scalar: 1 - var(posterior) / var(prior).

    Near 1 the data say all, near 0 nothing: the posterior is the prior, and so is whatever is concluded from it; below
    0 the data and the prior disagree.

    Args:
        posterior: a posterior of any kind.
        key: one typed key.
        n: the number of draws of each.

    Returns:
        A number by quantity, "a", or "b[0,2]" for an entry of an array, deterministic values among them.

    Source: Betancourt, Calibrating Model-Based Inferences and Decisions, 2018.

    Examples:
        >>> import jax, tracegrad as tg
        >>> @tg.gen
        ... def model():
        ...     seen, unseen = (tg.sample(name, tg.dist.Normal(0.0, 1.0)) for name in ("seen", "unseen"))
        ...     tg.sample("x", tg.dist.Normal(seen, 0.1))
        >>> family = tg.auto.laplace(tg.Target(model, observed={"x": 0.5}))
        >>> posterior = family.posterior(family.init(jax.random.key(0)))
        >>> {name: round(x, 1) for name, x in tg.shrinkage(posterior, key=jax.random.key(1)).items()}
        {'seen': 1.0, 'unseen': 0.0}
    """
    check_key(key, "shrinkage")
    n, target = count("shrinkage", "n", n, least=2), _target_of("shrinkage", posterior)
    draw, before = jax.random.split(key)
    prior = predictions(Target(target.function, target.args, kwargs=target.kwargs), {}, before, n)[0]
    variances = {name: x.var() for name, x in scalars(prior, 1)}
    after = {name: x.var() for name, x in scalars(posterior.sample(draw, n), 1)}
    return {name: float(1.0 - x / variances[name]) for name, x in after.items() if variances[name] > 0.0}


def _target_of(what, posterior) -> Target:
    if not isinstance(posterior, Posterior):
        raise ChoiceError(f"{what} takes a posterior, and got {type(posterior).__name__}.")
    return posterior.known_target
