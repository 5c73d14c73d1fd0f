"""Objectives: programs over densities and expectations, a dozen lines each. None is privileged.

May import: `core`, `algorithms`, `densities`. Open `_bounds.py` first.
"""
