"""Predictions by draws of a posterior or of the prior, and the log likelihood of what is observed, point by point."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from jaxtyping import Array, Float, Key

from .._errors import ChoiceError, DensityError
from ..core._addresses import Choices, as_arrays, lookup, merge, nest, paths, show
from ..core._arguments import chunk, count, generative, mapping
from ..core._generative import GenerativeFunction
from ..core._overrides import isolated
from ..core._target import Target, checked_target
from ..transforms._internal import check_key
from ._posterior import Posterior
from ._visits import Pointwise, arrays_of, lanes, latents_in, predicted, refuse_nan

RETVAL = "retval"
"""The name, beside the addresses of the program, of what it returns."""
DRAWS = 1000
"""Draws of a posterior, where it is not said how many."""


def predictive(
    model: GenerativeFunction,
    args: Any = (),
    *,
    draws: Posterior | Mapping | None = None,
    key: Key[Array, ""],
    n: int | None = None,
    kwargs: Mapping | None = None,
    chunk_size: int | None = None,
) -> Choices:
    """What a program predicts: it is run for every draw of a posterior, or n times from its prior.

    With draws, the choices that they hold are taken and the rest of the program is drawn, so that the same program with
    other arguments predicts at new data. Deterministic values are computed anew. A `factor` counts for nothing: what
    comes out is not weighed by it (as in NumPyro), which matters for the prior of a program that has one.

    Args:
        model: a generative function.
        args: its arguments, a tuple; what is not a tuple is the only argument.
        draws: what to take, a nested dict of choices, each of the shape (n, ...), as `posterior.sample` gives it; or a
            `Posterior`, of which n draws are made. None draws everything, as the program does.
        key: one typed key.
        n: the number of draws; for a posterior 1000 where it is not said, for a dict that of its leading axis.
        kwargs: keyword arguments of the model.
        chunk_size: run at most about this many at a time; None finds out how many fit 64 MiB of results.

    Returns:
        A nested dict of what was drawn and of the deterministic values, each of the shape (n, ...), with what the
        program returned, stacked in the same way, under "retval". That is left out where it is None or no array, or
        the program has a choice of this name.

    Raises:
        AddressError: draws at an address that the program does not have.
        ChoiceError: draws of another shape than the program's, of different leading axes, or NaN; no number of draws.

    Source: Gelman et al., Bayesian Data Analysis, 3rd edition, chapter 6; `numpyro.infer.Predictive`.

    Examples:
        >>> import jax, jax.numpy as jnp, tracegrad as tg
        >>> @tg.gen
        ... def line(x):
        ...     slope = tg.sample("slope", tg.dist.Normal(0.0, 1.0))
        ...     mean = tg.deterministic("mean", slope * x)
        ...     return tg.sample("y", tg.dist.Normal(mean, 0.1))
        >>> prior = tg.predictive(line, jnp.ones(4), key=jax.random.key(0), n=100)
        >>> {name: x.shape for name, x in sorted(prior.items())}
        {'mean': (100, 4), 'retval': (100, 4), 'slope': (100,), 'y': (100, 4)}
        >>> new = tg.predictive(line, jnp.ones(2), draws={"slope": prior["slope"]}, key=jax.random.key(1))
        >>> {name: x.shape for name, x in sorted(new.items())}
        {'mean': (100, 2), 'retval': (100, 2), 'y': (100, 2)}
    """
    check_key(key, "predictive")
    target = Target(generative("predictive", model), args, kwargs=kwargs)
    chunk_size = chunk("predictive", chunk_size)
    if isinstance(draws, Posterior):
        taken, key = jax.random.split(key)
        draws, n = draws.sample(taken, DRAWS if n is None else n), None
    given, n = _given(target, draws, n)
    found, retval = predictions(target, given, key, n, chunk_size)
    return found if retval is None or RETVAL in found else found | {RETVAL: retval}


def predictions(target: Target, given: Choices, key: Any, n: int, chunk_size: int | None = None) -> tuple[Choices, Any]:
    """What is drawn, with the deterministic values, and what is returned, n times at given choices, (n, ...)."""

    def one(at):
        out = predicted(target, *at)
        drawn = nest({p: x for p, x in paths(out.choices) if lookup(at[1], p) is None})
        return merge(drawn, out.records), arrays_of(out.retval)

    return lanes(one, (jax.random.split(key, n), given), chunk_size)


def _given(target, draws, n) -> tuple[Choices, int]:
    """The choices that are taken, and how many of them there are."""
    if draws is None:
        if n is None:
            raise ChoiceError("predictive: there are no draws to predict by. Give `draws=`, or `n=` for the prior's.")
        return {}, count("predictive", "n", n, least=0)
    draws = as_arrays(mapping("predictive", "draws", draws, "of choices, each stacked to (n, ...)"))
    many = draws_of("predictive", draws)
    if many is None:
        raise ChoiceError("predictive: `draws` holds no choices. Leave it out, and give `n=` for the prior's.")
    if n is not None and n != many:
        raise ChoiceError(f"predictive: n is {n}, and `draws` holds {many} draws. Leave n out.")
    refuse_nan("predictive", target, draws)
    return latents_in(target, draws), many


def draws_of(what: str, draws: Mapping) -> int | None:
    """How many draws there are, by their leading axes; None where there are no choices.

    Raises:
        ChoiceError: the axes differ, or a choice has none.
    """
    found: dict[int, Any] = {}
    for path, x in paths(draws):
        if not np.shape(x):
            raise ChoiceError(f"{what}: the draws at {show(path)} have no leading axis. Stack them to (n, ...).")
        found.setdefault(np.shape(x)[0], path)
    if len(found) > 1:
        came = ", ".join(f"{n} at {show(path)}" for n, path in found.items())
        raise ChoiceError(f"{what}: the draws have one leading axis in common, and there are {came}.")
    return next(iter(found), None)


def log_likelihood(
    target: Target, draws: Mapping, *, key: Key[Array, ""] | None = None, chunk_size: int | None = None
) -> Choices:
    """The log density of what is observed, point by point, at every draw of the latents.

    A point is one element of an observed site whose elements are independent given what came before, events made by
    `to_event` included; a vector with a joint density (`MultivariateNormal`) is one point, and so is what is observed
    at the one address of a `marginal` with an exact density, a row of a mixture say: marginalise a row and `vmap` that.
    Where a `mask` is false it is 0. A `factor` belongs to no address and is not among them.

    Args:
        target: a `Target`, with the data to judge by, those of the fit or others.
        draws: choices at all latent addresses, each of the shape (n, ...), deterministic values among them or not.
        key: needed where a density in the program is an estimate.
        chunk_size: run at most about this many draws at a time; None finds out how many fit 64 MiB of results.

    Returns:
        A nested dict of the observed addresses, each of the shape (n, ...), in nats.

    Raises:
        AddressError: a latent without draws; draws at an address that the program does not have.
        ChoiceError: draws of another shape than the program's, of different leading axes, or NaN.
        DensityError: what is observed has only a joint density, of several addresses under one `marginal`, or an
            estimate of one, whose logarithm would be too low (`importance`).

    Source: Vehtari, Gelman and Gabry, Practical Bayesian Model Evaluation Using Leave-One-Out Cross-Validation, 2017.

    Examples:
        >>> import jax, jax.numpy as jnp, tracegrad as tg
        >>> @tg.gen
        ... def model():
        ...     z = tg.sample("z", tg.dist.Normal(0.0, 1.0))
        ...     tg.sample("x", tg.dist.Normal(z, 1.0).expand([3]).to_event(1))
        >>> target = tg.Target(model, observed={"x": jnp.zeros(3)})
        >>> tg.log_likelihood(target, {"z": jnp.array([0.0, 1.0])})["x"].shape
        (2, 3)
    """
    checked_target("log_likelihood", target)
    if key is not None:
        check_key(key, "log_likelihood")
    draws = as_arrays(mapping("log_likelihood", "draws", draws, "of choices, each stacked to (n, ...)"))
    refuse_nan("log_likelihood", target, draws)
    found = pointwise(target, draws, key, chunk("log_likelihood", chunk_size))[0]
    jointly = [show(p) for p, _ in paths(target.observed) if lookup(found, p) is None]
    if jointly:
        raise DensityError(
            f"log_likelihood: what is observed at {', '.join(jointly)} has a joint density alone, of several addresses "
            "or an estimate (`marginal`, `normalize`), and none for each point. Marginalise one row over one address, "
            "by `exact()`, and `vmap` that."
        )
    return found


def pointwise(
    target: Target, draws: Mapping, key: Any, chunk_size: int | None = None
) -> tuple[Choices, Float[Array, " n"]]:
    """The log likelihood by point, where there is one, and log gamma, (n,)."""
    n = draws_of("log_likelihood", draws)
    if n is None:
        raise ChoiceError("log_likelihood: `draws` holds no choices.")

    def one(at):
        latents, key, _ = at
        with isolated():
            out = target.visit(Pointwise(target.observed), key, latents, what="draws")
        return out.records, out.logp

    keys = None if key is None else jax.random.split(key, n)
    # Counted, for where no latents and no keys are given that would say how many draws there are.
    return lanes(one, (latents_in(target, draws), keys, jnp.arange(n)), chunk_size)
