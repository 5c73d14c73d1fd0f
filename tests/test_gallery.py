"""The systems of docs/gallery: short, by public names alone, on the page, and judged by rows that can fail.

That they run, and that their numbers hold, is seen by `make gallery`.
"""

import ast
import importlib.util
import inspect
import math
import sys

import matplotlib.pyplot as plt
import pytest
from source_tree import PUBLIC, ROOT, exported

GALLERY = ROOT / "docs" / "gallery"
FILES = [path for path in sorted(GALLERY.glob("*.py")) if path.stem not in ("__main__", "runner")]
LONGEST = 100
"""Lines of code of a system: without blank ones, comments and docstrings."""
HEAVIEST = 80_000
"""Bytes of a picture."""

every_file = pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])


def load(path):
    spec = importlib.util.spec_from_file_location(f"gallery_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def runner():
    return load(GALLERY / "runner.py")


def is_text(node) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def lines_of_code(source: str) -> int:
    text = [
        range(parent.body[0].lineno, parent.body[0].end_lineno + 1)
        for parent in ast.walk(ast.parse(source))
        if isinstance(parent, ast.Module | ast.FunctionDef | ast.ClassDef) and is_text(parent.body[0])
    ]
    said = {number for lines in text for number in lines}
    code = [line.strip() for number, line in enumerate(source.splitlines(), 1) if number not in said]
    return len([line for line in code if line and not line.startswith("#")])


def test_lines_are_counted_as_it_is_said():
    assert lines_of_code('"""Two\nlines."""\n\n# why\ndef f():\n    """Said."""\n    return 1  # here\n') == 2


@every_file
def test_a_system_is_short_and_says_where_it_comes_from(path):
    source = path.read_text()
    assert lines_of_code(source) <= LONGEST
    text = ast.get_docstring(ast.parse(source))
    assert text.partition("\n\n")[0].endswith(".")
    assert "Source: " in text


@every_file
def test_a_system_uses_public_names_alone(path):
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tracegrad"):
            assert node.module in PUBLIC, node.module
            assert {alias.name for alias in node.names} <= {*exported(node.module)}
        if isinstance(node, ast.Import):
            for alias in node.names:
                assert not alias.name.startswith("tracegrad.") or alias.name in PUBLIC
        if isinstance(node, ast.Attribute):
            assert node.attr.startswith("__") or not node.attr.startswith("_"), f"{node.attr}, line {node.lineno}"
            if ast.unparse(node.value) == "tg":
                assert node.attr in exported("tracegrad"), f"tg.{node.attr}, line {node.lineno}"


@every_file
def test_a_system_can_be_run_small_and_is_on_the_page_with_its_picture(path):
    functions = {node.name: node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}
    arguments = functions["main"].args
    assert [each.arg for each in (*arguments.args, *arguments.kwonlyargs)] == ["quick"]
    page = (ROOT / "docs" / "gallery.md").read_text()
    assert f"gallery/{path.name}" in page
    assert f"](images/gallery-{path.stem}.png)" in page
    assert 0 < (ROOT / "docs" / "images" / f"gallery-{path.stem}.png").stat().st_size < HEAVIEST


@pytest.mark.parametrize(("number", "holds"), [(1.0, True), (0.9, True), (1.2, False), (math.nan, False), (1.1, True)])
def test_a_row_holds_inside_its_aim(runner, number, holds):
    assert runner.holds(("what", number, 0.9, 1.1)) is holds
    assert ("MISSED" in runner.line("name", ("what", number, 0.9, 1.1), 3.0)) is not holds


def test_a_system_passes_where_all_rows_hold_and_leaves_its_picture(runner, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runner, "PICTURES", tmp_path / "images")
    figure = plt.figure()
    good, bad = ("good", 1.0, 0.0, 2.0), ("bad", 3.0, 0.0, 2.0)
    assert runner.show(lambda quick: ([good], figure), "a/name.py", quick=True)
    assert not (tmp_path / "images").exists()
    assert not runner.show(lambda quick: ([good, bad], figure), "a/name.py", quick=False, draw=True)
    assert not runner.show(lambda quick: ([], figure), "a/name.py", quick=True)  # nothing was shown
    assert (tmp_path / "images" / "gallery-name.png").exists()
    assert [line[:20].split() for line in capsys.readouterr().out.splitlines()] == [
        ["name", *rest] for rest in (["good"], ["good"], ["bad"])
    ]
    plt.close(figure)


def test_the_gallery_runs_what_is_named_and_goes_on_after_a_failure(monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", [str(GALLERY), *sys.path])
    gallery = load(GALLERY / "__main__.py")
    assert [path.stem for path in FILES] == gallery.NAMES

    def show(main, path, *, quick, draw):
        if path == "first.py":
            raise ZeroDivisionError
        return quick is not draw

    monkeypatch.setattr(gallery, "NAMES", ["first", "second"])
    monkeypatch.setattr(gallery, "show", show)
    monkeypatch.setattr(gallery.importlib, "import_module", lambda name: inspect)
    monkeypatch.setattr(inspect, "main", None, raising=False)
    monkeypatch.setattr(gallery.jax, "clear_caches", lambda: None)  # other tests have need of them
    for words, passed in ([], False), (["second"], True), (["second", "--whole"], True):
        monkeypatch.setattr(sys, "argv", ["gallery", *words])
        assert gallery.main() is passed
    captured = capsys.readouterr()
    assert captured.out.split() == ["first", "FAILED"]
    assert "ZeroDivisionError" in captured.err
    monkeypatch.setattr(sys, "argv", ["gallery", "third"])
    with pytest.raises(SystemExit):
        gallery.main()
    assert "There are first, second." in capsys.readouterr().err
