"""What the draws of an estimate record: scores, control variates, fork coefficients."""

from __future__ import annotations

from typing import NamedTuple

import jax
from jax import numpy as jnp

from ..program._records import Records


class Ledger(NamedTuple):
    """What the draws of a run recorded: the score of a body, summed control variates, fork coefficients in order.

    None stands for nothing recorded, so that programs without a kind of estimator carry no trace of it.
    """

    score: jax.Array | None = None
    control: jax.Array | None = None
    coefficients: jax.Array | None = None


class Ledgers(Records):
    """Scores and control variates add up, coefficients are numbered in order."""

    def zero(self):
        """No score, no control variate, no fork."""
        return Ledger(jnp.zeros((), float), jnp.zeros((), float), None)

    def join(self, records):
        """Field by field."""
        records = [r for r in records if r is not None]
        if not records:
            return Ledger()
        scores, controls, coefficients = ([x for x in field if x is not None] for field in zip(*records, strict=True))
        return Ledger(total(scores), total(controls), jnp.concatenate(coefficients) if coefficients else None)

    def stack(self, record):
        """The steps of a loop: scores add up, coefficients are numbered step by step."""
        score, control, coefficients = record
        return Ledger(
            None if score is None else score.sum(),
            None if control is None else control.sum(),
            None if coefficients is None else coefficients.reshape(-1),
        )

    def pad(self, record, width):
        """Branches have records of one shape; the narrower ones have coefficients without derivative."""
        zero = jnp.zeros((), float)
        coefficients = jnp.zeros((0,)) if record.coefficients is None else record.coefficients
        return Ledger(
            zero if record.score is None else record.score,
            zero if record.control is None else record.control,
            jnp.pad(coefficients, (0, width - coefficients.shape[0])) if width else None,
        )


def total(terms: list) -> jax.Array | None:
    """The sum of terms; None of none."""
    return sum(terms[1:], terms[0]) if terms else None
