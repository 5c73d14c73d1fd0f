"""Bayesian neural networks on real data: five directions of the weights, and the last layer.

A network is fitted to the diabetes data by least squares; then its weights are w0 + P z, with z normal in five
dimensions, or its last layer is normal and the rest stays. For the first, the bound of a flow is held against the
evidence by importance sampling, its moments against those of NUTS, and its intervals against patients it has not seen.
For the last layer the evidence is that of Bayesian linear regression, which a normal of full rank must reach; its prior
is one of functions, the normal of weights whose functions are nearest to a Gaussian process's.

Source: Izmailov et al., Subspace Inference for Bayesian Deep Learning, 2019; the data are those of Efron et al., Least
Angle Regression, 2004, as scikit-learn has them.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from sklearn.datasets import load_diabetes

import tracegrad as tg
from tracegrad import dist

DIRECTIONS, HIDDEN, TRAINED, LENGTH = 5, 10, 300, 0.1
WIDE = 5.0
LEVELS = np.linspace(0.1, 0.9, 9)


@tg.gen
def subspace(network, x, noise):
    z = tg.sample("z", dist.Normal(jnp.zeros(DIRECTIONS), 1.0).to_event(1))
    tg.sample("y", dist.Normal(jax.vmap(network(z))(x), noise).to_event(1))


@tg.gen
def last_layer(features, noise, scale):
    w = tg.sample("w", dist.MultivariateNormal(jnp.zeros(features.shape[1]), scale_tril=scale))
    tg.sample("y", dist.Normal(features @ w, noise).to_event(1))


def dataset():
    x, y = load_diabetes(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    x, y = x[order] / x.std(0), (y[order] - y.mean()) / y.std()
    return [jnp.asarray(part, jnp.float32) for part in (x[:TRAINED], y[:TRAINED], x[TRAINED:], y[TRAINED:])]


def least_squares(x, y):
    def loss(key, net):
        decay = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(eqx.filter(net, eqx.is_inexact_array)))
        return jnp.sum((jax.vmap(net)(x) - y) ** 2) + 20.0 * decay

    net = eqx.nn.MLP(x.shape[1], "scalar", HIDDEN, 1, activation=jnp.tanh, key=jax.random.key(0))
    return tg.fit(loss, net, optax.adam(1e-2), key=jax.random.key(1), steps=1000, progress=False).params


def around(net, key):
    """The networks w0 + P z, as a function of z that is itself an argument of the model."""
    arrays, static = eqx.partition(net, eqx.is_inexact_array)
    centre, unravel = ravel_pytree(arrays)
    directions = LENGTH * jax.random.normal(key, (centre.size, DIRECTIONS))
    return jax.tree_util.Partial(
        lambda directions, z: eqx.combine(unravel(centre + directions @ z), static), directions
    )


def of_functions(features, x):
    """A factor of a covariance of weights whose functions are as near as they can be to those of a Gaussian process.

    And how far off they are, over how far those of independent weights are.
    """
    process = jnp.exp(-0.5 * jnp.sum((x[:, None] - x[None]) ** 2, -1) / WIDE**2)
    inverse = jnp.linalg.pinv(features)
    factor = jnp.linalg.cholesky(inverse @ process @ inverse.T + 1e-4 * jnp.eye(HIDDEN))
    near, far = (jnp.linalg.norm(features @ c @ c.T @ features.T - process) for c in (factor, jnp.eye(HIDDEN)))
    return factor, float(near / far)


def coverage(means, noise, y):
    """Of each central interval of the predictions the share of outcomes in it."""
    draws = means + noise * np.random.default_rng(0).standard_normal(means.shape)
    low, high = np.quantile(draws, 0.5 - LEVELS / 2.0, axis=0), np.quantile(draws, 0.5 + LEVELS / 2.0, axis=0)
    return ((low <= y) & (y <= high)).mean(1)


def main(*, quick: bool = False):
    x, y, new_x, new_y = dataset()
    net = least_squares(x, y)
    noise = float(jnp.std(y - jax.vmap(net)(x)))
    network, key = around(net, jax.random.key(2)), jax.random.key(3)
    target = tg.Target(subspace, (network, x, noise), {"y": y})
    fitted = tg.vi(target, "flow", key=key, steps=300 if quick else 2000, correct=False, progress=False)
    bound = float(np.mean(fitted.history[-100:]))
    z = fitted.sample(key, 2000)["z"]
    chains = z if quick else tg.nuts(target, key=key, progress=False).sample(key, 4000)["z"]
    means, sds = chains.mean(0), chains.std(0)
    shares = coverage(np.asarray(jax.vmap(lambda z: jax.vmap(network(z))(new_x))(z)), noise, np.asarray(new_y))

    features = jax.vmap(lambda row: jnp.tanh(net.layers[0](row)))(x)
    scale, nearer = of_functions(features, x)
    covariance = features @ scale @ scale.T @ features.T + noise**2 * jnp.eye(TRAINED)
    evidence = dist.MultivariateNormal(jnp.zeros(TRAINED), covariance).log_prob(y)
    last = tg.Target(last_layer, (features, noise, scale), {"y": y})
    family = tg.vi(last, key=key, correct=False, progress=False)
    rows = [
        ("subspace: evidence less the bound of the flow", float(fitted.log_evidence) - bound, -0.05, 0.2),
        ("90% intervals hold of unseen outcomes", shares[-1], 0.83, 0.96),
        ("last layer: evidence less the bound", float(evidence - np.mean(family.history[-100:])), -0.05, 0.1),
        ("prior of functions off a GP, over one of weights", nearer, 0.0, 1.0),
    ]
    if not quick:
        rows.append(("subspace: means apart from NUTS, in sds", np.max(np.abs(z.mean(0) - means) / sds), 0.0, 0.15))
        rows.append(("subspace: sds over those of NUTS, furthest", np.max(np.abs(z.std(0) / sds - 1.0)), 0.0, 0.15))
    return rows, draw(shares, z, chains)


def draw(shares, z, chains):
    figure, axes = plt.subplots(1, 2, figsize=(7, 3), layout="constrained")
    axes[0].plot([0, 1], [0, 1], color="black", linewidth=0.5)
    axes[0].plot(LEVELS, shares, "o")
    axes[0].set(xlabel="interval", ylabel="share of unseen outcomes in it")
    axes[1].plot(*chains[:500, :2].T, ".", markersize=3, label="NUTS")
    axes[1].plot(*z[:500, :2].T, ".", markersize=3, label="flow")
    axes[1].set(xlabel="z, first", ylabel="second")
    axes[1].legend(frameon=False)
    return figure


if __name__ == "__main__":
    from runner import run

    run(main, __file__)
