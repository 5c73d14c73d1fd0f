"""Times that are only ever compared within one run: candidates take turns, and what is reported is their ratio."""

import statistics
import time

import jax


def seconds(run) -> float:
    """The time of one call, its results waited for."""
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def take_turns(candidates: dict, rounds: int) -> dict[str, list[float]]:
    """The times of each candidate in each round; every second round goes through them in reverse."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for run in candidates.values():
        seconds(run)
    for i in range(rounds):
        for name in list(candidates)[:: -1 if i % 2 else 1]:
            times[name].append(seconds(candidates[name]))
    return times


def median_ratio(above: list[float], below: list[float]) -> float:
    """The median over rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def show_table(title: str, header: list[str], rows: list[list[str]]) -> None:
    """Print a table in Markdown."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    print(f"\n{title}\n")
    for row in (header, ["-" * w for w in widths], *rows):
        print("| " + " | ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) + " |", flush=True)
