"""The estimate of an expectation with its derivative: scores, control variates, forks, sums.

`_estimate` is the mode that runs a program so, and the sum; `_ledger` what its draws record, `_scores` the boxes.
`_credit_plan` finds which scores each part of the objective needs (its linear tail is told by `_linear_tail`), and
`_credited_scan` runs a loop so. `_surrogate` and `_leave_one_out` build objectives
that state their own gradient.

May import: `program`, `analysis`, `forks`. Open `_estimate.py` first.
"""
