"""How a system of the gallery is run: its rows are printed and judged, and its picture is kept."""

import argparse
import time
from pathlib import Path

PICTURES = Path(__file__).parents[1] / "images"
DPI = 80


def holds(row) -> bool:
    """Whether the number of a row lies in its aim; one that is no number does not."""
    _, number, low, high = row
    return bool(low <= number <= high)


def line(name: str, row, seconds: float) -> str:
    what, number, low, high = row
    verdict = "" if holds(row) else "   MISSED"
    return f"{name:14}{what:58}{number:10.3f}   {low:>8.3f} to {high:<8.3f}{seconds:5.0f} s{verdict}"


def show(main, path: str, *, quick: bool, draw: bool = False) -> bool:
    """Run `main` of the file at `path`, and print a row for each of its numbers, with the seconds of CPU of all.

    Returns:
        Whether every row holds. With `draw` the figure is kept as docs/images/gallery-NAME.png.
    """
    name, began = Path(path).stem, time.process_time()
    rows, figure = main(quick=quick)
    seconds = time.process_time() - began
    for row in rows:
        print(line(name, row, seconds), flush=True)
    if draw:
        PICTURES.mkdir(exist_ok=True)
        figure.savefig(PICTURES / f"gallery-{name}.png", dpi=DPI)
    return bool(rows) and all(map(holds, rows))


def run(main, path: str) -> None:
    """What `python docs/gallery/NAME.py` does: the whole form, and its picture; with `--quick` the small form."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="the small form, in seconds; no picture is kept")
    quick = parser.parse_args().quick
    raise SystemExit(not show(main, path, quick=quick, draw=not quick))
