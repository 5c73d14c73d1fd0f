"""What the language costs, in counts that do not depend on the machine: XLA's own analysis, and equations of jaxprs.

The times of the same programs are printed by tests/benchmarks.
"""

import itertools

import jax
import pytest
from benchmarks import chains, particles, vae
from jax import numpy as jnp

import tracegrad as tg
from tracegrad import dist
from tracegrad.transforms._jax import evaluate_with, trace
from tracegrad.transforms.forks._one_by_one import one_by_one
from tracegrad.transforms.program._once import once

MATRIX = jnp.full((64, 64), 0.01)


# ---- at run time: a gradient step of a variational autoencoder ------------------------------------------------------


@pytest.fixture
def optimised():
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
def test_the_compiled_step_does_the_work_of_the_one_written_by_hand():
    args, steps = vae.gradient_steps(64)
    ours, by_hand = (jax.jit(steps[name]).lower(*args).compile().cost_analysis() for name in ("ours", "by hand"))
    assert ours["flops"] <= 1.02 * by_hand["flops"]
    assert ours["bytes accessed"] <= 1.05 * by_hand["bytes accessed"]
    # Flops leave these out; one more for each pixel is a tenth of a step.
    assert ours["transcendentals"] <= 1.02 * by_hand["transcendentals"]


@pytest.mark.slow
def test_the_step_written_by_hand_is_the_same_step():
    args, _ = vae.gradient_steps(16)
    ours, by_hand = (
        jax.jit(jax.value_and_grad(loss, argnums=1))(*args)
        for loss in (vae.ours, vae.written_by_hand(vae.noise_as_ours))
    )
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(by_hand), strict=True):
        assert jnp.allclose(a, b, rtol=1e-4, atol=1e-5 * float(jnp.max(jnp.abs(b))))


def test_numpyros_step_is_of_the_same_model():
    (key, params, batch), _ = vae.gradient_steps(16)
    params = jax.tree.map(lambda x: 0.5 * x, params)
    keys = jax.random.split(key, 400)
    ours, theirs = (jax.lax.map(lambda k, f=f: f(k, params, batch), keys) for f in (vae.ours, vae.numpyros))
    error = jnp.sqrt(jnp.var(ours) / len(keys) + jnp.var(theirs) / len(keys))
    assert abs(ours.mean() - theirs.mean()) < 5 * error
    assert error < 0.5  # nats; log p(z) and log q(z) are some 14 each


# ---- nothing twice --------------------------------------------------------------------------------------------------


@tg.gen
def network(w):
    h = jnp.tanh(MATRIX @ jnp.tanh(MATRIX @ (w * jnp.ones(64))))
    return tg.sample("z", dist.Normal(h, 1.0).to_event(1))


def with_density(of):
    """The gradient of what is drawn and its log density, of the trace or asked for again."""

    def objective(key, w):
        trace = network.simulate(key, w)
        return (trace.retval**2).sum() - of(trace, w)

    return jax.value_and_grad(tg.expectation(objective), argnums=1)


def asked_for_again(trace, w):
    return network.assess(trace.choices, w)[0]


@pytest.mark.usefixtures("optimised")
def test_the_density_of_a_trace_that_is_asked_for_again_costs_nothing():
    """Neither the network in front of the site nor its derivative is run twice."""
    own, again = (flops_of(with_density(of)) for of in (lambda trace, w: trace.logp, asked_for_again))
    assert again <= 1.01 * own
    unread = flops_of(with_density(lambda trace, w: 0.0))
    heavy = 4 * 64**2  # of a product with the matrix, twice, in front; and as many on the way back
    assert own - unread < heavy / 2


def test_what_is_written_twice_is_computed_once_and_draws_are_not():
    def program(key, x):
        first, other = (jax.random.normal(jax.random.fold_in(key, 1), (3,)) for _ in range(2))
        a, b = jnp.sin(x * 2.0) + 1, jnp.sin(x * 2.0) + jnp.float32(1)
        return a * b + first * other + jnp.sin(x * 3.0), jnp.sin(x * 2.0)

    traced = trace(program, jax.random.key(0), jnp.ones(3))
    names = [eqn.primitive.name for eqn in once(traced.jaxpr).eqns]
    before = [eqn.primitive.name for eqn in traced.jaxpr.eqns]
    assert (before.count("sin"), names.count("sin")) == (4, 2)
    assert (before.count("random_fold_in"), names.count("random_fold_in")) == (2, 2)
    key, x = jax.random.key(0), jnp.linspace(0.1, 0.3, 3)
    found = evaluate_with(once(traced.jaxpr), [*traced.consts, key, x])
    for ours, plain in zip(found, program(key, x), strict=True):
        assert jnp.array_equal(ours, plain)


def test_a_program_without_anything_twice_stays_itself():
    traced = trace(lambda x: jnp.sin(x) * jnp.cos(x), jnp.ones(3))
    assert once(traced.jaxpr) is traced.jaxpr


# ---- before it runs: long programs ----------------------------------------------------------------------------------

CHAINS = {
    "normal": (chains.normal, None),
    "mvd": (chains.binary, tg.mvd()),
    "reinforce": (chains.binary, tg.reinforce()),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CHAINS)
def test_equations_per_site_do_not_grow_with_the_chain(name):
    lengths = (24, 48, 192)  # multiples of the number of groups of forking sites
    short, middle, long = (chains.equations(chains.ours(n, *CHAINS[name]), *chains.arguments(n)) for n in lengths)
    assert (long - middle) / 144 == pytest.approx((middle - short) / 24, rel=0.02)


def test_what_nothing_reads_is_left_out():
    """Distributions check their parameters: under a trace that is equations whose results nothing reads."""
    closed = jax.make_jaxpr(chains.ours(5, chains.normal))(*chains.arguments(5))
    read = {id(v) for eqn in closed.jaxpr.eqns for v in eqn.invars} | {id(v) for v in closed.jaxpr.outvars}
    assert [eqn for eqn in closed.jaxpr.eqns if not any(id(v) in read for v in eqn.outvars)] == []


@pytest.mark.slow
def test_a_chain_of_a_thousand_sites_meets_no_recursion_limit():
    step = chains.ours(1000, chains.normal)
    assert jax.eval_shape(step, *chains.arguments(1000))[1].shape == (1000,)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mvd", "reinforce"])
def test_a_chain_of_a_thousand_binary_sites_meets_no_recursion_limit(name):
    step = chains.ours(1000, *CHAINS[name])
    assert jax.eval_shape(step, *chains.arguments(1000))[1].shape == (1000,)


def test_enumerated_flips_do_not_copy_the_rest_of_the_program():
    counts = {n: chains.equations(chains.flips(n), *chains.arguments(n)) for n in (5, 10, 15)}
    assert counts[15] - counts[10] <= 1.2 * (counts[10] - counts[5])
    # Some 170 for a site: its sum, what stands for outcomes that cannot happen, and the derivatives of both.
    assert counts[10] <= 1700


def test_particles_are_a_vmap():
    counts = {chains.equations(chains.particles(n), *chains.arguments(3)) for n in (5, 50, 500)}
    assert len(counts) == 1


# ---- forks ----------------------------------------------------------------------------------------------------------


def forks(sites):
    """The gradient of a program of so many dependent forking sites around a step of 64 x 64."""

    def objective(key, w):
        z = jnp.full(64, w)
        for k in jax.random.split(key, sites):
            a = tg.transforms.sample(k, dist.Bernoulli(probs=jax.nn.sigmoid(z.mean())), estimator=tg.mvd())
            z = jnp.tanh(MATRIX @ z + a.astype(float))
        return z.sum()

    return jax.grad(tg.expectation(objective), argnums=1)


def flops_of(gradient):
    return jax.jit(gradient).lower(jax.random.key(0), 0.3).compile().cost_analysis()["flops"]


@pytest.mark.slow
def test_each_further_fork_costs_no_more_than_the_square_of_their_number():
    """Each of n alternatives runs what comes after it, so that the whole is of n^2; it is so without a jump."""
    flops = [flops_of(forks(n)) for n in range(1, 14)]
    for n, (now, more) in enumerate(itertools.pairwise(flops), start=1):
        assert now < more < now * ((n + 1) / n) ** 2


@pytest.mark.table
@pytest.mark.parametrize(("sites", "factor"), [(4, 1.0), (12, 1.16)])
def test_forks_in_groups_cost_little_more_than_a_run_for_each(sites, factor):
    """An eighth of n^2 more in place of a half of it, for the runs of the rest of the program: 1 / GROUPS of it."""
    together = flops_of(forks(sites))
    with one_by_one():
        assert together <= factor * flops_of(forks(sites))


def test_forks_after_a_heavy_part_do_not_run_it_again():
    def objective(key, w):
        z = w
        for k in jax.random.split(key, 5):
            z = z + tg.transforms.sample(k, dist.Bernoulli(logits=z), estimator=tg.mvd()).astype(float)
        z = jax.jit(lambda z: (MATRIX @ (MATRIX @ (MATRIX * z))).sum())(z)
        for k in jax.random.split(jax.random.fold_in(key, 1), 3):
            z = z * w + tg.transforms.sample(k, dist.Bernoulli(logits=z), estimator=tg.mvd()).astype(float)
        return z

    heavy = 2 * 2 * 64**3
    assert flops_of(jax.grad(tg.expectation(objective), argnums=1)) < (2 + 5.2) * heavy  # itself, its gradient, 5 forks


def test_code_is_linear_in_the_number_of_forks():
    counts = {n: chains.equations(forks(n), jax.random.key(0), 0.3) for n in (4, 8, 12, 16, 32, 64)}
    per_site = (counts[64] - counts[32]) / 32
    for n in (4, 8, 12, 16):
        assert counts[n] - counts[4] <= 1.2 * per_site * (n - 4)


# ---- particles ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
def test_particles_cost_no_code_memory_in_proportion_and_in_chunks_less():
    make = particles.objectives()
    few, many = (particles.cost_of(*make["IWHVI"](n)) for n in (50, 500))
    assert few["equations"] == many["equations"]
    assert many["code"] <= 1.1 * few["code"]
    assert many["memory"] <= 12.0 * few["memory"]
    chunked = particles.cost_of(*make["IWHVI in chunks of 5"](500))
    assert chunked["memory"] <= 0.6 * many["memory"]  # 0.42 on jax 0.10, 0.50 on 0.12: a number per particle and lane
