"""Logistic regression on a file that is larger than memory: `fit` against a loop by hand, and what memory each takes.

    python tests/benchmarks memmap --rows 1000000 --dtype float32 --sparse      400 GB that take no room on the disk
    python tests/benchmarks memmap --rows 60000                                 6 GB of bytes, written and read

A row is 100,000 numbers, and each has a parameter. By hand: a thread reads the rows of the next step, in the order of
the file, while one compiled step runs on those of this one. Both draw their rows at random, and read others in each
round. Memory is what the process has for itself (`RssAnon`); pages of the file that the system holds are its own to
take back. With `--limit` the system refuses more than so many GB.
"""

import argparse
import resource
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import optax
from jax import numpy as jnp

import tracegrad as tg

from .timing import median_ratio, show_table

GB = 2**30
ADAM = optax.adam(1e-3)


def arguments():
    parser = argparse.ArgumentParser(prog="memmap")
    for name, default in (("rows", 10_000), ("features", 100_000), ("batch", 64), ("steps", 40), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dtype", default="uint8")
    parser.add_argument("--limit", type=float, default=4.0)
    parser.add_argument("--folder", default=None)
    parser.add_argument("--sparse", action="store_true")
    return parser.parse_known_args()[0]


def written(path, given):
    """A file of random bytes, or one of holes, which are zeros that have no place on the disk."""
    shape = (given.rows, given.features)
    if given.sparse:
        with path.open("wb") as file:
            file.truncate(given.rows * given.features * np.dtype(given.dtype).itemsize)
    else:
        chance = np.random.default_rng(0)
        with path.open("wb") as file:
            for start in range(0, given.rows, 1000):
                count = min(1000, given.rows - start)
                file.write(chance.integers(0, 2, (count, given.features), np.uint8).astype(given.dtype).tobytes())
    return np.memmap(path, given.dtype, "r", shape=shape)


def loss(key, w, batch):
    logits = batch["x"].astype(w.dtype) @ w
    return jnp.mean(jnp.logaddexp(0.0, logits) - batch["y"] * logits)


@jax.jit
def step(w, state, batch):
    value, slope = jax.value_and_grad(loss, argnums=1)(None, w, batch)
    updates, state = ADAM.update(slope, state, w)
    return optax.apply_updates(w, updates), state, value


def by_hand(data, start, given, seed):
    """A loop as a careful programmer writes it."""
    chance, w, state, values = np.random.default_rng(seed), start, ADAM.init(start), []

    def read():
        rows = np.sort(chance.choice(len(data["y"]), given.batch, replace=False))
        return jax.device_put({"x": np.asarray(data["x"][rows]), "y": data["y"][rows]})

    with ThreadPoolExecutor(1) as thread:
        ahead = thread.submit(read)
        for i in range(given.steps):
            batch = ahead.result()
            if i + 1 < given.steps:
                ahead = thread.submit(read)
            w, state, value = step(w, state, batch)
            values.append(value)
    return jax.block_until_ready((w, values))


def ours(data, start, given, seed):
    options = {"key": jax.random.key(seed), "steps": given.steps, "batch_size": given.batch, "progress": False}
    return jax.block_until_ready(tg.fit(loss, start, ADAM, data=data, **options).params)


class Memory:
    """The most that the process has for itself while it runs, beyond what it had."""

    def __enter__(self):
        self._ends, self.most, self._before = False, 0, self._now()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._ends = True
        self._thread.join()

    def _now(self):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

    def _watch(self):
        while not self._ends:
            self.most = max(self.most, self._now() - self._before)
            time.sleep(0.01)


def main():
    """Print steps per second of each, their ratio, and the memory that each took."""
    given = arguments()
    if given.limit:
        resource.setrlimit(resource.RLIMIT_DATA, (int(given.limit * GB),) * 2)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        x = written(Path(folder) / "x", given)
        data = {"x": x, "y": (np.arange(given.rows) % 2).astype(np.float32)}
        candidates, start = {"by hand": by_hand, "fit": ours}, jnp.zeros(given.features)
        times, memory = {name: [] for name in candidates}, dict.fromkeys(candidates, 0)
        for round_ in range(given.rounds + 1):
            for name in list(candidates)[:: -1 if round_ % 2 else 1]:
                with Memory() as used:
                    began = time.perf_counter()
                    candidates[name](data, start, given, round_)
                    times[name].append(time.perf_counter() - began)
                memory[name] = max(memory[name], used.most)
    rows = [
        [
            name,
            f"{given.steps / np.median(taken[1:]):.1f}",
            f"{median_ratio(times['by hand'][1:], taken[1:]):.2f}",
            f"{min(times['by hand'][1:]) / min(taken[1:]):.2f}",
            f"{memory[name] / GB:.2f}",
        ]
        for name, taken in times.items()
    ]
    kind = "of holes" if given.sparse else "on the disk"
    title = f"A file of {x.nbytes / GB:.0f} GB {kind}, {given.rows} rows; no more than {given.limit:g} GB of memory"
    show_table(title, ["loop", "steps/s", "over by hand, median", "of the least times", "GB at most"], rows)


if __name__ == "__main__":
    main()
