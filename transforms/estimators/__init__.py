"""The gradient estimators, one family a file: each is a class of one of the three kinds of `_estimator.py`.

May import: `program` (for `noise`), `exact` (for noise that can be enumerated). Open `_reinforce.py` first, then
`_local_expectation.py`.
"""
