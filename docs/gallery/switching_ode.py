"""A solver of differential equations inside a model, with forks that run through it.

A quantity decays at an unknown rate, twice as fast where a switch is on, and is seen once, with noise. The equation is
solved by diffrax (Tsit5, steps chosen by its own error) between two draws of the model: the rate takes its path through
the solver, and the switch is forked: the solver runs once more for the other position of it. A solver that chooses its
steps has jumps where a step is rejected, but its answer is continuous to its tolerance. The evidence and the posterior
of the switch are known, for the equation has a solution.

Source: Kidger, On Neural Differential Equations, 2021 (diffrax).
"""

import diffrax
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from runner import run

import tracegrad as tg
from tracegrad import dist

SEEN, NOISE, ON = 0.25, 0.05, 0.3


def decayed(rate):
    """What is left of one at time one."""
    terms, control = diffrax.ODETerm(lambda t, y, rate: -rate * y), diffrax.PIDController(rtol=1e-5, atol=1e-6)
    solved = diffrax.diffeqsolve(
        terms, diffrax.Tsit5(), 0.0, 1.0, 0.1, jnp.array(1.0), rate, stepsize_controller=control
    )
    return solved.ys[0]


@tg.gen
def model():
    on = tg.sample("on", dist.Bernoulli(probs=ON))
    log_rate = tg.sample("log_rate", dist.Normal(0.0, 0.5))
    left = tg.deterministic("left", decayed((1.0 + on) * jnp.exp(log_rate)))
    tg.sample("y", dist.Normal(left, NOISE))


@tg.gen
def family(w):
    on = tg.sample("on", dist.Bernoulli(logits=w["logit"]), estimator=tg.mvd())
    tg.sample("log_rate", dist.Normal(w["loc"][on], jnp.exp(w["log_sd"][on])))


elbo = tg.elbo(model, family, {"y": SEEN})


def exact():
    """The log evidence, and the posterior probability of the switch, on a grid of rates."""
    grid = np.linspace(-3.0, 3.0, 20001)
    left = np.exp(-np.exp(grid)[:, None] * np.array([1.0, 2.0]))
    logp = -0.5 * ((SEEN - left) / NOISE) ** 2 - 0.5 * (grid[:, None] / 0.5) ** 2 + np.log([1.0 - ON, ON])
    parts = np.exp(logp).sum(0) * (grid[1] - grid[0]) / (2.0 * np.pi * NOISE * 0.5)
    return np.log(parts.sum()), parts[1] / parts.sum()


def picture(histories, evidence):
    figure, ax = plt.subplots(figsize=(4.8, 2.6), layout="constrained")
    for name, history in histories.items():
        ax.plot(np.convolve(history, np.ones(20) / 20, "valid"), label=name, linewidth=0.8)
    ax.axhline(evidence, color="k", linewidth=0.6, label="log evidence")
    ax.set(xlabel="step", ylabel="bound", ylim=(evidence - 3, evidence + 0.5))
    ax.legend(fontsize=8)
    return figure


def main(*, quick=False):
    steps, draws = (250, 8) if quick else (1500, 16)
    w = {"logit": jnp.array(0.0), "loc": jnp.zeros(2), "log_sd": jnp.full(2, -1.0)}
    evidence, on = exact()

    def bound(key, w):
        return jax.vmap(elbo, (0, None, None))(jax.random.split(key, draws), (), w).mean()

    estimators = {"mvd": tg.mvd()} if quick else {"mvd": tg.mvd(), "enum": tg.enum(), "reinforce": tg.reinforce()}
    rows, histories = [], {}
    for name, estimator in estimators.items():
        adam = optax.adam(optax.cosine_decay_schedule(0.05, steps))
        options = dict(key=jax.random.key(0), steps=steps, maximize=True, progress=False)
        fit = tg.fit(tg.with_estimators(bound, {"on": estimator}), w, adam, **options)
        found, histories[name] = fit.params, np.asarray(fit.history)
        gap = evidence - float(fit.history[-100:].mean())
        rows.append((f"{name}: nats between the evidence and the bound", gap, -0.05, 0.3 if quick else 0.05))
        off = float(jax.nn.sigmoid(found["logit"])) - on
        rows.append((f"{name}: probability of the switch, less the exact", off, -0.1, 0.1))
    return rows, picture(histories, evidence)


if __name__ == "__main__":
    run(main, __file__)
