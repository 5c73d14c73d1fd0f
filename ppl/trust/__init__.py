"""Whether to believe it: estimators chosen, described, checked and compared; importance weights; Markov chains.

May import: `core`, `algorithms`, `auto`. Open `_check_unbiased.py` first.
"""
