"""The table: every row of `rows`, ours beside the best by hand and NumPyro, in one run.

    python tests/benchmarks table                     the whole of it, some ten minutes; alone on its machine
    python tests/benchmarks table --quick             each row at its first size, compiled once
    python tests/benchmarks table 'state space' hmm   rows whose names have these words in them
    python tests/benchmarks table --check             and name what got worse than the stored ratios (exit code 1)
    python tests/benchmarks table --store             and store the ratios, in tests/benchmarks/ratios.csv
    python tests/benchmarks table --markdown          print the table of the last run again, and measure nothing

The numbers go to build/benchmarks/table.csv (each candidate), ratios.csv (each ratio and its interval) and table.png.
The rule of `--check` is in `ratios.py`. On another kind of device only its own ratios are compared and stored.
"""

import argparse
import sys
import time
import traceback
from pathlib import Path

import jax

from . import ratios, report
from .measure import QUICK, WHOLE, measure
from .rows import ROWS

STORED = Path(__file__).with_name("ratios.csv")
WARMS_UP = "plate of normals"
BUILD = Path(__file__).resolve().parents[2] / "build" / "benchmarks"


def options_of(arguments):
    """The options, and the names of the rows that they choose."""
    parser = argparse.ArgumentParser(prog="python tests/benchmarks table", description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="ROW", help="; ".join(ROWS))
    for option in ("quick", "check", "store", "markdown"):
        parser.add_argument(f"--{option}", action="store_true")
    options = parser.parse_args(arguments)
    for name in options.names:
        if not any(name in row for row in ROWS):
            parser.error(f"no row has {name!r} in its name. There are: {'; '.join(ROWS)}")
    return options, [row for row in ROWS if not options.names or any(name in row for name in options.names)]


def measured(names, effort, platform, *, quick):
    """What was found, and the rows that could not be run."""
    found, failed = report.Found({}, {}), []
    for name in names:
        row = ROWS[name]
        for size in row.sizes[: row.quick if quick else None]:
            begun, worked = time.perf_counter(), time.process_time()
            try:
                costs = measure(row, size, effort)
            except Exception:  # one row must not take the others with it
                traceback.print_exc()
                failed.append(f"{name}, size {size}")
                continue
            found.costs.update({(name, str(size), who): report.summary(cost) for who, cost in costs.items()})
            found.ratios.update(ratios.ratios_of(platform, name, size, costs))
            write(found)  # what was measured stays, whatever comes after
            taken = f"{time.perf_counter() - begun:.1f} s, {time.process_time() - worked:.1f} of the processor"
            print(f"{name}, {size}: {taken}", file=sys.stderr, flush=True)
    return found, failed


def write(found):
    """Write what was found so far."""
    report.write_table(BUILD / "table.csv", found)
    ratios.write(BUILD / "ratios.csv", found.ratios)


def check(found, stored):
    """Say what got worse; how many lines that took."""
    worse = ratios.got_worse(found, stored)
    compared, out = len(found.keys() & stored.keys()), ratios.unsure(found)
    print(f"\nCompared: {compared} of {len(found)} ratios. Measured too seldom to tell: {out}. Worse: {len(worse)}.")
    print(*worse, sep="\n")
    return len(worse)


def main(arguments=None):
    """Measure, print, write, and compare or store where that is asked for."""
    options, names = options_of(sys.argv[2:] if arguments is None else arguments)
    if options.markdown:
        report.show(report.Found(report.read_table(BUILD / "table.csv"), ratios.read(BUILD / "ratios.csv")))
        return
    jax.config.update("jax_enable_compilation_cache", False)  # what is timed is a compilation
    BUILD.mkdir(parents=True, exist_ok=True)
    effort, platform = QUICK if options.quick else WHOLE, jax.default_backend()
    measure(ROWS[WARMS_UP], 10, QUICK)  # what JAX and NumPyro do once per process
    found, failed = measured(names, effort, platform, quick=options.quick)
    report.show(found)
    report.draw(BUILD / "table.png", found)
    stored = ratios.read(STORED)
    worse = check(found.ratios, stored) if options.check else 0
    if options.store:
        ratios.write(STORED, stored | found.ratios)
    if failed:
        print("Did not run:", *failed, sep="\n", file=sys.stderr)
    if failed or worse:
        sys.exit(1)
