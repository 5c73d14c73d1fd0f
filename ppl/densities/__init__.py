"""Generative functions whose density is an estimate: `marginal` and `normalize`.

May import: `core`, `algorithms`. Open `_marginal_and_normalize.py` first.
"""
