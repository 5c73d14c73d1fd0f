"""A MixFlow: a family that approaches its target by mixing a map, with nothing trained, on a banana of known integral.

Draw k from 0 ... N - 1 and apply a map k times to a normal. Where the map keeps the target, as leapfrog steps and a
deterministic refreshment of the momentum do, the mixture of all its powers approaches the target as N grows, with no
parameter to learn; its density is the mean over k, found by going back once along the orbit. It is a class with
`sample` and `log_prob`, and the library asks no more of a distribution. The banana integrates to one, so minus the ELBO
is the divergence: 0 is perfect. An orbit is found again only in double precision.

Source: Xu, Chen and Campbell, MixFlows: Principled Variational Inference via Mixed Flows, 2023.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
from jax.scipy.stats import norm
from runner import run

import tracegrad as tg


def log_banana(x):
    return norm.logpdf(x[0], 0.0, 2.0) + norm.logpdf(x[1], 0.5 * x[0] ** 2 - 2.0, 0.5)


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
    """Position, momentum and pseudo-time, five numbers, after 0 ... maps - 1 maps, all equally likely."""

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

# ---- numbers ---------------------------------------------------------------------------------------------------------


def picture(draws, maps, bounds):
    figure, (left, right) = plt.subplots(1, 2, figsize=(4.8, 2.6), layout="constrained")
    grid = jnp.meshgrid(jnp.linspace(-6, 6, 80), jnp.linspace(-5, 10, 80))
    left.contour(*grid, jax.vmap(jax.vmap(lambda a, b: jnp.exp(log_banana((a, b)))))(*grid), 4, linewidths=0.6)
    left.plot(*draws[:, :2].T, ".", color="C3", markersize=2)
    left.set(title=f"draws, {maps[-1]} maps", xlim=(-6, 6), ylim=(-5, 10), xticks=[], yticks=[])
    right.plot(maps, bounds, "o-", markersize=3)
    right.axhline(0.0, color="k", linewidth=0.6)
    right.set(title="bound", xlabel="maps", xscale="log")
    return figure


def main(*, quick=False):
    maps, draws = ((1, 40), 500) if quick else ((1, 5, 20, 50, 100), 2000)
    key, bound = jax.random.key(3), tg.elbo(augmented, mixflow, {})
    with jax.enable_x64(new_val=True):
        w = {"loc": jnp.array([0.0, -1.76]), "log_sd": jnp.log(jnp.array([0.69, 0.5]))}  # the best mean field
        bounds = [float(tg.evaluate(bound, (), (w, n), key=key, draws=draws).mean) for n in maps]
        ends = jax.vmap(lambda key: mixflow.simulate(key, w, maps[-1]).choices["state"])(jax.random.split(key, 400))
    rows = [
        ("no map, the best normal: the bound, log Z = 0", bounds[0], -0.95, -0.75),
        (f"{maps[-1]} maps: the bound", bounds[-1], -0.2 if quick else -0.05, 0.05),
    ]
    return rows, picture(ends, maps, bounds)


if __name__ == "__main__":
    run(main, __file__)
