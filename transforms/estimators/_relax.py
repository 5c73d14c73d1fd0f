"""RELAX and REBAR: the score function with a control variate on a continuous relaxation of the draw."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Key

from .._arguments import finite_real, flag, positive
from .._arguments import function as check_function
from .._distribution import elementwise, held, log_density, support
from .._errors import EstimatorError
from .._estimator import Direct, Drawn, Path
from .._jax import Tracer
from .._pytree import is_array, stop_gradient
from ..program._site import auxiliary, noise
from ..program._site_terms import magic_box
from ._finite_support import Finite, count, elements, finite, refuse_infinite, take, uniform


def _binary(found: Finite, index: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The log odds phi, and z = phi + logit(u) with u uniform given the draw; all of the shape of the elements."""
    odds = found.logp[1] - found.logp[0]
    part = take(found.logp, index) + jnp.log(uniform(key, found.batch))
    rest = jnp.log(-jnp.expm1(part))
    return odds, odds + jnp.where(index == 1, rest - part, part - rest)


def _gumbel(found: Finite, index: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The log probabilities, and z = log p + Gumbel noise given which is the largest; shape (*elements, k)."""
    size = found.logp.shape[0]
    exponential = -jnp.log(uniform(key, found.logp.shape))
    numbers = jnp.reshape(jnp.arange(size), (size, *(1 for _ in found.batch)))
    largest = numbers == index[None]
    least = jnp.sum(jnp.where(largest, exponential, 0.0), axis=0)[None]
    others = -jnp.logaddexp(jnp.log(exponential) - found.logp, jnp.log(least))
    z = jnp.where(largest, -jnp.log(least), others)
    return jnp.moveaxis(found.logp, 0, -1), jnp.moveaxis(z, 0, -1)


def relaxations(found: Finite, index: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two relaxed draws that agree with the drawn values: z, a function of fixed noise, and z~, of noise given them."""
    relax = _binary if found.logp.shape[0] == 2 else _gumbel
    one, two = jax.random.split(key)
    parameter, z = relax(found, index, one)
    fixed = lax.stop_gradient(z - parameter)
    return parameter + fixed, relax(found, index, two)[1]


class Relax(Path, Direct):
    """See `relax`."""

    control: Any

    def refuses(self, distribution: Any) -> str | None:
        """Refuse infinite supports."""
        return refuse_infinite(distribution)

    def draw(self, key: Key[Array, ""], distribution: Any) -> Drawn:
        """Draw without derivative; the score term, and the control variate c(z) - c(z~) box."""
        value = stop_gradient(noise(key, held(distribution)))
        found, flat = finite(distribution), elementwise(distribution)
        score = jnp.sum(jnp.asarray(log_density(flat, value, inside=True), dtype=float))
        z, conditional = relaxations(found, found.which(value), auxiliary(key))
        c = functools.partial(_scalar, self.function(distribution))
        return Drawn(value, score, control=c(z) - c(conditional) * magic_box(score))

    def function(self, distribution: Any) -> Callable:
        """The control variate as a function of the relaxed draw."""
        return self.control

    def relaxation(self, distribution: Any) -> tuple[Callable, jax.ShapeDtypeStruct]:
        """The control variate: the value itself carries a score, and what follows it may jump."""
        shape, values = elements(distribution), count(distribution)
        z = jax.ShapeDtypeStruct(shape if values == 2 else (*shape, values), jnp.result_type(float))
        return self.function(distribution), z

    def __repr__(self):
        return f"relax(...{', continuous=True' * self.continuous})"


def _scalar(control: Callable, z: jax.Array) -> jax.Array:
    """A control variate at a relaxed draw."""
    return _check_scalar("relax(control): the control variate", control(z), z)


def _check_scalar(what: str, c: Any, z: jax.Array) -> jax.Array:
    came = f"{c.dtype}{list(c.shape)}" if is_array(c) else f"a {type(c).__name__}"
    is_scalar = is_array(c) and c.shape == () and jnp.issubdtype(c.dtype, jnp.floating)
    if not is_scalar and not isinstance(c, float):
        raise EstimatorError(
            f"{what} must be a float scalar, and is {came} at a relaxed draw of shape {list(z.shape)}. Sum over the "
            "elements of the site."
        )
    return jnp.asarray(c, dtype=float)


class Concrete(eqx.Module):
    """A function at the relaxed draw squashed to the simplex, times a scale: the control variate of REBAR."""

    function: Any
    temperature: Any
    scale: Any

    def __call__(self, z: jax.Array) -> jax.Array:
        """The sigmoid of log odds, or the softmax of (*elements, k) perturbed log probabilities: whichever was set."""
        found = self.function(z / jnp.asarray(self.temperature, dtype=float))
        return jnp.asarray(self.scale, dtype=float) * _check_scalar("rebar(function): what it returns", found, z)


class Rebar(Relax):
    """See `rebar`."""

    def function(self, distribution: Any) -> Callable:
        """The function of the squashed draw."""
        squash = jax.nn.sigmoid if count(distribution) == 2 else jax.nn.softmax
        control = self.control
        function = standard_control(distribution) if control.function is None else control.function
        return Concrete(lambda z: function(squash(z)), control.temperature, control.scale)

    def __repr__(self):
        given = f"temperature={self.control.temperature!r}, scale={self.control.scale!r}"
        own = "" if self.control.function is None else "..., "
        return f"rebar({own}{given}{', continuous=True' * self.continuous})"


def standard_control(distribution: Any) -> Callable[[jax.Array], jax.Array]:
    """The relaxed value itself, summed over the elements: right for an objective that is linear in the draw.

    Of two values it lies between them, of more it is their mean under the relaxed weights; where values are arrays
    their numbers 0, 1, ... stand for them.
    """
    values: Any = support(elementwise(distribution))
    numbers = values if values.ndim == 1 else jnp.arange(values.shape[0])
    numbers = lax.stop_gradient(jnp.asarray(numbers, dtype=float))
    if len(numbers) == 2:
        return lambda share: jnp.sum(numbers[0] + (numbers[1] - numbers[0]) * share)
    return lambda shares: jnp.sum(shares @ numbers)


def _check_function(function: Any, name: str) -> None:
    check_function(name, "a function of the relaxed draw", function, EstimatorError)
    cells = getattr(function, "__closure__", None) or ()
    if any(isinstance(leaf, Tracer) for c in cells for leaf in jax.tree.leaves(c.cell_contents)):
        raise EstimatorError(
            f"{name}: the function closes over arrays that are being traced (parameters, say). Make them arguments: "
            "`jax.tree_util.Partial(f, params)`, or an Equinox module."
        )


def relax(control: Callable, *, continuous: bool = False) -> Relax:
    """RELAX: the score function with a learned control variate c on a relaxation of the draw.

        d E f = E[(f(b) - c(z~)) d log p(b) + d c(z) - d c(z~)],   b = H(z),   z~ drawn given b

    For two-valued draws z = log odds + logit(u), of the shape of the site's elements, and H(z) = 1[z > 0]; for k > 2
    values z = log p + Gumbel noise, shape (*elements, k), and H is the argmax. Unbiased for every c, and right to
    every order; the variance is c's to reduce, and `control_loss` trains it. In a plate every lane has its own z, and c
    is a function of one lane. Not at probabilities of exactly 0 or 1
    that a parameter moves: see `reinforce`.

    Args:
        control: c(z), a float scalar in the unit of the objective. Its arrays are differentiated: make it an Equinox
            module or a `jax.tree_util.Partial`, or a plain function that closes over none. It must be continuous in z,
            for its path derivative is taken: where it is not, `expectation` warns. The objective may jump.
        continuous: you know that c is continuous, whatever operations it goes through: no warning at this site.

    Raises:
        EstimatorError: the support is not finite; c is no scalar; c closes over arrays that are being traced.

    Source: Grathwohl, Choi, Wu, Roeder and Duvenaud, Backpropagation through the Void: Optimizing Control Variates for
    Black-Box Gradient Estimation, ICLR 2018.

    Examples:
        >>> import jax, numpyro.distributions as dist
        >>> from tracegrad.transforms import expectation, relax, sample
        >>> def f(key, w, slope):
        ...     control = jax.tree_util.Partial(lambda slope, z: slope * jax.nn.sigmoid(z), slope)
        ...     return 4.0 * sample(key, dist.Bernoulli(logits=w), estimator=relax(control))
        >>> jax.grad(expectation(f), argnums=1)(jax.random.key(0), 0.5, 4.0).shape
        ()
    """
    _check_function(control, "relax(control)")
    return Relax(control, continuous=flag("relax", "continuous", continuous, EstimatorError))


def rebar(
    function: Callable | None = None, *, temperature: Any = 0.5, scale: Any = 1.0, continuous: bool = False
) -> Rebar:
    """REBAR: RELAX with the control variate c(z) = scale f(sigmoid(z / temperature)).

    For k > 2 values f receives softmax(z / temperature), shape (*elements, k), in place of a value. Unbiased for every
    temperature and scale; untuned it can have more variance than REINFORCE, so train both with `control_loss`.

    Args:
        function: f, the objective (or what comes near it) as a function of the relaxed draw, a float scalar; see
            `relax` for what it may close over. By default the relaxed value itself, summed over the elements, so that
            an objective which is `scale` times the draw is met where the temperature is low; chosen by address, that
            is a control for any site of finite support.
        temperature: a positive float scalar.
        scale: a float scalar.
        continuous: you know that f is continuous; see `relax`.

    Raises:
        EstimatorError: as for `relax`.

    Source: Tucker, Mnih, Maddison, Lawson and Sohl-Dickstein, REBAR: Low-Variance, Unbiased Gradient Estimates for
    Discrete Latent Variable Models, NeurIPS 2017.

    Examples:
        >>> import jax, numpyro.distributions as dist
        >>> from tracegrad.transforms import expectation, rebar, sample
        >>> def f(key, w):
        ...     return (sample(key, dist.Bernoulli(logits=w), estimator=rebar(lambda b: (b - 0.45) ** 2)) - 0.45) ** 2
        >>> jax.grad(expectation(f), argnums=1)(jax.random.key(0), 0.5).shape
        ()
    """
    if function is not None:
        _check_function(function, "rebar(function)")
    positive("rebar", "temperature", temperature, EstimatorError)
    finite_real("rebar", "scale", scale, EstimatorError)
    continuous = flag("rebar", "continuous", continuous, EstimatorError)
    return Rebar(Concrete(function, temperature, scale), continuous=continuous)
