"""Families whose density is a sum or an integral: semi-implicit VI and a MixFlow, on a banana whose integral is known.

A semi-implicit family pushes noise through a network and adds a little more: its density is an integral over the first
noise. `marginal(joint, ("a", "b"), importance(n, reverse))` estimates it, and what is then maximised is a bound at
every n, tight as n grows; a reverse network, trained with all else, makes few draws enough. A MixFlow draws k from
0 ... N - 1 and applies a measure-preserving map k times to a normal: its density is the mean over k, found by going
back once along the orbit, and no parameter is trained. It is a class with `sample` and `log_prob`, and the library
asks no more of it. The banana integrates to one, so minus the ELBO is the divergence: 0 is perfect.

Source: Yin and Zhou, Semi-Implicit Variational Inference, 2018; Sobolev and Vetrov, Importance Weighted Hierarchical
Variational Inference, 2019; Xu, Chen and Campbell, MixFlows, 2023.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
from jax.scipy.stats import norm
from runner import run

import tracegrad as tg
from tracegrad import dist


def log_banana(x):
    return norm.logpdf(x[0], 0.0, 2.0) + norm.logpdf(x[1], 0.5 * x[0] ** 2 - 2.0, 0.5)


@tg.gen
def banana():
    a = tg.sample("a", dist.Normal(0.0, 2.0))
    tg.sample("b", dist.Normal(0.5 * a**2 - 2.0, 0.5))


# ---- three families --------------------------------------------------------------------------------------------------


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


STEP, LEAPS, TURN = 0.1, 15, jnp.pi / 16  # of leapfrog, and of the pseudo-time, an irrational part of its circle


def moved(state, sign):
    """Leapfrog steps of the position x and the momentum r, forwards or backwards in time."""

    def leap(state, _):
        x, r = state
        r = r + sign * 0.5 * STEP * jax.grad(log_banana)(x)
        x = x + sign * STEP * r
        return (x, r + sign * 0.5 * STEP * jax.grad(log_banana)(x)), None

    return jax.lax.scan(leap, state, None, LEAPS)[0]


def refreshed(x, r, u, sign):
    """The momentum with its quantile shifted, modulo one, by what the position and the pseudo-time say."""
    quantile = norm.cdf(r) + sign * (0.5 * jnp.sin(2.0 * x + 2.0 * jnp.pi * u) + 0.5)
    return norm.ppf(jnp.clip(quantile % 1.0, 1e-6, 1.0 - 1e-6))


def forward(state):
    x, r, u = state
    (x, r), u = moved((x, r), 1.0), (u + TURN) % 1.0
    return x, refreshed(x, r, u, 1.0), u


def backward(state, log_det):
    x, r, u = state
    before = refreshed(x, r, u, -1.0)
    log_det += (norm.logpdf(before) - norm.logpdf(r)).sum()  # the rest of the map keeps volume
    return (*moved((x, before), -1.0), (u - TURN) % 1.0), log_det


class MixFlow(eqx.Module):
    """Position, momentum and pseudo-time, five numbers, after 0 ... maps - 1 applications of the map, equally likely."""

    loc: jax.Array
    log_sd: jax.Array
    maps: int = eqx.field(static=True)

    def sample(self, key):
        k1, k2, k3, k4 = jax.random.split(key, 4)
        x = self.loc + jnp.exp(self.log_sd) * jax.random.normal(k1, (2,))
        state = x, jax.random.normal(k2, (2,)), jax.random.uniform(k3)
        times = jax.random.randint(k4, (), 0, self.maps)
        return jnp.hstack(jax.lax.fori_loop(0, times, lambda _, state: forward(state), state))

    def log_prob(self, value):
        def back(carry, _):
            (x, r, _), log_det = carry
            start = norm.logpdf(x, self.loc, jnp.exp(self.log_sd)).sum() + norm.logpdf(r).sum()
            return backward(*carry), start - log_det

        state = value[:2], value[2:4], value[4]
        terms = jax.lax.scan(back, (state, jnp.zeros(())), None, self.maps)[1]
        return jax.nn.logsumexp(terms) - jnp.log(self.maps)


@tg.gen
def mixflow(w, maps):
    tg.sample("state", MixFlow(w["loc"], w["log_sd"], maps))


class Augmented(eqx.Module):
    """What the map keeps: the banana, a standard normal momentum, a uniform pseudo-time."""

    def sample(self, key):
        return jnp.zeros(5)

    def log_prob(self, value):
        return log_banana(value[:2]) + norm.logpdf(value[2:4]).sum()


augmented = tg.gen(lambda: tg.sample("state", Augmented()))

# ---- training and numbers --------------------------------------------------------------------------------------------


def fitted(guide, w, steps, rate):
    bound = tg.elbo(banana, guide, {}, draws=16)
    adam = optax.adam(optax.cosine_decay_schedule(rate, steps))
    options = dict(key=jax.random.key(0), steps=steps, maximize=True, progress=False)
    return tg.fit(lambda key, w: bound(key, (), w), w, adam, **options).params


def bound_of(model, guide, *args, draws=2000):
    mean, error = tg.evaluate(tg.elbo(model, guide, {}), (), args, key=jax.random.key(3), draws=draws)
    return float(mean), float(error)


def picture(draws, maps, bounds):
    figure, axes = plt.subplots(1, len(draws) + 1, figsize=(7.2, 2.6), layout="constrained")
    grid = jnp.meshgrid(jnp.linspace(-6, 6, 80), jnp.linspace(-5, 10, 80))
    for ax, (name, x) in zip(axes, draws.items(), strict=False):
        ax.contour(*grid, jax.vmap(jax.vmap(lambda a, b: jnp.exp(log_banana((a, b)))))(*grid), 4, linewidths=0.6)
        ax.plot(*x[:400].T, ".", color="C3", markersize=2)
        ax.set(title=name, xlim=(-6, 6), ylim=(-5, 10), xticks=[], yticks=[])
    axes[-1].plot(maps, bounds, "o-", markersize=3)
    axes[-1].set(title="MixFlow: bound by maps", xscale="log")
    axes[-1].axhline(0.0, color="k", linewidth=0.6)
    return figure


def main(*, quick=False):
    steps, particles, maps = (800, 4, (1, 40)) if quick else (4000, 32, (1, 5, 20, 50, 100))
    k1, k2, k3 = jax.random.split(jax.random.key(1), 3)
    normal = fitted(mean_field, {"loc": jnp.zeros(2), "log_sd": jnp.zeros(2)}, 600, 0.02)
    nets = {
        "net": eqx.nn.MLP(1, 2, 32, 2, jax.nn.silu, key=k1),
        "reverse": eqx.nn.MLP(2, 2, 32, 2, jax.nn.silu, key=k2),
    }
    implicit = fitted(semi_implicit(particles), nets | {"log_sd": jnp.full(2, -1.0)}, steps, 5e-3)
    plain, _ = bound_of(banana, mean_field, normal)
    semi, _ = bound_of(banana, semi_implicit(4 * particles), implicit)
    with jax.enable_x64(True):  # an orbit is found again backwards only if it is followed to many digits
        flows = [bound_of(augmented, mixflow, normal, n, draws=500 if quick else 2000)[0] for n in maps]

    def many(guide, w):
        return jax.vmap(lambda key: guide.simulate(key, w).choices)(jax.random.split(k3, 400))

    ends = {
        name: many(guide, w)
        for name, guide, w in (("mean field", mean_field, normal), ("semi-implicit", joint, implicit))
    }
    draws = {name: jnp.stack([choices["a"], choices["b"]], -1) for name, choices in ends.items()}
    rows = [
        ("mean field: the bound, log Z = 0", plain, -0.95, -0.75),
        ("semi-implicit: the bound", semi, -0.5 if quick else -0.05, 0.02),
        (f"MixFlow, {maps[-1]} maps, nothing trained: the bound", flows[-1], -0.2 if quick else -0.05, 0.05),
    ]
    return rows, picture(draws, maps, flows)


if __name__ == "__main__":
    run(main, __file__)
