"""What a gradient step of "attend, infer, repeat" costs, and what its arithmetic alone would.

Batch 64, the sizes of the literature, gradient and Adam in one jitted call that may write over its arguments. The
published system's times are those of its best form (gradient of the batch mean, not of each example), on two CPU cores.
`python tests/benchmarks air mvd enum` times some of the methods; without names the five published ones.
"""

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


def gradient_step(name, params, images, *, scanned=False):
    """`step(arrays, optimizer state, key)`: gradient and Adam, with its first arguments."""
    method, adam = METHODS[name], optax.adam(1e-4)
    objective = method.objective(scanned=scanned)
    arrays, static = eqx.partition(params, eqx.is_inexact_array)
    extra = () if method.state is None else (method.state,)

    def loss(arrays, key):
        value = objective(key, eqx.combine(arrays, static), images, *extra)
        return -(value[0] if extra else value)

    def step(arrays, state, key):
        value, grads = jax.value_and_grad(loss)(arrays, key)
        updates, state = adam.update(grads, state)
        return optax.apply_updates(arrays, updates), state, value

    return step, arrays, adam.init(arrays)


def measure(name, params, images, *, scanned=False):
    step, arrays, state = gradient_step(name, params, images, scanned=scanned)
    began = time.perf_counter()
    traced = jax.jit(step, donate_argnums=(0, 1)).trace(arrays, state, jax.random.key(0))
    tracing = time.perf_counter() - began
    compiled = traced.lower().compile()
    making = time.perf_counter() - began
    times = []
    arrays, state = jax.tree.map(jnp.copy, (arrays, state))
    for key in jax.random.split(jax.random.key(1), STEPS + 3):
        began = time.perf_counter()
        arrays, state, _ = jax.block_until_ready(compiled(arrays, state, key))
        times.append(1e3 * (time.perf_counter() - began))
    return {
        "ms": times[3:],
        "tracing": tracing,
        "making": making,
        "equations": equations(traced.jaxpr.jaxpr),
        "flops": compiled.cost_analysis()["flops"],
        "memory": compiled.memory_analysis().temp_size_in_bytes,
    }


def main():
    names = [name for name in sys.argv[1:] if name in METHODS] or list(PUBLISHED)
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
