"""What editors and type checkers see of a user's functions once they are generative functions and expectations."""

import inspect
import pydoc
import subprocess
import sys

import jax
import pytest
import typed_programs as typed
from jax import numpy as jnp
from source_tree import ROOT

import tracegrad as tg
from tracegrad import dist

KEY = jax.random.key(0)


def test_the_typed_programs_run():
    typed.known(KEY, jnp.ones(3))


@pytest.mark.slow
def test_the_types_of_users_programs_survive(tmp_path):
    """Under `--strict`: what is called right has a type, and what is called wrong is an error before it runs."""
    pytest.importorskip("mypy")
    package = tmp_path / "tracegrad"
    package.mkdir()
    for path in (*(ROOT / "ppl").iterdir(), ROOT / "transforms"):
        (package / path.name).symlink_to(path)
    options = ["--strict", "--follow-imports", "silent", "--cache-dir", str(tmp_path / "cache")]
    command = [sys.executable, "-m", "mypy", *options, str(ROOT / "tests" / "typed_programs.py")]
    environment = {"MYPYPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def parameters(function):
    """The names of the parameters, and what is returned."""
    found = inspect.signature(function)
    return [str(p).partition(":")[0] for p in found.parameters.values()], found.return_annotation


def test_a_generative_function_has_the_signature_of_its_function():
    assert parameters(typed.line) == (["slope", "x", "noise"], jax.Array)
    assert str(inspect.signature(typed.line).parameters["noise"]) == "noise: float = 0.1"
    around = tg.validated(typed.line.with_estimators({"y": tg.reparam()}))
    assert inspect.signature(around) == inspect.signature(typed.line)
    assert inspect.getsource(typed.line).startswith("@tg.gen\ndef line(")


def test_a_method_has_its_signature_without_the_instance():
    assert parameters(typed.Model().draw) == (["shift"], jax.Array)
    assert parameters(typed.Model.draw) == (["self", "shift"], jax.Array)


def test_an_expectation_has_the_signature_of_its_function():
    assert parameters(typed.loss) == (["key", "slope", "weight"], jax.Array)
    assert parameters(typed.pair) == (["key", "slope"], tuple[jax.Array, int])
    assert inspect.getdoc(typed.loss) == "An objective."
    chosen = tg.with_estimators(typed.loss, {"y": tg.reinforce()})
    assert inspect.signature(chosen) == inspect.signature(typed.loss)
    assert inspect.signature(tg.leave_one_out(typed.loss, 2)) == inspect.signature(typed.loss)


def test_a_class_of_generative_functions_wraps_nothing():
    """The classes themselves have their own fields and docstrings, whatever their instances wrap."""
    cls = type(typed.line)
    assert parameters(cls)[0] == ["function"]
    assert inspect.getdoc(cls) == "A Python function as a generative function; see `gen`."
    assert inspect.getdoc(typed.line) == "A line through the origin."


@pytest.mark.parametrize(
    "function",
    [typed.line, typed.Model().draw, typed.line.with_estimators({"y": tg.reparam()}), tg.validated(typed.line)],
    ids=["function", "method", "with estimators", "validated"],
)
def test_help_of_a_generative_function_begins_with_what_its_author_wrote(function):
    assert inspect.getdoc(function) in ("A line through the origin.", "Draw about a shift.")
    assert inspect.getdoc(function) in pydoc.render_doc(function, renderer=pydoc.plaintext)


def test_a_generative_function_without_a_docstring_has_that_of_its_class():
    bare = tg.gen(lambda: tg.sample("z", dist.Normal(0.0, 1.0)))
    assert "see `gen`" in inspect.getdoc(bare)


def test_help_of_a_target_begins_with_its_arguments_and_methods():
    """Everything that its constructor takes is explained, and each method that a user may call."""
    text = pydoc.render_doc(tg.Target, renderer=pydoc.plaintext)
    own = text[: text.index("inherited from")]
    for name in inspect.signature(tg.Target).parameters:
        assert f"     {name}: " in own
    for method in ("log_prob", "draw", "latents"):
        assert own.index("Methods defined here") < own.index(f" {method}(self")
        assert inspect.getdoc(getattr(tg.Target, method))
