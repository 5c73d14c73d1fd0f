"""Plain JAX around samples: loops, branches, lanes, rematerialisation, custom derivatives, nested expectations."""

import jax
import numpyro.distributions as dist
import pytest
from jax import lax
from jax import numpy as jnp
from unbiased_programs import (
    BERNOULLI,
    KEY,
    NORMAL,
    SPREAD,
    W,
    assert_exact,
    assert_mean,
    first,
    later,
    mean_over,
    precisely,
)

import tracegrad as tg
from tracegrad.transforms import sample

CHOICES = {
    "forks": (tg.mvd(), tg.local_expectation()),
    "mixed": (tg.reinforce(), tg.mvd(), tg.reinforce(baseline=0.7)),
}


@pytest.fixture(autouse=True)
def double_precision():
    with precisely():
        yield


def coins(estimators):
    """`coin(key, p, i)`: a Bernoulli draw as a float, the estimators taken in turn."""

    def coin(key, p, i=0):
        return sample(key, dist.Bernoulli(p), estimator=estimators[i % len(estimators)]).astype(float)

    return coin


# ---- programs: f(coin, key, w) and its sums ----


def _chain(loop):
    """A chain of three coins, by any loop over (carry, key) -> carry."""

    def f(coin, key, w):
        def body(carry, key):
            flag, total = carry
            a, b = jax.random.split(key)
            z = coin(a, later(w, flag), 0)
            total = total * (1.0 + w[1]) + z + coin(b, first(w), 1) * z * flag
            return z, total

        return loop(body, (jnp.zeros(()), w[0]), jax.random.split(key, 2))[1] ** 2

    return f


def _chain_sums(draw, w):
    flag, total = 0.0, w[0]
    for _ in range(2):
        z, _ = draw(later(w, flag))
        y, _ = draw(first(w))
        flag, total = z, total * (1.0 + w[1]) + z + y * z * flag
    return total**2


def _scan(**options):
    def loop(body, init, keys):
        return lax.scan(lambda c, k: (body(c, k), None), init, keys, **options)[0]

    return _chain(loop)


def _fori(body, init, keys):
    return lax.fori_loop(0, 2, lambda i, c: body(c, keys[i]), init)


def _scan_of_checkpoint(body, init, keys):
    return lax.scan(lambda c, k: (jax.checkpoint(body)(c, k), None), init, keys)[0]


def _checkpoint_of_scan(body, init, keys):
    return jax.checkpoint(lambda i, k: lax.scan(lambda c, k: (body(c, k), None), i, k)[0])(init, keys)


def _unrolled(body, init, keys):
    for key in keys:
        init = jax.jit(body)(init, key)
    return init


def _lanes(mapped):
    """Two lanes of two dependent coins."""

    def f(coin, key, w):
        def lane(key, x):
            a, b = jax.random.split(key)
            z = coin(a, x * first(w), 0)
            return x * z + coin(b, later(w, z), 1) * w[0]

        ys = mapped(lane)(jax.random.split(key, 2), jnp.array([1.0, 2.0]))
        return jnp.logaddexp(ys[0], 2.0 * ys[1])

    return f


def _lanes_sums(draw, w):
    ys = []
    for x in (1.0, 2.0):
        z, _ = draw(x * first(w))
        ys.append(x * z + draw(later(w, z))[0] * w[0])
    return jnp.logaddexp(ys[0], 2.0 * ys[1])


def _map(**options):
    return lambda lane: lambda keys, xs: lax.map(lambda kx: lane(*kx), (keys, xs), **options)


def _twice_vmapped(lane):
    """Each lane inside a plate of one, mapped along other axes."""
    inner = jax.vmap(lane, in_axes=(0, None), out_axes=0)
    return lambda keys, xs: jax.vmap(inner, in_axes=(1, 0), out_axes=1)(keys[None], xs)[0]


def branch(coin, key, w):
    a, b, c = jax.random.split(key, 3)
    z = coin(a, first(w), 0)
    yes = lambda k, x: coin(k, later(w, z), 1) * 2.0 + x  # noqa: E731
    no = lambda k, x: x * w[0]  # noqa: E731
    y = lax.cond(z > 0.5, yes, no, b, w[1])
    return (z + y) ** 2 + lax.switch(z.astype(int) + 1, [no, yes, no], c, w[0])


def branch_sums(draw, w):
    z, _ = draw(first(w))
    b, _ = draw(later(w, z))
    c, _ = draw(later(w, z))
    y = jnp.where(z > 0.5, b * 2.0 + w[1], w[1] * w[0])
    return (z + y) ** 2 + jnp.where(z > 0.5, w[0] * w[0], c * 2.0 + w[0])


@jax.custom_jvp
def _cube(x):
    return x**3


_cube.defjvp(lambda primals, tangents: (_cube(*primals), 3.0 * primals[0] ** 2 * tangents[0]))


@jax.custom_vjp
def _square(x):
    return x**2


_square.defvjp(lambda x: (x**2, x), lambda x, t: (2.0 * x * t,))


def custom(coin, key, w):
    a, b = jax.random.split(key)
    z = coin(a, _square(w[0]), 0)
    return _cube(z + w[1]) + _square(coin(b, later(w, z), 1) - w[0])


def custom_sums(draw, w):
    z, _ = draw(w[0] ** 2)
    return (z + w[1]) ** 3 + (draw(later(w, z))[0] - w[0]) ** 2


def batch_shaped(coin, key, w):
    a, b = jax.random.split(key)
    z = coin(a, jnp.stack([first(w), w[1], w[0]]), 0)
    return (z[0] + 2.0 * z[1] * w[1] + z[2]) ** 2 + coin(b, later(w, z[0]), 1)


def batch_shaped_sums(draw, w):
    z = [draw(u)[0] for u in (first(w), w[1], w[0])]
    return (z[0] + 2.0 * z[1] * w[1] + z[2]) ** 2 + draw(later(w, z[0]))[0]


PROGRAMS = {
    "scan": (_scan(), _chain_sums, 4),
    "reverse scan": (_scan(reverse=True), _chain_sums, 4),
    "unrolled scan": (_scan(unroll=2), _chain_sums, 4),
    "fori_loop": (_chain(_fori), _chain_sums, 4),
    "scan of checkpoint": (_chain(_scan_of_checkpoint), _chain_sums, 4),
    "checkpoint of scan": (_chain(_checkpoint_of_scan), _chain_sums, 4),
    "python loop of jit": (_chain(_unrolled), _chain_sums, 4),
    "vmap": (_lanes(jax.vmap), _lanes_sums, 4),
    "map": (_lanes(_map()), _lanes_sums, 4),
    "map in batches": (_lanes(_map(batch_size=2)), _lanes_sums, 4),
    "vmap of vmap": (_lanes(_twice_vmapped), _lanes_sums, 4),
    "cond and switch on a draw": (branch, branch_sums, 3),
    "custom derivatives": (custom, custom_sums, 2),
    "batch-shaped": (batch_shaped, batch_shaped_sums, 4),
}


@pytest.mark.table
@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("choice", CHOICES)
def test_control_flow(name, choice):
    program, sums, n = PROGRAMS[name]
    coin = coins(CHOICES[choice])
    mean = mean_over(lambda draw, w: (sums(draw, w),), [BERNOULLI] * n)
    assert_exact(tg.expectation(lambda key, w: program(coin, key, w)), mean)


# ---- expectations inside expectations, and what they close over ----


def _outer(inner):
    """E over z of (E over x given z)-dependent terms: linear in the inner estimate, so the joint expectation."""

    def f(key, w):
        a, b = jax.random.split(key)
        z = sample(a, dist.Bernoulli(first(w)), estimator=tg.mvd()).astype(float)
        return z * w[1] + (1.0 + z) * inner(b, w, z)

    return f


def _joint_sums(draw, w):
    z, _ = draw(first(w))
    x, _ = draw(later(w, z))
    return (z * w[1] + (1.0 + z) * (x * w[0] + z) ** 2,)


@pytest.mark.table
@pytest.mark.parametrize("estimator", [tg.reinforce(), tg.mvd(), tg.local_expectation()], ids=repr)
def test_an_expectation_inside_an_expectation_is_the_joint_one(estimator):
    @tg.expectation
    def inner(key, w, z):
        return (sample(key, dist.Bernoulli(later(w, z)), estimator=estimator).astype(float) * w[0] + z) ** 2

    assert_exact(tg.expectation(_outer(inner)), mean_over(_joint_sums, [BERNOULLI] * 2))


def test_an_expectation_closes_over_tracers_of_the_one_around_it():
    def inner(key, w, z):
        return tg.expectation(lambda k: (sample(k, dist.Bernoulli(later(w, z))).astype(float) * w[0] + z) ** 2)(key)

    assert_exact(tg.expectation(_outer(inner)), mean_over(_joint_sums, [BERNOULLI] * 2))


@pytest.mark.table
@pytest.mark.parametrize("around", [jax.vmap, _map()], ids=["vmap", "map"])
@pytest.mark.parametrize("estimator", [tg.reinforce(), tg.mvd()], ids=repr)
def test_lanes_of_expectations_inside_an_expectation(around, estimator):
    @tg.expectation
    def inner(key, u):
        return sample(key, dist.Bernoulli(u), estimator=estimator).astype(float) * (1.0 + u)

    def f(key, w):
        a, b = jax.random.split(key)
        z = sample(a, dist.Bernoulli(first(w))).astype(float)
        ys = around(inner)(jax.random.split(b, 2), jnp.stack([later(w, z), w[0]]))
        return (ys[0] - z) * ys[1]

    def sums(draw, w):
        z, _ = draw(first(w))
        us = later(w, z), w[0]
        a, b = (draw(u)[0] * (1.0 + u) for u in us)
        return ((a - z) * b,)

    assert_exact(tg.expectation(f), mean_over(sums, [BERNOULLI] * 3))


@pytest.mark.table
@pytest.mark.parametrize("estimator", [tg.reinforce(), tg.mvd(), tg.local_expectation()], ids=repr)
def test_particles_of_a_model_and_a_guide(estimator):
    """An importance weighted bound: densities and draws, a branch of the model on a draw of the guide."""

    @tg.gen
    def guide(w):
        z = tg.sample("z", dist.Bernoulli(first(w)), estimator=estimator)
        tg.sample("y", dist.Normal(z.astype(float) * w[1], SPREAD))

    @tg.gen
    def model(w):
        z = tg.sample("z", dist.Bernoulli(w[0]))
        tg.sample("y", dist.Normal(w[0] + z.astype(float), 1.0))

    def log_weight(key, w):
        q = guide.simulate(key, w)
        return model.assess(q.choices, w)[0] - q.logp

    def f(key, w):
        return jax.nn.logsumexp(jax.vmap(lambda k: log_weight(k, w))(jax.random.split(key, 2)))

    def log_normal(y, m, s):
        return -0.5 * ((y - m) / s) ** 2 - jnp.log(s * jnp.sqrt(2.0 * jnp.pi))

    def sums(draw, w):
        weights = []
        for _ in range(2):
            z, _ = draw(first(w))
            y, _ = draw(z * w[1])
            logq = jnp.log(jnp.where(z > 0.5, first(w), 1.0 - first(w))) + log_normal(y, z * w[1], SPREAD)
            logp = jnp.log(jnp.where(z > 0.5, w[0], 1.0 - w[0])) + log_normal(y, w[0] + z, 1.0)
            weights.append(logp - logq)
        return (jnp.logaddexp(*weights),)

    mean = mean_over(sums, [BERNOULLI, NORMAL] * 2)
    assert_exact(tg.expectation(f), mean, nodes=12)


# ---- while loops ----


def _while(step):
    def f(key, w):
        def body(state):
            i, x = state
            return i + 1, x + step(jax.random.fold_in(key, i), w, x)

        return lax.while_loop(lambda state: state[0] < 2, body, (jnp.zeros((), int), jnp.zeros(())))[1] ** 2

    return tg.expectation(f)


WHILE = {
    "reinforce": (lambda key, w, x: sample(key, dist.Bernoulli(later(w, jnp.sin(x)))).astype(float), BERNOULLI),
    "reparam": (lambda key, w, x: sample(key, dist.Normal(later(w, jnp.sin(x)), SPREAD)), NORMAL),
}


def _while_sums(draw, w):
    x, _ = draw(later(w, 0.0))
    return ((x + draw(later(w, jnp.sin(x)))[0]) ** 2,)


@pytest.mark.parametrize("name", WHILE)
def test_while_loops_in_value_and_forward_mode(name):
    step, family = WHILE[name]
    g, along = _while(step), jnp.array([1.0, -2.0])
    value, gradient = jax.jit(lambda w: jax.jvp(mean_over(_while_sums, [family] * 2), (w,), (along,)))(jnp.asarray(W))

    def draw(key):
        return jnp.stack(jax.jvp(lambda w: g(key, w), (jnp.asarray(W),), (along,)))

    assert_mean(draw, jnp.stack([value[0], gradient[0]]))


@pytest.mark.parametrize("name", WHILE)
def test_while_loops_refuse_reverse_mode_and_name_the_bounded_loop(name):
    with pytest.raises(tg.NoRuleError, match="bounded loop: `lax.scan` or `lax.fori_loop`"):
        jax.grad(_while(WHILE[name][0]), argnums=1)(KEY, jnp.asarray(W))


@pytest.mark.parametrize("estimator", [tg.mvd(), tg.local_expectation()], ids=repr)
def test_forks_in_a_while_loop_are_refused(estimator):
    g = _while(lambda key, w, x: sample(key, dist.Bernoulli(first(w)), estimator=estimator).astype(float))
    with pytest.raises(tg.EstimatorError, match=r"inside a `while_loop`.*`lax.scan` or `fori_loop`"):
        jax.jvp(lambda w: g(KEY, w), (jnp.asarray(W),), (jnp.ones(2),))


def test_a_sample_in_the_condition_of_a_while_loop_is_refused():
    @tg.expectation
    def g(key, w):
        def go(state):
            return sample(jax.random.fold_in(key, state[0]), dist.Bernoulli(first(w))) == 0

        return lax.while_loop(go, lambda s: (s[0] + 1, s[1] + w[0]), (jnp.zeros((), int), w[0]))[1]

    with pytest.raises(tg.NoRuleError, match="condition of a `while_loop`"):
        jax.jvp(lambda w: g(KEY, w), (jnp.asarray(W),), (jnp.ones(2),))


# ---- no rule ----


def test_a_sample_inside_a_custom_jvp_names_the_primitive():
    @jax.custom_jvp
    def draw(p):
        return sample(KEY, dist.Bernoulli(p)).astype(float)

    draw.defjvp(lambda primals, tangents: (draw(*primals), tangents[0]))
    with pytest.raises(tg.NoRuleError, match="'custom_jvp_call'.*Draw the value outside"):
        tg.expectation(lambda key, w: draw(w))(KEY, jnp.array(0.5))


def test_a_sample_inside_a_custom_vjp_names_the_primitive():
    @jax.custom_vjp
    def draw(p):
        return sample(KEY, dist.Bernoulli(p)).astype(float)

    draw.defvjp(lambda p: (draw(p), None), lambda _, t: (t,))
    with pytest.raises(tg.NoRuleError, match="'custom_vjp_call.*Draw the value outside"):
        tg.expectation(lambda key, w: draw(w))(KEY, jnp.array(0.5))


def test_a_sample_inside_a_linear_solve_names_the_primitive():
    def f(key, w):
        def solve(_, b):
            return b * sample(key, dist.Bernoulli(w)).astype(float)

        return lax.custom_linear_solve(lambda x: 2.0 * x, w, solve, symmetric=True)

    with pytest.raises(tg.NoRuleError, match="'custom_linear_solve'"):
        tg.expectation(f)(KEY, jnp.array(0.5))
