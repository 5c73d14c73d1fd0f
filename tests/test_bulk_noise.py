"""Noise that is drawn before a loop: the same as in it, whatever is drawn, and none drawn in the loop."""

import warnings

import jax
import numpy as np
import pytest
from jax import lax
from jax import numpy as jnp

import tracegrad as tg
from tracegrad import dist
from tracegrad.transforms import expectation, sample
from tracegrad.transforms.program import _bulk_noise as bulk_noise
from tracegrad.transforms.program import _halves as halves
from tracegrad.transforms.program import _noise_first as noise_first

KEY = jax.random.key(3)
T = 5

# What a step draws, from the state before; each depends on it, so that only the noise can be known early.
DRAWS = {
    "normal": lambda c, w: (dist.Normal(w * c, 0.5), tg.reparam()),
    "normals": lambda c, w: (dist.Normal(w * c, 0.5).expand([3]).to_event(1), tg.reparam()),
    "multivariate": lambda c, w: (dist.MultivariateNormal(w * c * jnp.ones(2), jnp.eye(2)), tg.reparam()),
    "uniform": lambda c, w: (dist.Uniform(c - 1.0, c + w), tg.reparam()),
    "gumbel": lambda c, w: (dist.Gumbel(w * c, 0.5), tg.reparam()),
    "log-normal": lambda c, w: (dist.LogNormal(w * jnp.tanh(c), 0.1), tg.reparam()),
    "flip, reinforce": lambda c, w: (dist.Bernoulli(logits=w + c), tg.reinforce()),
    "flip, mvd": lambda c, w: (dist.Bernoulli(logits=w + c), tg.mvd()),
    "category": lambda c, w: (dist.Categorical(logits=jnp.stack([w, c, w * c])), tg.local_expectation()),
    "normal, reinforce": lambda c, w: (dist.Normal(w * c, 0.5), tg.reinforce()),
}
# The parameters decide how many random numbers are used, so that nothing can be drawn early.
BY_REJECTION = {
    "gamma": lambda c, w: (dist.Gamma(2.0 + jnp.tanh(c), 1.0 / w), tg.reinforce()),
    "poisson": lambda c, w: (dist.Poisson(jnp.exp(jnp.tanh(w * c))), tg.reinforce()),
}


def states(make, *, reverse=False):
    """The states of a loop of draws."""

    def f(key, w):
        def step(c, key):
            law, estimator = make(c, w)
            c = jnp.mean(jnp.asarray(sample(key, law, estimator=estimator)).astype(float))
            return c, c

        return lax.scan(step, jnp.array(0.3), jax.random.split(key, T), reverse=reverse)[1]

    return f


def plates(key, w):
    """Lanes in a loop: a key for each, and one law for two draws of one of them."""

    def step(c, key):
        keys = jax.random.split(key, 3)
        xs = jax.vmap(lambda k, s: sample(k, dist.Normal(w * c + s, 0.5), estimator=tg.reparam()))(
            keys, jnp.arange(3.0)
        )
        return xs.sum(), xs

    return lax.scan(step, jnp.array(0.3), jax.random.split(key, T))[1].sum(1)


def loop_in_loop(key, w):
    def step(c, key):
        def inner(c, k):
            c = sample(k, dist.Normal(w * c, 0.5), estimator=tg.reparam())
            return c, c

        c, cs = lax.scan(inner, c, jax.random.split(key, 2))
        return c, cs.sum()

    return lax.scan(step, jnp.array(0.3), jax.random.split(key, T))[1]


def two_of_a_kind(key, w):
    """Draws of one kind in a step, and in a function called twice: what is traced once is not drawn once."""

    @jax.jit
    def twice(key, c):
        one, other = jax.random.split(key)
        a = sample(one, dist.Normal(w * c, 0.5), estimator=tg.reparam())
        return a + 2.0 * sample(other, dist.Normal(w * a, 0.5), estimator=tg.reparam())

    def step(c, key):
        one, other = jax.random.split(key)
        c = twice(one, c) + 0.1 * twice(other, c)
        return c, c

    return lax.scan(step, jnp.array(0.3), jax.random.split(key, T))[1]


def inner_loop_twice(key, w):
    """A loop in a function that is called twice."""

    @jax.jit
    def inner(key, c):
        def one(c, k):
            c = sample(k, dist.Normal(w * c, 0.5), estimator=tg.reparam())
            return c, c

        return lax.scan(one, c, jax.random.split(key, 2))[0]

    def step(c, key):
        one, other = jax.random.split(key)
        c = inner(one, c) + 3.0 * inner(other, c)
        return c, c

    return lax.scan(step, jnp.array(0.3), jax.random.split(key, T))[1]


def counted(key, w):
    """A key for each step folded from its number, as `fori_loop` has it."""

    def step(c, t):
        c = sample(jax.random.fold_in(key, t), dist.Normal(w * c, 0.5), estimator=tg.reparam())
        return c, c

    return lax.scan(step, jnp.array(0.3), jnp.arange(T))[1]


def drawn_keys(key, w):
    """The key of a step is carried: it is not known before the loop."""

    def step(state, _):
        key, c = state
        key, now = jax.random.split(key)
        c = sample(now, dist.Normal(w * c, 0.5), estimator=tg.reparam())
        return (key, c), c

    return lax.scan(step, (key, jnp.array(0.3)), None, T)[1]


def branches(key, w):
    def step(c, key):
        a = lambda: sample(key, dist.Normal(w * c, 0.5), estimator=tg.reinforce())  # noqa: E731
        c = lax.cond(c > 0.0, a, lambda: 0.5 - c)
        return c, c

    return lax.scan(step, jnp.array(0.3), jax.random.split(key, T))[1]


LOOPS = {name: states(make) for name, make in (DRAWS | BY_REJECTION).items()}
LOOPS |= {"backwards": states(DRAWS["normal"], reverse=True)}
LOOPS |= {f.__name__: f for f in (plates, loop_in_loop, two_of_a_kind, inner_loop_twice, counted, drawn_keys, branches)}
EARLY = {*DRAWS, "backwards", "plates", "loop_in_loop", "two_of_a_kind", "inner_loop_twice", "counted"}


def value_and_slope(f, key, w):
    """What an estimate is, and its derivative: the loop is the estimate's own."""
    weights = jnp.arange(1.0, T + 1.0)
    return jax.value_and_grad(expectation(lambda key, w: weights @ f(key, w)), argnums=1)(key, w)


@pytest.mark.parametrize("name", LOOPS)
def test_draws_are_those_of_the_loop(name):
    """The states that an estimate passes through, its noise drawn before, are those of the loop run as it stands."""
    f = LOOPS[name]
    w = jnp.array(0.7)

    # Auxiliary, so that what comes out is the states themselves and not a sum of theirs.
    def with_states(key, w):
        states = f(key, w)
        return states.sum(), states

    g = expectation(with_states, has_aux=True)
    (_, found), _ = jax.jit(jax.value_and_grad(g, argnums=1, has_aux=True))(KEY, w)
    np.testing.assert_allclose(found, jax.jit(f)(KEY, w), rtol=1e-6)  # XLA may fuse the rest in another way


def primitives(jaxpr, loops=0):
    """The names of a program's operations and how many loops each is in."""
    for eqn in jaxpr.eqns:
        yield eqn.primitive.name, loops
        for value in eqn.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from primitives(inner, loops + (eqn.primitive.name == "scan"))


@pytest.mark.parametrize("name", LOOPS)
def test_noise_is_drawn_outside_of_the_loop(name):
    found = jax.make_jaxpr(lambda w: value_and_slope(LOOPS[name], KEY, w))(0.7)
    deepest = [loops for primitive, loops in primitives(found.jaxpr) if primitive == "early_noise"]
    assert bool(deepest) == (name in EARLY)
    assert max(deepest, default=0) == 0
    if name in EARLY:  # and not once more in the loop
        assert not {p for p, loops in primitives(found.jaxpr) if loops and p in ("random_bits", "threefry2x32")}


def test_generators_that_a_vmap_changes_are_left_in_the_loop():
    key = jax.random.key(3, impl="rbg")
    f = LOOPS["normal"]
    found = jax.make_jaxpr(lambda w: value_and_slope(f, key, w))(0.7)
    assert "early_noise" not in {p for p, _ in primitives(found.jaxpr)}
    (value, _), states = value_and_slope(f, key, 0.7), f(key, 0.7)
    np.testing.assert_allclose(value, jnp.arange(1.0, T + 1.0) @ states, rtol=1e-6)


@pytest.mark.parametrize(("most", "loops"), [(1, set()), (2, {0, 1}), (4, {0, 1}), (T, {0})])
def test_noise_that_would_be_too_much_is_made_block_by_block(most, loops, monkeypatch):
    """Of one step at a time it is left in the loop; a block of what is left over is one more."""
    monkeypatch.setattr(bulk_noise, "MOST", most)
    found = jax.make_jaxpr(lambda w: value_and_slope(states(DRAWS["normal"]), KEY, w))(0.7)
    assert {depth for p, depth in primitives(found.jaxpr) if p == "early_noise"} == loops


@pytest.mark.parametrize("name", ["backwards", pytest.param("plates", marks=pytest.mark.slow)])
def test_blocks_change_nothing(name, monkeypatch):
    whole = value_and_slope(LOOPS[name], KEY, 0.7)
    monkeypatch.setattr(bulk_noise, "MOST", 6)
    np.testing.assert_allclose(value_and_slope(LOOPS[name], KEY, 0.7), whole, rtol=1e-6)


def test_a_loop_of_many_steps_keeps_the_noise_of_a_block():
    """A hundred thousand steps of a hundred numbers are 40 MB of noise; of the loop a state is kept."""

    def f(key, w):
        def step(c, key):
            xs = sample(key, dist.Normal(w * c, 0.5).expand([100]).to_event(1), estimator=tg.reparam())
            return jnp.mean(xs), None

        return lax.scan(step, jnp.array(0.3), jax.random.split(key, 100_000))[0]

    compiled = jax.jit(expectation(f)).lower(KEY, 0.7).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 20_000_000


@pytest.mark.parametrize("length", [0, 1, 2])
def test_loops_of_few_steps(length):
    def f(key, w):
        def step(c, key):
            return sample(key, dist.Normal(w * c, 0.5), estimator=tg.reparam()), c

        return lax.scan(step, jnp.array(0.3), jax.random.split(key, length))[0]

    value, slope = jax.value_and_grad(expectation(f), argnums=1)(KEY, jnp.array(0.7))
    np.testing.assert_allclose(value, f(KEY, jnp.array(0.7)), rtol=1e-6)
    # The state is a product of w's and sums of noise: its slope by a difference at the same noise.
    near = [jax.jit(f)(KEY, jnp.array(0.7 + d)) for d in (-1e-2, 1e-2)]
    np.testing.assert_allclose(slope, (near[1] - near[0]) / 2e-2, rtol=1e-2, atol=1e-4)


def test_under_a_vmap_over_keys_each_lane_draws_its_own():
    g = jax.jit(jax.vmap(lambda key: value_and_slope(LOOPS["normal"], key, 0.7)))
    keys = jax.random.split(KEY, 3)
    for i, key in enumerate(keys):
        np.testing.assert_allclose([x[i] for x in g(keys)], value_and_slope(LOOPS["normal"], key, 0.7), rtol=1e-5)


def test_the_mean_of_an_estimate_is_exact_though_its_noise_is_early():
    """E[(sum of w^t z_t)^2] of a linear chain by hand, and its derivative, though the draws are parted."""
    from exactly import exact_key

    def f(key, w):
        return jnp.sum(LOOPS["normal"](key, w)) ** 2

    def by_hand(w):
        ways = jnp.stack([sum(w ** (t - s) for t in range(s, T)) for s in range(T)])
        start = 0.3 * sum(w ** (t + 1) for t in range(T))
        return start**2 + 0.25 * jnp.sum(ways**2)

    with jax.enable_x64(True):
        mean = tg.exact_expectation(expectation(f), nodes=2)
        found = jax.value_and_grad(mean, argnums=1)(exact_key(), jnp.array(0.7))
        np.testing.assert_allclose(found, jax.value_and_grad(by_hand)(jnp.array(0.7)), rtol=1e-10)


def test_noise_of_an_inner_loop_stays_in_the_outer_one_where_it_would_be_too_much(monkeypatch):
    monkeypatch.setattr(bulk_noise, "MOST", 3)
    found = jax.make_jaxpr(lambda w: value_and_slope(loop_in_loop, KEY, w))(0.7)
    assert {loops for p, loops in primitives(found.jaxpr) if p == "early_noise"} == {1}


def test_a_loop_whose_steps_get_nothing_of_their_own():
    """The key is carried, and the score of what is carried is kept apart step by step."""

    def f(key, w):
        def step(state, _):
            key, c = state
            key, now = jax.random.split(key)
            flip = sample(now, dist.Bernoulli(logits=c), estimator=tg.reinforce())
            return (key, c + w * flip.astype(float)), None

        return lax.scan(step, (key, jnp.array(0.3)), None, T)[0][1]

    value, _ = jax.value_and_grad(expectation(f), argnums=1)(KEY, jnp.array(0.7))
    np.testing.assert_allclose(value, f(KEY, jnp.array(0.7)), rtol=1e-6)


# ---- straight-line programs -----------------------------------------------------------------------------------------

SITES = 2


def chain(make, sites=SITES):
    """A program that draws again and again, each time from where it is, and all that it drew."""

    def f(key, w):
        c, cs = jnp.array(0.3), []
        for i in range(sites):
            law, estimator = make(c, w)
            c = jnp.mean(jnp.asarray(sample(jax.random.fold_in(key, i), law, estimator=estimator)).astype(float))
            cs.append(c)
        return jnp.arange(1.0, sites + 1.0) @ jnp.stack(cs), jnp.stack(cs)

    return f


def split_again_and_again(key, w):
    """Keys of no address: each is split off, and carried."""
    cs = [jnp.array(0.3)]
    for _ in range(SITES):
        key, now = jax.random.split(key)
        cs.append(sample(now, dist.Normal(w * cs[-1], 0.5), estimator=tg.reparam()))
    return jnp.arange(SITES + 1.0) @ jnp.stack(cs), jnp.stack(cs)


def lanes_in_a_chain(key, w):
    c, cs = jnp.zeros(4), []
    for i in range(SITES):
        keys = jax.random.split(jax.random.fold_in(key, i), 4)
        c = jax.vmap(lambda k, c: sample(k, dist.Normal(w * c, 0.5), estimator=tg.reparam()))(keys, c)
        cs.append(c)
    return jnp.stack(cs).sum(), jnp.stack(cs)


def called_twice(key, w):
    """A function with draws that is traced once: its second key is itself drawn, and so not known before."""

    @jax.jit
    def two(key, c):
        one, other = jax.random.split(key)
        a = sample(one, dist.Normal(w * c, 0.5), estimator=tg.reparam())
        return a + 2.0 * sample(other, dist.Normal(w * a, 0.5), estimator=tg.reparam())

    one, other, flip = jax.random.split(key, 3)
    c = two(one, jnp.array(0.3))
    heads = sample(flip, dist.Bernoulli(0.5), estimator=tg.mvd())  # without a score nothing is credited, nor renamed
    end = two(jax.random.fold_in(other, heads.astype(int)), jnp.array(0.2))
    return c + end, jnp.stack([c, end])


STRAIGHT = {name: chain(make) for name, make in (DRAWS | BY_REJECTION).items()}
STRAIGHT |= {"normal, mvd": chain(lambda c, w: (dist.Normal(w * c, 0.5), tg.mvd()))}
STRAIGHT |= {f.__name__: f for f in (split_again_and_again, lanes_in_a_chain, called_twice)}


def estimate_of(f):
    """Value, draws and derivative; nothing of it is kept from call to call."""
    return jax.jit(jax.value_and_grad(expectation(f, has_aux=True), argnums=1, has_aux=True))


@pytest.mark.table
@pytest.mark.parametrize("name", STRAIGHT)
def test_draws_are_those_of_the_program_when_their_noise_comes_first(name, monkeypatch):
    f, w = STRAIGHT[name], jnp.array(0.7)
    plain = estimate_of(f)(KEY, w)
    monkeypatch.setattr(noise_first, "LEAST", 2)
    found = jax.make_jaxpr(estimate_of(f))(KEY, w)
    assert ("early_noise" in {p for p, _ in primitives(found.jaxpr)}) == (name not in BY_REJECTION)
    first = estimate_of(f)(KEY, w)
    for one, other in zip(jax.tree.leaves(first), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(first[0][1], jax.jit(f)(KEY, w)[1], rtol=1e-5)


@pytest.mark.parametrize(("sites", "together"), [(9, 0), (10, 10), (12, 12)])
def test_many_equal_draws_are_one_call_of_the_generator(sites, together):
    """And so few that it would not be worth it are not; the lanes around do not matter."""
    g = jax.grad(expectation(lambda key, w: chain(DRAWS["normal"], sites)(key, w)[0]), argnums=1)
    found = jax.make_jaxpr(jax.vmap(lambda key: g(key, 0.7)))(jax.random.split(KEY, 5))
    early = [eqn for eqn in found.jaxpr.eqns if eqn.primitive.name == "early_noise"]
    assert [len(eqn.invars) for eqn in early] == [together] * bool(together)
    hlo = jax.jit(jax.vmap(lambda key: g(key, 0.7))).lower(jax.random.split(KEY, 5)).as_text()
    assert hlo.count("erf_inv") <= (sites if not together else 3)


def test_very_many_equal_draws_are_said_to_be_a_plate_or_a_loop(monkeypatch):
    """When they are compiled, not when they are looked at; once; and not of one fewer."""
    monkeypatch.setattr(halves, "MANY", 11)
    monkeypatch.setattr(halves, "_registry", {})

    def written_out(n):
        def f(key, w):
            keys = jax.random.split(key, n)
            return sum(sample(k, dist.Normal(w, 1.0), label=("a", f"x{i}")) ** 2 for i, k in enumerate(keys))

        return jax.jit(jax.grad(expectation(f), argnums=1)).trace(KEY, 0.7)

    traced = written_out(11)
    with pytest.warns(UserWarning, match=r"11 sites of one kind, 'a/x0' the first, .* A plate \(`vmap`\) or a loop"):
        traced.lower()
    written_out(10).lower()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(2):
            written_out(11).lower()
    assert len(caught) == 1


@pytest.mark.parametrize("at_once", [0, 1 << 17])
def test_noise_that_is_too_much_to_keep_is_made_where_it_is_used(at_once, monkeypatch):
    """By keys, one by one, if it is more than stays in a cache: the same numbers."""
    monkeypatch.setattr(halves, "AT_ONCE", at_once)
    monkeypatch.setattr(noise_first, "LEAST", 2)
    f = chain(DRAWS["normal"])
    g = jax.jit(lambda key: jax.value_and_grad(expectation(f, has_aux=True), argnums=1, has_aux=True)(key, 0.7))
    np.testing.assert_allclose(g(KEY)[0][1], f(KEY, 0.7)[1], rtol=1e-6)
    text = g.lower(KEY).as_text()
    assert ("tensor<2x2xui32>" in text) == (at_once > 0)


def test_the_mean_is_exact_though_the_noise_comes_first(monkeypatch):
    """E[(x1 + 2 x2)^2] of a chain by hand: draws are told apart by their keys still."""
    from exactly import exact_key

    monkeypatch.setattr(noise_first, "LEAST", 2)

    def by_hand(w):
        ways = jnp.stack([sum((t + 1) * w ** (t - s) for t in range(s, SITES)) for s in range(SITES)])
        mean = sum((t + 1) * 0.3 * w ** (t + 1) for t in range(SITES))
        return mean**2 + jnp.sum(0.25 * ways**2)

    with jax.enable_x64(True):
        g = expectation(lambda key, w: chain(DRAWS["normal"])(key, w)[0] ** 2)
        found = jax.value_and_grad(tg.exact_expectation(g, nodes=2), argnums=1)(exact_key(), jnp.array(0.7))
        np.testing.assert_allclose(found, jax.value_and_grad(by_hand)(jnp.array(0.7)), rtol=1e-10)
