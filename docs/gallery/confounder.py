"""A confounder that nobody saw: the effect of a treatment, from proxies, by do(t).

A latent u moves the treatment, the outcome and four noisy proxies of itself. The naive contrast of treated and
untreated is far off, and adjusting for the proxies does not mend it, since they are noisy; with u in the model, summed
out by the importance weighted bound, what remains is the effect. It is read off the learnt program itself: `do` sets t,
cuts its dependence on u, and leaves the rest as it was.

Source: Louizos et al., Causal Effect Inference with Deep Latent-Variable Models, 2017; the outcome is linear, so that
least squares that see u are the reference.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import tracegrad as tg
from tracegrad import dist

PROXIES, EFFECT = 4, 1.0
TRUTH = {
    "load": jnp.array([1.0, -1.0, 0.5, 0.8]),
    "log_x": jnp.zeros(PROXIES),
    "t": jnp.array([0.0, 1.5]),
    "y": jnp.array([0.5, EFFECT, 2.0]),
    "log_y": jnp.log(0.5),
}


@tg.gen
def model(w):
    u = tg.sample("u", dist.Normal(0.0, 1.0))
    tg.sample("x", dist.Normal(w["load"] * u, jnp.exp(w["log_x"])).to_event(1))
    t = tg.sample("t", dist.Bernoulli(logits=w["t"][0] + w["t"][1] * u))
    return tg.sample("y", dist.Normal(w["y"] @ jnp.stack([1.0, t.astype(float), u]), jnp.exp(w["log_y"])))


@tg.gen
def guide(net, row):
    loc, log_scale = net(jnp.concatenate([row["x"], jnp.stack([row["t"].astype(float), row["y"]])]))
    tg.sample("u", dist.Normal(loc, jnp.exp(log_scale)))


def bound(key, w, rows):
    def of_row(key, row):
        return tg.iwelbo(model, guide, row, n=20)(key, w["model"], (w["net"], row))

    return jax.vmap(of_row)(jax.random.split(key, len(rows["y"])), rows).mean()


def train(rows, steps):
    start = {"load": jnp.full(PROXIES, 0.1), "log_x": jnp.zeros(PROXIES), "t": jnp.zeros(2)}
    start |= {"y": jnp.array([0.0, 0.0, 0.1]), "log_y": jnp.array(0.0)}
    w = {"model": start, "net": eqx.nn.MLP(PROXIES + 2, 2, 32, 1, activation=jnp.tanh, key=jax.random.key(1))}
    adam, key = optax.adam(optax.cosine_decay_schedule(1e-2, steps)), jax.random.key(2)
    return tg.fit(bound, w, adam, key=key, steps=steps, data=rows, batch_size=100, maximize=True, progress=False).params


def effect(w, key, n):
    """The mean outcome under do(t = 1) less that under do(t = 0), by the same draws of u and of the noise."""

    def outcome(key, t):
        return model.do({"t": t}).simulate(key, w).retval

    keys = jax.random.split(key, n)
    return float(jnp.mean(jax.vmap(outcome, (0, None))(keys, 1) - jax.vmap(outcome, (0, None))(keys, 0)))


def contrast(rows, *others):
    """The coefficient of t in least squares of y on t and others."""
    columns = np.column_stack([np.ones(len(rows["y"])), rows["t"], *others])
    return np.linalg.lstsq(columns, np.asarray(rows["y"]))[0][1]


def main(*, quick: bool = False):
    n, steps = (2000, 800) if quick else (5000, 4000)
    rows = jax.vmap(lambda key: model.simulate(key, TRUTH).choices)(jax.random.split(jax.random.key(0), n))
    u = rows.pop("u")
    found = {"naive": contrast(rows), "proxies": contrast(rows, *rows["x"].T), "seeing u": contrast(rows, u)}
    found["learnt"] = effect(train(rows, steps)["model"], jax.random.key(3), 1000)
    aim = 0.3 if quick else 0.1
    table = [
        ("effect, learnt (truth 1)", found["learnt"], EFFECT - aim, EFFECT + aim),
        ("effect, least squares that see u", found["seeing u"], EFFECT - 0.1, EFFECT + 0.1),
        ("effect, least squares on the proxies", found["proxies"], 1.4, 2.0),
        ("effect, naive contrast", found["naive"], 2.5, 3.5),
    ]
    return table, draw(found)


def draw(found):
    figure, axes = plt.subplots(figsize=(6, 2.5), layout="constrained")
    axes.barh(list(found), list(found.values()))
    axes.axvline(EFFECT, color="black", linestyle="--")
    axes.set_xlabel("effect of the treatment; the line is the truth")
    return figure


if __name__ == "__main__":
    from runner import run

    run(main, __file__)
