"""The checkout as data: its source files, their modules and their imports. Nothing is run."""

import ast
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())

# Folder -> the package that it is installed as.
FOLDERS = {"ppl": "tracegrad", "transforms": "tracegrad.transforms"}

# The modules whose names are for users. All others are reached through these.
PUBLIC = [
    "tracegrad",
    "tracegrad.algorithms",
    "tracegrad.auto",
    "tracegrad.errors",
    "tracegrad.estimators",
    "tracegrad.objectives",
    "tracegrad.transforms",
]


@dataclass(frozen=True)
class Import:
    """One imported name: `from module import name`, or `import module` where name is empty."""

    module: str
    name: str
    line: int
    level: int


@dataclass(frozen=True)
class Source:
    """A source file of one of the two folders, and the module that it is installed as."""

    path: Path
    module: str

    @property
    def label(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @property
    def package(self) -> str:
        is_package = self.path.name == "__init__.py"
        return self.module if is_package else self.module.rpartition(".")[0]

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_text(), self.path.name)

    def imports(self) -> list[Import]:
        return list(_imports(self.tree, self.package))


def sources(root: Path = ROOT) -> list[Source]:
    """All Python files of the two folders."""
    return [
        Source(path, _module(path.relative_to(root / folder), package))
        for folder, package in FOLDERS.items()
        for path in sorted((root / folder).rglob("*.py"))
    ]


def python_folders(root: Path = ROOT) -> dict[str, str]:
    """Every folder that holds a Python file -> the package that it must be installed as."""
    return {source.path.parent.relative_to(root).as_posix(): source.package for source in sources(root)}


def exported(module: str) -> list[str]:
    """The names that a public module exports: its `__all__`, which is a list of strings and nothing computed."""
    (source,) = [source for source in sources() if source.module == module]
    for node in source.tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    raise LookupError(f"{source.label} has no __all__")


def attribute_chains(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every dotted name in an expression, as text, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield ast.unparse(node), node.lineno


def _module(relative: Path, package: str) -> str:
    parts = [part for part in relative.with_suffix("").parts if part != "__init__"]
    return ".".join([package, *parts])


def _imports(tree: ast.AST, package: str) -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, "", node.lineno, 0)
        elif isinstance(node, ast.ImportFrom):
            module = _absolute(node, package)
            for alias in node.names:
                yield Import(module, alias.name, node.lineno, node.level)
        else:
            yield from _imports(node, package)


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    base = package.split(".")[: len(package.split(".")) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])
