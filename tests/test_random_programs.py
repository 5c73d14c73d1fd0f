"""Random small programs, value and gradient by every estimator, against sums over all outcomes.

The seed moves with the commit. A failing program is printed as its source, and that line runs it again.
"""

import concurrent.futures
import random

import pytest
from moving_seed import VARIABLE, moving_seed
from program_runs import deviation
from random_programs import random_program

THREADS = 2


def deviations(seed, n):
    """What is wrong with `n` random programs; two at a time, one compiled while another is traced."""
    chance = random.Random(seed)
    programs = [random_program(chance) for _ in range(n)]
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        return [found for found in pool.map(deviation, programs) if found]


@pytest.mark.parametrize("n", [60, pytest.param(200, marks=pytest.mark.slow)])
def test_random_programs(n):
    seed = moving_seed()
    found = deviations(seed, n)
    assert not found, f"{len(found)} of {n} programs of {VARIABLE}={seed}:\n" + "\n".join(found)
