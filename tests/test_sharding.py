"""`shard_map`, with its check of what varies between devices and without, and sharded arrays apply to expectations."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sharded_programs import PROGRAMS


@pytest.fixture(scope="module")
def found():
    """Value and gradient of each program in each way, from a process with two devices."""
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    script = Path(__file__).with_name("sharded_programs.py")
    done = subprocess.run([sys.executable, script], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", PROGRAMS)
def test_half_a_batch_on_each_device_gives_the_gradient_of_the_whole(name, found):
    ways = dict(found[name])
    whole = ways.pop("one device")
    assert len(ways) in (1, 4)
    assert np.isfinite(whole).all()
    assert whole[1] != 0.0
    for way, numbers in ways.items():
        np.testing.assert_allclose(numbers, whole, rtol=1e-5, err_msg=way)
