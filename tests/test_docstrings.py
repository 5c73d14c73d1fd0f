"""Every docstring's example runs, and every public name has a docstring with one."""

import doctest
import importlib
import inspect

import jax
import pytest
from source_tree import SETTINGS, exported, sources

FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


@pytest.mark.parametrize("module", [source.module for source in sources()])
def test_examples_in_docstrings_run(module, capsys):
    """As a reader runs them: with JAX's ordinary promotion, where an integer draw may be scaled by a float."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        failed, _ = doctest.testmod(importlib.import_module(module), optionflags=FLAGS)
    assert not failed, capsys.readouterr().out


@pytest.mark.parametrize("package", SETTINGS["tool"]["setuptools"]["packages"])
def test_public_names_have_docstrings(package):
    bare = [name for name, value in _public(package).items() if callable(value) and not inspect.getdoc(value)]
    assert bare == []


def test_public_functions_have_examples():
    functions = {name: value for name, value in _public("tracegrad").items() if inspect.isfunction(value)}
    assert [name for name, value in functions.items() if ">>>" not in (inspect.getdoc(value) or "")] == []


def _public(package):
    return {name: getattr(importlib.import_module(package), name) for name in exported(package)}
