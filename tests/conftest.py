"""What every test runs under: no silent promotion of dtypes or ranks, no plot windows, quick compilation."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")

import jax  # noqa: E402  (the variable above must be set first)

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Most of a test's time is XLA's: programs here are small and run once, so they are compiled without optimisation.
jax.config.update("jax_disable_most_optimizations", True)
