"""Fits that are kept in files: what comes back, what is refused, and runs that end before their time."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp

import tracegrad as tg

KEY = jax.random.key(2)
DATA = jnp.arange(10.0)
ADAM = optax.adam(0.1)


def noisy(key, params, x):
    return jnp.mean((params["w"][None] - x[:, None] + jax.random.normal(key)) ** 2)


def start():
    return {"w": jnp.ones(2), "key": jax.random.key(3), "f": jnp.tanh, "none": None, "n": 3, "table": np.arange(3)}


def run(steps=40, params=None, **options):
    given = {"key": KEY, "data": DATA, "batch_size": 4, "progress": False}
    params = start() if params is None else params
    return tg.fit(noisy, params, options.pop("optimizer", ADAM), steps=steps, **(given | options))


@pytest.fixture(scope="module")
def whole():
    return run()


def plain(x):
    return jax.random.key_data(x) if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x


def same(a, b):
    """Whether two fits hold the same bits, in the same kinds of arrays."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert type(x) is type(y)
        assert getattr(x, "dtype", None) == getattr(y, "dtype", None)
        if isinstance(x, jax.Array | np.ndarray):
            np.testing.assert_array_equal(plain(x), plain(y))
        else:
            assert x == y
    return True


# ---- one file -------------------------------------------------------------------------------------------------------


def test_a_fit_comes_back_from_its_file_as_it_was(tmp_path, whole):
    """Keys, functions, None, integers and arrays of NumPy among the parameters; and it goes on to the same bits."""
    whole.save(tmp_path / "run.fit")
    assert [path.name for path in tmp_path.iterdir()] == ["run.fit"]
    again = tg.load_fit(tmp_path / "run.fit", like=whole)
    assert same(again, whole)
    assert again.params["f"] is jnp.tanh
    assert jnp.issubdtype(again.params["key"].dtype, jax.dtypes.prng_key)
    half = run(steps=20)
    half.save(str(tmp_path / "half"))
    assert same(run(steps=20, params=tg.load_fit(tmp_path / "half", like=half)), whole)


def test_parameters_and_an_optimiser_are_enough_to_read_it(tmp_path, whole):
    whole.save(tmp_path / "run.fit")
    assert same(tg.load_fit(tmp_path / "run.fit", like=start(), optimizer=ADAM), whole)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8", "uint8", "bool", "complex64", "float8_e4m3fn"])
def test_arrays_of_every_type_and_shape_come_back(dtype, tmp_path):
    values = jnp.arange(6.0).reshape(2, 3).astype(dtype)
    fit = tg.Fit({"a": values, "b": values[0, 0], "c": values[:0], "d": np.asarray(values)}, jnp.zeros(2), {"m": 1j})
    fit.save(tmp_path / "a")
    again = tg.load_fit(tmp_path / "a", like=fit)
    for name, x in fit.params.items():
        assert (again.params[name].dtype, type(again.params[name])) == (x.dtype, type(x))
        np.testing.assert_array_equal(np.asarray(again.params[name]), np.asarray(x))


def test_the_manifest_says_what_the_file_holds(tmp_path, whole):
    whole.save(tmp_path / "run.fit")
    with (tmp_path / "run.fit").open("rb") as file:
        head, manifest = file.readline().split(), json.loads(file.readline())
    assert head[:3] == [b"tracegrad", b"fit", b"1"]
    kept = {name: manifest["run"][name] for name in ("steps", "direction", "examples", "batch_size")}
    assert kept == {"steps": 40, "direction": "down", "examples": 10, "batch_size": 4}
    assert len(manifest["run"]["key"]) == 32
    assert "ScaleByAdamState" in manifest["run"]["opt_state"]
    leaves = {leaf.pop("at"): leaf for leaf in manifest["leaves"]}
    assert leaves["params['w']"] == {
        "shape": [2],
        "dtype": "float32",
        "sha256": hashlib.sha256(np.asarray(whole.params["w"]).tobytes()).hexdigest(),
    }
    assert leaves["params['n']"] == {"value": "3"}


def other(fit, change):
    """A fit like another, but for one thing."""
    return eqx.tree_at(lambda fit: fit.params, fit, fit.params | change)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"w": jnp.ones(3)}, r"params\['w'\] is float32\[2\], and float32\[3\] in what it is to be like"),
        ({"w": jnp.ones(2, int)}, r"params\['w'\] is float32\[2\], and int32\[2\] in what"),
        ({"more": 1.0}, r"has no params\['more'\]"),
        ({"n": 4}, r"params\['n'\] is 3, and 4 in what"),
        ({"none": 1.0}, r"has no params\['none'\]"),
        ({"f": "tanh"}, r"params\['f'\] is \w+, and 'tanh' in what"),
        ({"key": jax.random.key(0, impl="rbg")}, r"params\['key'\] is key<fry>\[\], and key<rbg>\[\]"),
        ({"key": jnp.zeros(2, "uint32")}, r"params\['key'\] is key<fry>\[\], and uint32\[2\]"),
    ],
)
def test_a_file_of_another_structure_is_refused_by_the_leaf(change, match, tmp_path, whole):
    whole.save(tmp_path / "run.fit")
    with pytest.raises(tg.CheckpointError, match=match):
        tg.load_fit(tmp_path / "run.fit", like=other(whole, change))


REFUSED = {
    "no file": (lambda path, fit: tg.load_fit(path / "none", like=fit), "none cannot be read: No such file"),
    "a folder": (lambda path, fit: tg.load_fit(path, like=fit), "cannot be read: Is a directory"),
    "no path": (lambda path, fit: tg.load_fit(3, like=fit), "load_fit: path must be a path, and is 3"),
    "to no path": (lambda path, fit: fit.save(None), "Fit.save: path must be a path, and is None"),
    "to no folder": (lambda path, fit: fit.save(path / "a" / "b"), "b could not be written: .*No such file"),
    "like nothing": (lambda path, fit: tg.load_fit(path, like=1.0), "parameters together with the `optimizer`"),
    "too much": (lambda path, fit: tg.load_fit(path, like=fit, optimizer=ADAM), "pass it alone"),
    "no optimiser": (lambda path, fit: tg.load_fit(path, like=1.0, optimizer=optax.adam), "call it"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_kept_or_read_is_refused(name, tmp_path, whole):
    do, match = REFUSED[name]
    with pytest.raises(tg.FitError, match=match):
        do(tmp_path, whole)


# ---- damage ---------------------------------------------------------------------------------------------------------


def cut(data, chance):
    return data[: chance.randrange(len(data))]


def flip(data, chance):
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :]


def longer(data, chance):
    return data + bytes(chance.randrange(1, 9))


def without_some(data, chance):
    at = chance.randrange(len(data))
    return data[:at] + data[at + chance.randrange(1, 64) :]


def foreign(data, chance):
    return chance.choice([b"", b"\n", b"PK\x03\x04" + data, b"tracegrad", b"tracegrad fit 1", b"\x80\x04.", b"{}\n"])


def newer(data, chance):
    head, manifest, rest = data.split(b"\n", 2)
    return written(manifest, rest, version=chance.randrange(2, 1000))


def written(manifest, rest, version=1):
    """A file with this manifest, its hashes right."""
    manifest += b"\n"
    sha = hashlib.sha256(f"{version} ".encode() + manifest).hexdigest()
    return f"tracegrad fit {version} {len(manifest)} {sha}\n".encode() + manifest + rest


def manifest_of(data):
    _, manifest, rest = data.split(b"\n", 2)
    return json.loads(manifest), rest


def renamed(data, chance):
    manifest, rest = manifest_of(data)
    leaf = chance.choice(manifest["leaves"])
    leaf["at"] = chance.choice([leaf["at"] + "x", manifest["leaves"][0]["at"] + "y", "", "params"])
    return written(json.dumps(manifest).encode(), rest)


def names_swapped(data, chance):
    """Two leaves have each other's names: where they are of one kind, nobody can tell but by what they are like."""
    manifest, rest = manifest_of(data)
    one, two = chance.sample([leaf for leaf in manifest["leaves"] if "sha256" in leaf], 2)
    if {**one, "at": 0, "sha256": 0} != {**two, "at": 0, "sha256": 0}:
        one["at"], two["at"] = two["at"], one["at"]
    else:
        one["sha256"], two["sha256"] = two["sha256"], one["sha256"]
    return written(json.dumps(manifest).encode(), rest)


def other_form(data, chance):
    manifest, rest = manifest_of(data)
    leaf = next(leaf for leaf in manifest["leaves"] if "shape" in leaf)
    del (chance.choice([leaf, manifest]))[chance.choice(["dtype", "shape", "sha256"])]
    return written(json.dumps(manifest).encode(), rest)


DAMAGES = [cut, flip, longer, without_some, foreign, newer, renamed, names_swapped]


def test_no_damage_is_silent_and_none_a_foreign_error(tmp_path, whole):
    """Two hundred at random: each loads the right values, or is refused with a text that names the file."""
    path = tmp_path / "run.fit"
    whole.save(path)
    good = path.read_bytes()
    refused = []
    for n in range(200):
        chance = random.Random(n)
        bad = DAMAGES[n % len(DAMAGES)](good, chance)
        path.write_bytes(bad)
        try:
            assert same(tg.load_fit(path, like=whole), whole)
            assert bad == good
        except tg.CheckpointError as error:
            refused.append(str(error))
    assert len(refused) >= 199
    assert [text for text in refused if str(path) not in text] == []


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda data: data[:-1], r"ends within origin.batch_size, of which 7 bytes"),
        (lambda data: data[:-1] + b"\xff", r"origin.batch_size is altered"),
        (lambda data: data + b"x", "goes on after its last array"),
        (lambda data: data[:300], "manifest is cut short or altered"),
        (lambda data: data[:20], "its first line is altered"),
        (lambda data: b"milk, bread", "is not a file that `Fit.save` wrote"),
        (lambda data: newer(data, random.Random(0)), "of version .*, and this version of tracegrad reads version 1"),
        (lambda data: data.replace(b"fit 1", b"fit 2", 1), "is damaged: its manifest is cut short or altered"),
        (lambda data: written(b'{"leaves": 3}', b""), "its manifest has another form"),
        (lambda data: written(b"[]", b""), "its manifest has another form"),
    ],
)
def test_damage_is_named(damage, match, tmp_path, whole):
    path = tmp_path / "run.fit"
    whole.save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(tg.CheckpointError, match=match):
        tg.load_fit(path, like=whole)


# ---- a folder -------------------------------------------------------------------------------------------------------


def steps_in(folder):
    return sorted(int(path.name[5:-4]) for path in folder.iterdir())


def test_a_run_keeps_its_latest_files_and_goes_on_from_the_newest(tmp_path, whole):
    folder = tmp_path / "deep" / "folder"
    ended = run(checkpoint=folder, checkpoint_every=6, keep=2, callback=lambda so_far: True, every=16)
    assert len(ended.history) == 16
    assert steps_in(folder) == [12, 16]
    assert same(run(checkpoint=folder, checkpoint_every=6, keep=2, resume=True), whole)
    assert steps_in(folder) == [36, 40]
    again = run(checkpoint=folder, resume=True, callback=lambda _: pytest.fail("nothing is left to do"))
    assert same(again, whole)
    longer = run(steps=50, checkpoint=folder, resume=True)
    assert same(longer, run(steps=50))
    assert steps_in(folder) == [36, 40, 50]


def test_what_a_callback_ended_goes_on_and_what_patience_ended_has_ended(tmp_path, whole):
    """The callback of the call that goes on is asked again, at its own steps; it may end the run again."""
    seen = []

    def ask(so_far):
        seen.append(len(so_far.history))
        return len(seen) < 3

    for _ in range(3):
        found = run(checkpoint=tmp_path / "asked", callback=ask, every=10, resume=True)
    assert seen == [10, 20, 30, 40]
    assert same(found, whole)
    settling = {"checkpoint": tmp_path / "settled", "steps": 400, "patience": 2, "window": 20, "resume": True}
    settled = run(**settling)
    assert len(settled.history) < 400
    assert same(run(**settling, callback=lambda _: pytest.fail("nothing is left to do"), every=1), settled)


def test_a_run_that_goes_on_from_a_fit_is_kept_and_resumed_too(tmp_path, whole):
    half = run(steps=20)
    ended = run(steps=20, params=half, checkpoint=tmp_path, callback=lambda _: True, every=7)
    assert steps_in(tmp_path) == [27]
    assert len(ended.history) == 27
    assert same(run(steps=20, params=half, checkpoint=tmp_path, resume=True), whole)


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-9], lambda data: b"", lambda data: flip(data, random.Random(1))]
)
def test_a_damaged_file_is_left_aside_and_said(damage, tmp_path, whole):
    run(steps=30, checkpoint=tmp_path, checkpoint_every=10)
    newest = tmp_path / "step-000000000030.fit"
    newest.write_bytes(damage(newest.read_bytes()))
    (tmp_path / ".step-000000000040.fit.123.part").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.warns(UserWarning, match="a checkpoint is left aside. .*step-000000000030.fit") as said:
        found = run(checkpoint=tmp_path, resume=True)
    assert len(said) == 1
    assert same(found, whole)
    assert not list(tmp_path.glob(".*"))
    assert (tmp_path / "notes.txt").exists()


def test_without_a_good_file_the_run_begins_anew(tmp_path, whole):
    run(steps=20, checkpoint=tmp_path, checkpoint_every=10)
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    with pytest.warns(UserWarning, match="is left aside") as said:
        assert same(run(checkpoint=tmp_path, resume=True), whole)
    assert len(said) == 2


def test_a_file_under_another_name_is_left_aside(tmp_path, whole):
    run(steps=30, checkpoint=tmp_path, checkpoint_every=10)
    (tmp_path / "step-000000000010.fit").rename(tmp_path / "step-000000000035.fit")
    with pytest.warns(UserWarning, match="holds 10 steps, which its name does not say"):
        assert same(run(checkpoint=tmp_path, resume=True), whole)


OTHERS = {
    "key": (lambda go_on: go_on(key=jax.random.key(5)), "of a run with another `key`. Give what it was given"),
    "direction": (lambda go_on: go_on(maximize=True), "the other direction .*: down then, up now"),
    "data": (lambda go_on: go_on(data=jnp.arange(11.0)), "data of another size: 10 then, 11 now"),
    "batch": (lambda go_on: go_on(batch_size=5), "another `batch_size`: 4 then, 5 now"),
    "no batch": (lambda go_on: go_on(batch_size=None), "another `batch_size`: 4 then, 0 now"),
    "optimiser": (
        lambda go_on: go_on(optimizer=optax.sgd(0.1, momentum=0.9)),
        r"another `optimizer` or other parameters: at opt_state.*|has no opt_state|has opt_state",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("how", ["fit", "folder"])
def test_a_run_of_something_else_is_refused_by_what_differs(name, how, tmp_path):
    do, match = OTHERS[name]
    half = run(steps=4, checkpoint=tmp_path)

    def go_on(**options):
        if how == "folder":
            return run(checkpoint=tmp_path, resume=True, **options)
        return run(params=half, **options)

    with pytest.raises(tg.FitError, match=match):
        do(go_on)
    assert len(go_on().history) == (40 if how == "folder" else 44)


def test_another_rate_of_the_same_optimiser_is_no_other_run():
    assert len(run(params=run(steps=4), optimizer=optax.adam(0.01)).history) == 44


def test_a_folder_with_a_run_is_not_written_over(tmp_path):
    run(steps=4, checkpoint=tmp_path)
    with pytest.raises(tg.FitError, match="holds a run already, at step 4. Write `resume=True`"):
        run(checkpoint=tmp_path)
    with pytest.raises(tg.FitError, match="is at step 4, and this run goes from step 0 to 2"):
        run(steps=2, checkpoint=tmp_path, resume=True)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"checkpoint": 3}, "`checkpoint` must be a path, and is 3"),
        ({"checkpoint": __file__}, "`checkpoint`, .* cannot be made a folder: File exists"),
        ({"checkpoint": "f", "checkpoint_every": 0}, "checkpoint_every must be a positive int, and is 0"),
        ({"checkpoint": "f", "keep": 1.0}, "keep must be a positive int, and is 1.0"),
        ({"checkpoint": "f", "resume": "yes"}, "resume must be True or False, and is 'yes'"),
        ({"checkpoint_every": 3}, "`checkpoint_every` is given without a folder `checkpoint`"),
        ({"keep": 3}, "`keep` is given without a folder"),
        ({"resume": True}, "`resume=True` is given without a folder"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(options, match, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(tg.FitError, match=match):
        run(steps=2, **options)
    assert not list(tmp_path.rglob("*.fit"))


def test_a_folder_that_can_no_longer_be_written_ends_the_run_with_its_name(tmp_path):
    folder = tmp_path / "run"

    def gone(so_far):
        if len(so_far.history) == 7:
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()

    with pytest.raises(tg.CheckpointError, match="step-0000000000(06|12).fit could not be written"):
        run(checkpoint=folder, checkpoint_every=6, callback=gone, every=7)


# ---- its history, in blocks -----------------------------------------------------------------------------------------


@pytest.fixture
def blocks(tmp_path, monkeypatch):
    """A folder with a run whose blocks are of ten steps."""
    monkeypatch.setattr("tracegrad.training._history.BLOCK", 10)
    run(steps=36, checkpoint=tmp_path / "run", checkpoint_every=6, keep=2)
    return tmp_path / "run"


def test_a_history_is_kept_in_blocks_and_is_whole_when_it_is_read(blocks, whole):
    names = [f"history-{n:012d}.fit" for n in (0, 10, 20)] + [f"step-{n:012d}.fit" for n in (30, 36)]
    assert sorted(path.name for path in blocks.iterdir()) == names
    again = tg.load_fit(blocks / "step-000000000036.fit", like=whole)
    np.testing.assert_array_equal(again.history, whole.history[:36])
    assert same(run(checkpoint=blocks, checkpoint_every=6, resume=True), whole)
    assert len(list(blocks.glob("history-*"))) == 4
    half = run(steps=20)
    rest = {"checkpoint": blocks.with_name("rest"), "checkpoint_every": 6}
    run(steps=20, params=half, callback=lambda _: True, every=8, **rest)
    assert len(list(rest["checkpoint"].glob("history-*"))) == 2
    assert same(run(steps=20, params=half, resume=True, **rest), whole)


def test_a_file_does_not_grow_with_the_steps_of_its_run(tmp_path, monkeypatch):
    monkeypatch.setattr("tracegrad.training._history.BLOCK", 10)
    run(steps=400, checkpoint=tmp_path, checkpoint_every=5, keep=100)
    sizes = [path.stat().st_size for path in sorted(tmp_path.glob("step-*"))]
    assert len(sizes) == 80
    assert max(sizes[4:]) - min(sizes[4:]) < 4 * 10 + 10  # the objectives of a block, and some digits


def swap(one, two):
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


BROKEN_BLOCKS = {
    "gone": (lambda a, b: a.unlink(), "needs the files of its history beside it. .* cannot be read: No such file"),
    "cut": (lambda a, b: a.write_bytes(a.read_bytes()[:-2]), "history-000000000000.fit is damaged: it ends within"),
    "altered": (lambda a, b: a.write_bytes(flip(a.read_bytes(), random.Random(0))), "history-000000000000.fit is"),
    "swapped": (swap, "is not of the history beside it, which is of another run"),
    "twice": (lambda a, b: b.write_bytes(a.read_bytes()), "is not of the history beside it"),
}


@pytest.mark.parametrize("name", BROKEN_BLOCKS)
def test_a_block_that_is_damaged_leaves_the_files_aside_that_need_it(name, blocks, whole):
    do, match = BROKEN_BLOCKS[name]
    do(blocks / "history-000000000000.fit", blocks / "history-000000000010.fit")
    with pytest.raises(tg.CheckpointError, match=match):
        tg.load_fit(blocks / "step-000000000036.fit", like=whole)
    with pytest.warns(UserWarning, match=f"a checkpoint is left aside. .*{match}") as said:
        assert same(run(checkpoint=blocks, checkpoint_every=6, resume=True), whole)
    assert len(said) == 2
    assert same(tg.load_fit(blocks / "step-000000000040.fit", like=whole), whole)


# ---- ended from outside ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_and_what_there_is_is_kept(number, tmp_path, whole, monkeypatch):
    before = [signal.signal(s, lambda *_: pytest.fail("not for us")) for s in (signal.SIGINT, signal.SIGTERM)]
    mine = signal.getsignal(number)
    try:
        with pytest.warns(UserWarning, match=f"{number.name} ended the run after 16 steps, .*`resume=True` goes on"):
            found = run(checkpoint=tmp_path, callback=lambda _: os.kill(os.getpid(), number), every=16)
        assert signal.getsignal(number) is mine
    finally:
        for s, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(s, handler)
    assert len(found.history) == 16
    assert steps_in(tmp_path) == [16]
    assert same(run(checkpoint=tmp_path, resume=True), whole)


def test_a_second_signal_does_what_it_always_does(tmp_path):
    def impatient(_):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(checkpoint=tmp_path, callback=impatient, every=16)
        with pytest.raises(KeyboardInterrupt):  # and without a folder the first does
            run(callback=lambda _: os.kill(os.getpid(), signal.SIGINT), every=16)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, handler)


def test_in_another_thread_a_run_is_kept_all_the_same(tmp_path, whole):
    found = []
    thread = threading.Thread(target=lambda: found.append(run(checkpoint=tmp_path)))
    thread.start()
    thread.join()
    assert same(found[0], whole)
    assert steps_in(tmp_path) == [40]


@pytest.mark.slow
def test_a_run_that_is_killed_fifty_times_ends_with_the_same_bits():
    """The script compares the bits; here, that the run was killed as often, and at many moments."""
    script = Path(__file__).with_name("killed_fit.py")
    env = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run([sys.executable, script, "50", "2"], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kills = json.loads(done.stdout.splitlines()[-1])["kills"]
    assert len(kills) == 50
    assert len(set(kills)) > 5


def test_nothing_is_warned_of_in_an_ordinary_run(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(checkpoint=tmp_path)
