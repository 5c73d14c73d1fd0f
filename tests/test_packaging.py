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


# What gets installed


def test_every_folder_with_python_files_is_a_listed_package():
    """An editable install finds a folder that the list has forgotten; the wheel does not."""
    listed = {folder: package for package, folder in SETUPTOOLS["package-dir"].items()}
    assert listed == python_folders()
    assert sorted(SETUPTOOLS["packages"]) == sorted(listed.values())


def test_every_package_has_an_init_that_says_what_it_is_for():
    inits = [ROOT / folder / "__init__.py" for folder in python_folders()]
    assert [label(path) for path in inits if not path.is_file()] == []
    assert [label(path) for path in inits if not ast.get_docstring(ast.parse(path.read_text()))] == []


def test_packages_are_typed():
    assert [folder for folder in FOLDERS if not (ROOT / folder / "py.typed").is_file()] == []


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


def test_transforms_does_not_know_the_language():
    """It imports itself relatively, and neither the language nor a distribution library."""
    own = "tracegrad.transforms"
    wrong = [
        (source.label, found)
        for source in SOURCES
        if source.label.startswith("transforms/")
        for found in source.imports()
        if _is_within(found.module, "tracegrad")
        and not (found.level and _is_within(found.module, own))
        or _is_within(found.module, "numpyro")
    ]
    assert wrong == []


def test_the_language_imports_itself_relatively():
    wrong = [
        (source.label, found)
        for source in SOURCES
        if source.label.startswith("ppl/")
        for found in source.imports()
        if not found.level
        and _is_within(found.module, "tracegrad")
        and not _is_within(found.module, "tracegrad.transforms")
    ]
    assert wrong == []


def test_the_language_uses_the_transformation_by_two_doors():
    """Its public names, and one list of what the language alone may use, each of which it does use."""
    public, internal = "tracegrad.transforms", "tracegrad.transforms._internal"
    listed = next(source for source in SOURCES if source.module == internal)
    names = {public: set(exported(public)), internal: {found.name for found in listed.imports()}}
    used = [
        (source.label, found)
        for source in SOURCES
        if source.label.startswith("ppl/")
        for found in source.imports()
        if _is_within(found.module, public)
    ]
    assert [(file, found) for file, found in used if found.name not in names.get(found.module, ())] == []
    assert names[internal] - {found.name for _, found in used} == set()
    assert names[internal] & names[public] == set()


def test_no_folder_name_is_imported():
    """`transforms` and `ppl` are import names of other people's packages."""
    imports = [(label(path), found) for path in EVERYWHERE for found in Source(path, "none").imports()]
    wrong = [(file, f.module) for file, f in imports if not f.level and f.module.split(".")[0] in FOLDERS]
    assert wrong == []


def test_jax_internals_are_touched_in_one_file():
    """Moving parts of JAX are named in transforms/_jax.py, and where tests make primitives; private modules nowhere."""
    private, moving = [], []
    for path in EVERYWHERE:
        source = Source(path, "none")
        named = [f"{found.module}.{found.name}" for found in source.imports()]
        named += [chain for chain, _ in attribute_chains(source.tree)]
        private += [(label(path), name) for name in named if re.match(r"jax(lib)?\.(\w+\.)*_src\b", name)]
        moving += [(label(path), name) for name in named if re.match(r"jax\.(extend|interpreters)\b", name)]
    assert private == []
    assert {file for file, _ in moving} - {"tests/test_new_construct.py", "tests/exactly.py"} == {"transforms/_jax.py"}


def _arrows(place):
    """Which place imports which; imports for types only count, those of an `__init__` (which re-exports) do not."""
    files = {source.module: source for source in SOURCES}
    graph = {place(source): set() for source in SOURCES}
    for source in SOURCES:
        if source.path.name == "__init__.py":
            continue
        for found in source.imports():
            full = f"{found.module}.{found.name}"
            target = files.get(full if full in files else found.module)
            if target is not None and place(target) != place(source):
                graph[place(source)].add(place(target))
    return graph


def _room(source):
    """The folder that a file lies in, or the file itself where that is the ground of a package."""
    folder = source.path.parent.relative_to(ROOT).as_posix()
    return source.label if folder in FOLDERS else folder


@pytest.mark.parametrize("place", [lambda source: source.label, _room], ids=["files", "rooms"])
def test_every_arrow_points_down(place):
    """No circle of files, and none of folders."""
    try:
        TopologicalSorter(_arrows(place)).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_no_star_imports():
    assert [source.label for source in SOURCES for found in source.imports() if found.name == "*"] == []


def test_no_function_imports_the_project():
    """A late import hides a cycle. (An optional dependency may be imported where it is used.)"""
    late = [
        (source.label, node.lineno)
        for source in SOURCES
        for function in ast.walk(source.tree)
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert late == []


def test_third_party_imports_are_declared():
    project = SETTINGS["project"]
    optional = [line for extra in project["optional-dependencies"].values() for line in extra]
    declared = {re.split(r"[^\w-]", line)[0].replace("-", "_") for line in [*project["dependencies"], *optional]}
    imported = {found.module.split(".")[0] for source in SOURCES for found in source.imports() if not found.level}
    assert imported - declared - set(sys.stdlib_module_names) - {"tracegrad"} == set()


# What is exported


def test_an_init_only_re_exports():
    allowed = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.Expr)
    inits = [source for source in SOURCES if source.path.name == "__init__.py"]
    wrong = [(s.label, ast.unparse(node)) for s in inits for node in s.tree.body if not isinstance(node, allowed)]
    # What `import *` and `dir` show may be computed from what is imported.
    assert [(file, text) for file, text in wrong if not text.startswith("def __dir__")] == []


def test_the_language_exports_something():
    assert EXPORTED
    assert len(set(EXPORTED)) == len(EXPORTED)


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
