"""The table of benchmarks: what it says of measurements, and that the candidates of a row are one program."""

import math

import jax
import numpy as np
import pytest
from benchmarks import measure, ratios, report, table
from benchmarks.measure import Case, Clocked, Cost, Row
from benchmarks.ratios import Entry, Ratio
from benchmarks.rows import ROWS
from jax import numpy as jnp

ENTRY = Entry("cpu", "a row", "10", "", "hand", "run")


def test_the_exponent_of_a_power_is_found():
    sizes = [10.0, 100.0, 1000.0]
    assert ratios.growth(sizes, [3.0 * n**1.7 for n in sizes]) == pytest.approx(1.7)
    assert ratios.growth(sizes, [5.0, None, 5.0]) == pytest.approx(0.0)
    assert ratios.growth(sizes, [None, None, 5.0]) is None
    assert ratios.growth([10.0, 10.0], [1.0, 2.0]) is None


@pytest.mark.parametrize(("n", "k"), [(3, 1), (5, 1), (6, 1), (8, 1), (9, 2), (15, 4), (25, 8)])
def test_the_interval_of_a_median_is_that_of_the_sign_test(n, k):
    """The ranks of published tables; of five values and fewer, the least and the greatest."""
    values = np.random.default_rng(0).permutation(n).tolist()
    assert ratios.interval(values) == (k - 1, n - k)


def test_of_two_rounds_nothing_is_said():
    assert ratios.interval([1.0, 1.0]) == (-math.inf, math.inf)


def test_a_ratio_of_times_is_that_within_rounds():
    """Both take three times as long in the second round, and the ratio does not know."""
    found = ratios.ratio_of_times([2.0, 6.0, 2.2], [1.0, 3.0, 1.0])
    assert found == Ratio(2.0, 2.0, 2.2)


@pytest.mark.parametrize(
    ("now", "stored", "worse"),
    [
        (Ratio(1.12, 1.12, 1.12), Ratio(1.0, 1.0, 1.0), True),
        (Ratio(1.09, 1.09, 1.09), Ratio(1.0, 1.0, 1.0), False),
        (Ratio(0.5, 0.5, 0.5), Ratio(1.0, 1.0, 1.0), False),
        (Ratio(1.5, 1.2, 1.8), Ratio(1.0, 0.9, 1.1), True),
        (Ratio(1.5, 1.05, 1.8), Ratio(1.0, 0.9, 1.1), False),  # the intervals meet
        (Ratio(1.5, 1.2, 1.8), Ratio(1.0, -math.inf, math.inf), False),
        (Ratio(1.5, -math.inf, math.inf), Ratio(1.0, 0.9, 1.1), False),
    ],
)
def test_what_got_worse_is_more_than_a_tenth_and_more_than_the_noise(now, stored, worse):
    lines = ratios.got_worse({ENTRY: now}, {ENTRY: stored})
    assert len(lines) == worse
    assert all("a row, size 10: run / hand: " in line for line in lines)
    assert ratios.got_worse({ENTRY: now}, {}) == []


def test_files_give_back_what_was_written(tmp_path):
    found = {ENTRY: Ratio(1.0, -math.inf, math.inf), ENTRY._replace(form="b, c"): Ratio(0.25, 0.125, 0.5)}
    ratios.write(tmp_path / "ratios.csv", found)
    assert ratios.read(tmp_path / "ratios.csv") == found
    assert ratios.read(tmp_path / "none.csv") == {}
    costs = {("row", "3", ""): report.summary(Cost([1.0, 3.0, 2.0], [1.0], [2.0], [3.0], 5.0, 6.0, 7.0))}
    costs["row", "3", "hand"] = report.summary(Cost([4.0]))
    report.write_table(tmp_path / "table.csv", report.Found(costs, {}))
    assert report.read_table(tmp_path / "table.csv") == costs
    assert costs["row", "3", ""]["run_median"] == 2.0
    assert costs["row", "3", ""]["run_least"] == 1.0


def products(n):
    """Ours multiplies twice, by hand once."""
    x = jax.random.normal(jax.random.key(1), (n, n))

    def ours(key, x):
        return (x @ x @ x).sum(), x

    def hand(key, x):
        return (x @ x).sum(), x

    return Case((jax.random.key(0), x), {"": ours}, hand, spread=True)


def asleep(n):
    return Clocked({"": lambda: 2.0 * n}, lambda: 1.0 * n)


@pytest.fixture
def toys(monkeypatch, tmp_path):
    monkeypatch.setattr(table, "ROWS", {"products": Row(products, (40, 80)), "asleep": Row(asleep, (1,))})
    monkeypatch.setattr(table, "WARMS_UP", "asleep")
    monkeypatch.setattr(table, "STORED", tmp_path / "ratios.csv")
    monkeypatch.setattr(table, "BUILD", tmp_path / "build")
    monkeypatch.setattr(table, "WHOLE", measure.Effort(0.01, 0.0, 0.0, 3))
    kept = jax.config.jax_enable_compilation_cache
    yield tmp_path
    jax.config.update("jax_enable_compilation_cache", kept)


def test_the_command_measures_compares_and_stores(toys, capsys):
    table.main(["--store"])
    shown = capsys.readouterr().out
    assert (toys / "build" / "table.png").stat().st_size > 1000
    stored = ratios.read(toys / "ratios.csv")
    run = Entry("cpu", "asleep", "1", "", "hand", "run")
    flops = Entry("cpu", "products", "80", "", "hand", "flops")
    assert stored[run] == Ratio(2.0, 2.0, 2.0)
    assert stored[flops].ratio == pytest.approx(2.0, rel=0.1)
    growth = next(line for line in shown.splitlines() if "hand | " in line and "products" in line)
    assert float(growth.split("|")[7]) == pytest.approx(3.0, abs=0.1)  # the flops of a product
    table.main(["--markdown"])
    assert capsys.readouterr().out == shown
    table.main(["--check", "asleep"])
    assert "Compared: 1 of 1 ratios. Measured too seldom to tell: 0. Worse: 0." in capsys.readouterr().out
    ratios.write(toys / "ratios.csv", stored | {run: Ratio(1.5, 1.5, 1.6)})
    with pytest.raises(SystemExit, match="1"):
        table.main(["--check", "asleep"])
    assert "asleep, size 1: run / hand: 2 (2 to 2), stored 1.5 (1.5 to 1.6)" in capsys.readouterr().out


def test_a_row_that_does_not_run_leaves_the_others(toys, monkeypatch, capsys):
    monkeypatch.setitem(table.ROWS, "broken", Row(lambda n: 1 / 0))
    with pytest.raises(SystemExit, match="1"):
        table.main(["asleep", "broken"])
    out, err = capsys.readouterr()
    assert "asleep" in out
    assert "Did not run:\nbroken, size 1" in err


def test_an_unknown_row_is_named(toys, capsys):
    with pytest.raises(SystemExit, match="2"):
        table.main(["product", "nothing"])
    assert "no row has 'nothing' in its name" in capsys.readouterr().err


SMALL = {
    "binary chain in scan, mvd, all forks": 4,
    "logistic regression, minibatch": 256,
    "hierarchical plate": 4,
    "Gaussian mixture, exact marginal": 15,
    "Gaussian mixture with labels": 15,
    "IWELBO of an autoencoder, particles": 3,
}
"""Rows whose candidates are compared, at sizes at which that is quick."""
BIASED = {("binary chain in scan, mvd, all forks", "NumPyro")}
"""Gradients that are there for their cost alone."""
DRAWS = 500


def moments(run, case, keys):
    """The means over draws of value and gradient in some directions, and their errors."""

    def of(key):
        value, grads = run(key, *case.args[1:])
        # A loss is minus a bound: made the same by the sign of its value, which is the same in all draws.
        flat = jnp.concatenate([value[None], *(g.ravel() for g in jax.tree.leaves(grads))])
        ways = jax.random.normal(jax.random.key(9), (3, flat.size - 1)) / jnp.sqrt(flat.size)
        return jnp.concatenate([flat[:1], ways @ flat[1:]])

    found = np.asarray(jax.jit(lambda keys: jax.lax.map(of, keys, batch_size=50))(keys), float)
    return found.mean(0), found.std(0) / np.sqrt(len(keys))


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_the_candidates_of_a_row_are_one_program(name):
    keys = jax.random.split(jax.random.key(5), DRAWS)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):  # NumPyro needs both
        case = ROWS[name].make(SMALL[name])
        found = {name: moments(run, case, keys) for name, run in measure.candidates_of(case).items()}
    first, error = found.pop(next(iter(case.ours)))
    for who, (mean, other) in found.items():
        several = slice(None, 1) if (name, who) in BIASED else slice(None)
        sign = np.sign(mean[0] * first[0])
        distance = np.abs(sign * mean - first) / (np.hypot(error, other) + 1e-5 * np.abs(first) + 1e-6)
        assert np.all(distance[several] < 5.0), (who, distance)
