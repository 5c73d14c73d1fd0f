"""Random small programs, value and gradient by every estimator, against sums over all outcomes.

The seed moves with the commit. A failing program is printed as its source, and one line runs it again:

    check(Program(statements=(Draw(family='coin', estimator='mvd', slope=1.0),)))
"""

import concurrent.futures
import random

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from moving_seed import VARIABLE, moving_seed
from random_programs import (  # noqa: F401  (all statements, for a failing program's source)
    NODES_OF_NOISE,
    Branch,
    Call,
    Draw,
    Loop,
    Plate,
    Program,
    W,
    cells,
    estimate,
    quick_key,
    random_program,
    sums,
)

import tracegrad as tg

PROGRAMS = 200
THREADS = 2


def check(program):
    """Value and gradient, exactly; in forward mode or backward."""
    with jax.enable_x64(True):
        key, mean = quick_key(), tg.exact_expectation(estimate(program), cells=cells(program), nodes=NODES_OF_NOISE)

        def twice(w):
            y = mean(key, w)
            return y, y

        derivative = jax.jacrev if program.backward else jax.jacfwd
        gradient, value = derivative(twice, has_aux=True)(jnp.asarray(W))
    expected, expected_gradient = sums(program)
    np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-9, err_msg="value")
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-9, atol=1e-9, err_msg="gradient")


def deviation(program):
    """What is wrong with a program: None where nothing is."""
    try:
        check(program)
    except Exception as error:  # whatever comes is shown with the program
        return f"check({program})\n    {type(error).__name__}: {' '.join(str(error).split())[:500]}"
    return None


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
