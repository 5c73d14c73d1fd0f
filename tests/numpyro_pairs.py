"""The pairs of `docs/examples/from_numpyro`: how they are run, and what they say, in numbers that can be compared.

`python tests/numpyro_pairs.py` runs NumPyro's in the small form and keeps what they say.
"""

import json
import sys
from importlib import import_module

import arviz as az
import jax
import numpy as np
from jax import numpy as jnp
from source_tree import ROOT

FOLDER = ROOT / "docs" / "examples" / "from_numpyro"
PAIRS = sorted(p.stem.removesuffix("_numpyro") for p in FOLDER.glob("*_numpyro.py"))
KEPT = ROOT / "tests" / "numpyro_pairs.json"

SMALL = dict.fromkeys(PAIRS, {"draws": 300}) | {
    "eight_schools": {"draws": 300, "steps": 2000},
    "logistic": {"steps": 2000},
    "vae": {"steps": 2000, "latents": 2, "hidden": 32},
}
"""The sizes of the small form."""


def of_pair(name):
    """A module of the folder."""
    sys.path.insert(0, str(FOLDER))
    try:
        return import_module(name)
    finally:
        sys.path.remove(str(FOLDER))


def pair_of(name):
    """The name of the pair of a module."""
    return name.removesuffix("_numpyro")


def given(name, *, small):
    """The data of a pair, arrays as JAX has them."""
    made = getattr(of_pair("data"), pair_of(name))(small=small)
    return {k: jnp.asarray(v) if np.ndim(v) else v for k, v in made.items()}


def run(name, *, seed, small, **sizes):
    """Run one program of a pair; promotions are as users have them."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return of_pair(name).run(jax.random.key(seed), **given(name, small=small), **sizes)


def told(name, *, seed):
    """What a program says in the small form: by quantity, means and deviations with their Monte Carlo errors."""
    out = run(name, seed=seed, small=True, **SMALL[pair_of(name)])
    found = {}
    for i, part in enumerate(out if isinstance(out, tuple) else (out,)):
        found |= _of_posterior(i, part) if isinstance(part, az.InferenceData) else {f"{i}": _of_array(part)}
    return found


def _of_posterior(i, idata):
    """Of the variables that both have; the axes of an autoencoder's code mean nothing."""
    variables = {name.split(".")[-1]: x for name, x in idata["posterior"].items()}
    return {
        f"{i} {name}": {
            "mean": x.mean(("chain", "draw")).values,
            "error": az.mcse(x, method="mean")[x.name].values,
            "sd": x.std(("chain", "draw")).values,
            "sd_error": az.mcse(x, method="sd")[x.name].values,
        }
        for name, x in variables.items()
        if name != "z" and not name.endswith("_decentered")
    }


def _of_array(draws):
    """Of draws along the first axis."""
    draws = np.asarray(draws, float)[-1000:]
    mean, sd, n = draws.mean(0), draws.std(0), len(draws)
    return {"mean": mean, "error": sd / np.sqrt(n), "sd": sd, "sd_error": sd / np.sqrt(2.0 * n)}


if __name__ == "__main__":
    kept = {name: told(f"{name}_numpyro", seed=1) for name in sys.argv[1:] or PAIRS}
    before = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    rounded = {
        name: {q: {k: np.round(x, 5).tolist() for k, x in found.items()} for q, found in quantities.items()}
        for name, quantities in kept.items()
    }
    KEPT.write_text(json.dumps(before | rounded, indent=1) + "\n")
