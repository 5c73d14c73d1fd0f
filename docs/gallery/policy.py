"""Policy gradients: a small sequence model that learns to write balanced brackets, by the mean of its reward.

A recurrent network writes eight brackets, one at a time; the reward is one where they balance, which one string in
eighteen does. Nothing is a likelihood here: the objective is the reward itself, under `expectation`, and the estimator
of each bracket is chosen by its address, from outside. `reinforce` scores every bracket; with `leave_one_out` the other
strings of the batch are the baseline; and the last brackets, after which little is left to write, are forked (`mvd`):
what would have come of the other bracket is run, not guessed; those before them have baselines that `fit` learns. All
are unbiased, so that what differs is the noise. The reward that is shown is exact, a sum over the 256 strings.

Source: Williams, Simple Statistical Gradient-Following Algorithms, 1992; Kool, van Hoof and Welling, Buy 4 REINFORCE
Samples, Get a Baseline for Free!, 2019; Ahmadian et al., Back to Basics, 2024 (of language models).
"""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from runner import run

import tracegrad as tg
from tracegrad import dist

LENGTH, HIDDEN, BATCH = 8, 16, 16


class Writer(eqx.Module):
    """A recurrent network: from the last bracket to the logit of the next."""

    cell: eqx.nn.GRUCell
    out: eqx.nn.Linear

    def __init__(self, key):
        k1, k2 = jax.random.split(key)
        self.cell, self.out = eqx.nn.GRUCell(1, HIDDEN, key=k1), eqx.nn.Linear(HIDDEN, 1, key=k2)


@tg.gen
def write(net):
    """Eight brackets, 1 where one opens and -1 where one closes."""
    state, bracket, text = jnp.zeros(HIDDEN), jnp.zeros(()), []
    for i in range(LENGTH):
        state = net.cell(bracket[None], state)
        bracket = 2.0 * tg.sample(f"bracket {i}", dist.Bernoulli(logits=net.out(state)[0])) - 1.0
        text.append(bracket)
    return jnp.stack(text)


def balanced(text):
    depth = jnp.cumsum(text)
    return jnp.where((depth >= 0).all() & (depth[-1] == 0), 1.0, 0.0)


@tg.expectation
def reward(key, net):
    return balanced(write.simulate(key, net).retval)


def mean_of(objective):
    return lambda key, net: jax.vmap(objective, (0, None))(jax.random.split(key, BATCH), net).mean()


EARLY, LATE = [f"bracket {i}" for i in range(5)], [f"bracket {i}" for i in range(5, LENGTH)]
LEARNERS = {
    "reinforce": mean_of(tg.with_estimators(reward, {"*": tg.reinforce()})),
    "leave one out": tg.leave_one_out(tg.with_estimators(reward, {"*": tg.reinforce()}), BATCH),
    "forks at the end": mean_of(
        tg.with_estimators(reward, dict.fromkeys(EARLY, tg.reinforce(baseline="auto")) | dict.fromkeys(LATE, tg.mvd()))
    ),
}

# ---- training and numbers --------------------------------------------------------------------------------------------


TEXTS = jnp.array(list(itertools.product((0, 1), repeat=LENGTH)))


@eqx.filter_jit
def exact_reward(net):
    """The sum over all strings of their probability and reward."""
    logp = jax.vmap(lambda text: write.assess({f"bracket {i}": text[i] for i in range(LENGTH)}, net)[0])(TEXTS)
    return jnp.exp(logp) @ jax.vmap(balanced)(2.0 * TEXTS - 1.0)


def learned(objective, net, steps, seen):
    """The exact reward at the start and every so many steps."""
    curve = [float(exact_reward(net))]
    tg.fit(
        objective,
        net,
        optax.adam(optax.cosine_decay_schedule(1e-2, steps)),
        key=jax.random.key(1),
        steps=steps,
        maximize=True,
        progress=False,
        callback=lambda fit: curve.append(float(exact_reward(fit.params))),
        every=seen,
    )
    return np.array(curve)


def picture(curves, seen):
    figure, ax = plt.subplots(figsize=(4.8, 3.0), layout="constrained")
    for name, curve in curves.items():
        ax.plot(seen * np.arange(len(curve)), curve, label=name)
    ax.set(xlabel="step", ylabel="exact reward", ylim=(0, 1))
    ax.legend(fontsize=8)
    return figure


def main(*, quick=False):
    steps, seen = (200, 50) if quick else (600, 20)
    net = Writer(jax.random.key(0))
    names = ("leave one out", "forks at the end") if quick else LEARNERS
    curves = {name: learned(LEARNERS[name], net, steps, seen) for name in names}
    least = 0.4 if quick else 0.95
    rows = [(f"{name}: exact reward after {steps} steps", curve[-1], least, 1.0) for name, curve in curves.items()]
    return rows, picture(curves, seen)


if __name__ == "__main__":
    run(main, __file__)
