"""The demo runs as `make demo` runs it, trains, and leaves its picture."""

import re
import subprocess
import sys

import matplotlib.image
import numpy as np
import pytest
from source_tree import ROOT

DEMO = ROOT / "docs" / "examples" / "vae.py"
NUMBER = r"(-?\d+\.\d+) ± (\d+\.\d+)"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """What a quick run prints, and its picture."""
    folder = tmp_path_factory.mktemp("demo")
    picture = folder / "new" / "vae.png"
    command = [sys.executable, "-W", "error", DEMO, "--quick", "--output", picture]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done, picture


def test_it_leaves_one_picture(demo):
    done, picture = demo
    assert list(picture.parent.parent.rglob("*.*")) == [picture]
    assert str(picture) in done.stdout
    pixels = matplotlib.image.imread(picture)
    assert min(pixels.shape[:2]) > 400
    assert np.std(pixels[..., :3]) > 0.05  # not a blank sheet


def test_the_held_out_elbo_improves(demo):
    """Untrained, every pixel has probability 1/2: -784 log 2 = -543 nats, less a divergence of a few."""
    done, _ = demo
    ((before, error, after, _),) = re.findall(f"before {NUMBER}  after {NUMBER} nats", done.stdout)
    assert float(before) == pytest.approx(-784 * np.log(2), abs=15)
    assert float(after) > float(before) + 200
    assert float(error) > 0


def test_the_estimators_are_compared(demo):
    """With as many steps, the weak derivative gets further than the score function, with less noise."""
    done, _ = demo
    rows = re.findall(rf"^(\w+)\(\) +{NUMBER} +(\S+) +(\S+)$", done.stdout, re.MULTILINE)
    table = {name: [float(x) for x in figures] for name, *figures in rows}
    assert table.keys() == {"reinforce", "mvd"}
    assert table["mvd"][0] > table["reinforce"][0] > -545
    assert table["mvd"][2] < table["reinforce"][2] / 100
    assert all(figures[3] > 0 for figures in table.values())


def test_progress_is_shown(demo):
    done, _ = demo
    assert re.search(r"60/60  objective -\d", done.stderr)
    assert "steps/s" in done.stderr
