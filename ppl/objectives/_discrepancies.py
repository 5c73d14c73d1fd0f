"""Distances between what a generative function draws and samples that are given."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import numpy as np
from jax import numpy as jnp

from .._errors import AddressError, ChoiceError, DensityError
from ..core._addresses import as_arrays, lookup, nest, paths, show
from ..core._arguments import generative, mapping, particles, positional
from ..core._generative import GenerativeFunction
from ..transforms import expectation
from ..transforms._internal import finite_real, positive
from ..transforms._internal import function as check_function


def _draws(key, function, samples, n, args):
    """N draws, and the samples, as rows of two matrices."""

    def one(key):
        choices = function.simulate(key, *positional(args, function)).choices
        return nest({p: _there(lookup(choices, p), p, function, jnp.shape(x)[1:]) for p, x in paths(samples)})

    return _rows(jax.vmap(one)(jax.random.split(key, n))), _rows(samples)


def _checked(what, function, samples):
    """The samples as arrays, of one length of at least 2."""
    generative(what, function)
    samples = as_arrays(mapping(what, "samples", samples, "from addresses to stacked values"))
    lengths = {np.shape(x)[:1] for _, x in paths(samples)}
    if len(lengths) != 1 or min(lengths) < (2,):
        shapes = ", ".join(f"{show(p)} {list(np.shape(x))}" for p, x in paths(samples)) or "none"
        raise DensityError(f"{what}: samples are stacked along one leading axis of at least 2, and are {shapes}.")
    for p, x in paths(samples):
        finite_real(what, f"samples at {show(p)}", x, DensityError, scalar=False)
    return samples


def _there(value, path, function, shape):
    if value is None or isinstance(value, Mapping):
        raise AddressError(f"samples for {function.name}: there is no sample at {show(path)}. Spell its address.")
    if jnp.shape(value) != shape:
        raise ChoiceError(
            f"samples for {function.name}: each at {show(path)} has the shape {list(shape)}, and a draw there has "
            f"{list(jnp.shape(value))}."
        )
    return value


def _rows(choices):
    flat = [jnp.asarray(x, float) for _, x in sorted(paths(choices))]
    return jnp.concatenate([jnp.reshape(x, (x.shape[0], -1)) for x in flat], axis=1)


def _squared(xs, ys):
    return jnp.sum((xs[:, None, :] - ys[None, :, :]) ** 2, axis=-1)


def _distinct_mean(matrix):
    """The mean over pairs of different rows."""
    n = matrix.shape[0]
    return (jnp.sum(matrix) - jnp.trace(matrix)) / (n * (n - 1))


def mmd(
    function: GenerativeFunction,
    samples: Mapping,
    *,
    n: int = 10,
    bandwidth: float = 1.0,
    kernel: Callable | None = None,
) -> Callable:
    """The squared maximum mean discrepancy, E k(x, x') - 2 E k(x, y) + E k(y, y'), of draws x from samples y.

    Zero where the two laws agree, for a characteristic kernel. The U-statistic over n draws: unbiased at every n, value
    and derivative, so that it may be negative. It needs draws only, no density.

    Args:
        function: a generative function; other addresses than those of the samples are ignored.
        samples: a nested dict of choices, stacked along a leading axis of at least 2.
        n: the number of draws, at least 2.
        bandwidth: h of the Gaussian kernel exp(-|x - y|^2 / (2 h^2)).
        kernel: a function of the squared distance, elementwise, in place of the Gaussian.

    Returns:
        An objective `(key, args=()) -> scalar`, to be minimised; args are those of the function.

    Source: Gretton et al., A Kernel Two-Sample Test, 2012.

    Examples:
        >>> import jax, jax.numpy as jnp, tracegrad as tg
        >>> q = tg.gen(lambda m: tg.sample("z", tg.dist.Normal(m, 1.0)))
        >>> tg.mmd(q, {"z": jnp.array([0.1, -0.4, 0.9])}, n=5)(jax.random.key(0), (0.0,)).shape
        ()
    """
    samples, n = _checked("mmd", function, samples), particles("mmd", n, least=2)
    positive("mmd", "bandwidth", bandwidth, DensityError)
    if kernel is not None:
        check_function("mmd", "as kernel a function of the squared distance", kernel, DensityError)
    k = kernel or (lambda squared: jnp.exp(-squared / (2.0 * bandwidth**2)))

    @expectation
    def objective(key, args=()):
        xs, ys = _draws(key, function, samples, n, args)
        within = _distinct_mean(k(_squared(xs, xs))) + _distinct_mean(k(_squared(ys, ys)))
        return within - 2.0 * jnp.mean(k(_squared(xs, ys)))

    return objective


def energy_distance(function: GenerativeFunction, samples: Mapping, *, n: int = 10) -> Callable:
    """The energy distance, 2 E|x - y| - E|x - x'| - E|y - y'|, of draws x from samples y.

    Zero only where the two laws agree. Unbiased at every n, value and derivative; it needs draws only, no density.

    Args:
        function: a generative function; other addresses than those of the samples are ignored.
        samples: a nested dict of choices, stacked along a leading axis of at least 2.
        n: the number of draws, at least 2.

    Returns:
        An objective `(key, args=()) -> scalar`, in the units of the choices, to be minimised.

    Source: Szekely and Rizzo, Energy Statistics, 2013.

    Examples:
        >>> import jax, jax.numpy as jnp, tracegrad as tg
        >>> q = tg.gen(lambda m: tg.sample("z", tg.dist.Normal(m, 1.0)))
        >>> tg.energy_distance(q, {"z": jnp.array([0.1, -0.4, 0.9])}, n=5)(jax.random.key(0), (0.0,)).shape
        ()
    """
    samples, n = _checked("energy_distance", function, samples), particles("energy_distance", n, least=2)

    def norm(squared):
        positive = squared > 0.0  # The square root of zero has no derivative.
        return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1.0)), 0.0)

    return _negated(mmd(function, samples, n=n, kernel=norm))


def _negated(objective):
    return lambda key, args=(): -objective(key, args)
