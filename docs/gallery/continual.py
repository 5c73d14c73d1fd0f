"""Continual learning with binary weights: the posterior of one task is the prior of the next.

A perceptron has 12 weights of +-1 and meets two tasks, one after the other; the family is a Bernoulli for each weight.
Of 4096 weight vectors all is known by summation: the evidence, and the bound that a fit has reached. With unbiased
estimators of the binary layer it is the best bound, and what was learnt of the first task is kept; relaxations optimise
another objective, and end elsewhere. All estimators are trained side by side, in one program, on the same data.

Source: Meng, Bachmann and Khan, Training Binary Neural Networks Using the Bayesian Learning Rule, 2020 (the task); the
reference is the sum over all weights.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import tracegrad as tg
from tracegrad import dist

N, PATTERNS, SHARP, DRAWS = 12, 25, 3.0, 8
EVERY = (jnp.arange(2**N)[:, None] >> jnp.arange(N)) & 1
FIRST, SECOND = jnp.repeat(jnp.array([True, False]), PATTERNS), jnp.repeat(jnp.array([False, True]), PATTERNS)


@tg.gen
def outcomes(w, x, seen):
    tg.sample("y", dist.Bernoulli(logits=SHARP * x @ (2.0 * w - 1.0)).mask(seen).to_event(1))


@tg.gen
def model(prior, x, seen):
    w = tg.sample("w", dist.Bernoulli(logits=prior).to_event(1))
    outcomes.inline(w.astype(float), x, seen)


@tg.gen
def guide(logits):
    tg.sample("w", dist.Bernoulli(logits=logits).to_event(1))


@tg.gen
def relaxed(logits, make):
    return tg.sample("w", make(jnp.stack([jnp.zeros(N), logits], -1)))[:, 1]


def unbiased(estimator):
    return lambda key, q, prior, x, y, seen: tg.elbo(model, guide.with_estimators({"w": estimator}), {"y": y})(
        key, (prior, x, seen), q
    )


def biased(make):
    """The bound with weights between the two values; the divergence is that of the Bernoullis."""

    @tg.expectation
    def bound(key, q, prior, x, y, seen):
        w = relaxed.simulate(key, q, make).retval
        divergence = jax.nn.sigmoid(q) * (q - prior) + jax.nn.softplus(prior) - jax.nn.softplus(q)
        return outcomes.assess({"y": y}, w, x, seen)[0] - divergence.sum()

    return bound


WAYS = {
    "mvd": unbiased(tg.mvd()),
    "disarm": unbiased(tg.disarm()),
    "reinforce": unbiased(tg.reinforce(baseline=-20.0)),
    "concrete": biased(lambda logits: tg.biased_concrete(logits, 0.5)),
    "straight-through": biased(tg.biased_straight_through),
}


def learn(priors, seen, x, y, steps):
    """For each way, and each row of its priors with what is seen then, the logits of the posterior."""

    def mean(bound, key, q, prior, seen):
        return jax.vmap(lambda key: bound(key, q, prior, x, y, seen))(jax.random.split(key, DRAWS)).mean()

    def objective(key, w):
        keys = jax.random.split(key, len(seen))
        tasks = [jax.vmap(lambda *a, way=way: mean(WAYS[way], *a))(keys, w[way], priors[way], seen) for way in WAYS]
        return sum(task.sum() for task in tasks)

    start = jax.tree.map(jnp.zeros_like, priors)
    adam, key = optax.adam(optax.cosine_decay_schedule(0.1, steps)), jax.random.key(1)
    return tg.fit(objective, start, adam, key=key, steps=steps, maximize=True, progress=False).params


def task(key, teacher, parity):
    """Patterns in which every other weight counts for more, and what the teacher says of them."""
    kx, ky = jax.random.split(key)
    x = jax.random.normal(kx, (PATTERNS, N)) * jnp.where(jnp.arange(N) % 2 == parity, 1.0, 0.3) / jnp.sqrt(N)
    return x, jax.random.bernoulli(ky, jax.nn.sigmoid(SHARP * x @ teacher)).astype(int)


def exact(x, y, seen):
    """The log joint density of all weight vectors under even priors, and the bound of a family, by summation."""
    logp = jax.vmap(lambda w: model.assess({"w": w, "y": y}, jnp.zeros(N), x, seen)[0])(EVERY)

    def bound(q):
        logq = jax.vmap(lambda w: guide.assess({"w": w}, q)[0])(EVERY)
        return float(jnp.sum(jnp.exp(logq) * (logp - logq)))

    return float(jax.nn.logsumexp(logp)), bound


def main(*, quick: bool = False):
    kt, *keys = jax.random.split(jax.random.key(3), 6)[:3]
    teacher = jnp.where(jax.random.bernoulli(kt, 0.5, (N,)), 1.0, -1.0)
    x, y = map(jnp.concatenate, zip(*[task(key, teacher, parity) for parity, key in enumerate(keys)], strict=True))
    steps = 400 if quick else 1500
    at_once = learn({way: jnp.zeros((3, N)) for way in WAYS}, jnp.stack([FIRST, SECOND, FIRST | SECOND]), x, y, steps)
    in_turn = learn({way: at_once[way][:1] for way in WAYS}, SECOND[None], x, y, steps)
    evidence, first = exact(x, y, FIRST)
    _, both = exact(x, y, FIRST | SECOND)
    gaps = {way: evidence - first(at_once[way][0]) for way in WAYS}
    apart = {way: both(at_once["mvd"][2]) - both(in_turn[way][0]) for way in WAYS}
    aim = 0.15 if quick else 0.05
    rows = [
        ("task 1: evidence less the bound by mvd", gaps["mvd"], 0.0, aim),
        ("task 1: the same by disarm", gaps["disarm"], 0.0, aim),
        ("both in turn: less than at once, mvd", apart["mvd"], -0.05, 0.2),
        ("both, without the first posterior: less", both(at_once["mvd"][2]) - both(at_once["mvd"][1]), 2.0, np.inf),
        ("task 1: what concrete loses to mvd", gaps["concrete"] - gaps["mvd"], 0.1, np.inf),
        ("task 1: what straight-through loses", gaps["straight-through"] - gaps["mvd"], 0.5, np.inf),
    ]
    return rows, draw(gaps, apart)


def draw(gaps, apart):
    figure, axes = plt.subplots(1, 2, figsize=(7, 2.8), sharey=True, layout="constrained")
    for ax, values, title in zip(axes, (gaps, apart), ("evidence of task 1", "both tasks at once"), strict=True):
        ax.barh(list(values), list(values.values()))
        ax.set(title=f"nats below: {title}", xscale="log", xlim=(0.01, 10.0))
    return figure


if __name__ == "__main__":
    from runner import run

    run(main, __file__)
