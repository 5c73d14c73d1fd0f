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
    """By itself, in an empty folder, with warnings as errors; what it prints is what it says."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = _numbers(done.stdout)
    said = _numbers(example.rpartition("# exact:")[2])
    assert printed == pytest.approx(said, abs=0.25)


@pytest.mark.parametrize("command", ["demo", "test"])
def test_the_commands_come_first(command):
    assert f"    make {command} " in README.partition("\n## ")[0]


def test_the_picture_is_there():
    (picture,) = re.findall(r"!\[.*?\]\((.*?)\)", README)
    assert (ROOT / picture).is_file()


def _numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+\.\d*", text)]
