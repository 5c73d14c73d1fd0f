"""The traps of two folders under one import name, and what the layout promises."""

import ast
import importlib
import importlib.metadata
import re
import shutil
import subprocess
import sys
import zipfile
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from source_tree import (
    FOLDERS,
    ROOT,
    SETTINGS,
    Source,
    attribute_chains,
    exported,
    python_folders,
    sources,
)

SOURCES = sources()
EXPORTED = exported("tracegrad")
SETUPTOOLS = SETTINGS["tool"]["setuptools"]
EVERYWHERE = [
    path
    for folder in (*FOLDERS, "tests", "docs")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if "__pycache__" not in path.parts
]


def label(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def each_source(keep):
    """Run a test once for every source file of the two folders that `keep` says yes to."""
    kept = [source for source in SOURCES if keep(source)]
    return pytest.mark.parametrize("source", kept, ids=lambda source: source.label)


# What gets installed


def test_every_folder_with_python_files_is_a_listed_package():
    """An editable install finds a folder that the list has forgotten; the wheel does not."""
    listed = {folder: package for package, folder in SETUPTOOLS["package-dir"].items()}
    assert listed == python_folders()
    assert sorted(SETUPTOOLS["packages"]) == sorted(listed.values())


@pytest.mark.parametrize("folder", sorted(python_folders()))
def test_every_package_has_an_init(folder):
    assert (ROOT / folder / "__init__.py").is_file()


@pytest.mark.parametrize("folder", sorted(FOLDERS))
def test_packages_are_typed(folder):
    assert (ROOT / folder / "py.typed").is_file()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel built from a copy: in the checkout, an old build/lib would end up in it."""
    pytest.importorskip("setuptools", minversion="77")
    copy = tmp_path_factory.mktemp("copy")
    for folder in FOLDERS:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, copy / folder, ignore=ignored)
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, copy)
    build = "import setuptools.build_meta as backend; print(backend.build_wheel('.'))"
    done = subprocess.run([sys.executable, "-c", build], cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = copy.glob("*.whl")
    return built


def test_the_wheel_holds_the_tree(wheel):
    expected = {
        f"{package.replace('.', '/')}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, package in FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.suffix == ".py" or path.name == "py.typed"
    }
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        licences = [name for name in archive.namelist() if name.endswith("/LICENSE")]
    assert names == expected
    assert licences


def test_the_version_stands_in_one_place():
    version = SETTINGS["project"]["version"]
    assert importlib.metadata.version("tracegrad") == version
    assert importlib.import_module("tracegrad").__version__ == version
    assert [source.label for source in SOURCES if version in source.path.read_text()] == []


# Who may import whom


@each_source(lambda source: source.label.startswith("transforms/"))
def test_transforms_does_not_know_the_language(source):
    """It imports itself relatively, and neither the language nor a distribution library."""
    own = "tracegrad.transforms"
    wrong = [
        found
        for found in source.imports()
        if _is_within(found.module, "tracegrad")
        and not (found.level and _is_within(found.module, own))
        or _is_within(found.module, "numpyro")
    ]
    assert wrong == []


@each_source(lambda source: source.label.startswith("ppl/"))
def test_the_language_imports_itself_relatively(source):
    wrong = [
        found
        for found in source.imports()
        if not found.level
        and _is_within(found.module, "tracegrad")
        and not _is_within(found.module, "tracegrad.transforms")
    ]
    assert wrong == []


@pytest.mark.parametrize("path", EVERYWHERE, ids=label)
def test_no_folder_name_is_imported(path):
    """`transforms` and `ppl` are import names of other people's packages."""
    tops = [found.module.split(".")[0] for found in Source(path, "none").imports()]
    assert not set(tops) & set(FOLDERS)


@pytest.mark.parametrize("path", EVERYWHERE, ids=label)
def test_jax_internals_are_touched_in_one_file(path):
    """Moving parts of JAX are named in transforms/_jax.py; its private modules nowhere."""
    source = Source(path, "none")
    named = [f"{found.module}.{found.name}" for found in source.imports()]
    named += [chain for chain, _ in attribute_chains(source.tree)]
    assert [name for name in named if re.match(r"jax(lib)?\.(\w+\.)*_src\b", name)] == []
    moving = [name for name in named if re.match(r"jax\.(extend|interpreters)\b", name)]
    assert label(path) == "transforms/_jax.py" or moving == []


def test_no_module_cycles():
    modules = {source.module for source in SOURCES}
    graph = {
        source.module: {
            full if (full := f"{found.module}.{found.name}") in modules else found.module for found in source.imports()
        }
        & modules
        for source in SOURCES
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@each_source(lambda source: True)
def test_no_star_imports(source):
    assert [found for found in source.imports() if found.name == "*"] == []


@each_source(lambda source: True)
def test_no_function_imports_the_project(source):
    """A late import hides a cycle. (An optional dependency may be imported where it is used.)"""
    functions = [node for node in ast.walk(source.tree) if isinstance(node, ast.FunctionDef)]
    inside = [node for function in functions for node in ast.walk(function)]
    assert [n.lineno for n in inside if isinstance(n, ast.ImportFrom) and n.level] == []


def test_third_party_imports_are_declared():
    project = SETTINGS["project"]
    optional = [line for extra in project["optional-dependencies"].values() for line in extra]
    declared = {re.split(r"[^\w-]", line)[0].replace("-", "_") for line in [*project["dependencies"], *optional]}
    imported = {found.module.split(".")[0] for source in SOURCES for found in source.imports() if not found.level}
    assert imported - declared - set(sys.stdlib_module_names) - {"tracegrad"} == set()


# What is exported


@each_source(lambda source: source.path.name == "__init__.py")
def test_an_init_only_re_exports(source):
    allowed = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.Expr)
    assert [ast.unparse(node) for node in source.tree.body if not isinstance(node, allowed)] == []


def _used_names(tree: ast.Module) -> set[str]:
    """Names of the language that a file uses, not merely imports."""
    aliases, names = set(), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            aliases |= {a.asname or a.name for a in node.names if a.name == "tracegrad"}
        elif isinstance(node, ast.ImportFrom) and node.module == "tracegrad":
            names |= {a.asname or a.name: a.name for a in node.names}
    used = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            used |= {node.attr} if node.value.id in aliases else set()
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            used |= {names[node.id]} if node.id in names else set()
    return used


USED = set().union(*(_used_names(ast.parse(path.read_text())) for path in (ROOT / "tests").rglob("test_*.py")))


def test_the_language_exports_something():
    assert EXPORTED
    assert len(set(EXPORTED)) == len(EXPORTED)


@pytest.mark.parametrize("name", EXPORTED)
def test_every_exported_name_exists_and_is_tested(name):
    assert hasattr(importlib.import_module("tracegrad"), name)
    assert name in USED, f"no test uses tracegrad.{name}"


@pytest.mark.parametrize("name", EXPORTED)
def test_every_exported_name_is_in_the_reference(name):
    reference = (ROOT / "docs" / "reference.md").read_text()
    assert re.search(rf"^(::: |#+ `?)tracegrad\.{name}\b", reference, re.MULTILINE)


# The traps themselves: a copy of the layout with the mistake in it must be noticed


def test_a_forgotten_folder_is_noticed(tmp_path):
    folder = tmp_path / "ppl" / "extra"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    assert python_folders(tmp_path) == {"ppl/extra": "tracegrad.extra"}


@pytest.mark.parametrize(
    ("line", "module"),
    [
        ("from ... import gen", "tracegrad"),
        ("from .._sample import bind", "tracegrad.transforms._sample"),
        ("from . import mvd", "tracegrad.transforms.estimators"),
        ("import tracegrad.dist", "tracegrad.dist"),
    ],
)
def test_relative_imports_are_resolved(tmp_path, line, module):
    path = tmp_path / "reparam.py"
    path.write_text(line)
    (found,) = Source(path, "tracegrad.transforms.estimators.reparam").imports()
    assert found.module == module


def _is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")
