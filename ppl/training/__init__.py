"""Optimising an objective: `fit`, its progress line, baselines that train alongside.

May import: `tracegrad.transforms`. Open `_fit.py` first.
"""
