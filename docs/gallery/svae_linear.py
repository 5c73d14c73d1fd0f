"""A structured autoencoder: a linear dynamical system inside a neural observation model, and inside the family.

A point turns in the plane, is damped and shaken, and is seen through a network and noise. The family is that system
itself, with what the encoder says of each step as a noisy observation: `normalize` with Kalman's recursions draws the
whole path from its exact posterior, with its density, and the gradient is a path's. The angle of a turn and the
damping, which no change of coordinates touches, are found, and with them the path.

Source: Johnson et al., Composing Graphical Models with Neural Networks for Structured Representations and Fast
Inference, 2016.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import tracegrad as tg
from tracegrad import dist

LENGTH, PLANE, OUT, NOISE = 40, 2, 8, 0.2
TURN, DAMPING = 0.5, 0.97


@tg.gen
def turning(x, w):
    x = tg.sample("x", dist.Normal(w["turn"] @ x, jnp.exp(w["log_scale"])).to_event(1))
    return x, x


@tg.gen
def turning_seen(x, inputs):
    w, log_scale = inputs
    x, _ = turning.inline(x, w)
    tg.sample("seen", dist.Normal(x, jnp.exp(log_scale)).to_event(1))
    return x, None


def each_step(w):
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (LENGTH, *leaf.shape)), w)


@tg.gen
def model(w):
    _, x = tg.sample("path", turning.scan()(jnp.zeros(PLANE), each_step(w["prior"])))
    tg.sample("y", dist.Normal(jax.vmap(w["decoder"])(x), jnp.exp(w["log_noise"])).to_event(2))


@tg.gen
def guide(w, y):
    seen, log_scale = jnp.split(jax.vmap(w["encoder"])(y), 2, axis=-1)
    inputs = jnp.zeros(PLANE), (each_step(w["prior"]), log_scale)
    tg.sample("path", tg.normalize(tg.Target(turning_seen.scan(), inputs, {"seen": seen}), tg.kalman())())


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


def dataset(rng, n):
    """The paths of n sequences, and what is seen of them through a random network."""
    path = np.zeros((n, LENGTH, PLANE))
    turn = DAMPING * np.array([[np.cos(TURN), -np.sin(TURN)], [np.sin(TURN), np.cos(TURN)]])
    for t in range(LENGTH):
        path[:, t] = path[:, t - 1] @ turn.T + 0.3 * rng.standard_normal((n, PLANE))
    hidden, out = rng.standard_normal((PLANE, 16)), rng.standard_normal((16, OUT)) / 2.0
    return path, jnp.asarray(np.tanh(path @ hidden) @ out + NOISE * rng.standard_normal((n, LENGTH, OUT)), jnp.float32)


def main(*, quick: bool = False):
    n, steps = (30, 300) if quick else (60, 1500)
    path, y = dataset(np.random.default_rng(0), n)
    turn = 0.5 * jnp.eye(PLANE) + 0.1 * jnp.array([[0.0, -1.0], [1.0, 0.0]])
    w = train({"turn": turn, "log_scale": jnp.zeros(PLANE)}, y, steps)
    keys = jax.random.split(jax.random.key(3), n)
    drawn = jax.jit(jax.vmap(lambda key, y: guide.simulate(key, w, y).choices["path"]["x"]))(keys, y)
    inputs = np.concatenate([np.asarray(drawn).reshape(-1, PLANE), np.ones((n * LENGTH, 1))], 1)
    fitted = (inputs @ np.linalg.lstsq(inputs, path.reshape(-1, PLANE))[0]).reshape(path.shape)
    root, slack = np.linalg.eigvals(w["prior"]["turn"])[0], 0.06 if quick else 0.03
    rows = [
        ("angle of a turn (0.5)", abs(np.angle(root)), TURN - slack, TURN + slack),
        ("damping (0.97)", abs(root), DAMPING - slack, DAMPING + slack),
        (
            "share of the path explained by a draw",
            1.0 - np.var(path - fitted) / np.var(path),
            0.8 if quick else 0.85,
            1.0,
        ),
    ]
    return rows, draw(path[0], fitted[0])


def draw(path, fitted):
    figure, axes = plt.subplots(2, 1, figsize=(6, 3.5), sharex=True, layout="constrained")
    for ax, i in zip(axes, range(PLANE), strict=True):
        ax.plot(path[:, i], label="true")
        ax.plot(fitted[:, i], "--", label="from the posterior, linear map")
    axes[0].legend(frameon=False)
    axes[1].set_xlabel("step")
    return figure


if __name__ == "__main__":
    from runner import run

    run(main, __file__)
