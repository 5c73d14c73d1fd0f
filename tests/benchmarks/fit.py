"""The loop of `fit`, its progress shown and a file written every 1000 steps, against `lax.scan` by hand.

A logistic regression of 20 parameters in minibatches of 64, and two networks whose steps take longer. By hand: the rows
of each minibatch drawn before, as many steps in one `scan` as `fit` has in a dispatch, nothing shown and nothing kept.
First without compilation: both have run before, and keep what they compiled. Then with it: both are made anew.

Of each pair the median of the ratios within a round, and the ratio of the shortest times, which says more on a machine
that others use; the same of processor time.
"""

import contextlib
import io
import tempfile
import time

import jax
import numpy as np
import optax
from jax import lax
from jax import numpy as jnp

import tracegrad as tg

from .timing import median_ratio, show_table

ROUNDS, BATCH, CHUNK = 9, 64, 1000
KEY, ADAM = jax.random.key(0), optax.adam(1e-3)
X = jax.random.normal(jax.random.key(1), (10_000, 20))
Y = (X[:, 0] > 0.0).astype(float)


def logistic(key, params, batch):
    x, y = batch
    return jnp.mean(jnp.logaddexp(0.0, x @ params["w"]) - y * (x @ params["w"]))


def network(key, params, batch):
    x, y = batch
    hidden = jnp.tanh(x @ params["in"]) + 0.1 * jax.random.normal(key, (len(x), len(params["out"])))
    return jnp.mean((jnp.tanh(hidden @ params["middle"]) @ params["out"] - y) ** 2)


def layers(width):
    return {"in": jnp.full((20, width), 0.01), "middle": jnp.full((width, width), 0.01), "out": jnp.zeros(width)}


PROGRAMS = {
    "logistic regression": (logistic, {"w": jnp.zeros(20)}, 100_000),
    "network of 200": (network, layers(200), 4000),
    "network of 800": (network, layers(800), 1000),
}


def ours(objective, params, steps, *, kept):
    def run():
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
            options = {"checkpoint": folder, "checkpoint_every": 1000} if kept else {"progress": False}
            options |= {"key": KEY, "steps": steps, "data": (X, Y), "batch_size": BATCH}
            return tg.fit(objective, params, ADAM, **options).params

    return run


def by_hand(objective, params, steps):
    @jax.jit
    def chunk(carry, start, rows):
        def step(carry, given):
            (now, state), (i, row) = carry, given
            at = jax.value_and_grad(objective, argnums=1)
            value, slope = at(jax.random.fold_in(KEY, i), now, (X[row], Y[row]))
            updates, state = ADAM.update(slope, state, now)
            return (optax.apply_updates(now, updates), state), value

        return lax.scan(step, carry, (start + jnp.arange(len(rows)), rows))

    def run():
        order = np.random.default_rng(0)
        per_pass = len(X) // BATCH
        rows = np.concatenate([order.permutation(len(X)) for _ in range(steps // per_pass + 2)])
        rows = rows[: steps * BATCH].reshape(steps, BATCH).astype(np.int32)
        carry, values = (params, ADAM.init(params)), []
        for start in range(0, steps, CHUNK):
            carry, value = chunk(carry, start, rows[start : start + CHUNK])
            values.append(np.asarray(value))
        return carry[0]

    return run


def anew(make, objective, *rest, **options):
    """What makes the loop of a new function and runs it."""
    return lambda: make(lambda *given: objective(*given), *rest, **options)()


def timed(candidates, rounds):
    """The times, and the processor times, of candidates that take turns."""
    times = {name: ([], []) for name in candidates}
    for i in range(rounds):
        for name in list(candidates)[:: -1 if i % 2 else 1]:
            wall, processor = time.perf_counter(), time.process_time()
            jax.block_until_ready(candidates[name]())
            times[name][0].append(time.perf_counter() - wall)
            times[name][1].append(time.process_time() - processor)
    return times


def ratios(above, below):
    """Those of wall and of processor times: the medians over rounds, and of the shortest."""
    return [
        f"{ratio:.2f}" for a, b in zip(above, below, strict=True) for ratio in (median_ratio(a, b), min(a) / min(b))
    ]


def table(title, candidates_of, rounds, warm):
    rows = []
    for name, (objective, params, steps) in PROGRAMS.items():
        candidates = candidates_of(objective, params, steps)
        for run in candidates.values() if warm else ():
            jax.block_until_ready(run())
        times = timed(candidates, rounds)
        for candidate, taken in times.items():
            rows.append([name, candidate, f"{1e6 * min(taken[0]) / steps:.1f}", *ratios(taken, times["by hand"])])
    header = ["program", "loop", "least microseconds a step", "median", "least", "median of CPU", "least of CPU"]
    show_table(title, header, rows)


def steady(objective, params, steps):
    return {
        "by hand": by_hand(objective, params, steps),
        "fit": ours(objective, params, steps, kept=False),
        "fit, shown and kept": ours(objective, params, steps, kept=True),
    }


def compiling(objective, params, steps):
    return {
        "by hand": anew(by_hand, objective, params, steps),
        "fit, shown and kept": anew(ours, objective, params, steps, kept=True),
    }


def main():
    """Print the times of the loops without compilation and with it, and their ratios."""
    table("Loops, compiled before", steady, ROUNDS, warm=True)
    jax.config.update("jax_enable_compilation_cache", False)
    table("Loops, compiled anew", compiling, 3, warm=False)


if __name__ == "__main__":
    main()
