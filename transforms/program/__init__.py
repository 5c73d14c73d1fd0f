"""A traced program, cut at its draws, and the loop that runs it.

Everything above is written in terms of these: what a sample is to JAX (`_site`), what a site contributes
(`_site_terms`), a jaxpr cut at its samples (`_plan`), the interpreter (`_interpreter`), whose *modes* say what a draw
means, what draws record (`_records`), the alternative that is put in place (`_alternative`), what flows through a
program (`_flow`), and control flow, one construct a file (`control/`).

May import: the files beside this folder that know no program (`_jax`, `_pytree`, `_errors`, `_distribution`,
`_estimator`). Open `_plan.py` first, then `_interpreter.py`.
"""
