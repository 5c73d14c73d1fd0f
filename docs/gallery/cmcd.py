"""Samplers that are trained: annealed Langevin steps with stochastic maps, and controlled Monte Carlo diffusions.

The family tells a path forwards: a wide normal, then twenty Langevin steps through densities between it and the
target. The model tells one backwards, from the target. `relabel` lets them be compared, and every objective of the
library then trains the sampler: its start, step sizes and schedule alone (a stochastic normalizing flow), or with a
network that controls the drift of both, by the ELBO, or by the log-variance loss, which needs no derivative along the
path. The target is a mixture of four normals with weights .4, .3, .2, .1 that integrates to one: minus the bound is the
divergence between the paths, and the draws should fall to the modes in those shares.

Source: Wu, Koehler and Noe, Stochastic Normalizing Flows, 2020; Vargas et al., Transport Meets Variational Inference:
Controlled Monte Carlo Diffusions, 2024; Richter and Berner, Improved Sampling via Learned Diffusions, 2024.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
from runner import run

import tracegrad as tg
from tracegrad import dist

K, WIDE, LANES = 20, 3.0, 64
MODES = jnp.array([[3.0, 3.0], [-3.0, 3.0], [3.0, -3.0], [-3.0, -3.0]])
SHARES = jnp.array([0.4, 0.3, 0.2, 0.1])
target = dist.MixtureSameFamily(dist.Categorical(probs=SHARES), dist.Normal(MODES, 0.7).to_event(1))


def start_of(w):
    """The normal that paths start from."""
    return dist.Normal(w["loc"], jnp.exp(w["log_sd"])).to_event(1)


def times_of(w):
    """The times 0 < t_1 < ... < t_K = 1 of the annealing, and the step that leads to each."""
    return jnp.cumsum(jax.nn.softmax(w["schedule"])), jnp.exp(w["log_step"])


def move(w, x, t, step, sign):
    """A Langevin step of the density at time t, pushed by the control forwards and held back by it backwards."""

    def annealed(x):
        return (1.0 - t) * start_of(w).log_prob(x) + t * target.log_prob(x)

    control = w["control"](jnp.append(x / WIDE, t)) if "control" in w else 0.0
    drift = jax.grad(annealed)(x) + sign * control
    return dist.Normal(x + step * drift, jnp.sqrt(2.0 * step)).to_event(1)


@tg.gen
def steps(w, x, inputs, sign):
    return tg.sample("x", move(w, x, *inputs, sign)), None


@tg.gen
def forwards(w):
    x = tg.sample("start", start_of(w))
    one = tg.gen(lambda x, inputs: steps.inline(w, x, inputs, 1.0))
    tg.sample("path", one.scan()(x, times_of(w)))


@tg.gen
def backwards(w):
    x = tg.sample("end", target)
    one = tg.gen(lambda x, inputs: steps.inline(w, x, inputs, -1.0))
    tg.sample("path", one.scan(reverse=True)(x, times_of(w)))


def told_backwards(choices):
    path = jnp.concatenate([choices["start"][None], choices["path"]["x"]])
    return {"end": path[-1], "path": {"x": path[:-1]}}


sampler = tg.relabel(forwards, told_backwards)

# ---- training and numbers --------------------------------------------------------------------------------------------


def fitted(objective, w, count, *, maximize):
    """Of an objective of model and guide, both of which have the parameters."""
    adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(5e-3, count)))
    options = dict(key=jax.random.key(0), steps=count, maximize=maximize, progress=False)
    return tg.fit(lambda key, w: objective(key, (w,), (w,)), w, adam, **options).params


def told(name, w, draws):
    """Of a trained sampler: where its draws end, the bound, log Z, and how far off the shares of the modes are."""
    q = jax.jit(jax.vmap(lambda key: sampler.simulate(key, w)))(jax.random.split(jax.random.key(2), draws))
    log_w = jax.jit(jax.vmap(lambda choices: backwards.assess(choices, w)[0]))(q.choices) - q.logp
    ends = q.choices["end"]
    near = jnp.argmin(jnp.sum((ends[:, None] - MODES) ** 2, -1), 1)
    off = jnp.abs(jnp.bincount(near, length=4) / draws - SHARES).max()
    return name, ends, float(log_w.mean()), float(jax.nn.logsumexp(log_w) - jnp.log(draws)), float(off)


def picture(samplers):
    figure, axes = plt.subplots(1, len(samplers), figsize=(7.2, 2.6), layout="constrained", squeeze=False)
    for ax, (name, ends, bound, _, off) in zip(axes[0], samplers, strict=True):
        ax.plot(*ends[:1500].T, ".", markersize=1)
        ax.set(
            title=f"{name}\nbound {bound:.2f}, shares off {off:.2f}", xticks=[], yticks=[], xlim=(-6, 6), ylim=(-6, 6)
        )
    return figure


def main(*, quick=False):
    count, draws = (200, 2000) if quick else (2000, 10000)
    net = eqx.nn.MLP(3, 2, 64, 2, jax.nn.silu, key=jax.random.key(1))
    net = eqx.tree_at(lambda net: net.layers[-1], net, replace_fn=lambda layer: jax.tree.map(jnp.zeros_like, layer))
    plain = {"schedule": jnp.zeros(K), "log_step": jnp.full(K, jnp.log(0.1))}
    plain |= {"loc": jnp.zeros(2), "log_sd": jnp.full(2, jnp.log(WIDE))}
    elbo = tg.elbo(backwards, sampler, {}, draws=LANES)
    spread = tg.log_variance(backwards, sampler, {}, n=LANES)
    samplers = [told("log-variance", fitted(spread, plain | {"control": net}, count, maximize=False), draws)]
    _, _, bound, log_z, off = samplers[0]
    rows = [
        ("controlled, log-variance: the bound, log Z = 0", bound, -1.5 if quick else -0.35, 0.0),
        ("the same: log Z by its weights", log_z, *((-0.2, 0.2) if quick else (-0.05, 0.05))),
        ("the same: most that a mode's share is off", off, 0.0, 0.15 if quick else 0.05),
    ]
    if not quick:
        samplers.append(told("ELBO", fitted(elbo, plain | {"control": net}, count, maximize=True), draws))
        samplers.append(told("annealing", fitted(elbo, plain, count, maximize=True), draws))
        rows.append(("controlled, ELBO: the bound", samplers[1][2], -0.3, 0.0))
        rows.append(("the same: most that a mode's share is off", samplers[1][4], 0.05, 0.12))
        rows.append(("annealing alone: the bound", samplers[2][2], -0.8, -0.5))
    return rows, picture(samplers)


if __name__ == "__main__":
    run(main, __file__)
