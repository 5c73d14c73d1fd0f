"""From a target to a checked posterior in one call: a variational fit, an objective evaluated, calibration simulated.

May import: every other room. Open `_vi.py` first.
"""
