"""Ten programs as tracegrad and as NumPyro have them, end to end: model, inference, predictions, ArviZ.

    python tests/benchmarks ports [--only NAME ...] [--rounds 3] [--draws 500] [--small]

The programs are those of `docs/from-numpyro.md`. Both of a pair run in turn, from nothing; then once more, when XLA's
compilations are found in JAX's own cache and only tracing and lowering are done again. Seconds are of the processor, of
all threads together, so that other work on the machine does not count.
"""

import argparse
import statistics
import sys
import tempfile
import time

import jax
from jax.experimental.compilation_cache.compilation_cache import reset_cache
from numpyro_pairs import PAIRS, SMALL, run

from .timing import median_ratio, show_table


def once(name, sizes, *, small):
    """The processor's seconds of one run in which nothing is known in memory."""
    jax.clear_caches()
    begun = time.process_time()
    run(name, seed=0, small=small, **sizes)
    return time.process_time() - begun


def cold_and_warm(name, sizes, *, small):
    """Those of a run with an empty cache of compilations, and of the next."""
    with tempfile.TemporaryDirectory() as folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        reset_cache()
        return [once(name, sizes, small=small) for _ in range(2)]


def sizes_of(name, draws):
    """What is not left as the program has it."""
    return {"draws": draws} if "draws" in SMALL[name] else {}


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("table", nargs="*")
    options.add_argument("--only", nargs="*", default=PAIRS)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--draws", type=int, default=500)
    options.add_argument("--small", action="store_true")
    options = options.parse_args()
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    rows = []
    for name in options.only:
        sizes = SMALL[name] if options.small else sizes_of(name, options.draws)
        times = {name: [], f"{name}_numpyro": []}
        for i in range(options.rounds):
            for module in list(times)[:: -1 if i % 2 else 1]:
                times[module].append(cold_and_warm(module, sizes, small=options.small))
        rows.append([name, *_compared(*times.values())])
        print("  ".join(rows[-1]), file=sys.stderr, flush=True)
    header = ["", "ours, s", "NumPyro, s", "ratio", "ours, compiled before", "NumPyro, compiled before", "ratio"]
    show_table("Model, inference, predictions and ArviZ: medians", header, rows)


def _compared(ours, theirs):
    for part in range(2):
        one, other = [t[part] for t in ours], [t[part] for t in theirs]
        yield f"{statistics.median(one):.1f}"
        yield f"{statistics.median(other):.1f}"
        yield f"{median_ratio(one, other):.2f}"
