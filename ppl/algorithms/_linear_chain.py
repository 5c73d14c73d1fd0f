"""A linear-Gaussian chain, its matrices read off the program.

Let u be all latents of a step laid out as a vector, and y what is observed there. One step is traced as a function of
the carry, of u and of its inputs, and must give every latent a mean that is affine in the carry and in the latents
before it, every observation a mean that is affine in the latents of its own step, and covariances that depend on
neither; the carry must be affine in u. Whether they are is read off the traced program (`transforms/analysis/_affine`),
and the matrices are its derivatives.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import numpy as np
import numpyro.distributions as dist
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float

from .._errors import DensityError
from ..core._addresses import Choices, Path, nest, paths, show
from ..core._operations import At, Given, Operation, Visit
from ..core._scales import scale_at
from ..core._target import Target
from ..distributions._missing import NanAsMissing
from ..transforms._internal import Addends, addends, affine
from ._chain import Chain, chain_of, first, handed_on

REMEDY = "Use `smc(n)`."


class Site(NamedTuple):
    """What a site is: a mean, variances or covariances, whether its elements are there, and a value if observed."""

    mean: Any
    spread: Any
    there: Any
    value: Any = None


class AtVector(Operation):
    """Take what is given, elsewhere what stands in the place of a previous choice; put the normal on record."""

    exact = True

    def taken(self, path: Path, given: Given) -> Any:
        """Only sites are normals; other generative functions are given their choices or refused."""
        if given.constraints is None:
            raise DensityError(f"kalman: the choices at {show(path)} have an estimated density. {REMEDY}")
        return given.constraints

    def scaled(self, path: Path, logp: Any, weight: Any, *, drawn: bool) -> tuple[Any, Any]:
        """Refused where there is a scale: a power of the density is not that of a normal."""
        if scale_at(self.attitude.scales, path) is not None:
            raise DensityError(f"kalman: the density at {show(path)} has a scale. {REMEDY}")
        return logp, weight

    def site(self, at: At, given: Given) -> Visit:
        """The mean and the covariance, and no density."""
        found, live = _normal_of(at.distribution), at.attitude.live
        if found is None:
            name = type(getattr(at.distribution, "base", at.distribution)).__name__
            raise DensityError(
                f"kalman: {show(at.path)} is a {name}, and the choices of a linear-Gaussian chain are Normal or "
                f"MultivariateNormal. {REMEDY}"
            )
        if given.constraints is None:
            return self._latent(at, found, given, live)
        taken = at.take(given.constraints)
        there = _there(at.distribution, taken.value, found) & jnp.asarray(live, bool)
        value = jnp.where(there, taken.value, 0.0).astype(found.mean.dtype)
        return Visit(taken.value, jnp.zeros(()), masked=taken.masked, record=found._replace(there=there, value=value))

    def _latent(self, at, found, given, live):
        if live is not True:
            raise DensityError(f"kalman: the latent at {show(at.path)} is under a mask. {REMEDY}")
        value = jnp.zeros_like(found.mean) if given.previous is None else given.previous
        return Visit(value, jnp.zeros(()), record=found._replace(there=np.ones(())))


def _normal_of(distribution) -> Site | None:
    """The mean and the variances, or the covariances, of a normal; None of another distribution."""
    d = distribution.base if isinstance(distribution, NanAsMissing) else distribution
    if isinstance(d, dist.Independent):
        return _normal_of(d.base_dist)
    if isinstance(d, dist.ExpandedDistribution):
        found = _normal_of(d.base_dist)
        return None if found is None else _expanded(found, tuple(d.batch_shape) + tuple(d.event_shape))
    if type(d) is dist.MultivariateNormal:
        return Site(jnp.broadcast_to(d.loc, d.shape()), _square(d.scale_tril, d), None)
    if type(d) is dist.Normal:
        return Site(jnp.broadcast_to(d.loc, d.shape()), jnp.broadcast_to(d.scale, d.shape()) ** 2, None)
    return None


def _square(lower, d):
    lower = jnp.tril(lower)  # What is above the diagonal is no part of the density.
    return jnp.broadcast_to(lower @ jnp.swapaxes(lower, -1, -2), (*d.shape(), d.event_shape[0]))


def _expanded(found, shape):
    spread = shape if found.spread.ndim == found.mean.ndim else (*shape, shape[-1])
    return found._replace(mean=jnp.broadcast_to(found.mean, shape), spread=jnp.broadcast_to(found.spread, spread))


def _there(distribution, value, found):
    """Which elements of an observed value are there: of a vector of a joint normal all or none."""
    if not isinstance(distribution, NanAsMissing):
        return jnp.ones(jnp.shape(value), bool)
    gone = jnp.isnan(value)
    joint = found.spread.ndim > found.mean.ndim
    return ~jnp.broadcast_to(jnp.all(gone, -1, keepdims=True), gone.shape) if joint else ~gone


def _covariance(sites: list[Site]) -> Any:
    """The covariance of all elements of some sites."""
    blocks = []
    for site in sites:
        if site.spread.ndim == site.mean.ndim:
            blocks.append(jnp.diag(jnp.ravel(site.spread)))
        else:
            blocks += list(jnp.reshape(site.spread, (-1, *site.spread.shape[-2:])))
    return jax.scipy.linalg.block_diag(*blocks) if blocks else jnp.zeros((0, 0))


def _flat(parts, dtype=None):
    return jnp.concatenate([jnp.ravel(x) for x in parts]) if parts else jnp.zeros((0,), dtype or float)


class Steps(NamedTuple):
    """u = move u' + drift + noise, y = look u + level + blur, where u' is u at the step before; stacked or of one."""

    move: Float[Array, "*t d d"]
    drift: Float[Array, "*t d"]
    noise: Float[Array, "*t d d"]
    look: Float[Array, "*t k d"]
    level: Float[Array, "*t k"]
    blur: Float[Array, "*t k k"]
    seen: Float[Array, "*t k"]
    there: Bool[Array, "*t k"]


class LinearChain(NamedTuple):
    """A chain, and one step of it traced as a function of (carry, u, inputs).

    Attributes:
        chain: the chain.
        latents: the shapes of the latents of a step, by path.
        step: what a step adds to the density, the leaves of the carry after it, and its sites.
        states: whether u moves a leaf of the carry.
        sites: how the last of what `step` gives are laid out.
    """

    chain: Chain
    latents: dict[Path, tuple[int, ...]]
    step: Addends
    states: list[bool]
    sites: Any

    @property
    def size(self) -> int:
        """The number of elements of u."""
        return sum(map(math.prod, self.latents.values()))

    @property
    def dtype(self) -> Any:
        """The type of u."""
        return jnp.result_type(float)

    def choices(self, us: Float[Array, "t d"]) -> Choices:
        """The latents of all steps, by address, from their vectors."""
        parts = jnp.split(us, np.cumsum([math.prod(s) for s in self.latents.values()])[:-1], axis=1)
        return nest({p: jnp.reshape(x, (-1, *s)) for (p, s), x in zip(self.latents.items(), parts, strict=True)})

    def run(self, carry: list, u: Any, inputs: list) -> tuple[list, tuple[list, list], list]:
        """The carry after a step, its latent and observed sites, and what else it adds to the density."""
        out = self.step.run(*carry, u, *inputs)
        carried = self.step.number + len(carry)
        sites = jax.tree.unflatten(self.sites, out[carried:])
        return out[self.step.number : carried], sites, out[: self.step.number]


def _visit(chain, latents, carry, u, step):
    """One step at a vector of latents: its density beside the sites', the carry, the latent and the observed sites."""
    x, observed = step
    ends = np.cumsum([math.prod(s) for s in latents.values()])
    values = zip(latents.items(), jnp.split(u, ends[:-1]) if latents else [], strict=True)
    previous = nest({p: jnp.reshape(v, s) for (p, s), v in values})
    out = chain.visit(AtVector(), None, Given(observed, previous), carry, x)
    sites = dict(sorted(paths(out.records)))
    latent = [site for site in sites.values() if site.value is None]
    return out.logp, (out.retval, (latent, [site for site in sites.values() if site.value is not None])), sites


def linear_chain_of(target: Target, what: str) -> LinearChain:
    """Take a linear-Gaussian target over a scan apart."""
    chain = chain_of(target, what)
    step = first(chain.stacked)
    looked = jax.eval_shape(lambda: _visit(chain, {}, chain.init, jnp.zeros(0), step))
    chain = chain._replace(init=jax.tree.map(lambda x, y: x.astype(y.dtype), chain.init, looked[1][0]))
    latents = {p: site.mean.shape for p, site in looked[2].items() if site.value is None}
    names = [*latents, *(p for p, site in looked[2].items() if site.value is not None)]
    if not latents:
        raise DensityError(f"{what}: {chain.step.name} has no latents, all of its choices are given. Assess it.")
    u = jnp.zeros(sum(map(math.prod, latents.values())), float)
    at = chain.init, u, step
    traced = addends(lambda *at: _visit(chain, latents, *at)[:2], *at)
    carried = len(jax.tree.leaves(chain.init))
    states = [carried in depends for depends in traced.depends[traced.number : traced.number + carried]]
    sites = jax.tree.structure(jax.eval_shape(lambda: _visit(chain, latents, *at)[1][1]))
    out = LinearChain(chain, latents, traced, states, sites)
    variables = {i for i, s in enumerate(states) if s} | {carried}
    straight = affine(lambda *at: _visit(chain, latents, *at)[1], variables, *at)
    _check(out, what, [show((*chain.path, *p)) for p in names], variables - {carried}, straight)
    return out


def _check(chain, what, names, states, straight):
    """Refuse what is not linear and Gaussian, by the site where it is not."""
    number, carried = chain.step.number, len(chain.states)
    variables, depends = states | {carried}, chain.step.depends
    for q, (leaf, s) in enumerate(zip(depends[number : number + carried], straight, strict=False)):
        if leaf & states:
            raise DensityError(
                f"{what}: the carry that {chain.chain.step.name} returns depends on the state before, so the chain is "
                "not Markov in the step's own choices. Return a carry that is made of this step's choices (what does "
                f"not vary with them, like a step counter or parameters, may pass through), or use `smc(n)`."
            )
        if not s:
            raise DensityError(f"{what}: leaf {q} of the carry of {chain.chain.step.name} is not affine. {REMEDY}")
    shape = jax.tree.unflatten(chain.sites, list(zip(depends[number + carried :], straight[carried:], strict=True)))
    for name, (mean, spread, there, value) in zip(names, [*shape[0], *shape[1]], strict=True):
        if value is None and there[0]:
            raise DensityError(f"{what}: the latent at {name} is in a branch that may not be taken. {REMEDY}")
        if not mean[1]:
            raise DensityError(f"{what}: the mean of {name} is not known to be affine in the state. {REMEDY}")
        if spread[0] & variables:
            raise DensityError(f"{what}: the variance of {name} depends on the state. {REMEDY}")
        if value is not None and (mean[0] & states or there[0] & variables):
            raise DensityError(
                f"{what}: the observed {name} depends on the state before, beside the latents of its own step. Sample "
                "it in the step that draws what it depends on, or use `smc(n)`."
            )
    if any(d & variables for d in depends[:number]):
        raise DensityError(f"{what}: a factor or a condition of {chain.chain.step.name} depends on its state. {REMEDY}")


def _matrices(chain: LinearChain, before: Any, now: tuple[list, list]) -> Steps:
    """Those of one step, whose carry and inputs `now` has; `before` has those of the step before, if there is one."""

    def sites(last, u):
        carry = now[0]
        if before is not None:
            after = chain.run(before[0], last, before[1])[0]
            carry = [y if s else x for x, y, s in zip(carry, after, chain.states, strict=True)]
        return chain.run(carry, u, now[1])[1]

    def means(last, u):
        return tuple(_flat([site.mean for site in some], u.dtype) for some in sites(last, u))

    zero = jnp.zeros(chain.size, chain.dtype)
    latent, observed = sites(zero, zero)
    drift, level = means(zero, zero)
    (move, own), (_, look) = jax.jacfwd(means, (0, 1))(zero, zero)
    # A latent's mean may depend on latents of its own step that came before it: u = own u + move u' + drift + noise.
    solved = jnp.linalg.inv(jnp.eye(chain.size, dtype=own.dtype) - own) if len(latent) > 1 else jnp.eye(chain.size)
    noise = solved @ _covariance(latent) @ solved.T
    seen, there = _flat([s.value for s in observed], zero.dtype), _flat([s.there for s in observed], bool)
    return Steps(solved @ move, solved @ drift, noise, look, level, _covariance(observed), seen, there)


def matrices(chain: LinearChain) -> tuple[Steps, Steps | None, Any]:
    """Those of the first step, and of the later ones, stacked; and the log of what else the density has as factors."""
    carried, inputs = jax.tree.leaves(chain.chain.init), jax.tree.leaves(chain.chain.stacked)
    zero, same = jnp.zeros(chain.size, chain.dtype), chain.step.same[chain.step.number :]
    fixed = [s or same[i] == i for i, s in enumerate(chain.states)]
    rest = handed_on(lambda carry, x: chain.run(carry, zero, x)[0], chain.chain.length, carried, fixed, inputs)

    def rows(which):
        return [x if f else x[which] for x, f in zip(rest, fixed, strict=True)], [x[which] for x in inputs]

    axes = [None if f else 0 for f in fixed], [0] * len(inputs)
    others = jax.vmap(lambda _, carry, x: chain.run(carry, zero, x)[2], (0, *axes))
    factors = sum(map(jnp.sum, others(jnp.arange(chain.chain.length), rest, inputs)))
    start = _matrices(chain, None, rows(0))
    if chain.chain.length == 1:
        return start, None, factors
    steps = jax.vmap(lambda _, *at: _matrices(chain, *at), (0, axes, axes), axis_size=chain.chain.length - 1)
    return start, steps(jnp.arange(chain.chain.length - 1), rows(slice(None, -1)), rows(slice(1, None))), factors
