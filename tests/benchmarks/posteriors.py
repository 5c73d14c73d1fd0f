"""Automatic families against posteriors whose moments are known: errors, k-hat, evidence, time.

    python tests/benchmarks posteriors --data FOLDER --reference FILE [--only NAME ...] [--families laplace flow ...]

The folder holds data sets in the JSON format of posteriordb, NAME.json. The file holds the references, JSON of any
nesting: an object with "params", "mean" and "sd" (and, where it is known, "log_evidence") is the reference of the key
that it is under. Without a folder only the models without data are run. In double precision.

z is the largest error of a mean, in standard deviations of the posterior; ratios are of standard deviations. k-hat
below 0.7 vouches for importance weights, and the weighted z is the error with those. The time is that of everything
after Laplace's approximation (which is a mean-field fit where there is no mode).
"""

import argparse
import json
import time
from pathlib import Path

import jax
from posterior_chains import CHAINS
from posterior_fits import FAMILIES, fitted, judged, normal_of
from posterior_models import POSTERIORS

from .timing import show_table


def references(found, name=""):
    """All references in a nested JSON object, by name."""
    if not isinstance(found, dict):
        return {}
    if {"params", "mean", "sd"} <= set(found):
        return {name: found}
    return {k: v for key, inner in found.items() for k, v in references(inner, key).items()}


def rows_of(name, posterior, data, reference, families):
    target = posterior.target(data)
    rows, normal = [], normal_of(target)
    for family in families:
        begun = time.perf_counter()
        guide, params = fitted(target, family, normal)
        found = judged(posterior, target, guide, params, reference)
        ok = found.z < 0.1 and 0.9 < found.low and found.high < 1.1
        bounds = f"{found.low:.2f} to {found.high:.2f}"
        evidence = reference.get("log_evidence")
        off = "" if evidence is None else f"{found.log_evidence - evidence:+.4f}"
        took = time.perf_counter() - begun
        rows.append(
            [
                name,
                family,
                f"{found.z:.3f}",
                bounds,
                f"{found.k_hat:.2f}",
                f"{found.weighted_z:.3f}",
                off,
                f"{took:.0f}",
                "yes" if ok else "",
            ]
        )
    return rows


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("table", nargs="*")
    options.add_argument("--data", type=Path)
    options.add_argument("--reference", type=Path)
    options.add_argument("--only", nargs="*", default=[""])
    options.add_argument("--families", nargs="*", default=list(FAMILIES))
    options = options.parse_args()
    if options.reference is None:
        print("posteriors: give --reference FILE (and --data FOLDER); see the module.")
        return
    jax.config.update("jax_enable_x64", True)
    known = references(json.loads(options.reference.read_text()))
    rows = []
    for name, posterior in (POSTERIORS | CHAINS).items():
        reference = next((r for key, r in known.items() if key.startswith(name)), None)
        path = None if options.data is None else options.data / f"{posterior.data}.json"
        here = not posterior.data or (path is not None and path.exists())
        if reference is None or not here or not any(part in name for part in options.only):
            continue
        data = json.loads(path.read_text()) if posterior.data else {}
        found = rows_of(name.partition(" (")[0], posterior, data, reference, options.families)
        for row in found:
            print("  ".join(row), flush=True)
        rows += found
    header = [
        "posterior",
        "family",
        "z",
        "sd ratios",
        "k-hat",
        "z, weighted",
        "log evidence off by",
        "s",
        "within a tenth",
    ]
    show_table("Automatic families against known posteriors", header, rows)
