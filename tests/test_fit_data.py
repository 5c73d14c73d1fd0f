"""How the data of `fit` comes to its steps: whole or in minibatches, row by row, spread over devices."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp

import tracegrad as tg

KEY = jax.random.key(2)
FIVE = jnp.arange(5.0)


def run(objective, params, **options):
    return tg.fit(objective, params, optax.sgd(0.1), **{"key": KEY, "steps": 60, "progress": False, **options})


def test_all_data_comes_in_its_own_order():
    """Each parameter has an example of its own, and learns it exactly."""
    found = run(lambda key, w, x: jnp.sum((w - x) ** 2), jnp.zeros(5), data=FIVE)
    np.testing.assert_allclose(found.params, FIVE, atol=1e-4)


@pytest.mark.parametrize("batch_size", [None, 5, 3, 2, 1])
def test_indices_bring_what_belongs_to_an_example_to_it(batch_size):
    """Per-datum parameters are learnt exactly, from the whole and from minibatches."""

    def objective(key, w, x, indices):
        assert indices.dtype == jnp.int32
        return jnp.sum((w[indices] - x) ** 2)

    found = run(objective, jnp.zeros(5), data=FIVE, batch_size=batch_size, steps=400)
    np.testing.assert_allclose(found.params, FIVE, atol=1e-4)


def test_indices_are_those_of_the_rows_and_of_an_order_of_their_own_in_each_pass():
    """The state writes down the indices and the rows, step by step."""

    def objective(key, p, batch, scale, state, *, indices):
        assert scale == 3.0
        rows, seen, step = state
        return 0.0 * p, (rows.at[step].set(batch["x"]), seen.at[step].set(indices), step + 1)

    state = (jnp.zeros((9, 2)), jnp.zeros((9, 2), int), 0)
    found = run(objective, 1.0, data={"x": 10.0 * jnp.arange(6.0)}, batch_size=2, steps=9, state=state)
    rows, indices, _ = found.state
    np.testing.assert_array_equal(rows, 10.0 * np.asarray(indices))
    passes = np.asarray(indices).reshape(3, 6)
    np.testing.assert_array_equal(np.sort(passes), np.broadcast_to(np.arange(6), (3, 6)))
    assert len({tuple(order) for order in passes}) == 3


@pytest.mark.parametrize("around", ["with_estimators", "leave_one_out"])
def test_what_is_put_around_an_objective_passes_on_what_it_names(around):
    """The weight of a minibatch is three here; without it the parameter would go a third as far."""
    heads = tg.gen(lambda w: tg.sample("b", tg.dist.Bernoulli(logits=w)))

    def objective(key, w, batch, scale=1.0):
        return scale * w * batch.mean() + 0.0 * heads.simulate(key, w).retval.astype(float)

    made = {
        "with_estimators": lambda: tg.with_estimators(tg.expectation(objective), {"b": tg.mvd()}),
        "leave_one_out": lambda: tg.leave_one_out(objective, 2),
    }[around]()
    found = run(made, 0.0, data=jnp.ones(6), batch_size=2, steps=1)
    plain = run(lambda key, w, batch, scale: scale * w * batch.mean(), 0.0, data=jnp.ones(6), batch_size=2, steps=1)
    np.testing.assert_allclose(found.params, plain.params, rtol=1e-5)
    assert found.params != 0.0


def test_without_names_nothing_is_given():
    seen = []

    def objective(key, p, batch, *rest, **more):
        seen.append((rest, more))
        return p * batch.mean()

    run(objective, 1.0, data=FIVE, batch_size=2, steps=1)
    assert set(map(str, seen)) == {"((), {})"}


def test_an_objective_may_have_an_argument_of_those_names_among_the_first():
    found = run(lambda indices, scale, state: (scale - state.mean()) ** 2, 0.0, data=FIVE)
    np.testing.assert_allclose(found.params, 2.0, atol=1e-4)


# ---- many devices ---------------------------------------------------------------------------------------------------


def on_eight_devices(part):
    """What a part of `sharded_fit.py` finds in a process with eight devices."""
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    script = Path(__file__).with_name("sharded_fit.py")
    done = subprocess.run([sys.executable, script, part], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def spread():
    return on_eight_devices("data")


@pytest.fixture(scope="module")
def particles():
    return on_eight_devices("particles")


@pytest.mark.slow
@pytest.mark.parametrize("axes", ["Auto", "Explicit"])
@pytest.mark.parametrize("batch", ["None", "8"])
def test_a_batch_of_spread_data_is_computed_in_pieces(spread, axes, batch):
    """Each device has its rows of the batch, and the parameters are those of one device."""
    found = spread[f"{axes}, {batch}"]
    size = 16 if batch == "None" else 8
    assert found["rows on a device"] == [size // 8]
    assert found["warned"] == []
    np.testing.assert_allclose(found["params"], spread[f"one device, {batch}"]["params"], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("axes", ["Auto", "Explicit"])
def test_a_batch_that_cannot_be_divided_is_said_to_be_computed_whole(spread, axes):
    found = spread[f"{axes}, 6"]
    assert found["rows on a device"] == [6]
    (warned,) = found["warned"]
    assert "spread over 8 devices, and each of them computes the whole of every minibatch of 6" in warned
    assert "no multiple of the 8 parts of the data" in warned
    np.testing.assert_allclose(found["params"], spread["one device, 6"]["params"], rtol=1e-5)


@pytest.mark.slow
def test_data_that_every_device_has_is_no_matter(spread):
    found = spread["replicated, 8"]
    assert found["rows on a device"] == [8]
    assert found["warned"] == []
    np.testing.assert_allclose(found["params"], spread["one device, 8"]["params"], rtol=1e-5)


@pytest.mark.parametrize("axes", ["Auto", "Explicit"])
@pytest.mark.parametrize(("data", "rows"), [("whole", 2), ("8", 1), ("8 of 15", 1), ("8, two axes", 1)])
def test_a_mesh_divides_the_work_and_changes_no_number(spread, axes, data, rows):
    """Each device has its part of the batch, whether the examples can be divided or not."""
    found = spread["meshes"][f"{axes}, {data}"]
    np.testing.assert_allclose(found["params"], found["alone"], rtol=1e-5)
    assert found["rows on a device"] == rows
    assert found["devices"] == 8


@pytest.mark.parametrize("batch", ["None", "1024"])
def test_each_of_eight_devices_does_an_eighth_of_the_work(spread, batch):
    """But for the rows of a minibatch, which come from all devices: each passes on what it has of them."""
    alone, each = spread["flops"][batch]
    np.testing.assert_allclose(each, alone / 8, rtol=0.01 if batch == "None" else 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("axes", ["Auto", "Explicit"])
def test_particles_over_eight_devices_are_those_of_one(particles, axes):
    """The same bounds and parameters, and each device has an eighth of the work."""
    alone, found = particles["one device"], particles[axes]
    np.testing.assert_allclose(found["history"], alone["history"], rtol=1e-4)
    for name, x in alone["params"].items():
        np.testing.assert_allclose(found["params"][name], x, rtol=1e-4, atol=1e-5)
    assert alone["flops"] / 10 < found["flops"] < 1.01 * alone["flops"] / 8


def test_what_cannot_be_divided_over_a_mesh_is_refused(spread):
    assert (
        "the number of examples must be a multiple of the 8 devices of `mesh`, and is 15" in spread["refused"]["whole"]
    )
    assert "batch_size must be a multiple of the 8 devices of `mesh`, and is 6" in spread["refused"]["batch"]
    with pytest.raises(tg.FitError, match="`mesh` must be a `jax.sharding.Mesh`, .* and is 8"):
        run(lambda key, w: w**2, 1.0, mesh=8)


# ---- many processes -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_with_half_of_the_data_each_find_what_one_finds(tmp_path):
    """Over the loopback interface; they are left after twelve steps, and go on from the file of the first."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    script = Path(__file__).with_name("distributed_fit.py")
    env = {name: x for name, x in os.environ.items() if name != "XLA_FLAGS"} | {"JAX_PLATFORMS": "cpu"}
    commands = [[sys.executable, script, str(i), port, str(tmp_path)] for i in range(2)]
    both = [
        subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for command in commands
    ]
    try:
        told = [process.communicate(timeout=120) for process in both]
    finally:
        for process in both:
            process.kill()
    assert [process.returncode for process in both] == [0, 0], told
    one, two = (json.loads(out.splitlines()[-1]) for out, _ in told)
    assert one == two
    for found in one.values():
        assert found["processes"] == 2
        assert len(found["history"]) == 20
        np.testing.assert_allclose(found["params"], found["alone"], rtol=1e-5)
