"""Few-shot hierarchical Bayes: a hundred tasks of five points each, from minibatches of tasks.

The coefficients of each task are N(phi, tau^2); phi has a posterior, tau is learnt, and the family of each task is its
prior times a potential of its own. Seen a few tasks at a time, the terms of the tasks count for more, model and family
alike, and those of phi do not: `scale_both={"tasks": scale}`, with the scale and the rows of the batch as `fit` gives
them. All is linear: the evidence is known, the best tau, and the posterior of phi. Minibatches must give the same sds
of phi as all data, and both the exact ones: with the scale in the wrong place they are too narrow or too wide.

Source: Kim and Hospedales, A Hierarchical Bayesian Model for Deep Few-Shot Meta Learning, 2023.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from scipy.optimize import minimize_scalar

import tracegrad as tg
from tracegrad import dist

TASKS, SHOTS, D, NOISE = 100, 5, 3, 0.5
TRUTH, SPREAD = np.array([1.0, -0.5, 2.0]), 0.7


@tg.gen
def task(phi, tau, x):
    theta = tg.sample("theta", dist.Normal(phi, tau).to_event(1))
    tg.sample("y", dist.Normal(x @ theta, NOISE).to_event(1))


@tg.gen
def model(tau, x):
    phi = tg.sample("phi", dist.Normal(jnp.zeros(D), 1.0).to_event(1))
    tg.sample("tasks", task.vmap((None, None, 0))(phi, tau, x))


def lower(matrix):
    """A lower triangular matrix with a positive diagonal."""
    return jnp.tril(matrix, -1) + jnp.diag(jnp.exp(jnp.diag(matrix)))


@tg.gen
def task_family(q, phi, tau):
    """The prior of a task times a normal potential of its own, which says what its points say."""
    factor = lower(q["tril"])
    precision = factor @ factor.T + jnp.eye(D) / tau**2
    mean = jnp.linalg.solve(precision, phi / tau**2 + factor @ q["loc"])
    tg.sample("theta", dist.MultivariateNormal(mean, precision_matrix=precision))


@tg.gen
def guide(w, rows):
    phi = tg.sample("phi", dist.MultivariateNormal(w["phi"]["loc"], scale_tril=lower(w["phi"]["tril"])))
    own = jax.tree.map(lambda leaf: leaf[rows], w["tasks"])
    tg.sample("tasks", task_family.vmap((0, None, None))(own, phi, w["tau"]))


def bound(key, w, batch, scale, indices):
    x, y = batch
    elbo = tg.sticking_the_landing(model, guide, {"tasks": {"y": y}}, scale_both={"tasks": scale}, draws=4)
    return elbo(key, (w["tau"], x), (w, indices))


def train(data, size, steps):
    one = {"loc": jnp.zeros(D), "tril": jnp.zeros((D, D))}
    each = {"loc": jnp.zeros((TASKS, D)), "tril": jnp.tile(1.5 * jnp.eye(D), (TASKS, 1, 1))}
    w = {"tau": tg.positive(1.0), "phi": one, "tasks": each}
    how = {"data": data, "batch_size": size, "steps": steps, "average_from": 3 * steps // 4, "maximize": True}
    adam = optax.adam(optax.cosine_decay_schedule(0.1, steps))
    return tg.unwrap(tg.fit(bound, w, adam, key=jax.random.key(0), progress=False, **how).average)


def exact(x, y, tau):
    """Log evidence, and the mean and the sds of phi, by linear algebra."""
    covariances = [tau**2 * a @ a.T + NOISE**2 * np.eye(SHOTS) for a in x]
    precision = np.eye(D) + sum(a.T @ np.linalg.solve(c, a) for a, c in zip(x, covariances, strict=True))
    pull = sum(a.T @ np.linalg.solve(c, b) for a, b, c in zip(x, y, covariances, strict=True))
    mean = np.linalg.solve(precision, pull)
    fit = sum(
        b @ np.linalg.solve(c, b) + np.linalg.slogdet(2.0 * np.pi * c)[1] for b, c in zip(y, covariances, strict=True)
    )
    evidence = -0.5 * fit + 0.5 * pull @ mean - 0.5 * np.linalg.slogdet(precision)[1]
    return evidence, mean, np.sqrt(np.diag(np.linalg.inv(precision)))


def main(*, quick: bool = False):
    rng, steps = np.random.default_rng(0), 5000 if quick else 8000
    theta = TRUTH + SPREAD * rng.standard_normal((TASKS, D))
    x = rng.standard_normal((TASKS, SHOTS, D))
    y = np.einsum("isd,id->is", x, theta) + NOISE * rng.standard_normal((TASKS, SHOTS))
    best = minimize_scalar(lambda tau: -exact(x, y, tau)[0], bounds=(0.1, 3.0), method="bounded").x
    evidence, mean, sds = exact(x, y, best)
    data = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
    full, small = train(data, None, steps), train(data, 25, steps)

    def spread(w):
        return np.linalg.norm(lower(w["phi"]["tril"]), axis=1)

    value, error = tg.evaluate(bound, small, data, 1.0, jnp.arange(TASKS), key=jax.random.key(1), draws=100)
    aim, slack = (0.2, 0.06) if quick else (0.1, 0.03)
    rows = [
        ("sds of phi: minibatches over all data, furthest", apart(spread(small), spread(full)), 0.0, aim),
        ("sds of phi: minibatches over exact, furthest", apart(spread(small), sds), 0.0, aim),
        ("means of phi, in exact sds, furthest", np.max(np.abs(small["phi"]["loc"] - mean) / sds), 0.0, 0.5),
        (f"tau over the best, {best:.3f}", float(small["tau"]) / best, 1.0 - slack, 1.0 + slack),
        ("evidence less the bound from minibatches", evidence - float(value), 0.0, 12.0 if quick else 4.0),
    ]
    return rows, draw(full, small, spread, mean, sds)


def apart(one, other):
    return np.max(np.abs(one / other - 1.0))


def draw(full, small, spread, mean, sds):
    figure, axes = plt.subplots(figsize=(6, 2.5), layout="constrained")
    ways = {"exact": (mean, sds), "all tasks": (full["phi"]["loc"], spread(full))}
    ways["25 tasks at a time"] = (small["phi"]["loc"], spread(small))
    for i, (name, (centre, sd)) in enumerate(ways.items()):
        axes.errorbar(centre, np.arange(D) + 0.2 * i, xerr=2.0 * sd, fmt="o", label=name)
    axes.set(xlabel="phi, two sds", yticks=range(D))
    axes.legend(frameon=False)
    return figure


if __name__ == "__main__":
    from runner import run

    run(main, __file__)
