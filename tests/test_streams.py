"""Data that do not lie on the devices: tables, files mapped into memory, loaders and iterators."""

import subprocess
import sys
import warnings

import jax
import numpy as np
import optax
import pandas as pd
import pytest
from jax import numpy as jnp

import tracegrad as tg
from tracegrad.training._rows import Rows

KEY = jax.random.key(4)
X = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
Y = (X @ np.array([1.0, -2.0, 0.5])).astype(np.float32)


def loss(key, w, batch):
    return jnp.mean((batch["x"] @ w - batch["y"] + 0.1 * jax.random.normal(key)) ** 2)


def run(data, objective=loss, params=None, **options):
    params = jnp.zeros(3) if params is None else params
    given = {"key": KEY, "steps": 30, "progress": False}
    return tg.fit(objective, params, optax.adam(0.1), data=data, **(given | options))


@pytest.fixture(scope="module")
def whole():
    return run({"x": X, "y": Y}, batch_size=4)


@pytest.fixture
def mapped(tmp_path):
    """The same data, in a file."""
    np.save(tmp_path / "x.npy", X)
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert isinstance(x, np.memmap)
    return {"x": x, "y": Y}


def same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


# ---- files mapped into memory ---------------------------------------------------------------------------------------


def test_a_mapped_file_gives_what_its_arrays_give(mapped, whole, tmp_path):
    """The same rows in the same order, however the steps are grouped, and where a run was left."""
    same(run(mapped, batch_size=4), whole)
    same(run(mapped, batch_size=4, callback=lambda _: None, every=7), whole)
    folder = tmp_path / "run"
    run(mapped, batch_size=4, checkpoint=folder, callback=lambda _: True, every=11)
    same(run(mapped, batch_size=4, checkpoint=folder, resume=True), whole)


def test_a_mapped_file_is_read_a_few_steps_at_a_time(mapped, whole, monkeypatch):
    """Of a file larger than what is held of it: at most that much is read for a dispatch."""
    monkeypatch.setattr("tracegrad.training._streams.BYTES", 5 * 4 * 4 * 4)
    read = []
    plain = np.memmap.__getitem__

    def getitem(self, index):
        read.append(np.size(index))
        return plain(self, index)

    monkeypatch.setattr(np.memmap, "__getitem__", getitem)
    found = run(mapped, batch_size=4)
    assert max(read) == 5 * 4
    same(found, whole)


def test_names_of_a_batch_come_with_a_mapped_file(mapped):
    def objective(key, w, batch, scale, indices):
        assert scale == 5.0
        return jnp.sum((w[indices] - batch["x"][:, 0]) ** 2)

    found = run(mapped, objective, jnp.zeros(20), batch_size=4, steps=600)
    np.testing.assert_allclose(found.params, X[:, 0], atol=0.02)


def test_a_mapped_file_without_a_batch_size_is_refused(mapped):
    with pytest.raises(tg.FitError, match="memory-mapped array, which is read in minibatches: give `batch_size`"):
        run(mapped)


# ---- tables ---------------------------------------------------------------------------------------------------------


def test_a_table_is_its_columns(whole):
    table = pd.DataFrame({"a": X[:, 0], "b": X[:, 1], "c": X[:, 2], "y": Y})

    def objective(key, w, batch):
        x = jnp.stack([batch["a"], batch["b"], batch["c"]], -1)
        return loss(key, w, {"x": x, "y": batch["y"]})

    np.testing.assert_allclose(run(table, objective, batch_size=4).params, whole.params, rtol=1e-5)
    columns = {"x": X, "y": table["y"]}
    same(run(columns, batch_size=4), whole)


def test_a_column_of_no_numbers_is_refused():
    with pytest.raises(tg.TracegradError, match="A column .* holds no numbers"):
        run(pd.DataFrame({"a": ["x", "y"]}), batch_size=1)


# ---- loaders --------------------------------------------------------------------------------------------------------


class Loader:
    """Batches in order, the last one shorter; it counts how often it was begun."""

    def __init__(self, size, count=20):
        self.size, self.count, self.begun = size, count, 0

    def __iter__(self):
        self.begun += 1
        for i in range(0, self.count, self.size):
            yield {
                "x": X[i : i + self.size][: self.count - i],
                "y": jnp.asarray(Y[i : i + self.size][: self.count - i]),
            }


def by_hand(batches, steps):
    w, adam, key = jnp.zeros(3), optax.adam(0.1), jax.random.split(KEY)[0]
    state = adam.init(w)
    for i in range(steps):
        slope = jax.grad(loss, argnums=1)(jax.random.fold_in(key, i), w, batches[i % len(batches)])
        with jax.numpy_dtype_promotion("standard"):
            updates, state = adam.update(slope, state, w)
        w = optax.apply_updates(w, updates)
    return w


def test_a_loader_is_gone_through_pass_after_pass():
    loader = Loader(5)
    found = run(loader, steps=10)
    np.testing.assert_allclose(found.params, by_hand(list(Loader(5)), 10), rtol=1e-4)
    assert loader.begun in (3, 4)  # what comes next is read ahead


@pytest.mark.slow
def test_a_loader_without_an_end_is_read_as_far_as_it_is_needed(whole):
    def endless():
        while True:
            yield from Loader(5)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same(run(endless(), steps=10), run(Loader(5), steps=10))


def test_ragged_batches_are_left_out_and_said():
    with pytest.warns(UserWarning, match="batches of 8 examples, and one of 4. Those of another size are left out"):
        found = run(Loader(8), steps=6)
    np.testing.assert_allclose(found.params, by_hand(list(Loader(8))[:2], 6), rtol=1e-4)


def test_an_iterator_ends_the_run_where_it_ends():
    with pytest.warns(UserWarning, match="the run stops after 4 steps, where its data end"):
        found = run(iter(Loader(5)), steps=10)
    assert len(found.history) == 4
    same(found, run(Loader(5), steps=4))


def test_the_place_in_a_loader_is_a_part_of_the_run(tmp_path):
    whole = run(Loader(5), steps=11)
    half = run(Loader(5), steps=6)
    same(run(Loader(5), params=half, steps=5), whole)
    run(Loader(5), steps=11, checkpoint=tmp_path, checkpoint_every=3, callback=lambda _: True, every=7)
    same(run(Loader(5), steps=11, checkpoint=tmp_path, resume=True), whole)


@pytest.mark.parametrize(
    ("data", "options", "match"),
    [
        (Loader(5), {"batch_size": 5}, "is a loader, which makes its own batches: leave `batch_size` out"),
        (iter([]), {}, "the loader `data` has no batch"),
        (iter([{"x": X[:2]}, {"y": X[:2]}]), {}, "batches of different kinds"),
        (iter([{"x": X[:2]}, {"x": X[:2].astype(int)}]), {}, "batches of different kinds"),
        (iter([{"x": X[:2], "y": Y[:3]}]), {}, r"must have one leading size, above 0, and have \[2, 3\]"),
        (iter([1.0]), {}, r"must have one leading size, above 0, and have \[-1\]"),
    ],
)
def test_what_is_no_loader_of_batches_is_refused(data, options, match):
    with pytest.raises(tg.FitError, match=match):
        run(data, lambda key, w, batch: jnp.sum(w**2), steps=4, **options)


def test_an_error_in_a_loader_is_its_own():
    def broken():
        yield from Loader(5)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        run(broken(), steps=10)


def test_what_a_loader_does_not_know_is_not_given():
    with pytest.raises(tg.FitError, match="missing a required argument: 'scale'"):
        run(Loader(5), lambda key, w, batch, scale: jnp.sum(w**2))


@pytest.mark.parametrize("data", [iter([{"x": np.array(["a", "b"])}]), iter([{"x": np.array([None, None])}])])
def test_a_batch_of_no_numbers_is_refused_by_its_name(data):
    with pytest.raises(tg.FitError, match=r"data\['x'\] must be an array of numbers, and is an array of"):
        run(data, lambda key, w, batch: jnp.sum(w**2), steps=4)


# ---- rows of files, read as files -----------------------------------------------------------------------------------

WIDE = np.random.default_rng(1).normal(size=(12, 1100)).astype(np.float32)  # rows of more than four kilobytes


def views(path):
    """Arrays on a file: from its beginning, from within, of every other row, of some columns, written to, or copied."""
    np.save(path, WIDE)
    mapped = np.load(path, mmap_mode="r")
    WIDE.tofile(path.with_suffix(".raw"))
    raw = np.memmap(path.with_suffix(".raw"), np.float32, "r+", offset=4400, shape=(11, 1100))
    copied = np.load(path, mmap_mode="c")
    copied[3] = 7.0
    return {
        "whole": (mapped, True),
        "from within": (mapped[3:], True),
        "every other": (mapped[1::2], True),
        "backwards": (mapped[::-1], True),
        "raw": (raw[2:], True),
        "columns": (mapped[:, ::2], False),
        "in columns": (np.memmap(path.with_suffix(".raw"), np.float32, "r", shape=(12, 1100), order="F"), False),
        "copied on write": (copied, False),
        "in memory": (WIDE, False),
        "small rows": (mapped.reshape(12, 1100)[:, :4], False),
        "cubes": (mapped.reshape(12, 11, 100), True),
        "another type": (np.memmap(path.with_suffix(".raw"), jnp.bfloat16, "r", shape=(10, 2300)), True),
    }


def test_rows_are_those_of_the_array_however_it_lies_on_its_file(tmp_path):
    for name, (x, from_file) in views(tmp_path / "x.npy").items():
        rows = np.array([len(x) - 1, 0, 2, 2, 1])
        found, source = np.zeros((5, *x.shape[1:]), x.dtype), Rows(x)
        assert (source._file is not None) == (from_file and sys.platform == "linux"), name
        source.read(rows, found)
        assert found.tobytes() == np.asarray(x)[rows].tobytes(), name


@pytest.mark.parametrize("how", ["replaced", "deleted"])
def test_a_file_that_is_no_longer_at_its_path_is_read_where_it_is_mapped(how, tmp_path):
    x, _ = views(tmp_path / "x.npy")["whole"]
    if how == "replaced":
        np.save(tmp_path / "y.npy", WIDE + 1.0)
        (tmp_path / "y.npy").replace(tmp_path / "x.npy")
    else:
        (tmp_path / "x.npy").unlink()
    found = np.zeros((2, 1100), np.float32)
    Rows(x).read(np.array([3, 1]), found)
    np.testing.assert_array_equal(found, WIDE[[3, 1]])


LARGER = """
import resource, sys
import jax, numpy as np, optax, tracegrad as tg
from jax import numpy as jnp
from tracegrad.training import _streams

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def loss(key, w, batch):
    return jnp.mean((batch["x"].astype(float) @ w - 1.0) ** 2)

def run(x):
    options = {"key": jax.random.key(0), "steps": 150, "batch_size": 50, "progress": False}
    return tg.fit(loss, jnp.zeros(100_000), optax.sgd(1e-6), data={"x": x}, **options)

x = np.memmap(sys.argv[1], np.uint8, "r", shape=(20_000, 100_000))
run(x[:200])
before = peak()
run(x)
print(x.nbytes, peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere mapped pages count as memory")
def test_a_file_larger_than_memory_is_not_held_in_it(tmp_path):
    """Two gigabytes of holes, of which 750 megabytes are read: the process never has more than some batches of it."""
    with (tmp_path / "x").open("wb") as file:
        file.truncate(20_000 * 100_000)
    done = subprocess.run([sys.executable, "-c", LARGER, tmp_path / "x"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    size, more = map(int, done.stdout.split())
    assert more < 0.05 * size


class Tensor:
    """An array of another library, as loaders of torch give: it has `__array__`, and is no array."""

    def __init__(self, x):
        self._x = x

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self._x, dtype)


class Collated:
    """Batches as torch's loader collates those of a data set of pairs: lists of tensors."""

    def __len__(self):
        return 4

    def __iter__(self):
        return ([Tensor(batch["x"]), Tensor(batch["y"])] for batch in Loader(5))


def test_tensors_of_another_library_come_in_lists_and_as_columns():
    pairs = run(Collated(), lambda key, w, batch: loss(key, w, {"x": batch[0], "y": batch[1]}), steps=10)
    same(pairs, run(Loader(5), steps=10))
    same(run({"x": Tensor(X), "y": Tensor(Y)}, batch_size=4, steps=10), run({"x": X, "y": Y}, batch_size=4, steps=10))
