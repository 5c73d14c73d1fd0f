"""Exact means: the noise of an estimator, or the draws of a program, replaced by all of their outcomes.

`_rewritten` makes all draws of a program noise, `_keys` finds the keys that they draw from, `_outcomes` says what one
draw can come to, and `_measuring` runs at one outcome of each. `_estimator_mean` sums over the noise of an estimator
(`exact_expectation`), `_outcome_sum` over the draws of a program.

May import: `program`. Open `_estimator_mean.py` first.
"""
