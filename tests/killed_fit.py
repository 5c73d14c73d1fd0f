"""Run in a process of its own: a fit that is killed at random moments, and goes on from its files, as JSON.

Each attempt is a process that is forked before JAX has begun anything, so that they share the time of its import.
"""

import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import optax
from jax import numpy as jnp

import tracegrad as tg
from tracegrad.training import _history

STEPS = 2000
_history.BLOCK = 300  # so that a run has some


def objective(key, params, batch, state):
    z = params["w"] + 0.1 * jax.random.normal(key, params["w"].shape)
    value = jnp.mean((batch - z) ** 2)
    return value, state.update(value)


def fit(folder):
    data = np.arange(60.0, dtype=np.float32).reshape(20, 3)
    params = {"w": jnp.zeros(3), "key": jax.random.key(7), "name": "w", "f": jnp.tanh, "none": None}
    return tg.fit(
        objective,
        params,
        optax.adam(0.01),
        key=jax.random.key(0),
        steps=STEPS,
        data=data,
        batch_size=8,
        state=tg.MovingAverage(),
        progress=False,
        checkpoint=folder,
        checkpoint_every=50,
        resume=True,
    )


def bits(fitted):
    """One hash of all that a fit holds."""
    whole = hashlib.sha256()
    for x in jax.tree.leaves(fitted):
        if isinstance(x, jax.Array | np.ndarray):
            is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
            whole.update(np.asarray(jax.random.key_data(x) if is_key else x).tobytes())
    return whole.hexdigest()


def attempt(folder, result):
    """Start a process that fits, and writes down what it has at its end."""
    child = os.fork()
    if child == 0:
        try:
            result.write_text(bits(fit(folder)))
        finally:
            os._exit(0)
    return child


def killed(child, after):
    """Whether a process was still there to be killed after so many seconds."""
    until = time.monotonic() + after
    while time.monotonic() < until:
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def main(kills, seed):
    moments, folder = random.Random(seed), Path(tempfile.mkdtemp())
    # The first compiles; the time of one that finds it compiled says when the others are at work.
    os.waitpid(attempt(folder / "first", folder / "compiled"), 0)
    began = time.monotonic()
    os.waitpid(attempt(folder / "whole", folder / "undisturbed"), 0)
    seconds = time.monotonic() - began
    assert (folder / "compiled").read_text() == (folder / "undisturbed").read_text()
    found, run = [], 0
    while len(found) < kills:
        run += 1
        steps = folder / f"run {run}"
        while True:
            result = folder / f"result {run}"
            if not killed(attempt(steps, result), moments.uniform(0.0, 1.2 * seconds)):
                break
            found.append(max((path.name for path in steps.glob("step-*.fit")), default="none"))
            if len(found) == kills:
                os.waitpid(attempt(steps, result), 0)
                break
        assert result.read_text() == (folder / "undisturbed").read_text(), f"run {run} ended otherwise: {found}"
    print(json.dumps({"kills": found, "seconds": seconds}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
