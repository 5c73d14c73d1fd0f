"""Libraries that only some of the package needs: imported where used, with an error that says what to install."""

from __future__ import annotations

import importlib
import warnings
from types import ModuleType


def require(module: str, extra: str, who: str) -> ModuleType:
    """Import a module of an extra.

    Raises:
        ImportError: it is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # What a library announces about its own future is not the caller's.
            return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{who} needs {module.partition('.')[0]}, which is not installed. Write `pip install tracegrad[{extra}]`."
        ) from error
