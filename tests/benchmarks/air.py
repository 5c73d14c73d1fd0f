"""What a gradient step of "attend, infer, repeat" costs, and what its arithmetic alone would.

Batch 64, the sizes of the literature, gradient and Adam in one jitted call that may write over its arguments. The
published system's times are those of its best form (gradient of the batch mean, not of each example), on two CPU cores.

    python tests/benchmarks air                          # a step of the five published methods
    python tests/benchmarks air mvd enum                 # of some methods
    python tests/benchmarks air --epochs                 # whole epochs of 60,000 scenes, batch 64 and 1024: for a GPU
    python tests/benchmarks air mvd --epochs --scenes 640 --batches 64
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import equinox as eqx
import jax
import optax
from jax import numpy as jnp

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "docs" / "examples"))

from air_objectives import METHODS, UNROLLED_ONLY, parameters  # noqa: E402
from air_scenes import digits, make_scenes  # noqa: E402

from .timing import seconds, show_table  # noqa: E402

BATCH, STEPS = 64, 30
# Published, best form: ms at minimum; s to trace and compile.
PUBLISHED = {
    "reinforce": (96, 13),
    "mvd": (148, 14),
    "enum": (403, 44),
    "iwelbo-reinforce": (238, 70),
    "iwelbo-mvd": (266, 68),
}
# The same on an RTX 4090: seconds for an epoch of 60,000 scenes, batch 64.
PUBLISHED_EPOCH = {"reinforce": 1.52, "enum": 6.22, "mvd": 1.74, "iwelbo-reinforce": 2.28, "iwelbo-mvd": 3.74}


def matmul_rate(n=1024, rounds=20):
    """The fastest of several products of two n x n matrices, in floating-point operations a second."""
    x = jax.random.normal(jax.random.key(0), (n, n))
    product = jax.jit(jnp.matmul)
    seconds(lambda: product(x, x))
    return 2 * n**3 / min(seconds(lambda: product(x, x)) for _ in range(rounds))


def equations(jaxpr):
    """How many equations a jaxpr has, those of inner jaxprs counted too."""
    inner = [x for eqn in jaxpr.eqns for x in jax.tree.leaves(list(eqn.params.values()), is_leaf=_is_jaxpr)]
    return len(jaxpr.eqns) + sum(equations(getattr(x, "jaxpr", x)) for x in inner if _is_jaxpr(x))


def _is_jaxpr(x):
    return hasattr(x, "eqns") or hasattr(getattr(x, "jaxpr", None), "eqns")


def gradient_step(name, params, *, scanned=False):
    """`step(arrays, optimizer state, key, images)`: gradient and Adam, with its first two arguments."""
    method, adam = METHODS[name], optax.adam(1e-4)
    objective = method.objective(scanned=scanned)
    arrays, static = eqx.partition(params, eqx.is_inexact_array)
    extra = () if method.state is None else (method.state,)

    def loss(arrays, key, images):
        value = objective(key, eqx.combine(arrays, static), images, *extra)
        return -(value[0] if extra else value)

    def step(arrays, state, key, images):
        value, grads = jax.value_and_grad(loss)(arrays, key, images)
        updates, state = adam.update(grads, state)
        return optax.apply_updates(arrays, updates), state, value

    return step, arrays, adam.init(arrays)


def measure(name, params, images, *, scanned=False):
    step, arrays, state = gradient_step(name, params, scanned=scanned)
    began = time.perf_counter()
    traced = jax.jit(step, donate_argnums=(0, 1)).trace(arrays, state, jax.random.key(0), images)
    tracing = time.perf_counter() - began
    compiled = traced.lower().compile()
    making = time.perf_counter() - began
    times = []
    arrays, state = jax.tree.map(jnp.copy, (arrays, state))
    for key in jax.random.split(jax.random.key(1), STEPS + 3):
        began = time.perf_counter()
        arrays, state, _ = jax.block_until_ready(compiled(arrays, state, key, images))
        times.append(1e3 * (time.perf_counter() - began))
    return {
        "ms": times[3:],
        "tracing": tracing,
        "making": making,
        "equations": equations(traced.jaxpr.jaxpr),
        "flops": compiled.cost_analysis()["flops"],
        "memory": compiled.memory_analysis().temp_size_in_bytes,
    }


def seconds_of_epoch(name, params, images, batch):
    """The time of one pass over scenes in one compiled loop, without compilation: the better of two."""
    step, arrays, state = gradient_step(name, params)
    steps = len(images) // batch

    @jax.jit
    def epoch(arrays, state, key, images):
        order = jax.random.permutation(key, len(images))[: steps * batch].reshape(steps, batch)

        def body(carry, inputs):
            key, indices = inputs
            arrays, state, value = step(*carry, key, images[indices])
            return (arrays, state), value

        return jax.lax.scan(body, (arrays, state), (jax.random.split(key, steps), order))

    compiled = epoch.lower(arrays, state, jax.random.key(0), images).compile()
    return min(seconds(lambda: compiled(arrays, state, jax.random.key(0), images)) for _ in range(2))


def show_epochs(names, options):
    params = parameters(jax.random.key(0))
    images = jnp.asarray(make_scenes(digits(), options.scenes, seed=0).images)
    rows = []
    for name in names:
        took = [f"{seconds_of_epoch(name, params, images, batch):.2f}" for batch in options.batches]
        rows.append([name, *took, str(PUBLISHED_EPOCH.get(name, "-"))])
    show_table(
        f"An epoch of {options.scenes} scenes, seconds, on {jax.devices()[0].device_kind}. "
        "Published: RTX 4090, batch 64, 60000 scenes.",
        ["method", *(f"batch {batch}" for batch in options.batches), "published"],
        rows,
    )


def show_steps(names):
    params = parameters(jax.random.key(0))
    images = jnp.asarray(make_scenes(digits(), BATCH, seed=0).images)
    rows = []
    for name in names:
        for scanned in (False,) if name in UNROLLED_ONLY else (False, True):
            found = measure(name, params, images, scanned=scanned)
            rate = matmul_rate()
            ms, making = PUBLISHED.get(name, (None, None))
            best = min(found["ms"])
            rows.append(
                [
                    name + (", scan" if scanned else ""),
                    f"{statistics.median(found['ms']):.1f} ({best:.1f})",
                    f"{ms} x {best / ms:.2f}" if ms else "-",
                    f"{found['tracing']:.1f} + {found['making'] - found['tracing']:.1f}",
                    f"{making} x {found['making'] / making:.2f}" if making else "-",
                    str(found["equations"]),
                    f"{found['flops'] / 1e9:.2f}",
                    f"{1e3 * found['flops'] / rate:.1f}",
                    f"{found['memory'] / 1e6:.0f}",
                ]
            )
    show_table(
        "A gradient step of attend, infer, repeat, batch 64: median (minimum) ms over 30 steps. The limit is XLA's "
        "count of operations over the rate of a 1024 x 1024 product.",
        ["method", "ms", "of published", "trace + compile, s", "of published", "equations", "GFlop", "limit, ms", "MB"],
        rows,
    )


def main():
    parser = argparse.ArgumentParser(prog="python tests/benchmarks air", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="METHOD", help=f"of {', '.join(METHODS)}")
    parser.add_argument("--epochs", action="store_true", help="time whole epochs, not steps")
    parser.add_argument("--scenes", type=int, default=60_000)
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 1024])
    options = parser.parse_args([x for x in sys.argv[1:] if x not in ("vae", "chains", "hmm", "air")])
    if unknown := set(options.names) - set(METHODS):
        parser.error(f"no such method: {', '.join(sorted(unknown))}")
    names = options.names or list(PUBLISHED)
    if options.epochs:
        show_epochs(names, options)
    else:
        show_steps(names)
