"""The estimate of an expectation with its derivative: scores, control variates, forks, sums.

`_estimate` is the mode that runs a program so, and the sum; `_ledger` what its draws record, `_scores` the boxes.
`_credit_plan` says which scores each part of the objective needs: what depends on which is found once for each jaxpr
(`_credit_summary`), and the objective is cut there into a linear tail and the nodes that it is a sum of (`_frontier`,
`_linear_tail`). `_credited_loop` runs a loop so. `_surrogate` and `_leave_one_out` build objectives that state their
own gradient.

May import: `program`, `analysis`, `forks`. Open `_estimate.py` first.
"""
