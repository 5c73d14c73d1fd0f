"""What the draws of an estimate record: scores, control variates, fork coefficients."""

from __future__ import annotations

from typing import NamedTuple

import jax
from jax import numpy as jnp

from ..program._records import Records


class Ledger(NamedTuple):
    """What the draws of a run recorded: the score of a body, summed control variates, fork coefficients in order.

    Beside the coefficients are their sizes (`_fork_sizes`), where alternatives are chosen by them.
    None stands for nothing recorded, so that programs without a kind of estimator carry no trace of it.
    """

    score: jax.Array | None = None
    control: jax.Array | None = None
    coefficients: jax.Array | None = None
    sizes: jax.Array | None = None


class Ledgers(Records):
    """Scores and control variates add up, coefficients are numbered in order; `sized` says that they have sizes."""

    def __init__(self, *, sized: bool):
        self.sized = sized

    def zero(self):
        """No score, no control variate, no fork."""
        return Ledger(jnp.zeros((), float), jnp.zeros((), float), None)

    def join(self, records):
        """Field by field."""
        records = [r for r in records if r is not None]
        if not records:
            return Ledger()
        scores, controls, *rows = ([x for x in field if x is not None] for field in zip(*records, strict=True))
        return Ledger(total(scores), total(controls), *(jnp.concatenate(row) if row else None for row in rows))

    def stack(self, record):
        """The steps of a loop: scores add up, coefficients are numbered step by step."""
        score, control, *rows = record
        return Ledger(
            None if score is None else score.sum(),
            None if control is None else control.sum(),
            *(None if row is None else row.reshape(-1) for row in rows),
        )

    def pad(self, record, width):
        """Branches have records of one shape; the narrower ones have coefficients without derivative."""
        zero = jnp.zeros((), float)
        return Ledger(
            zero if record.score is None else record.score,
            zero if record.control is None else record.control,
            _padded(record.coefficients, width) if width else None,
            _padded(record.sizes, width) if width and self.sized else None,
        )


def _padded(row, width):
    row = jnp.zeros((0,)) if row is None else row
    return jnp.pad(row, (0, width - row.shape[0]))


def total(terms: list) -> jax.Array | None:
    """The sum of terms; None of none."""
    return sum(terms[1:], terms[0]) if terms else None
