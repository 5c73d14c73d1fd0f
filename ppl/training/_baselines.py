"""What trains alongside an estimator: moving averages, learned baselines, and control variates.

None of them changes the expectation of a gradient; they change its variance.
"""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..core._bound_methods import Plain
from ..transforms import ObjectiveError
from ..transforms._internal import finite_real, is_inexact, real, stop_gradient, whole
from ..trust._gradients import one_float


class MovingAverage(Plain):
    """The moving average of an objective over previous steps, to be the baseline of the next: explicit state.

    mean_t = decay mean_{t-1} + (1 - decay) x_t, divided by 1 - decay^t so that the start at zero does not show. A
    baseline must not depend on the draws that it is a baseline for: use `value` of the state that came into the step,
    and hand on `update(x)`. `fit(..., state=MovingAverage())` carries it.

    Attributes:
        decay: between 0 and 1, a float scalar.
        total: the sum, in the unit of the objective; shape () or that of the objective (one for each lane).
        weight: the sum of the weights, a float scalar.

    Source: Mnih and Gregor, Neural Variational Inference and Learning in Belief Networks, ICML 2014.

    Examples:
        >>> import jax, optax, tracegrad as tg
        >>> def loss(key, w, state):
        ...     flip = tg.gen(lambda: tg.sample("b", tg.dist.Bernoulli(logits=w), estimator=tg.reinforce(state.value)))
        ...     cost = tg.expectation(lambda key, w: 3.0 + 1.0 * flip.simulate(key).choices["b"])(key, w)
        ...     return cost, state.update(cost)
        >>> result = tg.fit(loss, 0.0, optax.sgd(0.1), key=jax.random.key(0), steps=50, state=tg.MovingAverage(0.9),
        ...     progress=False)
        >>> bool(3.0 <= result.state.value <= 4.0)
        True
    """

    decay: Float[Array, ""]
    total: Float[Array, "*shape"]
    weight: Float[Array, ""]

    def __init__(self, decay: float = 0.9, *, shape: tuple[int, ...] = ()):
        interval = "at least 0 and below 1"
        real("MovingAverage", "decay", decay, ObjectiveError, interval, lambda x: (x >= 0) & (x < 1))
        self.decay = jnp.asarray(decay, dtype=float)
        if not isinstance(shape, tuple):
            raise ObjectiveError(f"MovingAverage: shape must be a tuple of integers, and is {shape!r}.")
        self.total = jnp.zeros([whole("MovingAverage", "shape", n, ObjectiveError, least=0) for n in shape])
        self.weight = jnp.zeros(())

    @property
    def value(self) -> Float[Array, "*shape"]:
        """The average so far, without derivative; zero before the first update."""
        return lax.stop_gradient(self.total / jnp.where(self.weight > 0.0, self.weight, 1.0))

    def update(self, objective: Float[Array, "*shape"]) -> MovingAverage:
        """The average with one more value of the objective."""
        finite_real("MovingAverage.update", "objective", objective, ObjectiveError, scalar=False)
        if jnp.ndim(objective) > self.total.ndim:
            shapes = f"{list(jnp.shape(objective))}, where the average has {list(self.total.shape)}"
            raise ObjectiveError(f"MovingAverage.update: objective has the shape {shapes}. Write `shape=...`.")
        x = lax.stop_gradient(jnp.asarray(objective, dtype=float))
        total = self.decay * self.total + (1.0 - self.decay) * x
        weight = self.decay * self.weight + (1.0 - self.decay)
        return eqx.tree_at(lambda average: (average.total, average.weight), self, (total, weight))


def _zero_valued(x: jax.Array) -> jax.Array:
    return x - lax.stop_gradient(x)


def baseline_loss(objective: Float[Array, "*shape"], baseline: Float[Array, "*shape"]) -> Float[Array, ""]:
    """The term that trains a learned baseline b(context): zero in value, with the derivative of mean (f - b)^2.

    Add it to what is minimised (subtract it from what is maximised). Being zero in value it leaves the gradient of the
    rest alone, also inside `expectation`, where a score multiplies values. The baseline itself goes to the site,
    `reinforce(baseline=b)`; it is any function of what was known before the draw, a network with parameters of its own,
    which are arguments like any others. Stop the gradient of the context, or it is trained as well.

    Args:
        objective: f, the objective, or the part of it that follows the draw; a float array in any units.
        baseline: b, of the same shape.

    Returns:
        A float scalar, zero, in the square of the unit of the objective.

    Source: Mnih and Gregor, Neural Variational Inference and Learning in Belief Networks, ICML 2014.

    Examples:
        >>> import jax, tracegrad as tg
        >>> @tg.expectation
        ... def loss(key, w, b):
        ...     flip = tg.gen(lambda: tg.sample("b", tg.dist.Bernoulli(logits=w), estimator=tg.reinforce(b)))
        ...     cost = 3.0 + 1.0 * flip.simulate(key).choices["b"]
        ...     return cost + tg.baseline_loss(cost, b)
        >>> bool(jax.grad(loss, argnums=2)(jax.random.key(0), 0.0, 1.0) < 0)
        True
    """
    for name, value in (("objective", objective), ("baseline", baseline)):
        finite_real("baseline_loss", name, value, ObjectiveError, scalar=False)
    if jnp.shape(objective) != jnp.shape(baseline):
        raise ObjectiveError(
            f"baseline_loss: the baseline has the shape of the objective, {list(jnp.shape(objective))}, and not "
            f"{list(jnp.shape(baseline))}."
        )
    return _zero_valued(jnp.mean((lax.stop_gradient(objective) - baseline) ** 2))


def control_loss(objective: Callable, params: PyTree, control: PyTree) -> Float[Array, ""]:
    """The term that trains the control variate of RELAX or REBAR: zero in value, derivative that of the variance.

    With g = d objective/d params it is the derivative of sum g^2: the expectation of g does not depend on the control
    variate, so that d E[sum g^2] is the derivative of the variance.
    Add the term to what is minimised, outside `expectation`, where the control variate is an argument like any other.

    Args:
        objective: `f(params, control)`, a float scalar: the estimate of one step, its key already given, as a function
            of the parameters whose gradient is to have less variance, and of those of the control variate.
        params: a pytree of float arrays.
        control: a pytree.

    Returns:
        A float scalar, zero; its derivative is in `control` alone.

    Source: Grathwohl, Choi, Wu, Roeder and Duvenaud, Backpropagation through the Void, ICLR 2018; Tucker et al., REBAR,
    NeurIPS 2017.

    Examples:
        >>> import jax, tracegrad as tg
        >>> def cost(key, w, scale):
        ...     how = tg.rebar(lambda b: (b - 0.4) ** 2, scale=scale)
        ...     flip = tg.gen(lambda: tg.sample("b", tg.dist.Bernoulli(logits=w), estimator=how))
        ...     return (flip.simulate(key).choices["b"] - 0.4) ** 2
        >>> def loss(key, w, scale):
        ...     f = lambda w, scale: tg.expectation(cost)(key, w, scale)
        ...     return f(w, jax.lax.stop_gradient(scale)) + tg.control_loss(f, w, scale)
        >>> jax.grad(loss, argnums=2)(jax.random.key(0), 0.3, 1.0).shape
        ()
    """
    objective = one_float("control_loss", objective)
    leaves = jax.tree.leaves(params)
    if not leaves or not all(isinstance(x, float) or is_inexact(x) for x in leaves):
        raise ObjectiveError(f"control_loss: params must be float arrays, a pytree of them, and are {params!r}.")
    for leaf in leaves:
        finite_real("control_loss", "each of the params", leaf, ObjectiveError, scalar=False)
    params = stop_gradient(jax.tree.map(jnp.asarray, params))
    gradient = jax.grad(objective)(params, control)
    return _zero_valued(jnp.asarray(sum(jnp.sum(g**2) for g in jax.tree.leaves(gradient))))
