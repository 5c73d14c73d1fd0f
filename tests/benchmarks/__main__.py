"""`python tests/benchmarks` prints every table; `python tests/benchmarks vae` prints one.

What follows the name of a table is for the table: `python tests/benchmarks air mvd enum`.
"""

import sys
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

NAMES = ("vae", "chains", "loops", "noise", "hmm", "air", "particles", "posteriors", "fit", "memmap", "ports", "tuning")

if __name__ == "__main__":
    for name in [x for x in sys.argv[1:] if x in NAMES] or NAMES:
        import_module(f"benchmarks.{name}").main()
