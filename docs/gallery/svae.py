"""A structured autoencoder: a hidden Markov model inside a neural observation model, its states summed exactly.

A chain of three states moves a point in the plane, which is seen through a network and noise. `marginal` with the
forward algorithm sums the states out, so that the family is over the points alone and the gradient is a path's;
afterwards `normalize` draws the states from their exact posterior. The states are found, and how long they stay.

Source: Johnson et al., Composing Graphical Models with Neural Networks for Structured Representations and Fast
Inference, 2016; Zhao and Linderman, Revisiting Structured Variational Autoencoders, 2023.
"""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import tracegrad as tg
from tracegrad import dist

STATES, LENGTH, PLANE, OUT, NOISE, STAY = 3, 40, 2, 8, 0.2, 0.9
TRIANGLE = np.array([[2.0, 0.0], [-1.0, 1.7], [-1.0, -1.7]])


@tg.gen
def switching(k, w):
    k = tg.sample("k", dist.Categorical(logits=w["chain"][k]))
    tg.sample("x", dist.Normal(w["mean"][k], jnp.exp(w["log_scale"][k])).to_event(1))
    return k, None


def each_step(w):
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (LENGTH, *leaf.shape)), w)


@tg.gen
def model(w):
    x = tg.sample("path", tg.marginal(switching.scan(), "x", tg.forward_filter())(0, each_step(w["prior"])))["x"]
    tg.sample("y", dist.Normal(jax.vmap(w["decoder"])(x), jnp.exp(w["log_noise"])).to_event(2))


@tg.gen
def points(loc, log_scale):
    tg.sample("x", dist.Normal(loc, jnp.exp(log_scale)).to_event(2))


@tg.gen
def guide(w, y):
    tg.sample("path", points(*jnp.split(jax.vmap(w["encoder"])(y), 2, axis=-1)))


def bound(key, w, batch):
    keys = jax.random.split(key, len(batch))
    return jax.vmap(lambda key, y: tg.elbo(model, guide, {"y": y})(key, w, (w, y)))(keys, batch).mean()


def train(prior, y, steps):
    keys = jax.random.split(jax.random.key(0), 2)
    decoder = eqx.nn.MLP(PLANE, OUT, 32, 1, activation=jnp.tanh, key=keys[0])
    encoder = eqx.nn.MLP(OUT, 2 * PLANE, 32, 1, activation=jnp.tanh, key=keys[1])
    w = {"prior": prior, "decoder": decoder, "encoder": encoder, "log_noise": jnp.array(0.0)}
    adam, key = optax.adam(optax.cosine_decay_schedule(1e-2, steps)), jax.random.key(1)
    return tg.fit(bound, w, adam, key=key, steps=steps, data=y, batch_size=10, maximize=True, progress=False).params


def states_of(key, w, y):
    """The states from their exact posterior, given a draw of the points."""
    target = tg.Target(switching.scan(), (0, each_step(w["prior"])), guide.simulate(key, w, y).choices["path"])
    return tg.normalize(target, tg.forward_filter()).simulate(key).choices["k"]


def dataset(rng, n):
    """The states of n sequences, and what is seen of them through a random network."""
    k, chain = np.zeros((n, LENGTH), int), (1.0 - STAY) / 2.0 + (1.5 * STAY - 0.5) * np.eye(STATES)
    for t in range(1, LENGTH):
        k[:, t] = [rng.choice(STATES, p=chain[i]) for i in k[:, t - 1]]
    points = TRIANGLE[k] + 0.7 * rng.standard_normal((n, LENGTH, PLANE))
    hidden, out = rng.standard_normal((PLANE, 16)), rng.standard_normal((16, OUT)) / 2.0
    return k, jnp.asarray(np.tanh(points @ hidden) @ out + NOISE * rng.standard_normal((n, LENGTH, OUT)), jnp.float32)


def renamed(draws, k):
    """The states under the names, which are arbitrary, that agree best with the true ones."""
    names = [np.array(names)[draws] for names in itertools.permutations(range(STATES))]
    return max(names, key=lambda states: np.mean(states == k))


def main(*, quick: bool = False):
    n, steps = (30, 300) if quick else (60, 1500)
    k, y = dataset(np.random.default_rng(0), n)
    start = {"chain": 2.0 * jnp.eye(STATES), "mean": jnp.asarray(TRIANGLE), "log_scale": jnp.zeros((STATES, PLANE))}
    w = train(start, y, steps)
    keys = jax.random.split(jax.random.key(3), n)
    states = renamed(np.asarray(jax.jit(jax.vmap(lambda key, y: states_of(key, w, y)))(keys, y)), k)
    stays = np.diag(jax.nn.softmax(w["prior"]["chain"]))
    rows = [
        ("share of states that are right", np.mean(states == k), 0.98, 1.0),
        ("mean probability to stay (0.9)", stays.mean(), 0.83, 0.97),
        ("sd of the noise (0.2)", float(jnp.exp(w["log_noise"])), 0.19, 0.5 if quick else 0.24),
    ]
    return rows, draw(k, states)


def draw(k, states):
    figure, axes = plt.subplots(2, 1, figsize=(6, 3.5), layout="constrained")
    for ax, values, title in zip(axes, (k, states), ("states of ten sequences", "from their posterior"), strict=True):
        ax.imshow(values[:10], aspect="auto", interpolation="nearest")
        ax.set(title=title, xticks=[], yticks=[])
    return figure


if __name__ == "__main__":
    from runner import run

    run(main, __file__)
