"""The language: generative functions, their operations, their combinators.

`_operations` says what each operation does at a site, `_function` runs a Python function under one with a `_frame`,
`_interface` and `_generative` are what users call. Choices are nested dicts, with paths and patterns in `_addresses`.

May import: `tracegrad.transforms`. Open `_operations.py` first, then `_function.py`.
"""
