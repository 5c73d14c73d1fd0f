"""Posterior collapse in linear VAEs: plain, conditional and of two levels, against the theory.

With l the eigenvalues of the data's covariance, n the variance of the noise and b the weight of the divergence, the
best decoder has the singular values sqrt(max(0, l - b n)), the encoder the variances b n / max(l, b n): a direction
with l <= b n has collapsed, however it is trained. With an input c that explains a share of y, l is what is left of it.
With a second level z2 -> z1, both decode as one does, and the upper collapses once its divergence weighs more.

The weight is `scale_both` of `elbo`, by address and as a number that is traced: all weights train in one program.

Source: Lucas et al., Don't Blame the ELBO!, 2019; Dang et al., Beyond Vanilla Variational Autoencoders, 2024.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import tracegrad as tg
from tracegrad import dist

D, SAMPLES, NOISE = 5, 1000, 1.0
SPECTRUM = np.array([5.0, 3.0, 2.0, 0.8, 0.4])
SHARES, WEIGHTS = (0.0, 0.6), (0.6, 1.0, 1.5, 2.5, 4.0)  # of y that c explains; of the divergence
SETTINGS = np.array([(share, weight) for share in SHARES for weight in WEIGHTS])
UPPER_WEIGHTS = np.array([1.0, 2.0])


@tg.gen
def model(w, c):
    z = tg.sample("z", dist.Normal(jnp.zeros(D), 1.0).to_event(1))
    tg.sample("y", dist.Normal(w["decoder"] @ z + w["regression"] @ c, NOISE).to_event(1))


@tg.gen
def guide(w, c, y):
    loc = w["encoder"] @ jnp.concatenate([y, c])
    tg.sample("z", dist.Normal(loc, jnp.exp(w["log_scale"])).to_event(1))


@tg.gen
def two_levels(w):
    z2 = tg.sample("z2", dist.Normal(jnp.zeros(D), 1.0).to_event(1))
    z1 = tg.sample("z1", dist.Normal(w["upper"] @ z2, 1.0).to_event(1))
    tg.sample("y", dist.Normal(w["decoder"] @ z1, NOISE).to_event(1))


@tg.gen
def two_encoders(w, y):
    z1 = tg.sample("z1", dist.Normal(w["encoder"] @ y, jnp.exp(w["log_scale"])).to_event(1))
    tg.sample("z2", dist.Normal(w["upper_encoder"] @ z1, jnp.exp(w["upper_log_scale"])).to_event(1))


def bound(key, w, setting, c, y):
    return tg.elbo(model, guide, {"y": y}, scale_both={"z": setting[1]})(key, (w, c), (w, c, y))


def upper_bound(key, w, weight, c, y):
    return tg.elbo(two_levels, two_encoders, {"y": y}, scale_both={"z2": weight})(key, w, (w, y))


def fit(bound, w, settings, data, steps):
    """Train one autoencoder for each setting, side by side; the leading axis of everything is that of the settings."""

    def objective(key, w, batch):
        keys = jax.random.split(key, (len(settings), len(batch[0])))
        over_data = jax.vmap(bound, (0, None, None, 0, 0))
        return jax.vmap(over_data, (0, 0, 0, 1, None))(keys, w, settings, *batch).mean(1).sum()

    w = jax.tree.map(lambda leaf: jnp.stack([leaf] * len(settings)), w)
    adam, key = optax.adam(optax.cosine_decay_schedule(0.05, steps)), jax.random.key(0)
    fitted = tg.fit(objective, w, adam, key=key, steps=steps, data=data, batch_size=200, maximize=True, progress=False)
    return jax.tree.map(np.asarray, fitted.params)


def whitened(x):
    x = x - x.mean(0)
    return x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T, bias=True))).T


def dataset():
    """Data whose covariance is exactly the spectrum's, and inputs that explain exactly their share of it."""
    both = whitened(np.random.default_rng(0).standard_normal((SAMPLES, 2 * D)))
    base, other = both[:, :D], both[:, D:]
    inputs = [np.sqrt(share) * base + np.sqrt(1.0 - share) * other for share, _ in SETTINGS]
    return jnp.asarray(np.stack(inputs, 1), jnp.float32), jnp.asarray(base * np.sqrt(SPECTRUM), jnp.float32)


def main(*, quick: bool = False):
    c, y = dataset()
    rng, steps = np.random.default_rng(1), 1500 if quick else 4000

    def matrix(*shape):
        return jnp.asarray(0.1 * rng.standard_normal(shape), jnp.float32)

    w = {"decoder": matrix(D, D), "regression": matrix(D, D), "encoder": matrix(D, 2 * D), "log_scale": jnp.zeros(D)}
    one = fit(bound, w, jnp.asarray(SETTINGS, jnp.float32), (c, y), steps)
    w = {name: matrix(D, D) for name in ("decoder", "upper", "encoder", "upper_encoder")}
    w |= {"log_scale": jnp.zeros(D), "upper_log_scale": jnp.zeros(D)}
    two = fit(upper_bound, w, jnp.asarray(UPPER_WEIGHTS, jnp.float32), (c[:, :2], y), steps)

    left = SPECTRUM * (1.0 - SETTINGS[:, :1])
    cut = SETTINGS[:, 1:] * NOISE**2
    theory = np.sqrt(np.maximum(left - cut, 0.0))
    values = np.linalg.svd(one["decoder"])[1]
    sds = np.sort(np.exp(one["log_scale"])) / np.sqrt(cut / np.maximum(left, cut)) - 1.0
    joint = two["upper"] @ two["upper"].mT + np.eye(D)
    joint = np.sqrt(np.linalg.svd(two["decoder"] @ joint @ two["decoder"].mT)[1])
    plain = theory[WEIGHTS.index(1.0)]
    far = np.abs(values - theory).reshape(len(SHARES), len(WEIGHTS), D)
    aim = 0.06 if quick else 0.02
    rows = [
        ("singular values, plain VAE: error", far[0, 1].max(), 0.0, aim),
        ("singular values, every weight: error", far[0].max(), 0.0, aim),
        ("singular values, 0.6 explained by c: error", far[1].max(), 0.0, aim),
        ("sds of the encoders: relative error", np.abs(sds).max(), 0.0, aim),
        ("two levels: singular values of both: error", np.abs(joint - plain).max(), 0.0, aim),
        ("two levels, upper at weight 2: its largest value", np.linalg.svd(two["upper"][1])[1].max(), 0.0, aim),
    ]
    return rows, draw(values)


def draw(values):
    figure, axes = plt.subplots(1, 2, figsize=(7, 3), sharey=True, layout="constrained")
    weights = np.linspace(0.1, 5.0, 200)
    for ax, share, found in zip(axes, SHARES, values.reshape(len(SHARES), -1, D), strict=True):
        for i, eigenvalue in enumerate(SPECTRUM * (1.0 - share)):
            ax.plot(weights, np.sqrt(np.maximum(eigenvalue - weights, 0.0)), color=f"C{i}")
            ax.plot(WEIGHTS, found[:, i], "o", color=f"C{i}", clip_on=False)
        ax.set(xlabel="weight of the divergence", title=f"{share:.0%} of y explained by c", ylim=(0.0, None))
    axes[0].set_ylabel("singular value of the decoder")
    return figure


if __name__ == "__main__":
    from runner import run

    run(main, __file__)
