"""An expectation is an ordinary JAX function: every transformation of it, and every option, gives the same gradient."""

import functools

import jax
import numpy as np
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
    derivatives,
    first,
    later,
    mean_over,
    precisely,
)

import tracegrad as tg
from tracegrad.transforms import sample

N = 3


@pytest.fixture(autouse=True)
def double_precision():
    with precisely():
        yield


def program(key, w, *, fork=None):
    """Two chained coins in a loop, then a normal: a score, forks, and a pathwise derivative."""
    loop, last = jax.random.split(key)

    def step(carry, key):
        a, b = jax.random.split(key)
        z = sample(a, dist.Bernoulli(later(w, carry)), estimator=fork or tg.mvd()).astype(float)
        y = sample(b, dist.Bernoulli(first(w)), estimator=fork or tg.reinforce(baseline=0.3)).astype(float)
        return z, z * (1.0 + y * w[1])

    z, ys = lax.scan(step, jnp.zeros(()), jax.random.split(loop, 2))
    return (ys.sum() + sample(last, dist.Normal(w[1] * z, SPREAD))) ** 2


def sums(draw, w):
    z, total = 0.0, 0.0
    for _ in range(2):
        z, _ = draw(later(w, z))
        total = total + z * (1.0 + draw(first(w))[0] * w[1])
    return ((total + draw(w[1] * z)[0]) ** 2,)


MEAN = mean_over(sums, [BERNOULLI] * 4 + [NORMAL])


def keys_and_parameters():
    """A key and parameters for each of a few lanes."""
    shift = jnp.linspace(0.0, 0.02, N)[:, None]
    return jax.random.split(jax.random.key(5), N), jnp.asarray(W)[None] + shift


@functools.cache
def lane_by_lane():
    """The gradient at each key by itself, in reverse mode, without any transformation around it."""
    with precisely():
        keys, ws = keys_and_parameters()
        g = tg.expectation(program)
        return np.stack([jax.grad(g, argnums=1)(k, w) for k, w in zip(keys, ws, strict=True)])


def by_tangents(g, w):
    """A gradient from directional derivatives."""
    return jnp.stack([jax.jvp(g, (w,), (t,))[1] for t in jnp.eye(len(w))])


def by_linear_map(g, w):
    """A gradient from one linearisation."""
    return jax.vmap(jax.linearize(g, w)[1])(jnp.eye(len(w)))


def checkpointed(g, keys, ws):
    return jax.vmap(jax.grad(lambda w, k: jax.checkpoint(g)(k, w)))(ws, keys)


def summed_in_scan(g, keys, ws):
    """The gradient of a loop over expectations."""

    def total(ws):
        return lax.scan(lambda c, kw: (c + g(*kw), None), jnp.zeros(()), (keys, ws))[0]

    return jax.grad(total)(ws)


WAYS = {
    "jit of vmap of grad": lambda g, k, w: jax.jit(jax.vmap(jax.grad(g, argnums=1)))(k, w),
    "vmap of jit of grad": lambda g, k, w: jax.vmap(jax.jit(jax.grad(g, argnums=1)))(k, w),
    "grad of vmap": lambda g, k, w: jax.grad(lambda w: jax.vmap(g)(k, w).sum())(w),
    "grad of jit of vmap": lambda g, k, w: jax.grad(lambda w: jax.jit(jax.vmap(g))(k, w).sum())(w),
    "grad of map": lambda g, k, w: jax.grad(lambda w: lax.map(lambda kw: g(*kw), (k, w)).sum())(w),
    "grad of scan": summed_in_scan,
    "value_and_grad": lambda g, k, w: jax.vmap(jax.value_and_grad(g, argnums=1))(k, w)[1],
    "jacrev": lambda g, k, w: jax.vmap(jax.jacrev(g, argnums=1))(k, w),
    "jacfwd": lambda g, k, w: jax.vmap(jax.jacfwd(g, argnums=1))(k, w),
    "jacfwd of vmap": lambda g, k, w: jax.jacfwd(lambda w: jax.vmap(g)(k, w))(w)[jnp.arange(N), jnp.arange(N)],
    "jvp": lambda g, k, w: jax.vmap(lambda k, w: by_tangents(lambda w: g(k, w), w))(k, w),
    "linearize": lambda g, k, w: jax.vmap(lambda k, w: by_linear_map(lambda w: g(k, w), w))(k, w),
    "checkpoint": checkpointed,
    "closed-over tracers": lambda g, k, w: jax.vmap(
        jax.grad(lambda w, k: tg.expectation(lambda key: program(key, w))(k))
    )(w, k),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WAYS)
def test_every_way_to_differentiate_gives_the_same_numbers(name):
    gradient = WAYS[name](tg.expectation(program), *keys_and_parameters())
    np.testing.assert_allclose(gradient, lane_by_lane(), rtol=1e-12, atol=1e-12)


def test_the_gradient_is_unbiased():
    assert_exact(lambda key, w: (tg.expectation(program)(key, w),), MEAN)


def test_a_gradient_under_vmap_is_unbiased_as_it_comes():
    """The mean of `jit(vmap(grad))` itself, nothing rewritten before: coins alone, whose gradient only draws coins."""

    @tg.expectation
    def g(key, w):
        a, b = jax.random.split(key)
        z = sample(a, dist.Bernoulli(first(w)), estimator=tg.mvd()).astype(float)
        return (z + w[1] * sample(b, dist.Bernoulli(later(w, z))).astype(float)) ** 2

    def sums(draw, w):
        z, _ = draw(first(w))
        return ((z + w[1] * draw(later(w, z))[0]) ** 2,)

    w = jnp.asarray(W)
    gradient = tg.exact_expectation(lambda key, w: jax.jit(jax.vmap(jax.grad(g, argnums=1)))(key[None], w[None])[0])
    expected = jax.grad(lambda w: mean_over(sums, [BERNOULLI] * 2)(w)[0])(w)
    np.testing.assert_allclose(gradient(KEY, w), expected, rtol=1e-12)


def test_the_hessian_under_jit_and_vmap():
    """Scores and pathwise derivatives are right to second order, whatever is around."""
    g = tg.expectation(lambda key, w: program(key, w, fork=tg.reinforce()))
    keys, ws = keys_and_parameters()
    plain = jax.hessian(g, argnums=1)(keys[1], ws[1])
    np.testing.assert_allclose(jax.jit(jax.vmap(jax.hessian(g, argnums=1)))(keys, ws)[1], plain, rtol=1e-10)


# ---- options ----


@pytest.mark.table
@pytest.mark.parametrize("chunk_size", [1, 3, 100])
def test_chunks_change_nothing(chunk_size):
    keys, ws = keys_and_parameters()
    g = tg.expectation(program, chunk_size=chunk_size)
    np.testing.assert_allclose(jax.vmap(jax.grad(g, argnums=1))(keys, ws), lane_by_lane(), rtol=1e-12, atol=1e-12)


def test_as_many_forks_as_there_are_change_nothing():
    keys, ws = keys_and_parameters()
    g = tg.expectation(program, forks=100)
    np.testing.assert_allclose(jax.vmap(jax.grad(g, argnums=1))(keys, ws), lane_by_lane(), rtol=1e-12, atol=1e-12)


@pytest.mark.table
@pytest.mark.parametrize("forks", [1, 2, 3])
def test_random_forks_are_unbiased(forks):
    """Four alternatives: two steps of two coins."""
    g = tg.expectation(functools.partial(program, fork=tg.local_expectation()), forks=forks)
    assert_exact(lambda key, w: (g(key, w),), MEAN, nodes=4)


def test_random_forks_in_chunks_by_statistics():
    g = tg.expectation(program, forks=1, chunk_size=1)
    value, gradient = jax.jit(derivatives(lambda w: MEAN(w)[0], 1))(jnp.asarray(W))
    draw = jax.value_and_grad(lambda w, key: g(key, w))

    def stacked(key):
        y, dy = draw(jnp.asarray(W), key)
        return jnp.append(dy, y)

    assert_mean(stacked, np.append(gradient, value))


@pytest.mark.slow
def test_auxiliary_outputs_come_along_without_a_derivative():
    """Forks leave the value of the objective as it is, so two objectives have the gradients of each alone."""
    forks = functools.partial(program, fork=tg.mvd())

    @functools.partial(tg.expectation, has_aux=True)
    def g(key, w):
        y = forks(key, w)
        return (y, y + w.sum()), {"y": y, "n": jnp.array(3), "w": w, "key": key}

    keys, ws = keys_and_parameters()
    jacobian, aux = jax.vmap(jax.jacrev(g, argnums=1, has_aux=True))(keys, ws)
    alone = jax.vmap(jax.grad(tg.expectation(forks), argnums=1))(keys, ws)
    np.testing.assert_allclose(jacobian[0], alone, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(jacobian[1], 1.0 + alone, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(aux["y"], jax.vmap(tg.expectation(forks))(keys, ws))
    assert aux["n"].tolist() == [3] * N
    assert jnp.array_equal(jax.random.key_data(aux["key"]), jax.random.key_data(keys))
    assert not np.any(jax.jacrev(lambda w: g(KEY, w)[1]["w"])(ws[0]))


def test_every_output_of_a_pytree_has_its_own_derivative():
    def f(key, w):
        a, b = jax.random.split(key)
        x = sample(a, dist.Bernoulli(first(w))).astype(float)
        y = sample(b, dist.Bernoulli(later(w, x)), estimator=tg.mvd()).astype(float)
        return {"x": w[1] * x, "both": jnp.stack([x * y, y + w[0]])}

    def sums(draw, w):
        x, _ = draw(first(w))
        y, _ = draw(later(w, x))
        return x * y, y + w[0], w[1] * x

    def mean(w):
        a, b, c = mean_over(sums, [BERNOULLI] * 2)(w)
        return {"x": c, "both": jnp.stack([a, b])}

    exact = tg.exact_expectation(tg.expectation(f))
    w = jnp.asarray(W)
    found, expected = jax.jacrev(lambda w: exact(KEY, w))(w), jax.jacrev(mean)(w)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), found, expected)
