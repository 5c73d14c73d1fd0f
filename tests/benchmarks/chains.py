"""What a long program costs before it runs: equations, and the time to trace and lower, for each sample site.

The chain: z_1, ..., z_n, each depending on the one before, with a coefficient of its own in the family, and one
observation of the last. Sites are normal (reparameterised), or binary under `mvd` and under `reinforce`. NumPyro's
Trace_ELBO is traced on the same chain; at binary sites its derivative would be biased, and only its cost is of
interest. Times are process times of the value and gradient, candidates taking turns in one run.
"""

import gc
import statistics
import time

import jax
import numpyro
from jax import numpy as jnp
from numpyro.infer import Trace_ELBO

import tracegrad as tg
from tracegrad import dist

from .timing import median_ratio, show_table

LENGTHS = (3, 10, 30, 100, 300, 1000)
PARTICLES = (5, 50, 500, 1000)
OBSERVED = 1.5


def normal(loc):
    return dist.Normal(loc, 1.0)


def binary(logits):
    return dist.Bernoulli(logits=logits)


def chain(n, family, estimator=None):
    """A model and a variational family of n dependent sites."""

    @tg.gen
    def model():
        z = jnp.zeros(())
        for i in range(n):
            z = tg.sample(f"z{i}", family(0.9 * z)).astype(float)
        tg.sample("y", dist.Normal(z, 1.0))

    @tg.gen
    def guide(w):
        z = jnp.zeros(())
        for i in range(n):
            z = tg.sample(f"z{i}", family(w[i] * z), estimator=estimator).astype(float)

    return model, guide


def ours(n, family, estimator=None):
    """Value and gradient of the ELBO of the chain, as a function (key, w)."""
    model, guide = chain(n, family, estimator)

    @tg.expectation
    def elbo(key, w):
        q = guide.simulate(key, w)
        logp, _ = model.assess(q.choices | {"y": OBSERVED})
        return logp - q.logp

    return jax.value_and_grad(elbo, argnums=1)


def numpyros(n, family):
    """The same by NumPyro."""

    def model():
        z = jnp.zeros(())
        for i in range(n):
            z = numpyro.sample(f"z{i}", family(0.9 * z)).astype(float)
        numpyro.sample("y", dist.Normal(z, 1.0), obs=OBSERVED)

    def guide():
        w = numpyro.param("w")
        z = jnp.zeros(())
        for i in range(n):
            z = numpyro.sample(f"z{i}", family(w[i] * z)).astype(float)

    def loss(key, w):
        return Trace_ELBO().loss(key, {"w": w}, model, guide)

    return jax.value_and_grad(loss, argnums=1)


def flips(n):
    """Value and gradient of an objective of n enumerated flips, each depending on the one before."""

    @tg.gen
    def coins(w):
        z, heads = jnp.zeros(()), jnp.zeros(())
        for i in range(n):
            z = tg.sample(f"z{i}", binary(w[i] + z), estimator=tg.enum()).astype(float)
            heads = heads + z
        return heads

    return jax.value_and_grad(tg.expectation(lambda key, w: coins.simulate(key, w).retval ** 2), argnums=1)


def particles(n):
    """Value and gradient of the importance-weighted ELBO with n particles, on a chain of three sites."""
    model, guide = chain(3, normal)
    objective = tg.iwelbo(model, guide, {"y": OBSERVED}, n=n)
    return jax.value_and_grad(lambda key, w: objective(key, (), (w,)), argnums=1)


def arguments(n):
    return jax.random.key(0), jnp.full((n,), 0.5)


def equations(step, *args) -> int:
    """How many equations the jaxpr of a function has, each jaxpr inside counted once however often it is called."""
    seen: dict[int, object] = {}

    def count(jaxpr):
        jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
        if id(jaxpr) in seen:
            return 0
        seen[id(jaxpr)] = jaxpr
        inner = (x for eqn in jaxpr.eqns for p in eqn.params.values() for x in (p if isinstance(p, tuple) else (p,)))
        return len(jaxpr.eqns) + sum(count(x) for x in inner if hasattr(getattr(x, "jaxpr", x), "eqns"))

    return count(jax.make_jaxpr(step)(*args))


def trace_and_lower(step, *args) -> float:
    """Process seconds to trace and lower a function that was never traced before."""
    gc.collect()
    start = time.process_time()
    jax.jit(step).trace(*args).lower()
    return time.process_time() - start


def taken_in_turns(makers: dict, args: tuple, rounds: int) -> dict[str, list[float]]:
    """Times of fresh functions from each maker, taken in turns."""
    times: dict[str, list[float]] = {name: [] for name in makers}
    for i in range(rounds):
        for name in list(makers)[:: -1 if i % 2 else 1]:
            times[name].append(trace_and_lower(makers[name](), *args))
    return times


def table_of_chains(title, family, estimators):
    """Print the costs of one kind of chain over its lengths, with those of NumPyro."""
    rows, first = [], {}
    for n in LENGTHS:
        args = arguments(n)
        makers = {name: lambda n=n, e=e: ours(n, family, e) for name, e in estimators.items()}
        makers["NumPyro"] = lambda n=n: numpyros(n, family)
        times = taken_in_turns(makers, args, rounds=5 if n <= 100 else 2)
        per_site = {name: 1e3 * statistics.median(ts) / n for name, ts in times.items()}
        if n == 100:
            first = per_site
        rows.append(
            [
                str(n),
                *(f"{equations(ours(n, family, e), *args) / n:.1f}" for e in estimators.values()),
                *(f"{t:.2f}" for t in per_site.values()),
                *(f"{median_ratio(times[name], times['NumPyro']):.2f}" for name in estimators),
                *(f"{per_site[name] / first[name]:.2f}" if first else "" for name in makers),
            ]
        )
    show_table(
        title,
        ["sites", *(f"equations / site, {name}" for name in estimators)]
        + [f"{name}, ms / site" for name in [*estimators, "NumPyro"]]
        + [f"{name} / NumPyro" for name in estimators]
        + [f"{name} / that at 100" for name in [*estimators, "NumPyro"]],
        rows,
    )


def table_of_flips():
    rows = []
    for n in (2, 4, 6, 8, 10):
        args = arguments(n)
        size = equations(flips(n), *args)
        start = time.perf_counter()
        lowered = jax.jit(flips(n)).trace(*args).lower()
        middle = time.perf_counter()
        lowered.compile()
        end = time.perf_counter()
        rows.append([str(n), str(size), f"{middle - start:.2f}", f"{end - middle:.2f}", f"{end - start:.2f}"])
    show_table(
        "Enumerated flips: value and gradient, seconds.",
        ["flips", "equations", "trace and lower", "compile", "both"],
        rows,
    )


def table_of_particles():
    rows = []
    for n in PARTICLES:
        times = [trace_and_lower(particles(n), *arguments(3)) for _ in range(5)]
        rows.append([str(n), str(equations(particles(n), *arguments(3))), f"{1e3 * statistics.median(times):.0f}"])
    show_table("IWELBO: value and gradient, ms (medians of 5).", ["particles", "equations", "trace and lower"], rows)


def main():
    for family in (normal, binary):  # what JAX and NumPyro do once per process
        trace_and_lower(ours(3, family), *arguments(3))
        trace_and_lower(numpyros(3, family), *arguments(3))
    table_of_flips()
    table_of_particles()
    table_of_chains("A chain of normal sites: process time to trace and lower.", normal, {"reparam": None})
    estimators = {"mvd": tg.mvd(), "reinforce": tg.reinforce()}
    table_of_chains("A chain of binary sites: process time to trace and lower.", binary, estimators)
