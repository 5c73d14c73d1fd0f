"""Programs, traces and objectives outlive their process: by name where they have one, by value from a script."""

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import cloudpickle
import jax
import numpy as np
import pickled_programs
import pytest
from pickled_programs import BY_VALUE, USES, contents, numbers

import tracegrad as tg
from tracegrad import dist

SCRIPT = Path(pickled_programs.__file__)


def as_a_script():
    """The contents of the module as they are where it is run as a script: nobody can import them."""
    namespace = {"__name__": "__main__"}
    exec(compile(SCRIPT.read_text().split("if __name__")[0], SCRIPT, "exec"), namespace)
    return namespace["contents"]()


@pytest.fixture(scope="module")
def elsewhere():
    """What another process makes of them, pickled in each way."""
    data = {
        "pickle": pickle.dumps({name: x for name, x in contents().items() if name not in BY_VALUE}),
        "cloudpickle": cloudpickle.dumps(contents()),
        "cloudpickle of a script": cloudpickle.dumps(as_a_script()),
    }
    env = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run([sys.executable, SCRIPT], input=pickle.dumps(data), env=env, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", USES)
@pytest.mark.parametrize("how", ["pickle", "cloudpickle", "cloudpickle of a script"])
def test_another_process_finds_the_same_values_and_gradients(how, name, elsewhere):
    if how == "pickle" and name in BY_VALUE:
        with pytest.raises((pickle.PicklingError, AttributeError), match="local object"):
            pickle.dumps(contents()[name])
    else:
        np.testing.assert_allclose(elsewhere[how][name], numbers(name, contents()[name]), rtol=1e-5)


@pytest.mark.parametrize("name", USES)
@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy])
def test_copies_are_the_same_programs(again, name):
    thing = contents()[name]
    np.testing.assert_array_equal(numbers(name, again(thing)), numbers(name, thing))


def test_a_function_of_a_module_comes_back_as_itself_and_one_of_a_script_as_a_copy():
    assert pickle.loads(pickle.dumps(pickled_programs.model)) is pickled_programs.model
    assert pickle.loads(pickle.dumps(pickled_programs.Guide.normal)) is pickled_programs.Guide.normal
    script = as_a_script()["function"]
    assert cloudpickle.loads(cloudpickle.dumps(script)) is not script


def test_a_lambda_is_pickled_by_value_alone():
    function = tg.gen(lambda w: tg.sample("x", dist.Normal(w, 1.0)))
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(function)
    again = cloudpickle.loads(cloudpickle.dumps(function))
    assert again.simulate(jax.random.key(0), 0.3).logp == function.simulate(jax.random.key(0), 0.3).logp
