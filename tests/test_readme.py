"""The example in README.md is complete, short, and right as printed."""

import re
import subprocess
import sys

import pytest
from source_tree import ROOT

README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def example():
    (only,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    return only


def test_the_example_is_short(example):
    assert len(example.splitlines()) <= 25


def test_the_example_runs_and_finds_the_posterior(example, tmp_path):
    """By itself, in an empty folder, with warnings as errors; what it prints are the exact numbers, to the digit."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == example.rpartition("# exact: ")[2].strip()


@pytest.mark.parametrize("command", ["demo", "test"])
def test_the_commands_come_first(command):
    assert f"    make {command} " in README.partition("\n## ")[0]


def test_the_picture_is_there():
    (picture,) = re.findall(r"!\[.*?\]\((.*?)\)", README)
    assert (ROOT / picture).is_file()


def test_what_it_links_to_is_there():
    linked = re.findall(r"\]\(([^)#]+)(?:#[\w-]*)?\)", README)
    assert len(linked) > 20
    assert [path for path in linked if not (ROOT / path).is_file()] == []


def test_each_claim_of_the_table_names_the_test_that_proves_it():
    table = README.partition("| proved by |")[2].partition("\n\n")[0]
    rows = [row for row in table.splitlines() if row.startswith("| ")]
    assert len(rows) >= 8
    assert [row for row in rows if not re.search(r"\]\(tests/test_\w+\.py\)", row)] == []


def test_its_figures_of_speed_are_those_of_the_page():
    page = (ROOT / "docs" / "attend-infer-repeat.md").read_text()
    table = README.partition("## Speed")[2].partition("| tracegrad | published |")[2].partition("\n\n")[0]
    for row in table.splitlines()[2:]:
        name, ours, published = row.strip("| ").split(" | ")
        assert f"| {name.replace('`, `', '-').strip('`')} | {ours} | {published} |" in page
