"""What the draws of a run record, and how the records of its parts make one.

A run of straight code joins the records of its steps; a loop stacks those of its turns; a branch pads its own to the
shape of the widest. What a record is (score terms, keys, probabilities) each kind says; here they record nothing.
"""

from __future__ import annotations

from typing import Any


class Records:
    """No record at all: None, whatever was run."""

    def zero(self) -> Any:
        """The record of nothing, in the shape that a turn of a `while_loop` keeps."""
        return None

    def join(self, records: list) -> Any:
        """One record of several, in order; None among them stands for nothing."""
        return None

    def stack(self, record: Any) -> Any:
        """The record of a loop from the records of its steps, stacked along a leading axis."""
        return record

    def pad(self, record: Any, width: int) -> Any:
        """The record of one branch, as wide as that of the widest: `width` alternatives."""
        return record
