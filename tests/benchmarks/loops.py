"""Loops: the value and gradient of an ELBO over T steps, ours against hand-written JAX and against NumPyro.

Two chains, a step's law depending on the state before: normal states (reparameterised), and binary ones (by the score
function, credited with what comes after, and by mvd with all alternatives). By hand the noise is drawn before the loop
and the densities of all steps are one batched expression: the best that a careful programmer writes.
"""

import jax
import numpyro
from jax import lax
from jax import numpy as jnp
from numpyro.contrib.control_flow import scan as numpyro_scan
from numpyro.infer import Trace_ELBO

import tracegrad as tg
from tracegrad import dist

from .timing import median_ratio, show_table, take_turns

LENGTHS = (100, 1000, 10_000)
ROUNDS = 15


def data(n):
    return jnp.sin(jnp.arange(n) / 7.0)


def normal_law(c, w):
    return dist.Normal(w * c, 0.5)


def binary_law(c, w):
    return dist.Bernoulli(logits=w + c)


def programs(n, law, estimator):
    """The model and the family in the language, and what is observed."""
    given = {"s": {"y": data(n)}}

    @tg.gen
    def step(c, _):
        x = tg.sample("x", law(c, 0.9)).astype(float)
        tg.sample("y", dist.Normal(x, 0.5))
        return x, None

    @tg.gen
    def family_step(c, w):
        return tg.sample("x", law(c, w), estimator=estimator).astype(float), None

    model = tg.gen(lambda: tg.sample("s", step.scan(n)(jnp.zeros(()), None)))
    family = tg.gen(lambda w: tg.sample("s", family_step.scan(n)(jnp.zeros(()), w)))
    return model, family, given


def ours(n, law, estimator):
    """Value and gradient in the language."""
    objective = tg.elbo(*programs(n, law, estimator))
    return jax.value_and_grad(lambda key, w: objective(key, (), (w,)), argnums=1)


def by_hand(n, law, draw):
    """Value and gradient in JAX; `draw(noise, c, w)` is a step's state and what its score is multiplied from."""
    ys = data(n)

    def elbo(key, w):
        noise = (jax.random.normal if law is normal_law else jax.random.uniform)(key, (n,))
        _, xs = lax.scan(lambda c, x: (draw(x[0], c, x[1]),) * 2, jnp.zeros(()), (noise, w))
        before = jnp.concatenate([jnp.zeros(1), xs[:-1]])
        gains = law(before, 0.9).log_prob(xs) + dist.Normal(xs, 0.5).log_prob(ys)
        scores = law(before, w).log_prob(xs)
        gains = gains - scores
        if law is normal_law:
            return gains.sum()
        later = lax.stop_gradient(jnp.cumsum(gains[::-1])[::-1])
        surrogate = gains.sum() + (scores * later).sum()
        return surrogate - lax.stop_gradient(surrogate - gains.sum())

    return jax.value_and_grad(elbo, argnums=1)


def numpyros(n, law):
    """Value and gradient by NumPyro; at binary states the derivative would be biased, and only its cost counts."""
    ys = data(n)

    def model():
        def step(c, y):
            x = numpyro.sample("x", law(c, 0.9)).astype(float)
            numpyro.sample("y", dist.Normal(x, 0.5), obs=y)
            return x, None

        numpyro_scan(step, jnp.zeros(()), ys)

    def guide():
        def step(c, w):
            return numpyro.sample("x", law(c, w)).astype(float), None

        numpyro_scan(step, jnp.zeros(()), numpyro.param("w"))

    def loss(key, w):
        return Trace_ELBO().loss(key, {"w": w}, model, guide)

    return jax.value_and_grad(loss, argnums=1)


CHAINS = {
    "normal, reparam": (normal_law, tg.reparam(), lambda e, c, w: w * c + 0.5 * e),
    "binary, reinforce": (binary_law, tg.reinforce(), lambda u, c, w: (u < jax.nn.sigmoid(w + c)).astype(float)),
    "binary, mvd": (binary_law, tg.mvd(), None),
}


def main():
    """Print the table."""
    rows = []
    for name, (law, estimator, draw) in CHAINS.items():
        for n in LENGTHS if draw else LENGTHS[:2]:
            args = jax.random.key(0), jnp.full(n, 0.5)
            runs = {"ours": ours(n, law, estimator), "NumPyro": numpyros(n, law)}
            runs |= {"hand": by_hand(n, law, draw)} if draw else {}
            compiled = {k: jax.jit(run) for k, run in runs.items()}
            times = take_turns({k: lambda run=run, args=args: run(*args) for k, run in compiled.items()}, ROUNDS)
            least = {k: 1e3 * min(v) for k, v in times.items()}
            hand = f"{median_ratio(times['ours'], times['hand']):.2f}" if draw else ""
            ratio = f"{median_ratio(times['ours'], times['NumPyro']):.2f}"
            shown = [f"{least[k]:.3f}" if k in least else "" for k in ("ours", "hand", "NumPyro")]
            rows.append([name, str(n), *shown, hand, ratio])
    show_table(
        "Loops: value and gradient, ms (least), and medians of ratios.",
        ["chain", "steps", "ours", "by hand", "NumPyro", "ours / hand", "ours / NumPyro"],
        rows,
    )
