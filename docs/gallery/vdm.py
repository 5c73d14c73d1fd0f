"""A variational diffusion model of points in the plane, its noise schedule learned with it.

The family adds noise in small steps and has no parameter but what it keeps at each; the model begins at noise and takes
it away with one network. `relabel` tells the path of the family backwards, so that the bound is the plain ELBO of a
hierarchy of latents, and the schedule is learned by its own gradient, through the draws: no weighting of the steps, no
formula of the marginals. The data are eight normals on a ring. Minus their entropy is what no bound can exceed.

Source: Kingma, Salimans, Poole and Ho, Variational Diffusion Models, 2021; Sohl-Dickstein et al., Deep Unsupervised
Learning using Nonequilibrium Thermodynamics, 2015.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
from runner import run

import tracegrad as tg
from tracegrad import dist

SPREAD = 0.25
ANGLES = 2.0 * jnp.pi * jnp.arange(8) / 8
RING = 1.5 * jnp.stack([jnp.cos(ANGLES), jnp.sin(ANGLES)], -1)
truth = dist.MixtureSameFamily(dist.Categorical(probs=jnp.full(8, 1 / 8)), dist.Normal(RING, SPREAD).to_event(1))


def schedule(w):
    """Of each step: its number, the part of the variance that it keeps, what is noise before and after it."""
    keep = jax.nn.sigmoid(w["schedule"])
    after = 1.0 - jnp.cumprod(keep)
    return jnp.arange(len(keep)) / len(keep), keep, jnp.append(0.0, after[:-1]), after


@tg.gen
def add_noise(x, keep):
    return tg.sample("x", dist.Normal(jnp.sqrt(keep) * x, jnp.sqrt(1.0 - keep)).to_event(1)), None


@tg.gen
def noising(w, x):
    tg.sample("path", add_noise.scan()(x, schedule(w)[1]))


@tg.gen
def take_noise(w, x, inputs):
    time, keep, before, after, log_sd = inputs
    noise = w["net"](jnp.append(x, 2.0 * time - 1.0))
    mean = (x - (1.0 - keep) / jnp.sqrt(after) * noise) / jnp.sqrt(keep)
    sd = jnp.sqrt((1.0 - keep) * (before + 0.01) / after) * jnp.exp(log_sd)  # of the step backwards, were x known
    return tg.sample("x", dist.Normal(mean, sd).to_event(1)), None


@tg.gen
def model(w):
    step = tg.gen(lambda x, inputs: take_noise.inline(w, x, inputs))
    inputs = *schedule(w), w["log_sd"]
    x = tg.sample("end", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    x, _ = tg.sample("path", step.scan(reverse=True)(x, tuple(v[1:] for v in inputs)))
    return take_noise.inline(w, x, tuple(v[0] for v in inputs))[0]


def told_backwards(choices):
    path = choices["path"]["x"]
    return {"end": path[-1], "path": {"x": path[:-1]}}


family = tg.relabel(noising, told_backwards)


def bound(key, w, batch):
    def one(key, x):
        return tg.elbo(model, family, {"x": x})(key, w, (w, x))

    return jax.vmap(one)(jax.random.split(key, len(batch)), batch).mean()


# ---- training and numbers --------------------------------------------------------------------------------------------


def picture(draws, w):
    figure, (left, right) = plt.subplots(1, 2, figsize=(4.8, 2.6), layout="constrained")
    left.plot(*draws[:2000].T, ".", markersize=1)
    left.set(title="draws of the model", xticks=[], yticks=[])
    right.plot(1.0 - schedule(w)[3], "o-", markersize=3)
    right.set(title="signal left, learned", xlabel="step", yscale="log")
    return figure


def main(*, quick=False):
    length, steps = (10, 400) if quick else (24, 3000)
    k1, k2, k3, k4, k5 = jax.random.split(jax.random.key(0), 5)
    data, held_out = truth.sample(k1, (4000,)), truth.sample(k2, (4000,))
    net = eqx.nn.MLP(3, 2, 64, 3, jax.nn.silu, key=k3)
    w = {"net": net, "schedule": jnp.linspace(4.0, 0.0, length), "log_sd": jnp.zeros(length)}
    adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(3e-3, steps)))
    options = dict(steps=steps, data=data, batch_size=128, maximize=True, progress=False)
    w = tg.fit(bound, w, adam, key=k4, **options).params
    reached = float(tg.evaluate(bound, w, held_out, key=k5, draws=2).mean)
    draws = jax.jit(jax.vmap(lambda key: model.simulate(key, w).retval))(jax.random.split(k5, 4000))
    nearest = jnp.argmin(jnp.sum((draws[:, None] - RING) ** 2, -1), 1)
    share = jnp.bincount(nearest, length=8) / len(draws)
    rows = [
        (
            "nats below minus the entropy, held-out",
            float(truth.log_prob(held_out).mean()) - reached,
            0.0,
            1.2 if quick else 0.2,
        ),
        ("least share of a mode, of 0.125", float(share.min()), 0.04 if quick else 0.1, 0.125),
        ("largest share of a mode", float(share.max()), 0.125, 0.25 if quick else 0.15),
    ]
    return rows, picture(draws, w)


if __name__ == "__main__":
    run(main, __file__)
