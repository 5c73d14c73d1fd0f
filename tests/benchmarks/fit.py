"""The loop of `fit`, its progress shown and a file written every 1000 steps, against `lax.scan` by hand.

A logistic regression of 20 parameters in minibatches of 64, and a network whose steps take longer. By hand: the rows of
each minibatch drawn before, as many steps in one `scan` as `fit` has in a dispatch, nothing shown and nothing kept.
"""

import contextlib
import io
import tempfile

import jax
import numpy as np
import optax
from jax import lax
from jax import numpy as jnp

import tracegrad as tg

from .timing import median_ratio, show_table, take_turns

STEPS, ROUNDS, BATCH, CHUNK = 20_000, 5, 64, 1000
KEY, ADAM = jax.random.key(0), optax.adam(1e-3)
X = jax.random.normal(jax.random.key(1), (10_000, 20))
Y = (X[:, 0] > 0.0).astype(float)


def logistic(key, params, batch):
    x, y = batch
    return jnp.mean(jnp.logaddexp(0.0, x @ params["w"]) - y * (x @ params["w"]))


def network(key, params, batch):
    x, y = batch
    hidden = jnp.tanh(x @ params["in"]) + 0.1 * jax.random.normal(key, (len(x), 200))
    return jnp.mean((jnp.tanh(hidden @ params["middle"]) @ params["out"] - y) ** 2)


PROGRAMS = {
    "logistic regression": (logistic, {"w": jnp.zeros(20)}, STEPS),
    "network": (
        network,
        {"in": jnp.full((20, 200), 0.01), "middle": jnp.full((200, 200), 0.01), "out": jnp.zeros(200)},
        STEPS // 20,
    ),
}


def ours(objective, params, steps, *, kept):
    def run():
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
            options = {"checkpoint": folder, "checkpoint_every": 1000} if kept else {"progress": False}
            options |= {"key": KEY, "steps": steps, "data": (X, Y), "batch_size": BATCH}
            return tg.fit(objective, params, ADAM, **options).params

    return run


def by_hand(objective, params, steps):
    def run():
        order = np.random.default_rng(0)
        per_pass = len(X) // BATCH + 1
        rows = np.concatenate([order.permutation(len(X)) for _ in range(steps // per_pass + 2)])
        rows = rows[: steps * BATCH].reshape(steps, BATCH).astype(np.int32)

        @jax.jit
        def chunk(carry, start, rows):
            def step(carry, given):
                (now, state), (i, row) = carry, given
                at = jax.value_and_grad(objective, argnums=1)
                value, slope = at(jax.random.fold_in(KEY, i), now, (X[row], Y[row]))
                updates, state = ADAM.update(slope, state, now)
                return (optax.apply_updates(now, updates), state), value

            return lax.scan(step, carry, (start + jnp.arange(len(rows)), rows))

        carry, values = (params, ADAM.init(params)), []
        for start in range(0, steps, CHUNK):
            carry, value = chunk(carry, start, rows[start : start + CHUNK])
            values.append(np.asarray(value))
        return carry[0]

    return run


def main():
    """Print the times of the loops, compilation among them, and their ratios."""
    rows = []
    for name, (objective, params, steps) in PROGRAMS.items():
        candidates = {
            "by hand": by_hand(objective, params, steps),
            "fit": ours(objective, params, steps, kept=False),
            "fit, shown and kept": ours(objective, params, steps, kept=True),
        }
        times = take_turns(candidates, ROUNDS)
        for candidate, taken in times.items():
            ratio = median_ratio(taken, times["by hand"])
            rows.append([name, candidate, f"{1e6 * np.median(taken) / steps:.1f}", f"{ratio:.2f}"])
    show_table("Loops", ["program", "loop", "microseconds a step", "over by hand"], rows)


if __name__ == "__main__":
    main()
