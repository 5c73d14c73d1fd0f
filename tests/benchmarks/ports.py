"""Ten programs as tracegrad and as NumPyro have them, end to end: model, inference, predictions, ArviZ.

    python tests/benchmarks ports [--only NAME ...] [--rounds 3] [--draws 500] [--small]

The programs are those of `docs/from-numpyro.md`. Both of a pair run in turn, from nothing each time: what was compiled
is forgotten before. JAX says itself how long it lowered and compiled; the rest is tracing, running and Python.
"""

import argparse
import statistics
import sys

import jax
import jax.monitoring
from numpyro_pairs import PAIRS, SMALL, run

from .timing import median_ratio, seconds, show_table

COMPILING = ("/jax/core/compile/jaxpr_to_mlir_module_duration", "/jax/core/compile/backend_compile_duration")


class Compiling:
    """The seconds that JAX said it spent on lowering and compiling, since the last time that it was asked."""

    def __init__(self):
        self.total = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._heard)

    def _heard(self, event, duration, **_):
        if event in COMPILING:
            self.total += duration

    def since(self) -> float:
        """Those seconds; from now on they are counted anew."""
        total, self.total = self.total, 0.0
        return total


def once(name, compiling, sizes, *, small):
    """The time of one run from nothing, and the part of it that is not compilation."""
    jax.clear_caches()
    compiling.since()
    total = seconds(lambda: run(name, seed=0, small=small, **sizes) and ())
    return total, total - compiling.since()


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
    compiling, rows = Compiling(), []
    for name in options.only:
        sizes = SMALL[name] if options.small else sizes_of(name, options.draws)
        times = {name: [], f"{name}_numpyro": []}
        for i in range(options.rounds):
            for module in list(times)[:: -1 if i % 2 else 1]:
                times[module].append(once(module, compiling, sizes, small=options.small))
        rows.append([name, *_compared(*times.values())])
        print("  ".join(rows[-1]), file=sys.stderr, flush=True)
    header = ["", "ours, s", "NumPyro, s", "ratio", "ours, not compiling", "NumPyro, not compiling", "ratio"]
    show_table("Model, inference, predictions and ArviZ: medians", header, rows)


def _compared(ours, theirs):
    for part in range(2):
        one, other = [t[part] for t in ours], [t[part] for t in theirs]
        yield f"{statistics.median(one):.1f}"
        yield f"{statistics.median(other):.1f}"
        yield f"{median_ratio(one, other):.2f}"
