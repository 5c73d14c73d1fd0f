"""Structured autoencoders: a hidden Markov model, and a linear dynamical system, inside a neural observation model.

In the first, a chain of three states moves a point in the plane. The states are summed out by the forward algorithm,
so that the family is over the points alone; afterwards states are drawn from their exact posterior. In the second the
point turns and drifts linearly. The family is that very system with the encoder's output as noisy observations: its
posterior path is drawn by Kalman smoothing, exactly and with a density. `marginal` and `normalize` pass the messages,
the gradient passes through both, and what generated the data is found again.

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

STATES, LENGTH, PLANE, OUT, NOISE = 3, 40, 2, 8, 0.2
STAY, TURN, DAMPING = 0.9, 0.5, 0.97


def normal(loc, log_scale):
    return dist.Normal(loc, jnp.exp(log_scale)).to_event(1)


@tg.gen
def switching(k, w):
    k = tg.sample("k", dist.Categorical(logits=w["chain"][k]))
    return k, tg.sample("x", normal(w["mean"][k], w["log_scale"][k]))


@tg.gen
def turning(x, w):
    x = tg.sample("x", normal(w["turn"] @ x, w["log_scale"]))
    return x, x


@tg.gen
def turning_seen(x, inputs):
    w, log_scale = inputs
    x, _ = turning.inline(x, w)
    tg.sample("seen", normal(x, log_scale))
    return x, x


def each_step(w):
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (LENGTH, *leaf.shape)), w)


@tg.gen
def hidden_markov(w):
    return tg.sample("path", tg.marginal(switching.scan(), "x", tg.forward_filter())(0, each_step(w["prior"])))["x"]


@tg.gen
def hidden_markov_guide(w, seen, log_scale):
    points = tg.gen(lambda: tg.sample("x", dist.Normal(seen, jnp.exp(log_scale)).to_event(2)))
    tg.sample("path", points())


@tg.gen
def linear(w):
    return tg.sample("path", turning.scan()(jnp.zeros(PLANE), each_step(w["prior"])))[1]


@tg.gen
def linear_guide(w, seen, log_scale):
    inputs = each_step(w["prior"]), log_scale
    smoothed = tg.Target(turning_seen.scan(), (jnp.zeros(PLANE), inputs), {"seen": seen})
    tg.sample("path", tg.normalize(smoothed, tg.kalman())())


def structured(prior, family):
    """The family and the bound of an autoencoder of sequences around a prior over paths."""

    @tg.gen
    def model(w):
        x = prior.inline(w)
        tg.sample("y", dist.Normal(jax.vmap(w["decoder"])(x), jnp.exp(w["log_noise"])).to_event(2))

    @tg.gen
    def guide(w, y):
        family.inline(w, *jnp.split(jax.vmap(w["encoder"])(y), 2, axis=-1))

    def bound(key, w, batch):
        keys = jax.random.split(key, len(batch))
        return jax.vmap(lambda key, y: tg.elbo(model, guide, {"y": y})(key, w, (w, y)))(keys, batch).mean()

    return guide, bound


def train(bound, prior, y, steps):
    keys = jax.random.split(jax.random.key(0), 2)
    decoder = eqx.nn.MLP(PLANE, OUT, 32, 1, activation=jnp.tanh, key=keys[0])
    encoder = eqx.nn.MLP(OUT, 2 * PLANE, 32, 1, activation=jnp.tanh, key=keys[1])
    w = {"prior": prior, "decoder": decoder, "encoder": encoder, "log_noise": jnp.array(0.0)}
    adam, key = optax.adam(optax.cosine_decay_schedule(1e-2, steps)), jax.random.key(1)
    return tg.fit(bound, w, adam, key=key, steps=steps, data=y, batch_size=10, maximize=True, progress=False).params


def datasets(rng, n):
    """Sequences of both systems, seen through the same random network: the states, and what is seen."""
    k = np.zeros((n, LENGTH), int)
    path = np.zeros((n, LENGTH, PLANE))
    chain = (1.0 - STAY) / 2.0 + (1.5 * STAY - 0.5) * np.eye(STATES)
    turn = DAMPING * np.array([[np.cos(TURN), -np.sin(TURN)], [np.sin(TURN), np.cos(TURN)]])
    for t in range(1, LENGTH):
        k[:, t] = [rng.choice(STATES, p=chain[i]) for i in k[:, t - 1]]
        path[:, t] = path[:, t - 1] @ turn.T + 0.3 * rng.standard_normal((n, PLANE))
    points = np.array([[2.0, 0.0], [-1.0, 1.7], [-1.0, -1.7]])[k] + 0.7 * rng.standard_normal((n, LENGTH, PLANE))
    hidden, out = rng.standard_normal((PLANE, 16)), rng.standard_normal((16, OUT)) / 2.0
    seen = [np.tanh(x @ hidden) @ out + NOISE * rng.standard_normal((n, LENGTH, OUT)) for x in (points, path)]
    return k, path, *jnp.asarray(seen, jnp.float32)


def states_of(key, guide, w, y):
    """The states from their exact posterior, given a draw of the points."""
    path = guide.simulate(key, w, y).choices["path"]
    target = tg.Target(switching.scan(), (0, each_step(w["prior"])), path)
    return tg.normalize(target, tg.forward_filter()).simulate(key).choices["k"]


def renamed(draws, k):
    """The states under the names, which are arbitrary, that agree best with the true ones."""
    names = [np.array(names)[draws] for names in itertools.permutations(range(STATES))]
    return max(names, key=lambda states: np.mean(states == k))


def main(*, quick: bool = False):
    n, steps = (30, 300) if quick else (60, 1200)
    k, path, y, y_turning = datasets(np.random.default_rng(0), n)
    mean = 1.5 * jax.random.normal(jax.random.key(2), (STATES, PLANE))
    start = {"chain": 2.0 * jnp.eye(STATES), "mean": mean, "log_scale": jnp.zeros((STATES, PLANE))}
    guide, bound = structured(hidden_markov, hidden_markov_guide)
    w = train(bound, start, y, steps)
    keys = jax.random.split(jax.random.key(3), n)
    states = renamed(np.asarray(jax.jit(jax.vmap(lambda key, y: states_of(key, guide, w, y)))(keys, y)), k)

    start = {"turn": 0.5 * jnp.eye(PLANE) + 0.1 * jnp.array([[0.0, -1.0], [1.0, 0.0]]), "log_scale": jnp.zeros(PLANE)}
    smoother, bound = structured(linear, linear_guide)
    v = train(bound, start, y_turning, steps)
    drawn = jax.vmap(lambda key, y: smoother.simulate(key, v, y).choices["path"]["x"])(keys, y_turning)
    inputs = np.concatenate([np.asarray(drawn).reshape(-1, PLANE), np.ones((n * LENGTH, 1))], 1)
    fitted = inputs @ np.linalg.lstsq(inputs, path.reshape(-1, PLANE))[0]
    explained = 1.0 - np.var(path.reshape(-1, PLANE) - fitted) / np.var(path)
    root = np.linalg.eigvals(v["prior"]["turn"])[0]
    slack = 0.06 if quick else 0.03
    rows = [
        ("HMM: share of states that are right", np.mean(states == k), 0.98, 1.0),
        ("HMM: mean probability to stay (0.9)", np.diag(jax.nn.softmax(w["prior"]["chain"])).mean(), 0.87, 0.93),
        ("HMM: sd of the noise (0.2)", float(jnp.exp(w["log_noise"])), 0.18, 0.5 if quick else 0.24),
        ("LDS: angle of a turn (0.5)", abs(np.angle(root)), TURN - slack, TURN + slack),
        ("LDS: damping (0.97)", abs(root), DAMPING - slack, DAMPING + slack),
        ("LDS: share of the path that is explained", explained, 0.85 if quick else 0.95, 1.0),
    ]
    return rows, draw(k, states, path, fitted.reshape(path.shape))


def draw(k, states, path, fitted):
    figure, axes = plt.subplots(3, 1, figsize=(6, 5), height_ratios=[1, 1, 2], layout="constrained")
    for ax, values, title in zip(
        axes, (k, states), ("states of ten sequences", "drawn from the posterior"), strict=False
    ):
        ax.imshow(values[:10], aspect="auto", interpolation="nearest")
        ax.set(title=title, xticks=[], yticks=[])
    axes[2].plot(path[0], color="C0")
    axes[2].plot(fitted[0], "--", color="C1")
    axes[2].set(title="a path that turns, and one drawn from its posterior (dashed)", xlabel="step")
    return figure


if __name__ == "__main__":
    from runner import run

    run(main, __file__)
