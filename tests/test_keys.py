"""Keys: every draw of a program has one of its own, which depends on nothing but the visit's key and the address."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tracegrad as tg
from tracegrad import dist

KEY = jax.random.key(0)


class ItsKey:
    """A distribution that gives back the words of the key that it was drawn with."""

    def sample(self, key):
        return jax.random.key_data(key)

    def log_prob(self, value):
        return jnp.zeros(())


def two():
    tg.sample("a", ItsKey())
    tg.sample("b", ItsKey())


pair = tg.gen(two)
step = tg.gen(lambda c, x: (c, [tg.sample("a", ItsKey()), tg.sample("in", pair())] and None))


@tg.gen
def everything():
    two()
    tg.sample("call", pair())
    tg.sample("other", pair())
    tg.sample("a call of a call", tg.gen(lambda: tg.sample("call", pair()))())
    tg.sample("plate", pair.repeat(3)())
    tg.sample("grid", pair.repeat(2).repeat(3)())
    tg.sample("steps", step.scan(3)(0.0))
    tg.sample("steps of steps", tg.gen(lambda c, x: tg.sample("in", step.scan(2)(c))).scan(3)(0.0))
    tg.sample("plate of steps", step.scan(2).vmap()(jnp.zeros(3)))
    tg.sample("branch", tg.cond(True, pair, pair)())
    tg.sample(
        "plate of branches", tg.gen(lambda p: tg.sample("c", tg.cond(p, pair, pair)())).vmap()(jnp.array([True, False]))
    )
    tg.sample("shown", pair.mask()(True))
    pair.mask()
    # Two addresses of one checksum.
    tg.sample("plumless", ItsKey())
    tg.sample("buckeroo", ItsKey())


def keys_of(choices):
    return np.concatenate([np.reshape(x, (-1, x.shape[-1])) for x in jax.tree.leaves(choices)])


@pytest.mark.slow
def test_all_keys_of_a_program_are_distinct():
    assert zlib.crc32(b"plumless") == zlib.crc32(b"buckeroo")
    keys = keys_of(jax.jit(everything.simulate)(KEY).choices)
    # 2 + 2 + 2 + 2 + 6 + 12 + 9 + 18 + 18 + 2 + 4 + 2 + 2
    assert keys.shape == (81, 2)
    assert len(np.unique(keys, axis=0)) == len(keys)
    assert not any((k == jax.random.key_data(KEY)).all() for k in keys)


def test_another_key_shares_no_draw():
    draw = jax.jit(everything.simulate)
    first, second = (keys_of(draw(k).choices) for k in jax.random.split(KEY))
    assert not (first[:, None] == second[None]).all(-1).any()


def test_operations_that_draw_share_the_rule():
    drawn = pair.repeat(2).simulate(KEY).choices
    generated, _ = pair.repeat(2).generate(KEY, {"a": drawn["a"]})
    assert jnp.array_equal(generated.choices["b"], drawn["b"])


def test_an_unrelated_site_changes_no_draw_elsewhere():
    def make(extra, first):
        def body():
            if extra and first:
                tg.sample("extra", dist.Normal(0.0, 1.0))
            z = tg.sample("z", dist.Normal(0.0, 1.0))
            inside = tg.sample(
                "sub", (pair if not extra else tg.gen(lambda: [tg.sample("more", ItsKey()), two()] and None))()
            )
            tg.sample("p", tg.gen(lambda: tg.sample("x", dist.Gamma(2.0, 1.0))).repeat(3)())
            if extra and not first:
                tg.sample("extra", tg.gen(lambda: tg.sample("y", dist.Normal(z, 1.0))).repeat(2)())
            return inside

        return tg.gen(body)

    plain = make(False, False).simulate(KEY).choices
    for first in (True, False):
        more = make(True, first).simulate(KEY).choices
        assert {"extra"} == more.keys() - plain.keys()
        for path in (("z",), ("sub", "a"), ("sub", "b"), ("p", "x")):
            a, b = plain, more
            for part in path:
                a, b = a[part], b[part]
            assert jnp.array_equal(a, b)


def test_the_order_of_sites_changes_no_draw():
    forwards = tg.gen(lambda: [tg.sample(a, ItsKey()) for a in "abc"] and None).simulate(KEY).choices
    backwards = tg.gen(lambda: [tg.sample(a, ItsKey()) for a in "cba"] and None).simulate(KEY).choices
    assert all(jnp.array_equal(forwards[a], backwards[a]) for a in "abc")


@pytest.mark.parametrize("name", ["expectation", "plain"])
def test_an_objective_draws_the_same_with_and_without_expectation(name):
    program = tg.gen(lambda m: tg.sample("x", dist.Normal(m, 1.0)))
    f = lambda key, m: program.simulate(key, m).retval ** 2  # noqa: E731
    g = tg.expectation(f) if name == "expectation" else jax.jit(f)
    assert jnp.allclose(g(KEY, 0.5), f(KEY, 0.5), rtol=1e-6)
    value, _ = jax.value_and_grad(tg.expectation(f), argnums=1)(KEY, 0.5)
    assert jnp.allclose(value, f(KEY, 0.5), rtol=1e-6)


def test_forks_see_the_noise_of_the_run_that_they_leave():
    """A flip's alternatives share what is drawn after it, so noise that it does not touch cancels exactly."""
    program = tg.gen(lambda p: (tg.sample("b", dist.Bernoulli(p)), tg.sample("n", dist.Normal(0.0, 10.0))))

    def objective(key, p):
        b, noise = program.with_estimators({"b": tg.mvd()}).simulate(key, p).retval
        return 3.0 * b.astype(float) + noise

    grads = jax.vmap(jax.grad(tg.expectation(objective), argnums=1), in_axes=(0, None))(jax.random.split(KEY, 100), 0.3)
    assert jnp.allclose(grads, 3.0, atol=1e-4)


# ---- lanes ----------------------------------------------------------------------------------------------------------

normal = tg.gen(lambda: tg.sample("x", dist.Normal(0.0, 1.0)))


def test_what_a_lane_draws_does_not_depend_on_how_many_there_are():
    many, few = (jax.jit(normal.repeat(n).simulate)(KEY).retval for n in (5, 3))
    assert jnp.array_equal(many[:3], few)
    for n in (0, 1):
        assert jnp.array_equal(normal.repeat(n).simulate(KEY).retval, many[:n])


def test_lanes_draw_apart_with_any_generator():
    for implementation in ("threefry2x32", "rbg", "unsafe_rbg"):
        drawn = normal.repeat(5).simulate(jax.random.key(0, impl=implementation)).retval
        assert len(np.unique(drawn)) == 5


def test_lanes_draw_the_same_wherever_the_program_runs():
    grid = normal.repeat(3).repeat(2)
    drawn = grid.simulate(KEY).retval

    def objective(key, w):
        x = grid.simulate(key).retval
        return w * jnp.sum(x), x

    g = tg.expectation(objective, has_aux=True)
    (_, inside), _ = jax.jit(jax.value_and_grad(g, argnums=1, has_aux=True))(KEY, 1.0)
    for found in (inside, jax.jit(grid.simulate)(KEY).retval, jax.vmap(grid.simulate)(KEY[None]).retval[0]):
        np.testing.assert_allclose(found, drawn, rtol=1e-6)


def test_a_lane_costs_the_generator_one_draw():
    """No key is split off or folded lane by lane."""
    eqns = jax.make_jaxpr(lambda key: normal.repeat(100).simulate(key).retval)(KEY).jaxpr.eqns
    made = [eqn for eqn in eqns if eqn.primitive.name in ("random_split", "random_fold_in")]
    assert [v.aval.shape for eqn in made for v in eqn.outvars] == [()]


def test_lanes_are_independent_standard_normal_draws():
    """Of 2^16: moments, and products of neighbours and of lanes whose numbers differ in one bit."""
    x = jax.jit(normal.repeat(1 << 16).simulate)(KEY).retval.astype(float)
    moments = [x, x**2 - 1.0, x**3, (x**4 - 3.0), *(x * x[jnp.arange(1 << 16) ^ (1 << b)] for b in range(16))]
    for m in (*moments, x[1:] * x[:-1]):
        assert abs(jnp.mean(m)) < 5.0 * jnp.std(m) / 2**7.5  # a product with one bit changed is there twice


def test_the_mean_over_lanes_is_exact():
    """The key of a lane is no raw randomness: E[(sum of coins)^2] over all outcomes."""
    coin = tg.gen(lambda p: tg.sample("b", dist.Bernoulli(p), estimator=tg.mvd()))
    f = tg.expectation(lambda key, p: coin.vmap().simulate(key, p).retval.astype(float).sum() ** 2)
    p = jnp.array([0.3, 0.6])
    found = jax.value_and_grad(tg.exact_expectation(f), argnums=1)(KEY, p)
    expected = jax.value_and_grad(lambda p: p.sum() ** 2 + (p * (1.0 - p)).sum())(p)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, expected)
