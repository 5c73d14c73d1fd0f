"""What every test runs under: no silent promotion of dtypes or ranks, no plot windows, quick compilation."""

import gc
import math
import os
import zlib
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path

import pytest

os.environ.setdefault("MPLBACKEND", "Agg")
# What XLA compiled is kept between runs, in processes that tests start too. An entry is found by the hash of the whole
# program, so code that changed is compiled anew and no test loses its power. `make clean` removes it.
kept = Path(__file__).resolve().parent.parent / ".cache" / "xla"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(kept))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# Most of a test's time is XLA's: programs here are small and run once, so they are compiled without optimisation, and
# by the older of two emitters, which takes a third of the time. XLA ends a process at a flag that it does not know.
quick = os.environ.get("TRACEGRAD_TESTS") != "optimised"  # as `make optimised` says
if quick and version("jaxlib").startswith("0.10."):
    flags = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ.setdefault("XLA_FLAGS", flags)

import jax  # noqa: E402  (the variables above must be set first)

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_disable_most_optimizations", quick)

# Tracing makes many small objects that live for long. At Python's own thresholds, looking for cycles among them takes
# a fifth of the time that is not XLA's.
gc.set_threshold(50_000, 20, 20)


EIGHTH = 0.125
"""The share of a table's rows that `make test` takes."""


@pytest.hookimpl(tryfirst=True)  # before those that are marked slow are left out
def pytest_collection_modifyitems(items):
    """Of each table most rows are slow; which, their names decide, so that one run takes what the last one took."""
    tables = defaultdict(list)
    for item in items:
        if item.get_closest_marker("table"):
            tables[item.nodeid.split("[")[0]].append(item)
    for rows in tables.values():
        rows.sort(key=lambda item: zlib.crc32(item.nodeid.encode()))
        for item in rows[math.ceil(EIGHTH * len(rows)) :]:
            item.add_marker("slow")


def pytest_collection_finish():
    """What is imported by now stays; it is not looked at again."""
    gc.collect()
    gc.freeze()


def write_in_one_step(path: Path, data: bytes) -> int:
    """As `Path.write_bytes`; another process finds all of the file or none, so that workers share compiled programs."""
    part = path.with_name(f"{path.name}.{os.getpid()}")
    with part.open("wb") as file:
        count = file.write(data)
    part.replace(path)
    return count


Path.write_bytes = write_in_one_step
