"""Normalising flows of flowjax as variational families."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import numpyro.distributions as dist
from jax import numpy as jnp
from jaxtyping import Array, Key

from .._errors import DensityError
from .._extras import require
from ..core._overrides import draw_at
from ..core._target import Target
from ..transforms import log_density
from ..transforms._internal import function as check_function
from ..transforms._internal import lenient
from ._family import Family
from ._normal import given_scale, start_scale
from ._unconstrained import describe


class Flow(Family):
    """See `flow`."""

    make: Callable = eqx.field(static=True)
    rest: Any
    scale: float | None = eqx.field(static=True)

    def start(self, key):
        """Near zero, narrow, with the flow's own initial weights."""
        weights, _ = eqx.partition(_made(self.make, key, self.space), eqx.is_inexact_array)
        size, dtype = self.space.size, self.space.dtype
        log_scale = jnp.full((size,), jnp.log(start_scale(self.space, self.scale)), dtype)
        return {"loc": jnp.zeros((size,), dtype), "log_scale": log_scale, "flow": weights}

    def draw(self, key, params, path):
        """Standard normal noise through the flow, then shifted and scaled."""
        at = self.point_at(path)
        noise = dist.Normal(jnp.zeros_like(params["loc"]), 1.0).to_event(1)
        start = draw_at(at, key, noise)
        with lenient():
            inner, log_det = self._bijection(params).transform_and_log_det(start)
        point = params["loc"] + jnp.exp(params["log_scale"]) * inner
        return point, log_density(noise, start) - log_det - jnp.sum(params["log_scale"])

    def weigh(self, params, point):
        """The density of the noise that the flow takes to the point."""
        inner = (point - params["loc"]) * jnp.exp(-params["log_scale"])
        with lenient():
            start, log_det = self._bijection(params).inverse_and_log_det(inner)
        noise = dist.Normal(jnp.zeros_like(point), 1.0).to_event(1)
        return log_density(noise, start) + log_det - jnp.sum(params["log_scale"])

    def _bijection(self, params):
        unwrap = require("paramax", "flows", "auto.flow").unwrap
        return unwrap(eqx.combine(params["flow"], self.rest))


def _made(make, key, space):
    flows = require("flowjax.distributions", "flows", "auto.flow")
    with lenient():
        made = make(key, flows.Normal(jnp.zeros((space.size,), space.dtype)))
    bijection = getattr(made, "bijection", made)
    if not hasattr(bijection, "transform_and_log_det"):
        raise DensityError(
            f"flow: `make(key, base)` must return a flow of flowjax (a `Transformed`), and returned "
            f"{type(made).__name__}."
        )
    return bijection


def spline_flow(key: Key[Array, ""], base: Any) -> Any:
    """Two masked autoregressive layers of rational quadratic splines: fast to draw from, and to weigh its draws."""
    flows = require("flowjax.flows", "flows", "auto.flow")
    splines = require("flowjax.bijections", "flows", "auto.flow")
    return flows.masked_autoregressive_flow(
        key,
        base_dist=base,
        transformer=splines.RationalQuadraticSpline(knots=8, interval=4),
        flow_layers=2,
        nn_width=32,
        invert=False,
    )


def flow(
    target: Target,
    make: Callable | None = None,
    *,
    around: Mapping | None = None,
    scale: float | None = None,
) -> Flow:
    """A normalising flow on the unconstrained space: q(u) with u = loc + exp(log_scale) F(noise), F by flowjax.

    A choice that is assessed goes through the inverse of F, which takes d passes in an autoregressive flow; the
    objectives that weigh their own draws do not need it.

    Args:
        target: a `Target` with a continuous latent; discrete ones of finite support get independent categoricals.
        make: `make(key, base) -> flow`, with one of flowjax's constructors inside, where base is flowjax's standard
            normal of d dimensions; None takes two masked autoregressive layers of rational quadratic splines. Build
            flows with `invert=False`, so that drawing is the fast side.
        around: a normal to start from, as for `mean_field`: the flow then starts near it, whatever its correlations.
        scale: the scale outside the flow at the start; None is 0.1, with `around` 1.

    Returns:
        A family, of the parameters {"loc": (d,), "log_scale": (d,), "flow": the flow's floating-point arrays}.

    Raises:
        DensityError: as for `mean_field`; no continuous latent; `make` returns something else.
        ImportError: flowjax is missing.

    Source: Rezende and Mohamed, Variational Inference with Normalizing Flows, 2015; Papamakarios, Pavlakou and Murray,
    Masked Autoregressive Flow, 2017; Durkan et al., Neural Spline Flows, 2019; Ward, FlowJAX.

    Examples:
        >>> import jax, tracegrad as tg
        >>> target = tg.Target(tg.gen(lambda: tg.sample("z", tg.dist.Gamma(2.0, 1.0))))
        >>> family = tg.auto.flow(target)
        >>> params = family.init(jax.random.key(0))
        >>> trace = family.guide.simulate(jax.random.key(1), params)
        >>> bool(trace.choices["z"] > 0.0)
        True
    """
    space = describe(target).around(around)
    if space.size == 0:
        raise DensityError("flow: the target has no continuous latent. Write `auto.mean_field(target)`.")
    make = spline_flow if make is None else check_function("flow", "a function make(key, base)", make, DensityError)
    rest = eqx.partition(_made(make, jax.random.key(0), space), eqx.is_inexact_array)[1]
    return Flow(space, make, rest, given_scale("flow", scale))
