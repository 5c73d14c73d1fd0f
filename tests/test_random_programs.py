"""Random small programs, value and gradient by every estimator, against sums over all outcomes.

The seed moves with the commit. A failing program is printed as its source, and that line runs it again.
"""

import concurrent.futures
import random

from moving_seed import VARIABLE, moving_seed
from program_runs import deviation
from random_programs import random_program

PROGRAMS = 200
THREADS = 2


def deviations(seed, n):
    """What is wrong with `n` random programs; two at a time, one compiled while another is traced."""
    chance = random.Random(seed)
    programs = [random_program(chance) for _ in range(n)]
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        return [found for found in pool.map(deviation, programs) if found]


def test_random_programs():
    seed = moving_seed()
    found = deviations(seed, PROGRAMS)
    assert not found, f"{len(found)} of {PROGRAMS} programs of {VARIABLE}={seed}:\n" + "\n".join(found)
