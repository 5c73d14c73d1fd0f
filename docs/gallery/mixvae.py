"""Categories and styles together: a VAE with a joint discrete and continuous latent, on three arcs.

Each point has a category and a place along the arc of that category, and neither is seen. The family is q(k | x)
q(z | x, k): a choice, and a continuous draw that depends on it. Nothing is relaxed: the category is summed (`enum`),
its alternatives are run (`mvd`), or it is scored (`reinforce`), chosen by its address, and the style keeps its path
under each. What is known: the arc that each point came from, and the density of the data by quadrature.

Source: Dupont, Learning Disentangled Joint Continuous and Discrete Representations, 2018 (with relaxed categories);
Kingma et al., Semi-Supervised Learning with Deep Generative Models, 2014 (summed).
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

K, N, NOISE = 3, 600, 0.1
ESTIMATORS = {"enum": tg.enum(), "mvd": tg.mvd(), "reinforce": tg.reinforce()}


def arc(k, z):
    """The point of an arc at a place."""
    at = 2.0 * jnp.pi * k / K
    angle = at + 0.45 * z
    return 2.0 * jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1) + 1.5 * jnp.stack([jnp.cos(at), jnp.sin(at)], -1)


@tg.gen
def model(w):
    k = tg.sample("k", dist.Categorical(logits=jnp.zeros(K)))
    z = tg.sample("z", dist.Normal(0.0, 1.0))
    mean = w["decoder"](jnp.append(jax.nn.one_hot(k, K), z))
    tg.sample("x", dist.Normal(mean, jnp.exp(w["log_noise"])).to_event(1))


@tg.gen
def family(w, x):
    k = tg.sample("k", dist.Categorical(logits=w["category"](x)))
    loc, log_sd = w["style"](jnp.append(jax.nn.one_hot(k, K), x))
    tg.sample("z", dist.Normal(loc, jnp.exp(log_sd)))


def bound(key, w, batch):
    def one(key, x):
        return tg.elbo(model, family, {"x": x})(key, w, (w, x))

    return jax.vmap(one)(jax.random.split(key, len(batch)), batch).mean()


# ---- training and numbers --------------------------------------------------------------------------------------------


def made(key):
    k1, k2, k3 = jax.random.split(key, 3)
    k, z = jax.random.randint(k1, (N,), 0, K), jax.random.normal(k2, (N,))
    return k, arc(k, z) + NOISE * jax.random.normal(k3, (N, 2))


def best_bound(x):
    """The mean log density of the data under what made them, the place integrated on a grid."""
    z = jnp.linspace(-5.0, 5.0, 2001)
    means = jax.vmap(lambda k: arc(k, z))(jnp.arange(K))
    logp = dist.Normal(means, NOISE).log_prob(x[:, None, None]).sum(-1) + dist.Normal(0.0, 1.0).log_prob(z)
    return jax.nn.logsumexp(logp, axis=(1, 2)) + jnp.log((z[1] - z[0]) / K)


def right(w, k, x):
    """The share of points whose category is found, up to the names of the categories."""
    guess = jax.vmap(w["category"])(x).argmax(-1)
    return max(float(jnp.mean(jnp.array(names)[guess] == k)) for names in itertools.permutations(range(K)))


def noise_of(w, x, key):
    """The variance of the gradient under each estimator, on one batch."""
    compared = tg.compare_estimators(bound, w, x[:64], key=key, sites={"k": list(ESTIMATORS.values())}, draws=100)
    return {next(iter(row["choice"].values())): row["variance"] for row in compared.rows}


def picture(found, x):
    figure, axes = plt.subplots(1, len(found), figsize=(2.4 * len(found), 2.4), layout="constrained")
    for ax, (name, (w, share)) in zip(np.atleast_1d(axes), found.items(), strict=True):
        ax.scatter(*x.T, c=jax.vmap(w["category"])(x).argmax(-1), s=2, cmap="brg")
        ax.set(title=f"{name}: {share:.3f} right", xticks=[], yticks=[])
    return figure


def main(*, quick=False):
    steps = 400 if quick else 2000
    k1, k2, k3, k4, k5 = jax.random.split(jax.random.key(0), 5)
    k, x = made(k1)
    start = {
        "decoder": eqx.nn.MLP(K + 1, 2, 32, 2, jax.nn.tanh, key=k2),
        "category": eqx.nn.MLP(2, K, 32, 1, jax.nn.tanh, key=k3),
        "style": eqx.nn.MLP(K + 2, 2, 32, 1, jax.nn.tanh, key=k4),
        "log_noise": jnp.array(0.0),
    }
    adam = optax.adam(optax.cosine_decay_schedule(1e-2 if quick else 5e-3, steps))
    options = dict(steps=steps, data=x, batch_size=64, maximize=True, progress=False)
    found = {}
    for name in ("enum",) if quick else ESTIMATORS:
        w = tg.fit(tg.with_estimators(bound, {"k": ESTIMATORS[name]}), start, adam, key=k5, **options).params
        found[name] = w, right(w, k, x)
    w = found["enum"][0]
    gap = float(best_bound(x).mean() - tg.evaluate(bound, w, x, key=k5, draws=5).mean)
    rows = [(f"{name}: categories right", share, 0.85 if quick else 0.98, 1.0) for name, (_, share) in found.items()]
    rows.append(("enum: nats below the density of the data", gap, 0.0, 2.5 if quick else 0.5))
    if not quick:
        variance = noise_of(start, x, k5)
        rows.append(
            ("variance, reinforce over enum, at the start", variance[tg.reinforce()] / variance[tg.enum()], 1.5, 1e4)
        )
    return rows, picture(found, x)


if __name__ == "__main__":
    run(main, __file__)
