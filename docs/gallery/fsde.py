"""A latent differential equation driven by fractional noise, its Hurst index learned on path space.

Fractional noise remembers: above a Hurst index of one half it goes on as it went, below it turns back. It is written as
a weighted sum of five Ornstein-Uhlenbeck processes that share one Brownian motion, so that paths can be drawn step by
step. The family steers that motion: each step is pulled by what is left to explain of the observations to come, as a
filter with a Hurst index and a noise of its own would, and has a spread of its own. All of it is learned by the ELBO of
the increments, whose divergence is Girsanov's. The model is linear, so that its evidence and the best index are known.

Source: Daems, Opper, Crevecoeur and Birdal, Variational Inference for SDEs Driven by Fractional Noise, 2024.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from jax.scipy.special import gammainc
from runner import run
from scipy.special import gamma

import tracegrad as tg
from tracegrad import dist

PATHS, STEPS, EVERY, NOISE = 32, 100, 5, 0.15
DT, SEEN = 1.0 / STEPS, EVERY * jnp.arange(1, STEPS // EVERY + 1)  # after how many steps one looks
RATES = 4.0 ** jnp.arange(-2.0, 3.0)
KEEP = 1.0 - RATES * DT


def weights(hurst):
    """Of the five processes: those that are nearest to fractional Brownian motion in the mean square on [0, 1]."""
    s = RATES[:, None] + RATES
    a = (1.0 + jnp.expm1(-s) / s) / s
    b = gammainc(hurst + 0.5, RATES) / RATES ** (hurst + 0.5)
    b -= (hurst + 0.5) * gammainc(hurst + 1.5, RATES) / RATES ** (hurst + 1.5)
    return jnp.linalg.solve(a + 1e-6 * jnp.eye(len(RATES)), b)


@tg.gen
def driven(y, pull):
    step, sd = pull
    y = KEEP * y + tg.sample("dw", dist.Normal(step, sd))
    return y, y


@tg.gen
def model(hurst):
    _, ys = tg.sample("path", driven.scan()(jnp.zeros(len(RATES)), (jnp.zeros(STEPS), jnp.full(STEPS, DT**0.5))))
    tg.sample("x", dist.Normal((ys @ weights(hurst))[SEEN - 1], NOISE).to_event(1))


def influence(hurst):
    """How much a push at each step (rows) is seen at each look (columns), of each process and in all."""
    ahead = SEEN - 1 - jnp.arange(STEPS)[:, None]
    each = jnp.where(ahead[..., None] >= 0, weights(hurst) * KEEP ** jnp.maximum(ahead, 0)[..., None], 0.0)
    return each, each.sum(-1)


def steering(w):
    """Of each step: what of the state is seen later, how it is pulled by what is left to explain, its spread."""
    each, pushes = influence(jax.nn.sigmoid(w["hurst"]))
    unseen = jnp.cumsum((DT * pushes[:, :, None] * pushes[:, None])[::-1], 0)[::-1]  # covariances of looks to come
    gains = jnp.linalg.solve(unseen + jnp.exp(w["log_noise"]) ** 2 * jnp.eye(len(SEEN)), pushes[..., None])[..., 0]
    return each, gains, DT**0.5 * jnp.exp(w["log_sd"])


@tg.gen
def family(steered, x):
    @tg.gen
    def step(y, inputs):
        each, gain, sd = inputs
        left = jnp.where(each.any(-1), x - each @ (KEEP * y), 0.0)  # what the state does not yet explain
        return driven.inline(y, (DT * gain @ left, sd))

    tg.sample("path", step.scan()(jnp.zeros(len(RATES)), steered))


def bound(key, w, data):
    steered = steering(w["family"])

    def one(key, x):
        return tg.elbo(model, family, {"x": x})(key, jax.nn.sigmoid(w["model"]), (steered, x))

    return jax.vmap(one)(jax.random.split(key, len(data)), data).mean()


# ---- what is exact ---------------------------------------------------------------------------------------------------


def covariance(hurst, fine=2000):
    """Of fractional Brownian motion (Riemann and Liouville's) at the times of the looks; the pole is taken out."""
    t, power = np.asarray(SEEN) * DT, 1.0 / min(hurst + 0.5, 1.0)
    s = (np.arange(fine) + 0.5) / fine
    v, mass = s**power, power * s ** (power - 1.0)
    first, later = np.minimum(t[:, None], t)[..., None], np.maximum(t[:, None], t)[..., None]
    product = (first * v) ** (hurst - 0.5) * (later - first + first * v) ** (hurst - 0.5)
    return (product * first * mass).mean(-1) / gamma(hurst + 0.5) ** 2


def log_evidence(hurst, data):
    """Of the model as it is stepped, the mean of the paths."""
    pushes = influence(hurst)[1]
    spread = DT * pushes.T @ pushes + NOISE**2 * jnp.eye(len(SEEN))
    return dist.MultivariateNormal(jnp.zeros(len(SEEN)), spread).log_prob(data).mean()


def made(hurst):
    """Noisy looks at exact fractional Brownian motions."""
    root = np.linalg.cholesky(covariance(hurst) + NOISE**2 * np.eye(len(SEEN)))
    return jnp.asarray(np.random.default_rng(0).standard_normal((PATHS, len(SEEN))) @ root.T, jnp.float32)


# ---- training and numbers --------------------------------------------------------------------------------------------


def learned(data, steps):
    """The index that is learned, and the bound at the end."""
    start = {"hurst": jnp.array(0.0), "log_noise": jnp.log(NOISE), "log_sd": jnp.zeros(STEPS)}
    adam = optax.adam(optax.cosine_decay_schedule(0.03, steps))
    options = dict(key=jax.random.key(0), steps=steps, maximize=True, progress=False)
    w = tg.fit(bound, {"model": jnp.array(0.0), "family": start}, adam, data=data, **options).params
    reached = tg.evaluate(bound, w, data, key=jax.random.key(1), draws=30)
    return float(jax.nn.sigmoid(w["model"])), float(reached.mean)


def picture(curves, found):
    figure, axes = plt.subplots(1, len(found), figsize=(4.8, 2.6), layout="constrained")
    for ax, (grid, exact), (truth, hurst, reached) in zip(np.atleast_1d(axes), curves, found, strict=True):
        ax.plot(grid, exact, label="log evidence")
        ax.plot(hurst, reached, "o", color="C3", label="learned, its bound")
        ax.set(title=f"true index {truth}", xlabel="Hurst index", ylim=(exact.max() - 8, exact.max() + 1))
        ax.legend(fontsize=7)
    return figure


def main(*, quick=False):
    rows, curves, found, grid = [], [], [], jnp.linspace(0.05, 0.95, 181)
    for truth in (0.7,) if quick else (0.3, 0.7):
        data = made(truth)
        exact = jax.vmap(lambda hurst, data=data: log_evidence(hurst, data))(grid)
        hurst, reached = learned(data, 150 if quick else 600)
        best = float(grid[exact.argmax()])
        off, gap = abs(hurst - best), float(log_evidence(hurst, data)) - reached
        rows.append(
            (f"true index {truth}: learned {hurst:.3f}, off the best, {best:.3f}", off, 0.0, 0.1 if quick else 0.05)
        )
        rows.append((f"true index {truth}: nats a path, evidence less bound", gap, -0.1, 1.0 if quick else 0.5))
        curves.append((grid, exact))
        found.append((truth, hurst, reached))
    return rows, picture(curves, found)


if __name__ == "__main__":
    run(main, __file__)
