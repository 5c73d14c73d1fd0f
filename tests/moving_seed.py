"""The seed of what is tried at random: another one for every commit, and one that can be given again."""

import datetime
import os
import subprocess
from pathlib import Path

VARIABLE = "TRACEGRAD_FUZZ_SEED"


def moving_seed() -> int:
    """The seed in the environment; else of the commit that is checked out; else of the day."""
    given = os.environ.get(VARIABLE)
    return int(given) if given else int(_commit() or datetime.date.today().strftime("%Y%m%d"), 16)


def _commit():
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=8", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
