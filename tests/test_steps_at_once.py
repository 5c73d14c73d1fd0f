"""Loops whose steps need not wait for each other are lanes: the same density, and no loop in the program."""

import jax
import numpy as np
import pytest
from jax import lax
from jax import numpy as jnp
from scipy import stats

import tracegrad as tg
from tracegrad import dist

T = 6
Z = np.random.default_rng(0).normal(size=T).astype(np.float32)
Y = np.random.default_rng(1).normal(size=T).astype(np.float32)
X = np.linspace(0.5, 1.5, T).astype(np.float32)


def normal(x, loc, scale):
    return stats.norm.logpdf(np.float64(x), loc, scale)


def observe(z):
    tg.sample("y", dist.Normal(z, 0.5))


@tg.gen
def level(before, x):
    z = tg.sample("z", dist.Normal(0.9 * before, x))
    observe(z)
    return z, 2.0 * before


def by_hand_level(a, z, y, order=range(T)):
    total, before = 0.0, a
    for t in order:
        total += normal(z[t], 0.9 * before, X[t]) + normal(y[t], z[t], 0.5)
        before = z[t]
    return total


@tg.gen
def two_back(carry, x):
    one, two = carry
    z = tg.sample("z", dist.Normal(0.5 * one - 0.2 * two, x))
    observe(z)
    return (z, one), None


def by_hand_two_back(a, z, y):
    total, one, two = 0.0, a, 2.0 * a
    for t in range(T):
        total += normal(z[t], 0.5 * one - 0.2 * two, X[t]) + normal(y[t], z[t], 0.5)
        one, two = z[t], one
    return total


@tg.gen
def with_a_counter(carry, x):
    t, scale, before = carry
    z = tg.sample("z", dist.Normal(before * scale / (1.0 + t.astype(jnp.float32)), x))
    observe(z)
    return (1 + t, scale, jnp.tanh(z)), t


def by_hand_with_a_counter(a, z, y):
    total, before = 0.0, a
    for t in range(T):
        total += normal(z[t], before * 0.7 / (3.0 + t), X[t]) + normal(y[t], z[t], 0.5)
        before = np.tanh(z[t])
    return total


@tg.gen
def without_state(carry, x):
    observe(tg.sample("z", dist.Normal(carry, x)))
    return carry, None


def by_hand_without_state(a, z, y):
    return sum(normal(z[t], a, X[t]) + normal(y[t], z[t], 0.5) for t in range(T))


LANES = {
    "level": (level.scan(), lambda a: a, by_hand_level),
    "backwards": (level.scan(reverse=True), lambda a: a, lambda *at: by_hand_level(*at, order=range(T)[::-1])),
    "two back": (two_back.scan(), lambda a: (a, 2.0 * a), by_hand_two_back),
    "counter": (with_a_counter.scan(), lambda a: (2, 0.7, a), by_hand_with_a_counter),
    "no state": (without_state.scan(), lambda a: a, by_hand_without_state),
}


def density(model, start):
    return lambda a, z: model.assess({"z": z, "y": Y}, start(a), X)[0]


def has_loop(fn, *args):
    return " scan[" in str(jax.make_jaxpr(fn)(*args))


@pytest.mark.parametrize("name", LANES)
def test_the_density_is_that_of_the_steps_one_by_one(name):
    model, start, by_hand = LANES[name]
    f = density(model, start)
    assert not has_loop(f, 0.3, Z)
    value, grads = jax.jit(jax.value_and_grad(f, argnums=(0, 1)))(0.3, Z)
    np.testing.assert_allclose(value, by_hand(0.3, Z, Y), rtol=1e-5)
    for i, x in enumerate((0.3, Z)):
        found = np.atleast_1d(grads[i])
        for j in range(found.size):
            h = 1e-5 * np.eye(found.size)[j].reshape(np.shape(x))
            at = [0.3, np.float64(Z)]
            up, down = (by_hand(*at[:i], x + end, *at[i + 1 :], Y) for end in (h, -h))
            np.testing.assert_allclose(found[j], (up - down) / 2e-5, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", LANES)
def test_what_is_returned_is_what_the_loop_returns(name):
    """Without a transformation it is the loop, which is compiled once: the reference here."""
    model, start, _ = LANES[name]
    run = lambda a, z: model.assess({"z": z, "y": Y}, start(a), X)  # noqa: E731
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), jax.jit(run)(0.3, Z), run(0.3, Z))


def test_parts_of_the_density_are_stacked_as_ever():
    parts = jax.jit(lambda z: level.scan().logps({"z": z, "y": Y}, 0.3, X))(Z)
    before = np.concatenate([[0.3], Z[:-1]])
    np.testing.assert_allclose(parts["z"], normal(Z, 0.9 * before, X), rtol=1e-5)
    np.testing.assert_allclose(parts["y"], normal(Y, Z, 0.5), rtol=1e-5)


def test_lanes_of_loops():
    f = density(*LANES["two back"][:2])
    many = jax.jit(jax.vmap(f))(jnp.array([0.3, -1.0]), jnp.stack([Z, 2.0 * Z]))
    np.testing.assert_allclose(many, [by_hand_two_back(0.3, Z, Y), by_hand_two_back(-1.0, 2.0 * Z, Y)], rtol=1e-5)
    assert not has_loop(jax.vmap(f), jnp.array([0.3, -1.0]), jnp.stack([Z, 2.0 * Z]))


@tg.gen
def volatility(variance, x):
    z = tg.sample("z", dist.Normal(0.0, jnp.sqrt(variance)))
    observe(z)
    return 0.1 + 0.8 * variance + 0.1 * z**2, None


@tg.gen
def crossed(carry, x):
    a, b = carry
    z = tg.sample("z", dist.Normal(a, x))
    observe(z)
    return (b, a), None


@tg.gen
def branching(before, x):
    z = tg.sample("z", dist.Normal(lax.cond(before > 0.0, jnp.sin, jnp.cos, before), x))
    observe(z)
    return z, None


LOOPS = {
    "a variance that remembers": (volatility.scan(), lambda a: jnp.exp(a)),
    "two that change places": (crossed.scan(), lambda a: (a, 2.0 * a)),
    "a branch": (branching.scan(), lambda a: a),
}


@pytest.mark.parametrize("name", LOOPS)
def test_what_needs_the_step_before_stays_a_loop(name):
    model, start = LOOPS[name]
    f = density(model, start)
    assert has_loop(f, 0.3, Z)
    np.testing.assert_allclose(jax.jit(f)(0.3, Z), f(0.3, Z), rtol=1e-6)


def test_a_loop_too_large_for_lanes_stays_one():
    n = 1 << 21
    f = lambda z: level.scan().assess({"z": z, "y": z}, 0.0, jnp.ones(n))[0]  # noqa: E731
    assert has_loop(f, jax.ShapeDtypeStruct((n,), jnp.float32))


@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_steps(n):
    f = lambda z: level.scan().assess({"z": z, "y": Y[:n]}, 0.3, X[:n])  # noqa: E731
    logp, (last, ys) = jax.jit(f)(Z[:n])
    np.testing.assert_allclose(logp, by_hand_level(0.3, Z, Y, range(n)), rtol=1e-5, atol=1e-7)
    assert (float(last), ys.shape) == (pytest.approx(([0.3, *Z])[n]), (n,))


def test_outside_of_the_support_of_one_step():
    step = tg.gen(lambda before, _: ((tg.sample("z", dist.Uniform(0.0, 1.0)), None)))
    f = lambda z: step.scan(length=3).assess({"z": z}, 0.5)[0]  # noqa: E731
    value, slope = jax.jit(jax.value_and_grad(f))(jnp.array([0.5, 2.0, 0.1]))
    assert value == -jnp.inf
    np.testing.assert_array_equal(slope, np.zeros(3))


def test_credit_of_draws_in_a_loop_before_it_is_what_it_was():
    """The bound of a chain of coins, by reinforce: one gradient, on the same draws, with lanes and with the loop."""

    @tg.gen
    def coins(before, w):
        return tg.sample("z", dist.Bernoulli(logits=w + before), estimator=tg.reinforce()).astype(jnp.float32), None

    @tg.gen
    def costs(before, w):
        z = tg.sample("z", dist.Bernoulli(logits=0.3 * before)).astype(jnp.float32)
        return z, None

    def loop_of_costs(z):
        def body(before, z):
            logp, (after, _) = costs.assess({"z": z}, before, 0.0)
            return after, logp

        return jnp.sum(lax.scan(body, 0.0, z)[1])

    def bound(cost):
        @tg.expectation
        def objective(key, w):
            q = coins.scan().simulate(key, 0.0, w)
            return cost(q.choices["z"]) - q.logp

        return jax.jit(jax.vmap(jax.grad(objective, argnums=1), (0, None)))

    keys, w = jax.random.split(jax.random.key(0), 5), jnp.linspace(-0.5, 0.5, 4)
    lanes = bound(lambda z: costs.scan().assess({"z": z}, 0.0, w)[0])(keys, w)
    np.testing.assert_allclose(lanes, bound(loop_of_costs)(keys, w), rtol=1e-5, atol=1e-6)
