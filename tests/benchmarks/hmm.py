"""A hidden Markov model of 50 states and 100, 300 and 1000 steps: log-likelihood, and with its gradient.

Ours is `marginal(step.scan(), "y", forward_filter())`. By hand, in JAX: the scaled recursion, one product a step and
nothing against underflow, and the recursion in logs. NumPyro's is its `scan` with enumerated states, whose sums it
leaves to funsor (`pip install funsor`). All in single precision, taking turns in one run; the reference is a forward
recursion in NumPy in double precision, with the gradient of the means by forward-backward.
"""

import functools
import time

import jax
import numpy as np
import numpyro
from jax import lax
from jax import numpy as jnp
from numpyro.contrib.control_flow import scan

import tracegrad as tg
from tracegrad import dist

from .timing import median_ratio, show_table, take_turns

STATES, STEPS = 50, (100, 300, 1000)


def parameters():
    """Logits of the initial state and the transitions, and means of the observations."""
    initial, transitions, means = jax.random.split(jax.random.key(0), 3)
    return {
        "initial": jax.random.normal(initial, (STATES,)),
        "transitions": jax.random.normal(transitions, (STATES, STATES)),
        "means": 2.0 * jax.random.normal(means, (STATES,)),
    }


@tg.gen
def step(carry, first):
    state, w = carry
    z = tg.sample("z", dist.Categorical(logits=jnp.where(first, w["initial"], w["transitions"][state])))
    tg.sample("y", dist.Normal(w["means"][z], 1.0))
    return (z, w), None


FIRST = jnp.arange(max(STEPS)) == 0


def ours(w, ys):
    filtered = tg.marginal(step.scan(), "y", tg.forward_filter())
    return filtered.assess({"y": ys}, (0, w), np.asarray(FIRST)[: len(ys)])[0]


def likelihoods(w, ys):
    return -0.5 * (ys[:, None] - w["means"][None]) ** 2 - 0.5 * np.log(2.0 * np.pi)


def scaled(w, ys):
    """By hand: probabilities, divided by their sum at each step."""
    transitions, likelihood = jax.nn.softmax(w["transitions"], -1), jnp.exp(likelihoods(w, ys))

    def body(alpha, at):
        alpha = (alpha @ transitions) * at
        total = alpha.sum()
        return alpha / total, total

    alpha = jax.nn.softmax(w["initial"]) * likelihood[0]
    _, totals = lax.scan(body, alpha / alpha.sum(), likelihood[1:])
    return jnp.log(alpha.sum()) + jnp.log(totals).sum()


def in_logs(w, ys):
    """By hand: logarithms, by logsumexp."""
    transitions, likelihood = jax.nn.log_softmax(w["transitions"], -1), likelihoods(w, ys)

    def body(alpha, at):
        return jax.nn.logsumexp(alpha[:, None] + transitions, axis=0) + at, None

    alpha, _ = lax.scan(body, jax.nn.log_softmax(w["initial"]) + likelihood[0], likelihood[1:])
    return jax.nn.logsumexp(alpha)


def numpyros(w, ys):
    """The log density with the states summed out by NumPyro."""
    from numpyro.contrib.funsor import config_enumerate, enum, log_density

    def model():
        def body(state, y):
            logits = w["initial"] if state is None else w["transitions"][state]
            z = numpyro.sample("z", dist.Categorical(logits=logits))
            numpyro.sample("y", dist.Normal(w["means"][z], 1.0), obs=y)
            return z, None

        z = numpyro.sample("z0", dist.Categorical(logits=w["initial"]))
        numpyro.sample("y0", dist.Normal(w["means"][z], 1.0), obs=ys[0])
        scan(body, z, ys[1:])

    return log_density(enum(config_enumerate(model), -2), (), {}, {})[0]


def reference(w, ys):
    """Log-likelihood and its gradient in the means, in double precision."""
    w, ys = jax.tree.map(lambda x: np.asarray(x, float), (w, ys))

    def normalized(x):
        return np.exp(x - x.max(-1, keepdims=True)) / np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True)

    initial, transitions = normalized(w["initial"]), normalized(w["transitions"])
    likelihood = np.exp(-0.5 * (ys[:, None] - w["means"][None]) ** 2) / np.sqrt(2.0 * np.pi)
    alphas, scales = np.zeros((len(ys), STATES)), np.zeros(len(ys))
    for t in range(len(ys)):
        alpha = (initial if t == 0 else alphas[t - 1] @ transitions) * likelihood[t]
        scales[t] = alpha.sum()
        alphas[t] = alpha / scales[t]
    beta, gradient = np.ones(STATES), np.zeros(STATES)
    for t in reversed(range(len(ys))):
        gradient += alphas[t] * beta * (ys[t] - w["means"])
        beta = transitions @ (likelihood[t] * beta) / scales[t]
    return np.log(scales).sum(), gradient


def compiled(run, *args):
    """A compiled function, and the seconds that it took to trace and to compile."""
    start = time.perf_counter()
    lowered = jax.jit(run).lower(*args)
    middle = time.perf_counter()
    return lowered.compile(), middle - start, time.perf_counter() - middle


def table(steps, runs):
    """One row for each way, and whether with the gradient: errors, times, and their ratio to ours."""
    w, ys = parameters(), 2.0 * jax.random.normal(jax.random.key(1), (steps,))
    value, gradient = reference(w, ys)
    for what, of in (("value", lambda run: run), ("value and gradient", jax.value_and_grad)):
        made = {name: compiled(of(run), w, ys) for name, run in runs.items()}
        times = take_turns({name: functools.partial(run, w, ys) for name, (run, _, _) in made.items()}, rounds=20)
        rows = []
        for name, (run, traced, compiling) in made.items():
            out = run(w, ys)
            total, grads = out if isinstance(out, tuple) else (out, None)
            off = np.nan if grads is None else np.abs(grads["means"] - gradient).max() / np.abs(gradient).max()
            cells = f"{abs(float(total) / value - 1.0):.1e}", f"{off:.1e}", f"{1e3 * np.median(times[name]):.2f}"
            ratio = median_ratio(times["tracegrad"], times[name])
            rows.append([name, *cells, f"{ratio:.2f}", f"{traced:.2f}", f"{compiling:.2f}"])
        header = ["", "relative error", "of the gradient", "ms", "tracegrad / it", "s to trace", "s to compile"]
        show_table(f"HMM of {STATES} states and {steps} steps, {what}", header, rows)


def main():
    runs = {"tracegrad": ours, "by hand, scaled": scaled, "by hand, in logs": in_logs}
    try:
        import funsor  # noqa: F401

        runs["NumPyro"] = numpyros
    except ImportError:
        print("NumPyro's enumeration needs funsor: pip install funsor")
    for steps in STEPS:
        table(steps, runs)
