"""A sparse Gaussian process: a few inducing values stand for all, by a `factor` in the model.

Given the process at 40 points, the series is a linear function of it but for a part that is lost; Titsias' bound pays
for that part by half its variance over that of the noise. Here it is one line of the model, `factor`, so that any
objective of the library is that bound, and any posterior of it a sparse GP. As the model is normal, the Laplace family
is exact, and the bound must approach tinygp's evidence from below as points are added.

Source: Titsias, Variational Learning of Inducing Variables in Sparse Gaussian Processes, 2009.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
from runner import run
from tinygp import GaussianProcess
from tinygp.kernels import Matern32

import tracegrad as tg
from tracegrad import dist

LENGTH, NOISE, N = 3.0, 0.3, 200
KERNEL = Matern32(LENGTH)


@tg.gen
def sparse(times, points):
    among = KERNEL(points, points) + 1e-5 * jnp.eye(len(points))
    u = tg.sample("u", dist.MultivariateNormal(jnp.zeros(len(points)), among))
    gain = jnp.linalg.solve(among, KERNEL(points, times))
    lost = 1.0 - jnp.sum(gain * KERNEL(points, times), 0)
    tg.factor("lost", -0.5 * jnp.sum(lost) / NOISE**2)
    tg.sample("y", dist.Normal(u @ gain, NOISE).to_event(1))


def sparse_bound(times, y, count):
    """The bound with so many points, and draws of the inducing values."""
    points = jnp.linspace(0.0, 10.0, count)
    target = tg.Target(sparse, (times, points), {"y": y})
    family = tg.auto.laplace(target, starts=1)
    w = family.init(jax.random.key(2))
    found = tg.evaluate(tg.elbo(sparse, family.guide, {"y": y}), target.args, w, key=jax.random.key(3), draws=20)
    draws = jax.vmap(lambda key: family.guide.simulate(key, w).choices["u"])(jax.random.split(jax.random.key(4), 20))
    return float(found.mean), points, draws


def picture(times, y, points, draws):
    figure, ax = plt.subplots(figsize=(4.8, 2.6), layout="constrained")
    ax.plot(times, y, "k.", markersize=2)
    ax.plot(points, draws.T, color="C0", linewidth=0.5, alpha=0.6)
    ax.set(xlabel="time", title="draws at the inducing points")
    return figure


def main(*, quick=False):
    k1, k2 = jax.random.split(jax.random.key(0))
    times = jnp.sort(jax.random.uniform(k1, (N,), maxval=10.0))
    process = GaussianProcess(KERNEL, times, diag=NOISE**2)
    y = process.sample(k2)
    evidence, rows = float(process.log_probability(y)), []
    for count, most in {40: 1.0}.items() if quick else {10: 50.0, 20: 8.0, 40: 1.0}.items():
        bound, points, draws = sparse_bound(times, y, count)
        rows.append((f"{count} points: nats below tinygp's evidence", evidence - bound, 0.0, most))
    return rows, picture(times, y, points, draws)


if __name__ == "__main__":
    run(main, __file__)
