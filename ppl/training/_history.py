"""The objectives of a run that is kept: in blocks of steps, each a file that is written once.

So what is written for a checkpoint does not grow with the steps that were taken. A checkpoint has the objectives since
the last full block, and the hash of all that are in blocks before.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from .._errors import CheckpointError
from ._file import read, write

BLOCK = 2**16
"""Steps of a block: a checkpoint has no more objectives than that, a quarter of a megabyte."""


def _path_of(folder: Path, start: int) -> Path:
    return folder / f"history-{start:012d}.fit"


class Blocks:
    """The blocks of one run, from its first step on, in a folder.

    Attributes:
        steps: how many steps are in them.
    """

    def __init__(self, folder: Path):
        self._folder, self._hash, self.steps = folder, hashlib.sha256(), 0

    def take(self, latest: np.ndarray) -> np.ndarray:
        """Write the blocks that are full with the latest objectives, those after `steps`; what is left over."""
        while len(latest) >= BLOCK:
            block, latest = latest[:BLOCK], latest[BLOCK:]
            write(_path_of(self._folder, self.steps), {"history": block}, {"steps": self.steps + BLOCK})
            self._hash.update(block.tobytes())
            self.steps += BLOCK
        return latest

    def said(self) -> dict[str, Any]:
        """By what they are recognised."""
        return {"steps": self.steps, "block": BLOCK, "sha256": self._hash.hexdigest()}


def read_blocks(path: Path, said: dict[str, Any], like: np.ndarray) -> np.ndarray:
    """The objectives in the blocks before a checkpoint.

    Args:
        path: that of the checkpoint, beside which they are.
        said: what it says of them.
        like: an array of their type.

    Raises:
        CheckpointError: one of them is not there, damaged, or of another run.
    """
    steps, size = int(said["steps"]), int(said["block"])
    blocks = []
    for start in range(0, steps, size):
        try:
            found = read(_path_of(path.parent, start), {"history": like}, growing=("['history']",))["history"]
        except CheckpointError as error:
            text = f"{path} needs the files of its history beside it. {error}"
            raise CheckpointError(text, damaged=True) from error
        blocks.append(np.asarray(found))
    history = np.concatenate(blocks)
    if len(history) != steps or hashlib.sha256(history.tobytes()).hexdigest() != said["sha256"]:
        raise CheckpointError(f"{path} is not of the history beside it, which is of another run.", damaged=True)
    return history
