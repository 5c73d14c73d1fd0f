"""Rows of arrays that are files in memory, read from the file itself where that is known to be the same.

Reading through the mapping takes a page fault for every four kilobytes of a row, several times longer than reading, and
what was read counts as memory of the process. Whether the path still leads to the file that is mapped, the system tells
(`/proc/self/maps`); where it does not, or rows are small, the mapping is read.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np

LARGE = 2**12
"""Rows of so many bytes go one by one to their place; smaller ones all at once, and then to theirs."""
MODES = ("r", "r+")
"""Of a mapping; in others it may differ from its file."""


class _File:
    """An open file, and where in it the rows of an array are."""

    def __init__(self, handle: int, start: int):
        self.handle, self.start = handle, start

    def __del__(self):
        os.close(self.handle)


def _address(x: Any) -> int:
    return int(x.__array_interface__["data"][0])


def _is_mapped_at(handle: int, address: int) -> bool:
    """Whether this file is what is mapped to an address."""
    file = os.fstat(handle)
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, _, _, device, inode = line.split()[:5]
        low, high = (int(part, 16) for part in span.split("-"))
        if low <= address < high:
            major, minor = (int(part, 16) for part in device.split(":"))
            return (major, minor, int(inode)) == (os.major(file.st_dev), os.minor(file.st_dev), file.st_ino)
    return False


def _file_of(x: Any) -> _File | None:
    """The file behind an array, if its rows can be read from it."""
    mapping, filename = getattr(x, "_mmap", None), getattr(x, "filename", None)
    if not isinstance(mapping, mmap.mmap) or filename is None or x.mode not in MODES or not x[0].flags.c_contiguous:
        return None
    begin = _address(np.frombuffer(mapping, np.uint8))
    try:
        handle = os.open(filename, os.O_RDONLY)
    except OSError:
        return None
    file = _File(handle, _address(x) - begin + x.offset - x.offset % mmap.ALLOCATIONGRANULARITY)
    try:
        return file if _is_mapped_at(handle, _address(x)) else None
    except OSError:  # not on this system
        return None


class Rows:
    """The rows of an array, of whatever kind."""

    def __init__(self, x: Any):
        self._x, self._size = x, x[:1].nbytes
        self._file = _file_of(x) if isinstance(x, np.memmap) and self._size >= LARGE else None

    def read(self, rows: np.ndarray, into: np.ndarray) -> None:
        """Put the rows with these numbers into an array, going through the file from its beginning to its end."""
        order = np.argsort(rows, kind="stable")
        if self._size < LARGE or not isinstance(self._x, np.ndarray):
            into[order] = self._x[rows[order]]
            return
        for place in order:
            if not self._has_read(int(rows[place]), into[place]):
                into[place] = self._x[rows[place]]

    def _has_read(self, row: int, into: np.ndarray) -> bool:
        if self._file is None:
            return False
        start = self._file.start + row * self._x.strides[0]
        return os.preadv(self._file.handle, [into.view(np.uint8).data], start) == self._size
