"""A hidden Markov model of 50 states and 1000 steps: log-likelihood and gradient, against NumPyro's enumeration.

Ours is `marginal(step.scan(), "y", forward_filter())`; NumPyro's is its `scan` with enumerated states, whose sums it
leaves to funsor (`pip install funsor`). Both in single precision, taking turns in one run; the reference is a forward
recursion in NumPy in double precision, with the gradient of the means by forward-backward.
"""

import functools

import jax
import numpy as np
import numpyro
from jax import numpy as jnp
from numpyro.contrib.control_flow import scan

import tracegrad as tg
from tracegrad import dist

from .timing import median_ratio, show_table, take_turns

STATES, STEPS = 50, 1000


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


FIRST = jnp.arange(STEPS) == 0


def ours(w, ys):
    filtered = tg.marginal(step.scan(), "y", tg.forward_filter())
    return filtered.assess({"y": ys}, (0, w), FIRST)[0]


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
    alphas, scales = np.zeros((STEPS, STATES)), np.zeros(STEPS)
    for t in range(STEPS):
        alpha = (initial if t == 0 else alphas[t - 1] @ transitions) * likelihood[t]
        scales[t] = alpha.sum()
        alphas[t] = alpha / scales[t]
    beta, gradient = np.ones(STATES), np.zeros(STATES)
    for t in reversed(range(STEPS)):
        gradient += alphas[t] * beta * (ys[t] - w["means"])
        beta = transitions @ (likelihood[t] * beta) / scales[t]
    return np.log(scales).sum(), gradient


def main():
    w = parameters()
    ys = 2.0 * jax.random.normal(jax.random.key(1), (STEPS,))
    value, gradient = reference(w, ys)
    runs = {"tracegrad": ours}
    try:
        import funsor  # noqa: F401

        runs["NumPyro"] = numpyros
    except ImportError:
        print("NumPyro's enumeration needs funsor: pip install funsor")
    compiled = {name: jax.jit(jax.value_and_grad(run)) for name, run in runs.items()}
    rows = []
    for name, run in compiled.items():
        ours_value, grads = run(w, ys)
        off = np.abs(np.asarray(grads["means"]) - gradient).max() / np.abs(gradient).max()
        rows.append([name, f"{float(ours_value):.4f}", f"{abs(float(ours_value) / value - 1.0):.1e}", f"{off:.1e}"])
    times = take_turns({name: functools.partial(run, w, ys) for name, run in compiled.items()}, rounds=10)
    for row in rows:
        row += [f"{1e3 * np.median(times[row[0]]):.1f}", f"{median_ratio(times[row[0]], times['tracegrad']):.2f}"]
    title = f"HMM of {STATES} states and {STEPS} steps, value and gradient; reference {value:.4f}"
    show_table(title, ["", "log-likelihood", "relative error", "of the gradient", "ms", "/ tracegrad"], rows)
