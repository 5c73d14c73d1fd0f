"""Exact means: the noise of an estimator, or the draws of a program, replaced by all of their outcomes.

`_outcomes` finds the draws and runs at one combination of outcomes; `_estimator_mean` sums over the noise of an
estimator (`exact_expectation`), `_outcome_sum` over the draws of a program.

May import: `program`. Open `_estimator_mean.py` first.
"""
