"""What every test runs under: no silent promotion of dtypes or ranks, no plot windows."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")

import jax  # noqa: E402  (the variable above must be set first)

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
