"""Exact enumeration as an algorithm: Z is the sum of gamma over all values of the latent choices, by one `vmap`."""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jax import numpy as jnp
from jaxtyping import Array, Float, Key

from .._errors import DensityError
from ..core._addresses import Choices, Path, lookup, nest, paths, show
from ..core._arguments import chunk
from ..core._finite_supports import finite_support
from ..core._operations import At, Given, Operation, Outcome, Visit
from ..core._target import Target
from ..transforms import log_density
from ._base import Algorithm, Estimate, Retained, choose, each

LIMIT = 1 << 20


class AtNumbers(Operation):
    """Take what is given; elsewhere take the support point whose number stands in the place of a previous choice.

    A latent site puts on record an array of zeros whose shape says its elements and, last, the size of its support; and
    one where it is live, which under a mask or in a branch that is not taken it is not.
    """

    exact = True

    def taken(self, path: Path, given: Given) -> Any:
        """Only sites have a support; other generative functions are given their choices or refused."""
        if given.constraints is None:
            raise DensityError(f"The choices at {show(path)} have an estimated density, and cannot be enumerated.")
        return given.constraints

    def site(self, at: At, given: Given) -> Visit:
        """Take or number."""
        if given.constraints is not None:
            return at.take(given.constraints)
        remedy = "it cannot be enumerated. Write `importance(n)`, or keep it."
        elements, values = finite_support(at.path, at.distribution, remedy)
        numbers = jnp.zeros(elements, int) if given.previous is None else given.previous
        value = values[numbers]
        logp = log_density(at.distribution, value, inside=True)
        # An array of numpy's where nothing is masked: known to be one wherever it gets to.
        live = np.ones(()) if at.attitude.live is True else jnp.asarray(at.attitude.live, float)
        return Visit(value, logp, record=(jnp.zeros((*elements, values.shape[0])), live))


class Joint(NamedTuple):
    """The joint support of latent choices: for each path, the shape of its elements and the size of its support."""

    sizes: dict[Path, tuple[tuple[int, ...], int]]

    @property
    def total(self) -> int:
        """How many joint values there are."""
        return math.prod(k ** math.prod(elements) for elements, k in self.sizes.values())

    def numbers(self, index: Any) -> Choices:
        """The numbers of the support points of joint value `index`, as nested choices: its digits, last one fastest."""
        out, step = {}, self.total
        for path, (elements, k) in self.sizes.items():
            n = math.prod(elements)
            step //= k**n
            weights = np.array([k ** (n - 1 - i) for i in range(n)], dtype=int) * step
            out[path] = (index // jnp.asarray(weights)) % k
            out[path] = jnp.reshape(out[path], elements)
        return nest(out)

    def counted(self, out: Outcome, numbers: Choices) -> jax.Array:
        """The log density of a visit at these numbers; a site that is not live counts at one of its values only."""
        idle = [
            jnp.all((lookup(numbers, p) == 0) | _along(live, lookup(numbers, p)))
            for p, (_, live) in paths(out.records)
            if not isinstance(live, np.ndarray)
        ]
        return jnp.where(jnp.all(jnp.stack(idle)), out.logp, -jnp.inf) if idle else out.logp


def _along(flags, like):
    """Flags of lanes, laid along the leading axes of an array."""
    return jnp.reshape(flags, flags.shape + (1,) * (jnp.ndim(like) - flags.ndim)) != 0.0


def joint_support(target: Target) -> Joint:
    """The joint support of a target's latents, without drawing any."""
    records = jax.eval_shape(lambda key: target.visit(AtNumbers(), key).records, jax.random.key(0))
    return Joint({p: (x.shape[:-1], x.shape[-1]) for p, (x, _) in paths(records)})


class Exact(Algorithm):
    """See `exact`."""

    chunk_size: int | None = eqx.field(static=True)
    indices: ClassVar[tuple[str, ...]] = ("index",)

    def estimate(self, key: Key[Array, ""] | None, target: Target) -> Estimate:
        """The sum itself; a draw is one of the joint values."""
        joint = self._joint(target)
        keys = None if key is None else jax.random.split(key, joint.total)

        def value(at):
            return _value(target, joint, *at)

        log_gammas = each(lambda at: value(at)[0], (keys, jnp.arange(joint.total)), self.chunk_size)

        def draw(key):
            index = choose(key, log_gammas, target)
            again = None if keys is None else keys[index]
            return target.without_observed(value((again, index))[1].choices), log_gammas[index]

        return Estimate(jax.nn.logsumexp(log_gammas), draw)

    def estimate_given(self, key: Key[Array, ""] | None, target: Target, retained: Retained) -> Float[Array, ""]:
        """The same sum; the retained value keeps its gamma, which may be an estimate."""
        joint = self._joint(target)
        keys = None if key is None else jax.random.split(key, joint.total)

        def term(at):
            log_gamma, out = _value(target, joint, *at)
            same = [
                jnp.all((x == lookup(retained.latents, p).astype(x.dtype)) | ~_along(lookup(out.records, p)[1], x))
                for p, x in paths(target.without_observed(out.choices))
            ]
            kept = jnp.all(jnp.stack(same)) & (log_gamma > -jnp.inf)
            return jnp.where(kept, retained.log_gamma, log_gamma)

        return jax.nn.logsumexp(each(term, (keys, jnp.arange(joint.total)), self.chunk_size))

    def _joint(self, target):
        target.latents()
        joint = joint_support(target)
        if joint.total > LIMIT:
            raise DensityError(
                f"exact: the latent choices of {target.function.name} have {joint.total} joint values, over the limit "
                f"of {LIMIT}. For a chain write `marginal(step.scan(), keep, forward_filter())`, for independent lanes "
                "marginalise one lane and `vmap` that, else `importance(n)`."
            )
        return joint


def _value(target: Target, joint: Joint, key: Any, index: Any) -> tuple[Float[Array, ""], Outcome]:
    """Log gamma of one joint value, and the visit there."""
    numbers = joint.numbers(index)
    out = target.visit(AtNumbers(), key, previous=numbers)
    return joint.counted(out, numbers), out


def exact(*, chunk_size: int | None = None) -> Exact:
    """Sum over all joint values of finite latents: Ẑ = Z = sum_u gamma(u), to rounding error.

    The density needs no key and has no variance, unless a density inside the program is itself an estimate. A draw of
    `normalize` is an exact draw from the posterior, its joint value one sample at the address "index". The work is the
    product of the supports: for a Markov chain use `forward_filter()`, and for independent lanes marginalise one lane
    and `vmap` it.

    Args:
        chunk_size: run at most about this many joint values at a time; None runs all in one `vmap`.

    Returns:
        An algorithm for `marginal` and `normalize`.

    Raises:
        DensityError: on use, where a latent choice has no finite support, or there are more than 2**20 joint values.

    Examples:
        >>> import jax, tracegrad as tg
        >>> @tg.gen
        ... def mixture():
        ...     k = tg.sample("k", tg.dist.Categorical(probs=jax.numpy.array([0.5, 0.5])))
        ...     tg.sample("x", tg.dist.Normal(4.0 * k, 1.0))
        >>> logp, _ = tg.marginal(mixture, "x", tg.exact()).assess({"x": 0.0})
        >>> f"{float(logp):.3f}"
        '-1.612'
    """
    return Exact(chunk("exact", chunk_size))
