"""The pairs of `docs/from-numpyro.md`: ours is no longer than NumPyro's, says the same, and is printed as it runs."""

import ast
import json
import operator
import re

import numpy as np
import pytest
from numpyro_pairs import FOLDER, KEPT, PAIRS, told
from source_tree import ROOT

import tracegrad as tg


def statements(code: str) -> int:
    """Statements at any depth, but imports and docstrings."""
    return sum(not skipped(node) for node in ast.walk(ast.parse(code)) if isinstance(node, ast.stmt))


def skipped(node):
    docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return docstring or isinstance(node, ast.Import | ast.ImportFrom)


def counted(name):
    return statements((FOLDER / f"{name}.py").read_text())


def test_statements_are_counted_at_every_depth():
    code = '"""Doc."""\nimport os\n@gen\ndef f():\n    """Doc."""\n    if x: y = 1; z = 2\n    return y\n'
    assert statements(code) == 5  # def, if, two assignments, return


@pytest.mark.parametrize("name", PAIRS)
def test_ours_has_no_more_statements_than_numpyros(name):
    assert counted(name) <= counted(f"{name}_numpyro")


# ---- both say the same ----------------------------------------------------------------------------------------------

FITS = {"logistic": 0.25, "eight_schools": 0.25, "vae": 0.25}
"""How far the means of two stochastic fits may lie apart besides, in deviations of the posterior."""


def agree(name, one, other):
    """Means and deviations are within 5 of their Monte Carlo errors, and fits within what is said of them."""
    assert one.keys() == other.keys()
    for quantity, found in one.items():
        like = {k: np.asarray(x) for k, x in other[quantity].items()}
        besides = FITS.get(name, 0.0) * like["sd"]
        apart = 5.0 * np.hypot(found["error"], like["error"]) + besides
        assert np.all(np.abs(found["mean"] - like["mean"]) < apart), quantity
        apart = 5.0 * np.hypot(found["sd_error"], like["sd_error"]) + besides
        assert np.all(np.abs(found["sd"] - like["sd"]) < apart), quantity


QUICK = ["local_level", "logistic", "regression", "vae", "varying_intercepts"]


@pytest.mark.table
@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in PAIRS])
def test_ours_says_what_numpyros_said(name):
    """What NumPyro's said is kept in a file, which `python tests/numpyro_pairs.py` writes."""
    agree(name, told(name, seed=0), json.loads(KEPT.read_text())[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", PAIRS)
def test_numpyros_says_what_it_said(name):
    agree(name, told(f"{name}_numpyro", seed=2), json.loads(KEPT.read_text())[name])


# ---- the page -------------------------------------------------------------------------------------------------------

PAGE = (ROOT / "docs" / "from-numpyro.md").read_text()


@pytest.mark.parametrize("name", PAIRS)
def test_the_page_prints_both_as_they_run_and_counts_their_statements(name):
    for module in (name, f"{name}_numpyro"):
        _, _, code = (FOLDER / f"{module}.py").read_text().partition('"""\n')
        assert f"```python\n{code.strip()}\n```" in PAGE
    assert re.search(rf"\n\| \[.*\]\(#.*\) \| {counted(name)} \| {counted(f'{name}_numpyro')} \|\n", PAGE)


def test_what_the_page_names_exists():
    """What is said to be written here, in the right column of the table, is public."""
    rows = re.findall(r"^\| .* \| (.*) \|$", PAGE.partition("## Ten programs")[0], re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"\btg\.((?:\w+\.)?\w+)", row)}
    assert len(named) > 30
    for name in named:
        operator.attrgetter(name)(tg)
    methods = {name for row in rows for name in re.findall(r"\b(?:f|model|step)\.(\w+)\(", row)}
    assert methods >= {"do", "with_scale", "with_coordinates", "simulate", "assess", "vmap"}
    assert [name for name in methods if not callable(getattr(tg.GenerativeFunction, name, None))] == []
