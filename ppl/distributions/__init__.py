"""What the transformation asks of numpyro's distributions, answered family by family.

Pathwise derivatives and finite supports (`_answers`), their probabilities (`_probabilities`), supports (`_supports`),
log densities whose own are wrong somewhere (`_repaired_densities`), weak derivatives, standard noise, relaxations.
Importing a file here registers its answers, so this imports them all.

May import: `tracegrad.transforms`. Open `_answers.py` first.
"""

from . import _answers as _answers
from . import _gamma_noise as _gamma_noise
from . import _probabilities as _probabilities
from . import _repaired_densities as _repaired_densities
from . import _standard_noise as _standard_noise
from . import _weak_derivatives as _weak_derivatives
