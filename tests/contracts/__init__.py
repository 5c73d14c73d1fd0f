"""A valid call of every public name, and of what kind each of its arguments is.

The fuzzer puts wrong values in place of the valid ones. A name or an argument that is not here fails a test.

A file for each part of the library; `kinds` says how one is written. Open `language.py` first.
"""

from . import densities, estimators, families, language, objectives, training
from .exempt import MADE_BY_THE_LIBRARY as MADE_BY_THE_LIBRARY
from .exempt import NOTHING_TO_GIVE as NOTHING_TO_GIVE

CONTRACTS = {
    **language.TABLE,
    **densities.TABLE,
    **families.TABLE,
    **objectives.TABLE,
    **estimators.TABLE,
    **training.TABLE,
}
