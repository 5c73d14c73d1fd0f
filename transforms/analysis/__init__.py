"""What can be read off a program without running it, and where a run went wrong.

Which draws a value depends on (`_dependence`; what that means is in `_sources`, and how each operation hands it on in
`_dependence_rules`), where a reparameterised draw meets a discontinuity (`_discontinuities`), which operation made the
first number that is not finite (`_nonfinite`), which keys are drawn with twice (`_key_reuse`).

May import: `program`. Open `_dependence.py` first.
"""
