"""The `sample` primitive: a draw that JAX can trace, batch and lower, and that `expectation` can reinterpret.

Its operands are a key, the arrays of the distribution and the arrays of the estimator; what they belong to is
static. `vmap` does not change the primitive: it records a lane. Evaluating it draws. Differentiating it is refused
outside `expectation`, because that derivative would be biased, unless the draw is reparameterised.

`noise` is the same primitive marked as finished: a draw that an estimator itself makes. Its derivative is the one
of the sampler.
"""

from __future__ import annotations

import functools
import re
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Key

from .. import _distribution as _d
from .._errors import BiasedGradientError, RandomKeyError, name_of
from .._jax import is_key, lane_shape, make_primitive, scopes_of, vmapped, without_lanes
from .._pytree import KINDS, Spec, partition
from ._halves import finish

SCOPE = "(site "
"""What the name scope of a sample site starts with; it ends with the other parenthesis."""


def site_scope(label: Any) -> Any:
    """A context in which operations are marked as those of a sample site."""
    path = label if isinstance(label, tuple) else (label,)
    return jax.named_scope(f"{SCOPE}{'/'.join(map(str, path)).replace('(', '[').replace(')', ']')})")


def site_of(eqn: Any) -> str | None:
    """The label of the sample site that an equation belongs to, or None."""
    found = re.findall(re.escape(SCOPE) + r"([^()]*)", scopes_of(eqn))
    return found[-1] if found else None


class Site(NamedTuple):
    """What is static about a sample: its label, and its distribution and estimator without their arrays.

    The estimator is None for noise. Of noise a half may have been made before (`_halves`): its last operands then, of
    which there are `early`.
    """

    label: Any
    distribution: Spec
    estimator: Spec | None
    early: int = 0

    def restore(self, arrays) -> tuple[Any, Any]:
        """The distribution and the estimator at these operands (the key left out)."""
        n = self.distribution.count
        estimator = None if self.estimator is None else self.estimator.combine(arrays[n:])
        return _d.restore(self.distribution, arrays[:n]), estimator

    def draw(self, key, *arrays):
        """Draw once, in one lane."""
        own = arrays[: self.distribution.count]
        if not self.early:
            return _d.drawer(self.distribution)(key, *own)
        return finish(self.distribution, key, own, arrays[-self.early :])

    def prototype(self) -> Any:
        """The estimator with None for its arrays: enough to ask for its kind."""
        spec = self.estimator
        return None if spec is None else spec.combine([None] * spec.count)


def _value_shape(distribution: Spec, key_dtype, avals) -> tuple[list, Any]:
    return _value_shape_at(distribution, key_dtype, avals, jax.dtypes.canonicalize_dtype(int))


@functools.lru_cache(maxsize=KINDS)
def _value_shape_at(distribution, key_dtype, avals, precision):
    key = jax.ShapeDtypeStruct((), key_dtype)
    out = jax.eval_shape(_d.drawer(distribution), key, *[jax.ShapeDtypeStruct(s, d) for s, d in avals])
    leaves, tree = jax.tree.flatten(out)
    return [(leaf.shape, leaf.dtype) for leaf in leaves], tree


def value_shape(site: Site, avals) -> tuple[list, Any]:
    """Shapes and dtypes of the leaves of a drawn value in one lane, and its tree, from the operands of one lane."""
    n = site.distribution.count
    return _value_shape(site.distribution, avals[0].dtype, tuple((a.shape, a.dtype) for a in avals[1 : n + 1]))


def _run(*operands, site: Site, lanes):
    with site_scope(site.label):
        return jax.tree.leaves(vmapped(site.draw, lanes)(*operands))


def _shapes(avals, lanes, *, site: Site):
    leaves, _ = value_shape(site, without_lanes(avals, lanes))
    return [((*lane_shape(lanes), *shape), dtype) for shape, dtype in leaves]


def _jvp(primals, tangents, at, *, site: Site, lanes):
    estimator = site.prototype()
    if estimator is not None and not estimator.pathwise:
        raise BiasedGradientError(
            f"The sample at {name_of(site.label)} (estimator: {estimator}) was differentiated outside `expectation`, "
            "where its derivative would be biased. Differentiate `expectation(f)` instead of `f`, as in "
            "`jax.grad(expectation(f), argnums=1)(key, params)`."
        )
    return jax.jvp(lambda *xs: _run(*at(*xs), site=site, lanes=lanes), tuple(primals), tuple(tangents))


def _check_lane(mapped, *, site: Site):
    if site.estimator is not None and not mapped[0]:
        raise RandomKeyError(
            f"The sample at {name_of(site.label)} is under a `vmap` that maps its parameters but not its key, so every "
            "lane would draw with the same randomness. Map one key per lane: "
            "`jax.vmap(f)(jax.random.split(key, n), xs)`."
        )


_bind = make_primitive("sample", run=_run, shapes=_shapes, jvp=_jvp, check_lane=_check_lane)


def rebind(operands, site: Site, lanes) -> list:
    """Bind a sample again, with another site in place of its own."""
    return _bind(*operands, site=site, lanes=lanes)


def check_key(key: Any, what: str) -> None:
    """Refuse anything but one typed key."""
    if is_key(key) and key.shape == ():
        return
    came = f"{key.dtype}{list(key.shape)}" if hasattr(key, "dtype") else f"{type(key).__name__}"
    hint = "Make keys with `jax.random.key(seed)` (not `PRNGKey`)"
    if is_key(key):
        hint = "Use one key for each call: `jax.vmap` over an array of keys, or index it"
    raise RandomKeyError(f"{what} needs one typed random key, and got {came}. {hint}.")


def bind_site(label: Any, key: jax.Array, distribution: Any, estimator: Any) -> Any:
    """Bind the primitive for a distribution and an estimator (None for noise), and return the value."""
    arrays, spec = _d.dismantle(distribution)
    extra, estimator_spec = ([], None) if estimator is None else partition(estimator)
    site = Site(label, spec, estimator_spec)
    tree = value_shape(site, [key, *arrays])[1]
    return tree.unflatten(_bind(key, *arrays, *extra, site=site))


def noise(key: Key[Array, ""], distribution: Any) -> Any:
    """Draw on behalf of an estimator: never reinterpreted, and differentiable as the sampler itself is.

    Examples:
        >>> import jax, numpyro.distributions as dist
        >>> from tracegrad.transforms import noise, sample
        >>> key, coin = jax.random.key(0), dist.Bernoulli(0.5)
        >>> bool(noise(key, coin) == sample(key, coin))                           # the value that a site draws
        True
    """
    return bind_site((), key, distribution, None)


AUXILIARY = 0xF0F0F0F0
"""What is folded into a key for an estimator's own randomness: users fold in small numbers, and so never this one."""


def auxiliary(key: jax.Array) -> jax.Array:
    """A key for the estimator's own randomness at a site, apart from the one that draws its value."""
    return jax.random.fold_in(again(key), AUXILIARY)


def again(key: jax.Array) -> jax.Array:
    """The same key, to be used once more on purpose: `jax_debug_key_reuse` is told, and nothing is computed."""
    return jax.random.clone(key)


@functools.lru_cache(maxsize=1)
def _key_dtype():
    return jax.random.key(0).dtype


def value_struct(distribution: Any) -> Any:
    """The shape and dtype of what a distribution draws, as `jax.ShapeDtypeStruct`s, without drawing."""
    arrays, spec = _d.dismantle(distribution)
    shapes, tree = _value_shape(spec, _key_dtype(), tuple((a.shape, a.dtype) for a in arrays))
    return tree.unflatten([jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes])
