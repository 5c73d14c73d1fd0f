"""Semi-implicit variational inference: a family whose density is an integral, on a banana of known integral.

Noise goes through a network, and a little more is added: such a family bends as it likes, and its density is the
integral over the first noise. `marginal(joint, ("a", "b"), importance(n, reverse))` is the family with an estimate of
that density, and what the plain ELBO becomes with it is a bound at every n, tight as n grows; a reverse network that
proposes the noise, trained with all else by the same objective, makes few draws enough. The banana integrates to one,
so minus the bound is the divergence: 0 is perfect, and a normal of two independent parts is 0.85 away.

Source: Yin and Zhou, Semi-Implicit Variational Inference, 2018; Sobolev and Vetrov, Importance Weighted Hierarchical
Variational Inference, 2019.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
from runner import run

import tracegrad as tg
from tracegrad import dist


@tg.gen
def banana():
    a = tg.sample("a", dist.Normal(0.0, 2.0))
    tg.sample("b", dist.Normal(0.5 * a**2 - 2.0, 0.5))


@tg.gen
def mean_field(w):
    tg.sample("a", dist.Normal(w["loc"][0], jnp.exp(w["log_sd"][0])))
    tg.sample("b", dist.Normal(w["loc"][1], jnp.exp(w["log_sd"][1])))


@tg.gen
def joint(w):
    e = tg.sample("e", dist.Normal(0.0, 1.0))
    mean_field.inline({"loc": 4.0 * w["net"](e[None]), "log_sd": w["log_sd"]})


@tg.gen
def reverse(kept, w):
    loc, log_sd = w["reverse"](jnp.stack([kept["a"], kept["b"]]) / 4.0)
    tg.sample("e", dist.Normal(loc, jnp.exp(log_sd - 1.0)))


def semi_implicit(n):
    return tg.marginal(joint, ("a", "b"), tg.importance(n, reverse))


# ---- training and numbers --------------------------------------------------------------------------------------------


def fitted(family, w, steps, rate):
    bound = tg.elbo(banana, family, {}, draws=16)
    adam = optax.adam(optax.cosine_decay_schedule(rate, steps))
    options = dict(key=jax.random.key(0), steps=steps, maximize=True, progress=False)
    return tg.fit(lambda key, w: bound(key, (), w), w, adam, **options).params


def bound_of(family, w):
    return float(tg.evaluate(tg.elbo(banana, family, {}), (), w, key=jax.random.key(3), draws=4000).mean)


def picture(families):
    figure, axes = plt.subplots(1, len(families), figsize=(4.8, 2.6), layout="constrained")
    grid = jnp.meshgrid(jnp.linspace(-6, 6, 80), jnp.linspace(-5, 10, 80))
    density = jax.vmap(jax.vmap(lambda a, b: jnp.exp(banana.assess({"a": a, "b": b})[0])))(*grid)
    for ax, (name, (family, w)) in zip(axes, families.items(), strict=True):
        x = jax.vmap(lambda key, family=family, w=w: family.simulate(key, w).choices)(
            jax.random.split(jax.random.key(4), 400)
        )
        ax.contour(*grid, density, 4, linewidths=0.6)
        ax.plot(x["a"], x["b"], ".", color="C3", markersize=2)
        ax.set(title=name, xlim=(-6, 6), ylim=(-5, 10), xticks=[], yticks=[])
    return figure


def main(*, quick=False):
    steps, particles = (600, 4) if quick else (3000, 32)
    k1, k2 = jax.random.split(jax.random.key(1))
    normal = fitted(mean_field, {"loc": jnp.zeros(2), "log_sd": jnp.zeros(2)}, 600, 0.02)
    nets = {
        "net": eqx.nn.MLP(1, 2, 32, 2, jax.nn.silu, key=k1),
        "reverse": eqx.nn.MLP(2, 2, 32, 2, jax.nn.silu, key=k2),
    }
    implicit = fitted(semi_implicit(particles), nets | {"log_sd": jnp.full(2, -1.0)}, steps, 5e-3)
    least = -0.5 if quick else -0.2
    rows = [
        ("mean field: the bound, log Z = 0", bound_of(mean_field, normal), -0.95, -0.75),
        ("semi-implicit: the bound", bound_of(semi_implicit(4 * particles), implicit), least, 0.02),
    ]
    return rows, picture({"mean field": (mean_field, normal), "semi-implicit": (joint, implicit)})


if __name__ == "__main__":
    run(main, __file__)
