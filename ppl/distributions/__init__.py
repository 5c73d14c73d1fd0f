"""What the transformation asks of numpyro's distributions, answered family by family.

Pathwise derivatives and finite supports (`_answers`), supports (`_supports`), log densities whose own are
wrong somewhere (`_repaired_densities`),
weak derivatives, standard noise, relaxations. Importing a file here registers its answers.

May import: `tracegrad.transforms`. Open `_answers.py` first.
"""
