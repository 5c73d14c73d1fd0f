"""Noise in bulk: unrolled programs and plates, ours against hand-written JAX and against NumPyro.

Unrolled: a chain of normal sites in 64 particles, the value and gradient of its ELBO. By hand there is one call of the
generator at each site, as one writes it, or one for all of them. What it costs before it runs is the CPU time of XLA.
Plates: independent normal draws in lanes, and lanes of lanes.
"""

import time
import zlib

import jax
import numpyro
from jax import numpy as jnp
from numpyro.infer import Trace_ELBO

import tracegrad as tg
from tracegrad import dist
from tracegrad.transforms.program import _noise_first as noise_first

from .timing import median_ratio, show_table, take_turns

SITES = (30, 100)
PLATES = ((100_000,), (1_000_000,), (100, 100))
PARTICLES = 64
ROUNDS = 15
OBSERVED = 1.0


def in_particles(elbo):
    """The mean over particles, and its gradient."""

    def mean(key, w):
        return jax.vmap(lambda key: elbo(key, w))(jax.random.split(key, PARTICLES)).mean()

    return jax.value_and_grad(mean, argnums=1)


def normal_logp(x, loc):
    """As numpyro has it, of a scale of 1/2."""
    return dist.Normal(loc, 0.5).log_prob(x)


def unrolled(n):
    """The chain by the library."""

    @tg.gen
    def model():
        x = 0.0
        for i in range(n):
            x = tg.sample(f"x{i}", dist.Normal(0.9 * x, 0.5))
        tg.sample("y", dist.Normal(x, 0.5))

    @tg.gen
    def family(w):
        x = 0.0
        for i in range(n):
            x = tg.sample(f"x{i}", dist.Normal(w[i] * x, 0.5))

    objective = tg.elbo(model, family, {"y": OBSERVED})
    return in_particles(lambda key, w: objective(key, (), (w,)))


def unrolled_by_hand(n, noise):
    """The chain by hand, from its noise."""

    def elbo(key, w):
        x, logp = 0.0, 0.0
        for i, e in zip(range(n), noise(key, n), strict=True):
            before, x = x, w[i] * x + 0.5 * e
            logp += normal_logp(x, 0.9 * before) - normal_logp(x, w[i] * before)
        return logp + normal_logp(OBSERVED, x)

    return in_particles(elbo)


def one_by_one(key, n):
    return [jax.random.normal(jax.random.fold_in(key, zlib.crc32(f"x{i}".encode()))) for i in range(n)]


def unrolled_in_numpyro(n):
    """The chain in NumPyro."""

    def model():
        x = 0.0
        for i in range(n):
            x = numpyro.sample(f"x{i}", dist.Normal(0.9 * x, 0.5))
        numpyro.sample("y", dist.Normal(x, 0.5), obs=OBSERVED)

    def guide():
        w, x = numpyro.param("w"), 0.0
        for i in range(n):
            x = numpyro.sample(f"x{i}", dist.Normal(w[i] * x, 0.5))

    return in_particles(lambda key, w: Trace_ELBO().loss(key, {"w": w}, model, guide))


def plates(shape):
    """Lanes of normal draws by the library, by hand and in NumPyro."""
    point = tg.gen(lambda: tg.sample("z", dist.Normal(1.0, 1.0)))
    own = tg.gen(lambda w: tg.sample("z", dist.Normal(w, 0.5)))
    for n in shape[::-1]:
        point, own = point.repeat(n), own.vmap()
    prior, family = point, own
    objective = tg.elbo(tg.gen(lambda: tg.sample("p", prior())), tg.gen(lambda w: tg.sample("p", family(w))), {})

    def by_hand(key, w):
        x = w + 0.5 * jax.random.normal(key, shape)
        return (dist.Normal(1.0, 1.0).log_prob(x) - normal_logp(x, w)).sum()

    def draw(loc, scale):
        with numpyro.plate_stack("plates", shape):
            numpyro.sample("z", dist.Normal(loc, scale))

    def in_numpyro(key, w):
        model, guide = (lambda: draw(1.0, 1.0)), (lambda: draw(numpyro.param("w"), 0.5))
        return Trace_ELBO().loss(key, {"w": w}, model, guide)

    runs = {"ours": lambda key, w: objective(key, (), (w,)), "hand": by_hand, "NumPyro": in_numpyro}
    return {name: jax.value_and_grad(run, argnums=1) for name, run in runs.items()}


def compiled(run, *args):
    """A compiled program, and the CPU seconds that XLA took."""
    lowered = jax.jit(run).lower(*args)
    start = time.process_time()
    program = lowered.compile()
    return program, time.process_time() - start


def one_site_at_a_time(run, *args):
    """A compiled program whose noise is drawn at its sites, and the seconds."""
    least, noise_first.LEAST = noise_first.LEAST, 1 << 30
    try:
        return compiled(run, *args)
    finally:
        noise_first.LEAST = least


def _row(what, runs, args, first=()):
    found = dict(first) | {name: compiled(run, *args) for name, run in runs.items()}
    times = take_turns({name: lambda run=run: run(*args) for name, (run, _) in found.items()}, ROUNDS)
    columns = ("ours", "site by site", "hand", "hand, at once", "NumPyro")
    shown = [f"{found[c][1]:.1f} / {1e3 * min(times[c]):.3f}" if c in found else "" for c in columns]
    return [what, *shown, *(f"{median_ratio(times['ours'], times[c]):.2f}" for c in ("hand", "NumPyro"))]


def main():
    """Print the table."""
    jax.config.update("jax_enable_compilation_cache", False)  # what is timed is a compilation
    rows = []
    for n in SITES:
        args = jax.random.key(0), jnp.full(n, 0.7)
        runs = {"ours": unrolled(n), "hand": unrolled_by_hand(n, one_by_one), "NumPyro": unrolled_in_numpyro(n)}
        runs["hand, at once"] = unrolled_by_hand(n, lambda key, n: jax.random.normal(key, (n,)))
        rows.append(_row(f"{n} sites", runs, args, {"site by site": one_site_at_a_time(unrolled(n), *args)}))
    for shape in PLATES:
        rows.append(_row(f"plate {shape}", plates(shape), (jax.random.key(0), jnp.full(shape, 0.7))))
    show_table(
        "Noise in bulk: CPU seconds of XLA / least ms of a run; medians of ratios.",
        ["program", "ours", "site by site", "hand", "hand, at once", "NumPyro", "ours / hand", "ours / NumPyro"],
        rows,
    )
