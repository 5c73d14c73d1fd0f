"""Every docstring's example runs, and every public name has a docstring with one."""

import doctest
import importlib
import inspect
from types import ModuleType

import jax
import pytest
from source_tree import PUBLIC, exported, sources

FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
RUNNER = doctest.DocTestRunner(verbose=False, optionflags=FLAGS)


def examples(module):
    """Those that `doctest` finds, and those of singledispatch functions, whose own module is `functools` to it."""
    found = doctest.DocTestFinder().find(module)
    known = {test.name for test in found}
    for name, value in vars(module).items():
        full = f"{module.__name__}.{name}"
        if hasattr(value, "registry") and value.__module__ == module.__name__ and full not in known:
            found.append(doctest.DocTestParser().get_doctest(inspect.getdoc(value), dict(vars(module)), full, None, 0))
    return [test for test in found if test.examples]


@pytest.mark.table
@pytest.mark.parametrize("module", [source.module for source in sources()])
def test_examples_in_docstrings_run(module, capsys):
    """As a reader runs them: with JAX's ordinary promotion, where an integer draw may be scaled by a float."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        failed = [test.name for test in examples(importlib.import_module(module)) if RUNNER.run(test).failed]
    assert not failed, capsys.readouterr().out


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_have_docstrings_with_examples(module):
    bare = [name for name, value in _public(module).items() if not inspect.getdoc(value)]
    assert [name for name in bare if name != "dist"] == []  # numpyro's, under another name
    things = {name: value for name, value in _public(module).items() if not isinstance(value, ModuleType)}
    assert [name for name, value in things.items() if ">>>" not in inspect.getdoc(value)] == []


def test_examples_of_public_names_are_found():
    """So that they run: `doctest` passes over what it takes for something of another module."""
    found = {test.name for source in sources() for test in examples(importlib.import_module(source.module))}
    things = [value for module in PUBLIC for value in _public(module).values() if not isinstance(value, ModuleType)]
    names = {f"{value.__module__}.{value.__qualname__}" for value in things}
    assert names - found == set()


def _public(module):
    return {name: getattr(importlib.import_module(module), name) for name in exported(module)}
