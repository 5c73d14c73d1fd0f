"""`shard_map`, with its check of what varies between devices and without, and sharded arrays apply to expectations."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sharded_calls import DRAWS
from sharded_programs import PROGRAMS
from typed_mesh_programs import PROGRAMS as TYPED


def run(script, devices):
    """What a script prints, from a process of its own with this many devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    path = Path(__file__).with_name(script)
    done = subprocess.run([sys.executable, path], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def found():
    """Value and gradient of each program in each way."""
    return run("sharded_programs.py", 2)


@pytest.fixture(scope="module")
def calls():
    """Objectives around a `jit` with draws inside, without shardings and with them."""
    return run("sharded_calls.py", 4)


@pytest.fixture(scope="module")
def on_a_mesh():
    """Values and the gradient of each program on one device and on a mesh."""
    return run("typed_mesh_programs.py", 8)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_half_a_batch_on_each_device_gives_the_gradient_of_the_whole(name, found):
    ways = dict(found[name])
    whole = ways.pop("one device")
    assert len(ways) in (1, 4)
    assert np.isfinite(whole).all()
    assert whole[1] != 0.0
    for way, numbers in ways.items():
        np.testing.assert_allclose(numbers, whole, rtol=1e-5, err_msg=way)


@pytest.mark.slow
@pytest.mark.parametrize("name", TYPED)
@pytest.mark.parametrize("kind", ["explicit", "auto"])
def test_a_batch_on_a_mesh_of_either_kind_gives_the_values_and_the_gradient_of_one_device(name, kind, on_a_mesh):
    whole = on_a_mesh[name]["one device"]
    assert np.isfinite(whole).all()
    assert whole[-1] != 0.0
    np.testing.assert_allclose(on_a_mesh[name][kind], whole, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*DRAWS, *(f"{name} in a loop" for name in DRAWS)])
def test_the_shardings_of_a_call_with_draws_inside_are_kept_and_change_no_number(name, calls):
    ways = calls[name]
    assert ways["plain"]["asked"] == []
    for way in ways.values():
        np.testing.assert_allclose(way["numbers"], ways["plain"]["numbers"], rtol=1e-5, atol=1e-5)
    if name != "no draw in a loop":  # there the call stays one
        key = set() if name == "no draw" else {"P()"}
        assert {*key, "P('i',)", "P(None, 'j')"} <= set(ways["spread"]["asked"])
    if "loop" not in name:
        assert ways["spread"]["results"] == "P(None, 'j')"
        assert "typed" not in ways or ways["typed"]["results"].startswith("P('i',")
