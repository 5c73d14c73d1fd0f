"""What every test runs under: no silent promotion of dtypes or ranks, no plot windows, quick compilation."""

import os
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")
# What XLA compiled is kept between runs, in processes that tests start too. An entry is found by the hash of the whole
# program, so code that changed is compiled anew and no test loses its power. `make clean` removes it. A worker has a
# folder of its own: an entry that another one is writing cannot be read.
kept = Path(__file__).resolve().parent.parent / ".cache" / "xla" / os.environ.get("PYTEST_XDIST_WORKER", "alone")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(kept))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# Most of a test's time is XLA's: programs here are small and run once, so they are compiled without optimisation, and
# by the older of two emitters, which takes a third of the time. XLA ends a process at a flag that it does not know.
if version("jaxlib").startswith("0.10."):
    flags = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ.setdefault("XLA_FLAGS", flags)

import jax  # noqa: E402  (the variables above must be set first)

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_disable_most_optimizations", True)
