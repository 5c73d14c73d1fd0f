"""`python tests/benchmarks table` prints the one table that compares; `python tests/benchmarks vae` one of its own.

What follows the name of a table is for the table: `python tests/benchmarks air mvd enum`. Without a name, all of them.
"""

import sys
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

NAMES = ("vae", "chains", "loops", "noise", "hmm", "air", "particles", "posteriors", "fit", "memmap", "ports", "tuning")

if __name__ == "__main__":
    if sys.argv[1:2] == ["table"]:
        import_module("benchmarks.table").main()
    else:
        for name in [x for x in sys.argv[1:] if x in NAMES] or NAMES:
            import_module(f"benchmarks.{name}").main()
