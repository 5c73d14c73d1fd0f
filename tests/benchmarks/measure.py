"""What a program costs before it runs and when it runs, ours beside the same by hand and by NumPyro.

A `Row` makes a `Case` at each of its sizes: candidates, functions of the same arguments. They are made in turns
(traced, lowered, compiled, each round from new functions, so that nothing is remembered) and run in turns. What cannot
be one compiled program is `Clocked`: each candidate does what it does and returns its seconds.

Times before the run are of the processor, since XLA shares them out between cores; times of the run are those of the
clock. Flops and bytes are XLA's own count, memory is what XLA sets aside for arguments, results and between them.
"""

import gc
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from .timing import seconds, take_turns

HAND, NUMPYRO = "hand", "NumPyro"
SHORTEST = 2e-3
"""Seconds: what runs for less is run again and again, since a clock and a dispatch take their share."""
ROUNDS = 5, 41
"""The fewest and the most rounds of a run."""
FEWEST = 3
"""Of fewer rounds nothing is said. So often at most a program is made, where `Effort.making` allows."""
DRAWS = 16, 4096
"""The fewest and the most gradients whose variance is taken."""


class Case(NamedTuple):
    """One program at one size.

    `ours` has it in one form, under "", or in several under their names. The first argument is a key. With `spread` the
    gradient (the second result) is random enough for its variance to be told.
    """

    args: tuple
    ours: dict[str, Callable]
    hand: Callable | None = None
    numpyro: Callable | None = None
    spread: bool = False


class Clocked(NamedTuple):
    """One task at one size; each candidate is a function without arguments that returns its seconds.

    What is to be warm is warmed where the case is made.
    """

    ours: dict[str, Callable]
    hand: Callable | None = None
    numpyro: Callable | None = None


class Row(NamedTuple):
    """A row of the table: what makes its case at a size, the sizes, and how many of them the quick table takes."""

    make: Callable[[Any], Case | Clocked]
    sizes: tuple = (1,)
    quick: int = 1


class Effort(NamedTuple):
    """Seconds to spend on each case: on running, on making again, on variances; how often a task is done at least."""

    running: float
    making: float
    spread: float
    tasks: int


QUICK, WHOLE = Effort(0.6, 0.0, 0.4, 1), Effort(2.0, 4.0, 1.5, FEWEST)


class Cost(NamedTuple):
    """What one candidate costs: seconds in each round, and XLA's counts."""

    run: list[float]
    trace: list[float] = []
    lower: list[float] = []
    compile: list[float] = []
    flops: float | None = None
    bytes: float | None = None
    memory: float | None = None
    variance: float | None = None


def candidates_of(case):
    """All candidates by name; those of ours under their forms."""
    others = {HAND: case.hand, NUMPYRO: case.numpyro}
    return case.ours | {name: run for name, run in others.items() if run is not None}


class Made(NamedTuple):
    """A compiled program, and the processor's seconds that it took."""

    program: Any
    trace: float
    lower: float
    compile: float


def make(run, args) -> Made:
    """Trace, lower and compile a function that was never seen before."""
    gc.collect()
    begun = time.process_time()
    traced = jax.jit(lambda *given: run(*given)).trace(*args)
    middle = time.process_time()
    lowered = traced.lower()
    late = time.process_time()
    program = lowered.compile()
    return Made(program, middle - begun, late - middle, time.process_time() - late)


def _in_turns(runs, budget):
    """The seconds of one run in each round, for so many rounds as the budget allows."""
    once = {name: max(seconds(run) for _ in range(2)) for name, run in runs.items()}
    times = {name: max(1, round(SHORTEST / taken)) for name, taken in once.items()}

    def again(name):
        def run():
            for _ in range(times[name]):
                jax.block_until_ready(runs[name]())

        return run

    a_round = sum(once[name] * times[name] for name in runs)
    rounds = min(max(int(budget / a_round), ROUNDS[0]), ROUNDS[1])
    taken = take_turns({name: again(name) for name in runs}, rounds)
    return {name: [t / times[name] for t in taken[name]] for name in runs}


def _variance(program, args, once, budget):
    """The variance of a gradient, summed over its numbers: the same program with other keys."""
    draws = min(max(int(budget / once), DRAWS[0]), DRAWS[1])
    total, squares = 0.0, 0.0
    for key in jax.random.split(args[0], draws):
        leaves = jax.tree.leaves(program(key, *args[1:])[1])
        gradient = np.concatenate([np.ravel(leaf) for leaf in leaves], dtype=float)
        total, squares = total + gradient, squares + np.sum(gradient**2)
    return float((squares - np.sum(total**2) / draws) / (draws - 1))


def _of_case(row, size, case, effort):
    made: dict[str, list[Made]] = {name: [] for name in candidates_of(case)}
    begun, now = time.perf_counter(), case
    for i in range(FEWEST):
        runs = candidates_of(now)
        for name in list(runs)[:: -1 if i % 2 else 1]:
            made[name].append(make(runs[name], now.args))
        # A further round takes as long as those before, on average.
        if (time.perf_counter() - begun) * (i + 2) / (i + 1) > effort.making:
            break
        now = row.make(size)
    programs = {name: found[0].program for name, found in made.items()}
    times = _in_turns({name: lambda p=p: p(*case.args) for name, p in programs.items()}, effort.running)
    costs = {}
    for name, program in programs.items():
        counts, memory = program.cost_analysis() or {}, program.memory_analysis()
        at_most = sum(getattr(memory, f"{what}_size_in_bytes") for what in ("temp", "argument", "output"))
        variance = _variance(program, case.args, min(times[name]), effort.spread) if case.spread else None
        rounds = ([getattr(m, what) for m in made[name]] for what in ("trace", "lower", "compile"))
        costs[name] = Cost(times[name], *rounds, counts.get("flops"), counts.get("bytes accessed"), at_most, variance)
    return costs


def _of_clocked(clocked, effort):
    runs = candidates_of(clocked)
    times: dict[str, list[float]] = {name: [] for name in runs}
    begun = time.perf_counter()
    for i in range(ROUNDS[1]):
        for name in list(runs)[:: -1 if i % 2 else 1]:
            times[name].append(runs[name]())
        if i + 1 >= effort.tasks and time.perf_counter() - begun > effort.running:
            break
    return {name: Cost(taken) for name, taken in times.items()}


def measure(row: Row, size: Any, effort: Effort) -> dict[str, Cost]:
    """What each candidate of a row costs at a size, by name."""
    case = row.make(size)
    return _of_clocked(case, effort) if isinstance(case, Clocked) else _of_case(row, size, case, effort)
