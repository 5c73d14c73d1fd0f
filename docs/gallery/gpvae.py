"""A Markovian GP-VAE: a Gaussian process behind networks, at irregular times, by Kalman filtering inside the family.

A Matern-3/2 process in its state-space form drives four observed series through a decoder. The family is the prior
times pseudo-observations that an encoder makes of each datum: `normalize(target, kalman())` is that posterior, drawn
exactly and differentiably in time linear in the length, and stands in the guide as any distribution does. With a linear
decoder the family holds the posterior, so the bound must reach the evidence, which tinygp says; with a curved one
nothing is known but what made the data.

Source: Zhu, Rodas and Li, Markovian Gaussian Process Variational Autoencoders, 2023.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
from runner import run
from tinygp import GaussianProcess
from tinygp.kernels import Matern32

import tracegrad as tg
from tracegrad import dist

T, D, SERIES, LENGTH, NOISE = 60, 4, 48, 0.7, 0.3
ALONG = jnp.array([1.0, -0.5, 0.3, 2.0])  # the linear decoder


def transitions(times, scale):
    """x(t) = A x(s) + N(0, Q) of the process and its slope, between times; the first is of the stationary law."""
    rate, dt = jnp.sqrt(3.0) / scale, jnp.diff(times, prepend=times[0])
    a = jnp.array([[1.0, 0.0], [0.0, 1.0]]) + dt[:, None, None] * jnp.array([[rate, 1.0], [-(rate**2), -rate]])
    a = (jnp.exp(-rate * dt)[:, None, None] * a).at[0].set(0.0)
    stationary = jnp.diag(jnp.array([1.0, rate**2]))
    return a, stationary - a @ stationary @ a.mT + 1e-5 * stationary


@tg.gen
def advance(x, system):
    a, q = system
    x = tg.sample("x", dist.MultivariateNormal(a @ x, q))
    return x, x[0]


@tg.gen
def model(w, times):
    _, z = tg.sample("path", advance.scan()(jnp.zeros(2), transitions(times, jnp.exp(w["log_length"]))))
    tg.sample("y", dist.Normal(jax.vmap(w["decoder"])(z[:, None]), jnp.exp(w["log_noise"])).to_event(2))
    return z


@tg.gen
def told(x, inputs):
    system, sd = inputs
    x, z = advance.inline(x, system)
    tg.sample("m", dist.Normal(z, sd))
    return x, z


@tg.gen
def guide(w, times, y):
    m, log_sd = jax.vmap(w["encoder"])(y).T
    inputs = transitions(times, jnp.exp(w["log_length"])), jnp.exp(log_sd)
    target = tg.Target(told.scan(), (jnp.zeros(2), inputs), {"m": m})
    tg.sample("path", tg.normalize(target, tg.kalman())())


def bound(key, w, batch):
    def one(key, times, y):
        return tg.elbo(model, guide, {"y": y})(key, (w, times), (w, times, y))

    return jax.vmap(one)(jax.random.split(key, len(batch[0])), *batch).mean()


# ---- the evidence ----------------------------------------------------------------------------------------------------


def along(y, b, noise):
    """What is seen of z itself, with its sd, and the log density of the rest, where the decoder is linear."""
    seen, n = y @ b / (b @ b), b @ b
    rest = jnp.sum((y - jnp.outer(seen, b)) ** 2) / noise**2 + T * jnp.log(n)
    return seen, noise / jnp.sqrt(n), -0.5 * rest - T * (D - 1) * jnp.log(noise * jnp.sqrt(2.0 * jnp.pi))


def evidence(times, y, b, length, noise):
    seen, sd, rest = along(y, b, noise)
    return GaussianProcess(Matern32(length), times, diag=sd**2).log_probability(seen) + rest


# ---- training and numbers --------------------------------------------------------------------------------------------


def made(key, decoder):
    """Series of the model at irregular times: (z, (times, y))."""
    k1, k2 = jax.random.split(key)
    times = jnp.sort(jax.random.uniform(k1, (SERIES, T), maxval=10.0))
    truth = {"log_length": jnp.log(LENGTH), "log_noise": jnp.log(NOISE), "decoder": decoder}
    draws = jax.vmap(lambda key, times: model.simulate(key, truth, times))(jax.random.split(k2, SERIES), times)
    return draws.retval, (times, draws.choices["y"])


def fitted(batch, decoder, encoder, steps):
    start = {"decoder": decoder, "encoder": encoder, "log_length": jnp.array(0.0), "log_noise": jnp.array(0.0)}
    adam = optax.adam(optax.cosine_decay_schedule(2e-2, steps))
    options = dict(steps=steps, data=batch, batch_size=8, maximize=True, progress=False)
    return tg.fit(bound, start, adam, key=jax.random.key(3), **options).params


def reached(w, batch):
    return float(tg.evaluate(bound, w, batch, key=jax.random.key(4), draws=20, chunk_size=5).mean)


def curved(z):
    return jnp.concatenate([jnp.sin(2.0 * z), jnp.cos(2.0 * z), 0.5 * z**2, jnp.tanh(z)], -1)


def path_of(w, times, y):
    """Draws of the process from the family."""
    keys = jax.random.split(jax.random.key(8), 50)
    return jax.vmap(lambda key: guide.simulate(key, w, times, y).choices["path"]["x"][:, 0])(keys)


def picture(times, z, draws):
    figure, ax = plt.subplots(figsize=(4.8, 2.6), layout="constrained")
    sign = jnp.sign(jnp.vdot(draws.mean(0), z))  # which is nowhere in the data
    ax.plot(times, sign * draws[:20].T, color="C0", linewidth=0.4, alpha=0.5)
    ax.plot(times, z, "k.", markersize=3)
    ax.set(xlabel="time", title="draws of the family, and the process that made the series")
    return figure


def main(*, quick=False):
    steps = 120 if quick else 700
    k1, *keys = jax.random.split(jax.random.key(0), 5)
    z, batch = made(k1, lambda z: z * ALONG)
    w = fitted(batch, eqx.nn.Linear(1, D, use_bias=False, key=keys[0]), eqx.nn.Linear(D, 2, key=keys[1]), steps)
    learned = w["decoder"].weight[:, 0], jnp.exp(w["log_length"]), jnp.exp(w["log_noise"])
    exact = jax.vmap(lambda times, y: evidence(times, y, *learned))(*batch).mean()
    rows = [
        ("linear: nats below tinygp's evidence", float(exact) - reached(w, batch), -0.02, 8.0 if quick else 0.05),
        ("linear: sd of the noise, of 0.3", float(learned[2]), 0.25, 0.5 if quick else 0.33),
        ("linear: length scale, of 0.7", float(learned[1]), 0.3 if quick else 0.55, 1.5 if quick else 0.9),
    ]
    if not quick:
        z, batch = made(k1, curved)
        nets = eqx.nn.MLP(1, D, 32, 2, jax.nn.tanh, key=keys[2]), eqx.nn.MLP(D, 2, 32, 2, jax.nn.tanh, key=keys[3])
        w = fitted(batch, *nets, steps)
        rows.append(("curved: sd of the noise, of 0.3", float(jnp.exp(w["log_noise"])), 0.27, 0.36))
    return rows, picture(batch[0][0], z[0], path_of(w, batch[0][0], batch[1][0]))


if __name__ == "__main__":
    run(main, __file__)
