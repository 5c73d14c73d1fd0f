"""Random small programs, value and gradient by every estimator, against sums over all outcomes.

The seed moves with the commit. A failing program is printed as its source, and that line runs it again.
"""

import random

import pytest
from moving_seed import VARIABLE, moving_seed
from program_runs import deviation
from random_programs import random_program

SEED = moving_seed()
PORTION = 10
PORTIONS = 20


# A portion is one test, so that workers share them.
@pytest.mark.parametrize("portion", [0, *(pytest.param(i, marks=pytest.mark.slow) for i in range(1, PORTIONS))])
def test_random_programs(portion):
    chance = random.Random(f"{SEED}/{portion}")
    found = [told for told in (deviation(random_program(chance)) for _ in range(PORTION)) if told]
    assert not found, f"{len(found)} of {PORTION} programs, {VARIABLE}={SEED}:\n" + "\n".join(found)
