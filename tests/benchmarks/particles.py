"""What particles cost: value and gradient of IWELBO and IWHVI on the cone at 5, 50 and 500 particles.

Tracing (with lowering) and compiling in seconds, equations in the jaxpr, and XLA's own count of the compiled program:
temporary memory, and instructions. 64 lanes.
"""

import sys
import time
from pathlib import Path

import jax
from jax import numpy as jnp

import tracegrad as tg

from .timing import show_table

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "docs" / "examples"))

PARTICLES = (5, 50, 500)


def equations(jaxpr) -> int:
    """All equations of a jaxpr, those of the jaxprs inside with them."""
    inner = [x for eqn in jaxpr.eqns for p in eqn.params.values() for x in (p if isinstance(p, tuple | list) else [p])]
    inner = [getattr(x, "jaxpr", x) for x in inner]
    return len(jaxpr.eqns) + sum(equations(x) for x in inner if hasattr(x, "eqns"))


def cost_of(objective, params) -> dict:
    """Seconds to trace and to compile, equations, bytes of temporary memory, XLA's instructions."""
    begun = time.perf_counter()
    traced = jax.jit(jax.value_and_grad(objective, argnums=1)).trace(jax.random.key(0), params)
    lowered = traced.lower()
    middle = time.perf_counter()
    compiled = lowered.compile()
    ended = time.perf_counter()
    return {
        "trace": middle - begun,
        "compile": ended - middle,
        "equations": equations(traced.jaxpr.jaxpr),
        "memory": compiled.memory_analysis().temp_size_in_bytes,
        "code": compiled.as_text().count(" = "),
    }


def objectives():
    """By name, an objective of each number of particles and its parameters."""
    import cone

    def iwhvi(n, chunk_size=None):
        family = tg.marginal(cone.ring, ("x", "y"), tg.importance(n, chunk_size=chunk_size))
        return cone.objective_of(family, 1), (jnp.array(-2.0), jnp.array(-2.0))

    def iwelbo(n):
        return cone.objective_of(cone.normal, n), tuple(jnp.array([2.0, 0.0, -2.0, -1.0]))

    return {"IWELBO": iwelbo, "IWHVI": iwhvi, "IWHVI in chunks of 5": lambda n: iwhvi(n, 5)}


def main():
    rows = []
    for name, make in objectives().items():
        for n in PARTICLES:
            cost = cost_of(*make(n))
            sizes = [f"{cost['memory'] / 2**20:.2f}", str(cost["code"])]
            rows.append(
                [name, str(n), f"{cost['trace']:.2f}", f"{cost['compile']:.2f}", str(cost["equations"]), *sizes]
            )
    header = ["", "particles", "trace + lower, s", "compile, s", "equations", "memory, MB", "instructions"]
    show_table("Particles: value and gradient, 64 lanes", header, rows)
