"""Algorithms that estimate an integral: for `marginal`, `normalize` and the bounds.

Each is a file with two functions: estimate Z, and estimate 1/Z given a sample (`_base`).

May import: `core`. Open `_importance.py` first.
"""
