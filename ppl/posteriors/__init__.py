"""Posteriors and what is made of them: draws, summaries, predictions, log likelihoods, what ArviZ holds.

`Posterior` is what a fit, importance weights and Markov chains have in common; everything else here takes one, or the
draws of one.

May import: `core`, `algorithms`. Open `_posterior.py` first.
"""
