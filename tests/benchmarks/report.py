"""What is made of measurements: one table in Markdown, growth exponents, a file of numbers, a picture."""

import csv
import statistics
from pathlib import Path
from typing import NamedTuple

from .measure import HAND, NUMPYRO, Cost
from .ratios import Entry, Ratio, growth, named, to_digits
from .timing import show_table

GROWING = ("run", "trace", "lower", "compile", "flops", "bytes", "memory")


class Found(NamedTuple):
    """What was measured: costs by row, size and candidate; and ratios."""

    costs: dict[tuple[str, str, str], dict]
    ratios: dict[Entry, Ratio]


def summary(cost: Cost) -> dict:
    """A cost in a line: medians and least values of times, and counts."""
    times = {what: getattr(cost, what) for what in ("run", "trace", "lower", "compile")}
    line: dict = {f"{what}_median": statistics.median(t) if t else None for what, t in times.items()}
    line |= {f"{what}_least": min(t) if t else None for what, t in times.items()}
    line |= {what: getattr(cost, what) for what in ("flops", "bytes", "memory", "variance")}
    return {what: None if value is None else to_digits(value) for what, value in line.items()}


def write_table(path: Path, found: Found) -> None:
    """Every measurement, a line for each candidate: seconds, and bytes."""
    columns = list(summary(Cost([1.0])))
    with path.open("w", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(["row", "size", "candidate", *columns])
        for key, cost in found.costs.items():
            lines.writerow([*key, *("" if cost[c] is None else f"{cost[c]:g}" for c in columns)])


def read_table(path: Path) -> dict[tuple[str, str, str], dict]:
    """What `write_table` wrote."""
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    keys = [tuple(line.pop(what) for what in ("row", "size", "candidate")) for line in lines]
    return {key: {k: float(v) if v else None for k, v in line.items()} for key, line in zip(keys, lines, strict=True)}


def _number(value, scale=1.0):
    """Three digits, no more."""
    if value is None:
        return "-"
    value *= scale
    return f"{value:.0f}" if value >= 99.5 else f"{value:.3g}" if value < 1e4 else f"{value:.2g}"


def _before(cost):
    if cost is None or cost["trace_least"] is None:
        return None
    return cost["trace_least"] + cost["lower_least"]


def _over(above, below):
    return above / below if above is not None and below else None


def _ours(found):
    """The lines of ours: row, size, form, cost, and the costs of the others."""
    for (row, size, form), cost in found.costs.items():
        if form not in (HAND, NUMPYRO):
            yield row, size, form, cost, *(found.costs.get((row, size, name)) for name in (HAND, NUMPYRO))


def show(found: Found) -> None:
    """Print the table, the variances where there are any, and the exponents."""
    by_name = {entry[1:]: ratio.ratio for entry, ratio in found.ratios.items()}
    rows, noisy = [], []
    for row, size, form, cost, hand, theirs in _ours(found):

        def to(other, what, row=row, size=size, form=form):
            return _number(by_name.get((row, size, form, other, what)))

        rows.append([named(row, form), size, _number(cost["run_least"], 1e3), to(HAND, "run"), to(NUMPYRO, "run")])
        rows[-1] += [_number(_before(cost)), _number(_over(_before(cost), _before(theirs)))]
        rows[-1] += [_number(cost["compile_least"]), to(HAND, "compile"), to(NUMPYRO, "compile")]
        rows[-1] += [to(HAND, "flops"), to(HAND, "bytes"), _number(cost["memory"], 1e-6)]
        rows[-1] += [_number(_over(cost["memory"], hand and hand["memory"]))]
        if cost["variance"] is not None:
            product = cost["run_median"] * cost["variance"]
            others = [o and o["variance"] is not None and o["run_median"] * o["variance"] for o in (hand, theirs)]
            noisy.append([named(row, form), size, _number(cost["run_median"], 1e3), _number(cost["variance"])])
            noisy[-1] += [_number(product, 1e3), *(_number(_over(product, other)) for other in others)]
    show_table(
        "Value and gradient. The run: least ms. Before it: least seconds of the processor to trace and lower, and to "
        "compile. Ratios: ours to the best by hand, and to NumPyro, medians of those within a round; `-` where there "
        "is none.",
        ["program", "size", "run, ms", "/ hand", "/ NumPyro", "trace + lower, s", "/ NumPyro", "compile, s", "/ hand"]
        + ["/ NumPyro", "flops / hand", "bytes / hand", "MB", "/ hand"],
        rows,
    )
    if noisy:
        show_table(
            "Variance of the gradient, summed over its numbers, and its product with the time of a run.",
            ["program", "size", "ms", "variance", "ms x variance", "/ hand", "/ NumPyro"],
            noisy,
        )
    if exponents := list(_exponents(found)):
        show_table("Growth: the exponent p of size^p.", ["program", "candidate", *GROWING], exponents)


def _exponents(found):
    series: dict[tuple[str, str], dict[float, dict]] = {}
    for (row, size, candidate), cost in found.costs.items():
        if size.replace(".", "").isdigit():
            series.setdefault((row, candidate), {})[float(size)] = cost
    for (row, candidate), costs in series.items():
        if len(costs) < 2:
            continue
        least = [what if what in ("flops", "bytes", "memory") else f"{what}_least" for what in GROWING]
        slopes = [growth(costs, [cost[what] for cost in costs.values()]) for what in least]
        name = candidate if candidate in (HAND, NUMPYRO) else f"ours {candidate}".strip()
        yield [row, name, *("-" if slope is None else f"{slope:.2f}" for slope in slopes)]


def draw(path: Path, found: Found) -> None:
    """Draw ratios of runs and of compilations, a line for each row at its largest size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    largest = {(row, form): size for row, size, form, *_ in _ours(found)}
    lines = [(row, size, form) for (row, form), size in largest.items()][::-1]
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 1.5 + 0.24 * len(lines)), sharey=True, layout="constrained")
    for ax, what in zip(axes, ("run", "compile"), strict=True):
        for other, marker in ((HAND, "o"), (NUMPYRO, "x")):
            at = {e[1:4]: r for e, r in found.ratios.items() if e.against == other and e.measure == what}
            points = [(at[line], i) for i, line in enumerate(lines) if line in at]
            ax.plot([r.ratio for r, _ in points], [i for _, i in points], marker, label=f"ours / {other}")
        ax.axvline(1.0, color="grey", linewidth=0.8)
        ax.set(xscale="log", title=f"{what}: left of the line ours is faster")
        ax.grid(axis="y", linewidth=0.3)
    axes[0].set_yticks(range(len(lines)), [f"{named(row, form)}, {size}" for row, size, form in lines], fontsize=8)
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=80)
    pyplot.close(figure)
