"""The gallery: every system in its small form, a row for each of its numbers.

    make gallery                                    # or: python docs/gallery
    make gallery GALLERY="svae collapse"            # those alone
    make gallery GALLERY="--whole"                  # the whole forms, minutes each; they leave their pictures

It ends with 1 where a number misses its aim. Seconds are of CPU, compilation included.
"""

import argparse
import importlib
import traceback
from pathlib import Path

import jax
import matplotlib.pyplot as plt
from runner import show

HERE = Path(__file__).parent
NAMES = sorted(path.stem for path in HERE.glob("*.py") if path.stem not in ("__main__", "runner"))


def passes(name: str, *, whole: bool) -> bool:
    """Whether a system runs, and all of its rows hold; one that raises does not keep the others from running."""
    try:
        return show(importlib.import_module(name).main, f"{name}.py", quick=not whole, draw=whole)
    except Exception:
        traceback.print_exc()
        print(f"{name:14}FAILED", flush=True)
        return False
    finally:
        plt.close("all")
        jax.clear_caches()


def main() -> bool:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; none is all")
    parser.add_argument("--whole", action="store_true", help="the whole forms, and their pictures in docs/images")
    args = parser.parse_args()
    if unknown := set(args.names) - set(NAMES):
        parser.error(f"no system of the gallery: {', '.join(sorted(unknown))}. There are {', '.join(NAMES)}.")
    results = [passes(name, whole=args.whole) for name in args.names or NAMES]
    return all(results)


if __name__ == "__main__":
    raise SystemExit(not main())
