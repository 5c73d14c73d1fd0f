"""Families around a point: the mode itself, and the normal with the curvature there."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import optax
from jax import lax
from jax import numpy as jnp

from .._errors import DistributionError, FitError
from ..algorithms._base import at_index
from ..core._arguments import count
from ..core._target import Target
from ..transforms._internal import lenient
from ._family import Family
from ._normal import FullRank
from ._starts import Initial, checked_initial, starting_point
from ._unconstrained import cholesky_factor, starting_points, to_unconstrained


class Delta(Family):
    """See `delta`."""

    def start(self, key):
        """A random point with a finite density."""
        return {"loc": starting_points(self.space, key)}

    def draw(self, key, params, path):
        """The point, whose map's determinant is given back: the objective is the density of the choices."""
        log_det = self.space.forward(self.space.unravel(params["loc"]))[2]
        return params["loc"], log_det

    def weigh(self, params, point):
        """Zero at the point, up to rounding; minus infinity elsewhere."""
        tolerance = 100.0 * jnp.finfo(point.dtype).eps
        same = jnp.all(jnp.abs(point - params["loc"]) <= tolerance * (1.0 + jnp.abs(point)))
        log_det = self.space.forward(self.space.unravel(params["loc"]))[2]
        return jnp.where(same, log_det, -jnp.inf)


def delta(target: Target) -> Delta:
    """A point mass: with it the ELBO is log p(z, observed) at the point, and a fit finds the MAP estimate.

    The mode is that of the density of the choices themselves, without a Jacobian. The density of the guide is taken
    with respect to the point: its log is 0 there, so the ELBO is no bound on the evidence.

    Args:
        target: a `Target` with continuous latents.

    Returns:
        A family, of the parameters {"loc": (d,)}, the point in unconstrained coordinates.

    Raises:
        DensityError: as for `to_unconstrained`.

    Source: Gelman et al., Bayesian Data Analysis, 3rd edition, section 13.1.

    Examples:
        >>> import jax, tracegrad as tg
        >>> target = tg.Target(tg.gen(lambda: tg.sample("z", tg.dist.Gamma(2.0, 1.0))))
        >>> family = tg.auto.delta(target)
        >>> trace = family.guide.simulate(jax.random.key(0), family.init(jax.random.key(1)))
        >>> bool(abs(trace.logp) < 1e-6)
        True
    """
    return Delta(to_unconstrained(target))


NEAR = 0.1
"""How near to a mode, in standard deviations, a search must end."""
FALL, ROUNDING = 1e-6, 100.0
"""A step by which the log density rises by less than so many nats, or units of its rounding, does not count."""
STILL = 2
"""So many such steps in a row end a search: one Newton step follows, and then it is asked whether it has arrived."""


class Laplace(FullRank):
    """See `laplace`."""

    steps: int = eqx.field(static=True)
    starts: int = eqx.field(static=True)
    initial: Any = None

    def start(self, key):
        """The mode and the curvature there: nothing is left to fit."""

        @jax.jit  # At once, so that a trial step to where nothing is finite is a number and no error.
        def found(key):
            with lenient():
                # In turn: side by side every start would pay for the longest line search of any.
                many = self.starts if self.initial is None else 1
                starts = (jax.random.split(key, many), jnp.arange(many))
                normals, masses = lax.map(lambda start: self._normal(*start), starts)
                return at_index(normals, jnp.argmax(jnp.where(jnp.isfinite(masses), masses, -jnp.inf)))

        return _checked(found(key))

    def _normal(self, key, i):
        """The normal at the mode that one start leads to, and the log of the mass under it, up to a constant."""
        start = self._begin(key, i) if self.initial is None else starting_point(self.space, key, self.initial)
        point, log_prob, slope, precision = _mode(self.space.log_prob, start, self.steps)
        params = _curved(point, precision)
        # Newton's decrement: how far away, in standard deviations, the mode is that the slope still points to.
        there = jnp.sum((slope @ cholesky_factor(params)) ** 2) < NEAR**2
        params["log_scale"] = jnp.where(there, params["log_scale"], jnp.nan)
        return params, log_prob + jnp.sum(params["log_scale"])

    def _begin(self, key, i):
        """In turns a uniform point, and one drawn from the program."""
        uniform, prior = jax.random.split(key)
        drawn = self._from_prior(prior)
        drawn = jnp.where(jnp.isfinite(self.space.log_prob(drawn)), drawn, jnp.zeros_like(drawn))
        return jnp.where(i % 2 == 0, starting_points(self.space, uniform), drawn)

    def _from_prior(self, key):
        """A point drawn by the program; uniformly where it draws from an improper prior."""
        try:
            return self.space.unconstrain(self.space.target.draw(key)[0])
        except DistributionError:
            return starting_points(self.space, key)


def _mode(log_prob, start, steps):
    """A maximum by L-BFGS; the log density there, its slope, and the Hessian of minus it."""

    def loss(point):
        return -log_prob(point)

    optimizer = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(carry: Any) -> Any:
        point, state, i, before, still = carry
        value, grad = value_and_grad(point, state=state)
        updates, state = optimizer.update(grad, state, point, value=value, grad=grad, value_fn=loss)
        fall = jnp.maximum(FALL, ROUNDING * jnp.finfo(value.dtype).eps * jnp.abs(value)).astype(value.dtype)
        still = jnp.where(before - value > fall, 0, still + 1)
        return optax.apply_updates(point, updates), state, i + 1, value, still

    def unfinished(carry):
        return (carry[2] < steps) & (carry[4] < STILL)

    never = jnp.asarray(jnp.inf, start.dtype)
    point = lax.while_loop(unfinished, step, (start, optimizer.init(start), 0, never, 0))[0]
    curvature = hessian(loss)

    def look(point, moving):
        (value, slope), curved = jax.value_and_grad(loss)(point), curvature(point)
        polished = point - jnp.linalg.solve(curved, slope)
        better = moving & (loss(polished) <= value)  # False where it is not a number, too.
        return jnp.where(better, polished, point), (-value, -slope, curved)

    # The Newton step, and a look at where it led: one program, compiled once.
    point, seen = lax.scan(look, point, jnp.array([True, False]))
    return point, *at_index(seen, -1)


def hessian(loss):
    """The Hessian; of a program whose solver has its derivative in reverse mode alone, by differences of gradients."""

    def at(point):
        try:
            return jax.hessian(loss)(point)
        except TypeError as error:
            if "forward-mode" not in str(error):
                raise
        step = jnp.finfo(point.dtype).eps ** (1.0 / 3.0)  # where rounding and curvature err alike
        ahead, behind = (jax.vmap(jax.grad(loss))(point + h * jnp.eye(len(point))) for h in (step, -step))
        slopes = (ahead - behind) / (2.0 * step)
        return 0.5 * (slopes + slopes.T)

    return at


def _curved(point, precision):
    """The parameters of a full-rank normal with this mean and precision."""
    # With the order reversed, the factor of the precision inverts to that of the covariance.
    upper = jnp.linalg.cholesky(precision[::-1, ::-1])[::-1, ::-1]
    lower = jax.scipy.linalg.solve_triangular(upper.T, jnp.eye(len(point), dtype=point.dtype), lower=True)
    diagonal = jnp.diagonal(lower)
    return {"loc": point, "log_scale": jnp.log(diagonal), "lower": jnp.tril(lower / diagonal[:, None], -1)}


def _checked(params):
    finite = jnp.isfinite(params["log_scale"])
    if not isinstance(finite, jax.core.Tracer) and not bool(jnp.all(finite)):
        raise FitError(
            "laplace: the log density is not curved downwards in every direction at the point that was found, or has "
            "no mode there, so there is no normal. Look for latents that the data say nothing about, write a hierarchy "
            "whose scale may reach zero in non-centred form, or start from another key."
        )
    return params


def laplace(target: Target, *, starts: int = 4, steps: int = 500, initial: Initial = None) -> Laplace:
    """Laplace's approximation: a normal at the mode on the unconstrained space, with the curvature there.

    The covariance is the inverse of minus the Hessian of log gamma(T(u)) + log |det dT(u)|. `init(key)` finds the mode,
    by L-BFGS (until two steps in a row gain less than a millionth of a nat, or than rounding) and one Newton step, so
    no fit is needed; of the modes that several starts lead to it takes the one with the greatest mass under its normal.
    The parameters are those of `full_rank`: they can be fitted further, and every
    family takes them as `around`.

    Args:
        target: a `Target` with continuous latents.
        starts: how many points to start from, in turns uniform in (-2, 2) on the unconstrained space and drawn from the
            program.
        steps: at most this many steps of L-BFGS.
        initial: where to start from instead, once: values by address, {"mu": 1.0}, the rest uniform; or "uniform" or
            "prior".

    Returns:
        A family, of the parameters {"loc": (d,), "log_scale": (d,), "lower": (d, d)}.

    Raises:
        AddressError, ChoiceError: `initial` names no latent, or a value that it cannot have.
        DensityError: as for `to_unconstrained`.
        FitError: from `init`, where the Hessian at the point found is not negative definite.

    Source: Tierney and Kadane, Accurate Approximations for Posterior Moments and Marginal Densities, 1986.

    Examples:
        >>> import jax, tracegrad as tg
        >>> model = tg.gen(lambda: tg.sample("x", tg.dist.Normal(tg.sample("z", tg.dist.Normal(0.0, 1.0)), 1.0)))
        >>> family = tg.auto.laplace(tg.Target(model, observed={"x": 2.0}))
        >>> params = family.init(jax.random.key(0))
        >>> bool(abs(params["loc"][0] - 1.0) < 1e-3), bool(abs(params["log_scale"][0] + 0.3466) < 1e-3)
        (True, True)
    """
    steps, starts = count("laplace", "steps", steps), count("laplace", "starts", starts)
    space = to_unconstrained(target)
    return Laplace(space, None, steps, starts, checked_initial("laplace", space, initial))
