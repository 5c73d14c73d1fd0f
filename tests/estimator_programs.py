"""One program with a site straight in line, and one in a plate in a branch in a loop; and its exact gradient.

Both have parameters of their own, a row of `theta`. What the sites feed is a parabola and a sine of a weighted sum, so
that the exact expectation is in the moments and the characteristic function of one draw: sums over nodes, which are
the support of a discrete family and a fine grid for a continuous one.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from exactly import quick_key
from jax import lax
from jax import numpy as jnp

import tracegrad as tg
from tracegrad import dist, expectation
from tracegrad.transforms import Estimator, sample

N = 100_000


def exported_estimators() -> set[str]:
    """The names of the exported functions that make gradient estimators, by what they say that they return."""
    made = set()
    for name, value in vars(tg).items():
        annotation = str(inspect.signature(value).return_annotation) if inspect.isfunction(value) else ""
        returned = getattr(inspect.getmodule(value), annotation, None)
        if inspect.isclass(returned) and issubclass(returned, Estimator):
            made.add(name)
    return made


class Family(NamedTuple):
    """A family of distributions, parameters to test it at, and nodes with weights that integrate against it."""

    make: Callable
    params: tuple[float, ...]
    nodes: Any
    weight: float = 1.0
    key: Callable = quick_key
    n: int = N

    def quadrature(self, theta):
        """Points and probabilities at these parameters, by numpyro's own density: nothing of this library."""
        if callable(self.nodes):
            return self.nodes(*theta)
        x = jnp.asarray(self.nodes)
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return x.astype(float), jnp.exp(self.make(*theta).log_prob(x)) * self.weight


def counts(make, *params, most=60):
    return Family(make, params, np.arange(most))


def poisson_counts(make, *params, n=N):
    """Counts that are drawn by `jax.random.poisson`, which takes keys of one kind."""
    return counts(make, *params)._replace(key=jax.random.key, n=n)


def density(make, *params, low, high, n=1500):
    edges = np.linspace(low, high, n + 1)
    return Family(make, params, (edges[1:] + edges[:-1]) / 2, (high - low) / n)


def h(x):
    return 0.2 * x**2 + jnp.sin(x)


def objective(draw):
    """`f(key, rest, theta)` with `rest` further keys and flags; `draw(key, theta_row)` is the site, as a float."""

    def step(carry, x):
        (keys, flag), t = x, carry[1]

        def plate(keys):
            first, second = jax.vmap(lambda k: draw(k, t))(keys)
            return first - 0.5 * second

        return (0.5 * carry[0] + lax.cond(flag, plate, lambda keys: jnp.ones(()), keys), t), None

    def f(key, rest, theta):
        (last, _), _ = lax.scan(step, (jnp.zeros(()), theta[1]), rest)
        return h(draw(key, theta[0])) + h(last)

    return f


def inputs(key, n=N):
    """`n` keys with what else the program takes: keys of two steps of two lanes, and flags of the steps."""
    keys = jax.random.split(key, (n, 6))
    flags = jax.vmap(lambda k: jax.random.bernoulli(k, 0.5, (2,)))(keys[:, 5])
    return keys[:, 0], (keys[:, 1:5].reshape(n, 2, 2), flags)


def exact(family, theta):
    """The expectation of the program, averaged over the flags."""

    def mean_h(row, scales, shift):
        x, p = family.quadrature(row)
        mean = p @ x
        variance = p @ (x - mean) ** 2
        square = (sum(scales) * mean + shift) ** 2 + sum(a * a for a in scales) * variance
        wave = lax.complex(jnp.cos(shift), jnp.sin(shift))
        for a in scales:
            wave = wave * lax.complex(p @ jnp.cos(a * x), p @ jnp.sin(a * x))
        return 0.2 * square + wave.imag

    cases = [((0.5, -0.25, 1.0, -0.5), 0.0), ((0.5, -0.25), 1.0), ((1.0, -0.5), 0.5), ((), 1.5)]
    loop = sum(mean_h(theta[1], scales, shift) for scales, shift in cases) / len(cases)
    return mean_h(theta[0], (1.0,), 0.0) + loop


def program(family, estimator):
    """The program as an expectation, with this estimator at every site."""

    def draw(key, row):
        return jnp.asarray(sample(key, family.make(*row), estimator=estimator), float)

    return expectation(objective(draw))


def z_scores(gradient, truth, key, n=N):
    """How many standard errors the mean of `n` gradients is from the truth, for each number in it; and the errors."""
    draws = np.asarray(jax.jit(lambda key: jax.vmap(gradient)(*inputs(key, n)))(key), np.float64)
    assert np.isfinite(draws).all()
    error, off = draws.std(0) / np.sqrt(n), draws.mean(0) - np.asarray(truth)
    without_noise = (error < 1e-6 * (1 + np.abs(truth))) & (np.abs(off) < 1e-4 * (1 + np.abs(truth)))
    return np.where(without_noise, 0.0, off / np.maximum(error, 1e-30)), error


def check_mean(gradient, truth, make_key=quick_key, n=N):
    """The mean of a gradient `gradient(key, rest)` against the truth, in two stages. Returns the standard errors."""
    z, error = z_scores(gradient, truth, make_key(0), n)
    if np.abs(z).max() > 4:
        z, error = z_scores(gradient, truth, make_key(1), 16 * n)
        assert np.abs(z).max() < 5, (z, error)
    return error


def check(family, estimator):
    """The gradient under an estimator against the exact one. Returns the largest standard error."""
    row = jnp.asarray(family.params, float)
    theta = jnp.stack([row, 0.9 * row])
    truth = jax.jit(jax.jacobian(lambda t: exact(family, t)))(theta)
    gradient = jax.grad(program(family, estimator), argnums=2)
    return check_mean(lambda key, rest: gradient(key, rest, theta), truth, family.key, family.n).max()


bernoulli = counts(lambda p: dist.Bernoulli(probs=p), 0.3, most=2)
categorical = counts(lambda *logits: dist.Categorical(logits=jnp.stack(logits, -1)), 0.5, -0.4, 0.2, most=3)
gamma = density(dist.Gamma, 2.5, 1.5, low=0, high=25)
normal = density(dist.Normal, 0.5, 0.8, low=-8, high=9)
odds = counts(lambda w: dist.Bernoulli(logits=w), -0.7, most=2)
