"""PV-RNN: a predictive-coding variational recurrent network, and what its meta-prior does.

The prior of z_t is read off the last state; the posterior is read off it too, plus a free vector of each training
sequence and step, learnt with the weights: there is no encoder. The meta-prior weighs the divergence. The data have
period three, (0, c, -c), with c = 1 at a chance of 0.3 and else -1, and lengths that vary. The published effect: with a
small weight the prior does not learn the coin, and what the network generates by itself is seldom a legal triple; with
a larger one it is, and its coin falls as that of the data.

The weight is `scale_both={"z": meta}` of the bound, traced: networks for all meta-priors are trained side by side.

Source: Ahmadi and Tani, A Novel Predictive-Coding-Inspired Variational RNN Model for Online Prediction and Recognition,
2019.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import tracegrad as tg
from tracegrad import dist

SEQUENCES, LENGTH, HIDDEN, Z, NOISE, COIN = 64, 24, 16, 1, 0.2, 0.3
METAS = (0.001, 0.1, 0.5, 1.0, 3.0)


class Net(eqx.Module):
    cell: eqx.nn.GRUCell
    prior: eqx.nn.Linear
    posterior: eqx.nn.Linear
    out: eqx.nn.Linear

    def __init__(self, key):
        k = jax.random.split(key, 4)
        self.cell = eqx.nn.GRUCell(Z, HIDDEN, key=k[0])
        self.prior, self.posterior = (eqx.nn.Linear(HIDDEN, 2 * Z, key=k[i]) for i in (1, 2))
        self.out = eqx.nn.Linear(HIDDEN, 1, key=k[3])

    def step(self, d, moments, present):
        loc, log_scale = jnp.split(moments, 2)
        z = tg.sample("z", dist.Normal(jnp.tanh(loc), jnp.exp(log_scale)).to_event(1).mask(present))
        return self.cell(z, d)

    @tg.gen
    def generate(self, d, present):
        d = self.step(d, self.prior(d), present)
        return d, tg.sample("x", dist.Normal(self.out(d)[0], NOISE).mask(present))

    @tg.gen
    def recognise(self, d, given):
        own, present = given
        return self.step(d, self.posterior(d) + own, present), None


def bound(key, net, own, meta, x, present):
    elbo = tg.elbo(net.generate.scan(), net.recognise.scan(), {"x": x}, scale_both={"z": meta})
    start = jnp.zeros(HIDDEN)
    return elbo(key, (start, present), (start, (own, present)))


def train(metas, x, present, steps):
    def of_one(key, w, meta):
        keys = jax.random.split(key, len(x))
        return jax.vmap(bound, (0, None, 0, None, 0, 0))(keys, w["net"], w["own"], meta, x, present).mean()

    def objective(key, w):
        return jax.vmap(of_one)(jax.random.split(key, len(metas)), w, jnp.array(metas)).sum()

    w = {"net": Net(jax.random.key(1)), "own": jnp.zeros((len(x), LENGTH, 2 * Z))}
    w = jax.tree.map(lambda leaf: jnp.stack([leaf] * len(metas)), w)
    adam = optax.adam(optax.cosine_decay_schedule(1e-2, steps))
    return tg.fit(objective, w, adam, key=jax.random.key(2), steps=steps, maximize=True, progress=False).params["net"]


def dataset(key):
    k1, k2 = jax.random.split(key)
    c = jnp.where(jax.random.bernoulli(k1, COIN, (SEQUENCES, LENGTH // 3)), 1.0, -1.0)
    lengths = 12 + 3 * jax.random.randint(k2, (SEQUENCES,), 0, 5)
    return jnp.stack([0.0 * c, c, -c], -1).reshape(SEQUENCES, LENGTH), jnp.arange(LENGTH) < lengths[:, None]


def generated(net, key):
    """Sequences that a network makes by itself, (500, triples, 3)."""

    def one(key):
        return net.generate.scan().simulate(key, jnp.zeros(HIDDEN), jnp.ones(LENGTH, bool)).retval[1]

    return jax.vmap(one)(jax.random.split(key, 500)).reshape(500, -1, 3)


def main(*, quick: bool = False):
    metas, steps = ((METAS[0], METAS[3]), 1000) if quick else (METAS, 1500)
    x, present = dataset(jax.random.key(0))
    nets = train(metas, x, present, steps)
    y = np.asarray(jax.jit(jax.vmap(generated))(nets, jax.random.split(jax.random.key(3), len(metas))))
    signs = np.sign(y[..., 1])
    legal = (np.abs(y - np.stack([0.0 * signs, signs, -signs], -1)) < 3.0 * NOISE).all(-1)
    shares = dict(zip(metas, legal.mean((1, 2)), strict=True))
    coins = dict(zip(metas, (legal & (signs > 0)).sum((1, 2)) / legal.sum((1, 2)), strict=True))
    rows = [
        (f"legal triples at meta-prior {metas[0]} (published: few)", shares[metas[0]], 0.0, 0.4),
        ("legal triples at meta-prior 1 (published: most)", shares[1.0], 0.5 if quick else 0.8, 1.0),
        ("coin in the data", float((x[:, 1::3] > 0).mean(where=present[:, 1::3])), 0.25, 0.35),
        ("coin in what is generated at meta-prior 1", coins[1.0], 0.2, 0.4),
    ]
    return rows, draw(metas, y, shares)


def draw(metas, y, shares):
    figure, axes = plt.subplots(len(metas), 1, figsize=(6, 5), sharex=True, sharey=True, layout="constrained")
    for ax, meta, paths in zip(axes, metas, y, strict=True):
        ax.plot(paths[:2].reshape(2, -1).T, linewidth=1)
        ax.set_title(f"meta-prior {meta}: {shares[meta]:.0%} legal", fontsize=9, loc="left")
    return figure


if __name__ == "__main__":
    from runner import run

    run(main, __file__)
