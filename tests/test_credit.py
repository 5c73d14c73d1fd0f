"""Causal credit: the mean of a credited gradient is exact to every order that the score function gives, its variance is
that of the terms that depend on a draw, and finding them takes work in proportion to the program."""

import gc
import weakref

import jax
import numpy as np
import pytest
from credit_programs import PROGRAMS, A, flip, plate
from jax import numpy as jnp
from unbiased_programs import BERNOULLI, assert_exact, assert_mean, derivatives, mean_over, precisely

import tracegrad as tg
from tracegrad import dist
from tracegrad.transforms import log_density, sample
from tracegrad.transforms._jax import trace
from tracegrad.transforms.analysis._dependence import Dependences
from tracegrad.transforms.estimate import _credit_plan, _credit_summary, _frontier
from tracegrad.transforms.program.control import _scan

KEY = jax.random.key(5)


def enumerated(sums, draws):
    """The mean of a program of flips, as a sum over their outcomes."""
    coins = [BERNOULLI] * draws
    return mean_over(lambda draw, w: (sums(lambda logit: draw(jax.nn.sigmoid(logit))[0], w),), coins)


def check_exact(name, *, credit):
    program, sums, draws = PROGRAMS[name]
    with precisely():
        expected = jax.jit(derivatives(enumerated(sums, draws), 2))(jnp.zeros(()))
        exact = tg.exact_expectation(tg.expectation(program, credit=credit), cells=4)
        found = derivatives(lambda w: exact(KEY, w), 2)(jnp.zeros(()))
    np.testing.assert_allclose(found, np.ravel(expected), rtol=0, atol=1e-9)


@pytest.mark.table
@pytest.mark.parametrize("name", PROGRAMS)
def test_the_mean_is_exact_to_second_order(name):
    """With and without credit, the means of value, gradient and second derivative are those of sums over outcomes."""
    check_exact(name, credit=True)
    check_exact(name, credit=False)


@pytest.mark.table
@pytest.mark.parametrize("name", ["upstream_of_a_loop", "operands_in_common", "used_after_a_loop"])
def test_a_construct_need_say_no_more_than_how_data_flows_through_it(name, monkeypatch):
    """A loop that says nothing of its steps is credited as one, by its data flow."""
    monkeypatch.setattr(_scan.Scan, "loop", lambda self, eqn: None)
    check_exact(name, credit=True)


def variance(g, w, n=4000):
    grads = jax.jit(jax.vmap(jax.grad(g, argnums=1), (0, None)))(jax.random.split(KEY, n), w)
    return float(np.mean(np.var(np.asarray(grads).reshape(n, -1), axis=0)))


def gain(program, w):
    return variance(tg.expectation(program, credit=False), w) / variance(tg.expectation(program), w)


def test_lanes_stay_apart_in_a_loop_over_them():
    """64 flips, and a scan over them that draws nothing: what it gives for a lane depends on that lane."""

    def program(key, w):
        z = jax.vmap(flip)(jax.random.split(key, 64), w)
        _, costs = jax.lax.scan(lambda c, x: (c + 1.0, (x - 0.3) ** 2 * c), 0.0, z)
        return jnp.sum(costs) / 8.0

    assert gain(program, jnp.linspace(-1.0, 1.0, 64)) > 1000.0


def test_a_plate_of_independent_sites_gains_a_factor_of_a_thousand():
    """64 sites in a vmap, a cost that is a sum over lanes; each lane is credited with its own cost alone."""

    def program(key, w):
        z = jax.vmap(flip)(jax.random.split(key, 64), w)
        return jnp.sum((z - 0.3) ** 2 * jnp.arange(64.0) / 8.0)

    assert gain(program, jnp.linspace(-1.0, 1.0, 64)) > 1000.0


def test_the_elements_of_one_site_are_lanes():
    def program(key, w):
        site = tg.gen(lambda: tg.sample("z", dist.Bernoulli(logits=w).to_event(1), estimator=tg.reinforce()))
        tr = site.simulate(key)
        return jnp.sum((tr.retval.astype(float) - 0.3) ** 2 * jnp.arange(64.0)) - tr.logp

    assert gain(program, jnp.linspace(-1.0, 1.0, 64)) > 1000.0


def test_a_chain_is_credited_step_by_step():
    """20 steps with a cost each: a choice pays for the steps from its own on."""

    def program(key, w):
        def body(carry, k):
            c, total = carry
            z = flip(k, w * (2.0 * c - 1.0))
            return (z, total + (z - 0.3) ** 2 + 0.5 * c), None

        return jax.lax.scan(body, (0.0, 0.0), jax.random.split(key, 20))[0][1]

    assert gain(program, jnp.asarray(0.4)) > 2.0


def test_the_outputs_of_a_branch_are_credited_one_by_one():
    """Ten lanes that only pass through a branch, where one more is drawn: each lane pays for itself and the choice."""

    def program(key, w):
        k1, k2, k3 = jax.random.split(key, 3)
        z = jax.vmap(lambda k: flip(k, w))(jax.random.split(k1, 10))
        choice = 0.1 * flip(k3, 0.0)

        def extra(z):
            return flip(k2, w), 2.0 * z

        x, z = jax.lax.cond(choice > 0.0, extra, lambda z: (0.0, z + w), z)
        return x + jnp.sum((z - 0.3) ** 2)

    assert gain(program, jnp.asarray(0.4)) > 5.0


def test_loops_inside_loops_are_credited_step_by_step():
    def program(key, w):
        def inner(carry, k):
            c, total = carry
            z = flip(k, w * (2.0 * c - 1.0))
            return (z, total + (z - 0.3) ** 2 + 0.5 * c), None

        def outer(carry, k):
            return jax.lax.scan(inner, carry, jax.random.split(k, 5))[0], None

        return jax.lax.scan(outer, (0.0, 0.0), jax.random.split(key, 4))[0][1]

    assert gain(program, jnp.asarray(0.4)) > 2.0


def test_the_credit_of_an_elbo_is_that_of_its_terms_by_hand():
    """For independent latents the credited gradient is sum_i (log p_i - log q_i) d log q_i, draw by draw."""
    logits, x = jnp.linspace(-1.0, 1.0, 5), jnp.array([0.3, 1.0, -0.2, 0.5, 2.0])
    unit = tg.gen(lambda a: tg.sample("z", dist.Bernoulli(logits=a)))

    @tg.gen
    def latent(x):
        z = tg.sample("z", dist.Bernoulli(probs=0.3))
        tg.sample("x", dist.Normal(z.astype(float), 1.0))

    def elbo(key, w):
        q = unit.vmap().simulate(key, w)
        logp, _ = latent.vmap().assess({**q.choices, "x": x}, x)
        return logp - q.logp

    def by_hand(key, w):
        z = unit.vmap().simulate(key, jax.lax.stop_gradient(w)).choices["z"]

        def term(z, x, a):
            logq = log_density(dist.Bernoulli(logits=a), z)
            logp = log_density(dist.Bernoulli(probs=0.3), z) + log_density(dist.Normal(z.astype(float), 1.0), x)
            return jax.lax.stop_gradient(logp - logq) * logq - logq

        return jnp.sum(jax.vmap(term)(z, x, w))

    for seed in range(5):
        key = jax.random.key(seed)
        found = jax.grad(tg.expectation(elbo), argnums=1)(key, logits)
        expected = jax.grad(lambda w, key=key: by_hand(key, w))(logits)
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)


def test_mvd_does_not_see_noise_that_its_flip_does_not_touch():
    """A flip plus independent noise of variance 100: the noise cancels exactly in the difference."""

    def program(key, w):
        k1, k2 = jax.random.split(key)
        b = tg.gen(lambda: tg.sample("b", dist.Bernoulli(logits=w), estimator=tg.mvd())).simulate(k1).retval
        return 3.0 * b.astype(float) + tg.gen(lambda: tg.sample("e", dist.Normal(0.0, 10.0))).simulate(k2).retval

    assert variance(tg.expectation(program), jnp.asarray(0.3), n=200) < 1e-9


@pytest.mark.slow
def test_what_passes_through_a_while_loop_is_credited_apart():
    """Ten lanes go through a loop that draws for another value: each pays for itself."""

    def program(key, w):
        k1, k2 = jax.random.split(key)
        z = jax.vmap(lambda k: flip(k, w))(jax.random.split(k1, 10))

        def turn(state):
            i, x, z = state
            return i + 1, x + 0.1 * flip(jax.random.fold_in(k2, i), w), z + jnp.where(i == 0, 0.5, 0.0)

        _, x, z = jax.lax.while_loop(lambda s: s[0] < 2, turn, (0, jnp.zeros(()), z))
        return x + jnp.sum((z - 0.3) ** 2)

    def slope(key, credit):
        g = tg.expectation(program, credit=credit)
        return jax.jvp(lambda w: g(key, w), (jnp.asarray(0.4),), (jnp.ones(()),))[1]

    keys = jax.random.split(KEY, 4000)
    credited, plain = (jax.jit(jax.vmap(lambda k, c=c: slope(k, c)))(keys) for c in (True, False))
    assert float(plain.var() / credited.var()) > 5.0
    dp = float(jax.grad(jax.nn.sigmoid)(0.4))
    assert_mean(lambda key: slope(key, True)[None], np.array([dp * (0.2 + 10.0 * (1.2**2 - 0.2**2))]), n=50_000)


@pytest.mark.slow
def test_exactness_is_against_the_truth():
    """The programs above agree with each other; this one agrees with the sum over outcomes too."""

    def truth(w):
        p = jax.nn.sigmoid(w + jnp.array([A, 0.0, -A]))
        cost = jnp.array([1.0, 2.0, 3.0])
        return jnp.sum(cost * (p * 0.7**2 + (1.0 - p) * 0.3**2)) + 0.1 * w

    with precisely():
        assert_exact(tg.expectation(plate), truth, jnp.zeros(()), hessian=True, cells=4)


# ---- the work of finding it ------------------------------------------------------------------------------------------


@pytest.fixture
def work(monkeypatch):
    """How many programs were analysed, how many plans were made of them, and how often one was cut."""
    counts = {"analyses": 0, "plans": 0, "cuts": 0}
    # What all of these have in common is traced once in a process, and known from then on.
    jax.make_jaxpr(jax.grad(tg.expectation(loops(0)), argnums=1))(KEY, 0.3)

    def count(what, holder, name):
        original = getattr(holder, name)

        def counted(*args):
            counts[what] += 1
            return original(*args)

        monkeypatch.setattr(holder, name, counted)

    count("analyses", _credit_summary.Summary, "__init__")
    count("analyses", Dependences, "run")
    count("plans", _credit_plan, "_plan")
    count("cuts", _frontier.Place, "cut")
    return counts


def loops(depth):
    """Loops inside loops, a flip in the innermost one, which decides on the next; its total is the objective."""

    def run(carry, key, w, depth):
        if depth == 0:
            c, total = carry
            z = flip(key, w + c)
            return z, total + (z - 0.3) ** 2 + 0.5 * c * w
        return jax.lax.scan(lambda c, k: (run(c, k, w, depth - 1), None), carry, jax.random.split(key, 2))[0]

    return lambda key, w: run((jnp.zeros(()), jnp.zeros(())), key, w, depth)[1]


@pytest.mark.parametrize("depth", range(6))
def test_a_program_is_analysed_once_however_deep_its_loops_are(depth, work):
    """One analysis and one plan for each jaxpr; a body is cut once more to settle its carries."""
    jax.make_jaxpr(jax.grad(tg.expectation(loops(depth)), argnums=1))(KEY, 0.3)
    assert work == {"analyses": depth + 1, "plans": depth + 1, "cuts": 2 * depth + 1}


def test_loops_without_draws_are_analysed_once_too(work):
    def program(depth):
        def run(x, depth):
            return jax.lax.scan(lambda c, _: (run(c, depth - 1), None), x, None, 2)[0] if depth else x * 1.1

        return jax.grad(tg.expectation(lambda key, w: run(flip(key, w), depth)), argnums=1)

    jax.make_jaxpr(program(0))(KEY, 0.3)
    work.update(analyses=0)
    jax.make_jaxpr(program(5))(KEY, 0.3)
    assert work["analyses"] == 6


def _cheap_step(carry, key):
    c, total = carry
    z = sample(key, dist.Bernoulli(logits=c), estimator=tg.reinforce()).astype(float)
    return (z, total + (z - 0.3) ** 2), None


def test_a_body_that_is_traced_once_is_analysed_once(work):
    """An eager call traces the program anew, and JAX gives it the body that it had: only the program is looked at."""

    def program(key, w):
        return jax.lax.scan(_cheap_step, (w, jnp.zeros(())), jax.random.split(key, 3))[0][1]

    slope = jax.grad(tg.expectation(program), argnums=1)
    slope(KEY, 0.3)
    work.update(analyses=0)
    slope(KEY, 0.3)
    assert work["analyses"] == 1


def test_a_program_that_is_traced_once_is_planned_once(work):
    g = jax.jit(tg.expectation(loops(2)))
    jax.grad(g, argnums=1)(KEY, 0.3)
    first = dict(work)
    jax.vmap(jax.grad(g, argnums=1), (0, None))(jax.random.split(KEY, 3), 0.5)
    jax.grad(lambda w: g(KEY, w) ** 2)(0.3)
    assert work == first


def test_what_is_known_of_a_program_goes_with_it():
    jaxpr = trace(loops(2), KEY, jnp.zeros(())).jaxpr
    assert _credit_plan.credit_plan(jaxpr, 1) is _credit_plan.credit_plan(jaxpr, 1)
    known = weakref.ref(jaxpr)
    del jaxpr
    gc.collect()
    assert known() is None
