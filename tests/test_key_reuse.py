"""One key, one draw: two sites, or steps, that share a key are refused; a key that the library uses again is cloned."""

import jax
import pytest
from jax import lax
from jax import numpy as jnp

import tracegrad as tg
from tracegrad import dist
from tracegrad.transforms import expectation, leave_one_out, sample

KEY = jax.random.key(3)


def flip(key, p, label="b"):
    return sample(key, dist.Bernoulli(p), label=label).astype(float)


def child(key, n, i):
    return jax.random.split(key, n)[i]


def add(key, p):
    return lambda total, i: (total + flip(key(i), p), None)


def over(keys, p):
    return lax.scan(lambda c, k: (c + flip(k, p), None), 0.0, keys)[0]


def counted(key, p):
    return lax.fori_loop(0, 3, lambda i, c: c + flip(jax.random.fold_in(key, i), p), 0.0)


def lanes(keys, p):
    return jax.vmap(lambda k: flip(k, p))(keys).sum()


TWICE = {
    "as it is": lambda k, p: flip(k, p, "a") * flip(k, p, "c"),
    "split twice": lambda k, p: flip(child(k, 2, 0), p) * flip(child(k, 3, 0), p),
    "split and folded": lambda k, p: flip(jax.random.fold_in(k, 1), p) * flip(child(k, 3, 1), p),
    "cloned": lambda k, p: flip(k, p) * flip(jax.random.clone(k), p),
    "by its words": lambda k, p: flip(k, p) * flip(jax.random.wrap_key_data(jax.random.key_data(k)), p),
    "two calls": lambda k, p: jax.jit(flip)(k, p) * jax.jit(flip)(k, p),
    "checkpoints": lambda k, p: jax.checkpoint(flip)(k, p) * jax.checkpoint(flip)(k, p),
    "expectations": lambda k, p: expectation(flip)(k, p) * expectation(flip)(k, p),
    "two loops": lambda k, p: over(jax.random.split(k, 3), p) * over(jax.random.split(k, 3), p),
    "two counts": lambda k, p: counted(k, p) * counted(k, p),
    "lanes and one": lambda k, p: lanes(jax.random.split(k, 3), p) * flip(child(k, 3, 1), p),
    "part of the lanes": lambda k, p: lanes(jax.random.split(k, 4)[1:3], p) * flip(child(k, 4, 2), p),
    "lanes and a loop": lambda k, p: lanes(jax.random.split(k, 3), p) * over(jax.random.split(k, 2), p),
    "lanes alike": lambda k, p: lanes(jnp.stack([k, k]), p),
    "a branch and after": lambda k, p: lax.cond(p > 0.2, lambda: flip(k, p), lambda: p) + flip(k, p),
    "by hand": lambda k, p: jax.random.normal(k) * flip(k, p),
}

MANY = {
    "scan": (lambda k, p: lax.scan(add(lambda i: k, p), 0.0, None, length=3)[0], "a loop of 3 steps"),
    "handed on": (
        lambda k, p: lax.scan(lambda c, _: ((c[0] + flip(c[1], p), c[1]), None), (0.0, k), None, length=3)[0][0],
        "a loop of 3 steps",
    ),
    "the inner of two": (
        lambda k, p: lax.scan(
            lambda c, k: lax.scan(add(lambda i: k, p), c, None, length=2), 0.0, jax.random.split(k, 3)
        )[0],
        "a loop of 2 steps",
    ),
    "while": (lambda k, p: lax.while_loop(lambda c: c < 2.0, lambda c: c + flip(k, p), 0.0), "a `while_loop`"),
    "lanes": (lambda k, p: lanes(jnp.broadcast_to(k, (3,)), p), "3 lanes"),
}

RIGHT = {
    "split": lambda k, p: flip(child(k, 2, 0), p) * flip(child(k, 2, 1), p),
    "branches": lambda k, p: lax.cond(p > 0.2, lambda: flip(k, p), lambda: 1.0 - flip(k, p)),
    "branches in lanes": lambda k, p: jax.vmap(
        lambda k, up: lax.cond(up, lambda: flip(k, p), lambda: 1.0 - flip(k, p))
    )(jax.random.split(k, 2), jnp.array([True, False])).sum(),
    "one step": lambda k, p: lax.scan(add(lambda i: k, p), 0.0, None, length=1)[0],
    "no step": lambda k, p: lax.scan(add(lambda i: k, p), 0.0, None, length=0)[0],
    "in one step only": lambda k, p: lax.scan(
        lambda c, i: (lax.cond(i == 0, lambda: flip(k, p), lambda: c), None), 0.0, jnp.arange(3)
    )[0],
    "folded": counted,
    "folded in lanes": lambda k, p: lanes(jax.vmap(lambda i: jax.random.fold_in(k, i))(jnp.arange(3)), p),
    "carried": lambda k, p: lax.scan(
        lambda c, _: ((c[0] + flip(child(c[1], 2, 0), p), child(c[1], 2, 1)), None), (0.0, k), None, length=3
    )[0][0],
    "reset": lambda k, p: lax.scan(lambda c, k: (0.0, c + flip(k, p)), 0.0, jax.random.split(k, 3))[1].sum(),
    "grid": lambda k, p: jax.vmap(lambda k: lanes(k, p))(jax.random.split(k, (2, 3))).sum(),
    "some and others": lambda k, p: lanes(jax.random.split(k, 4)[:2], p) * flip(child(k, 4, 2), p),
    "only by hand": lambda k, p: flip(child(k, 2, 0), p) + jax.random.normal(k) + jax.random.normal(k),
}


@pytest.mark.parametrize("name", TWICE)
@pytest.mark.parametrize("wrap", [expectation, lambda f: leave_one_out(f, 2)], ids=["expectation", "leave_one_out"])
def test_two_sites_with_one_key_are_refused(name, wrap):
    with pytest.raises(tg.RandomKeyError, match="One key is drawn with twice, by .* and by .*test_key_reuse.*split"):
        jax.eval_shape(wrap(TWICE[name]), KEY, 0.3)


@pytest.mark.parametrize("name", MANY)
def test_steps_with_one_key_are_refused(name):
    f, where = MANY[name]
    with pytest.raises(tg.RandomKeyError, match=f"sample at 'b' \\(.*test_key_reuse.* is in {where}"):
        jax.eval_shape(expectation(f), KEY, 0.3)


@pytest.mark.parametrize("name", RIGHT)
def test_right_programs_are_left_alone(name):
    jax.eval_shape(expectation(RIGHT[name]), KEY, 0.3)


def test_both_places_are_named():
    with pytest.raises(tg.RandomKeyError) as error:
        expectation(TWICE["as it is"])(KEY, 0.3)
    assert "the sample at 'a' (" in str(error.value)
    assert "the sample at 'c' (" in str(error.value)
    with pytest.raises(tg.RandomKeyError) as error:
        expectation(TWICE["by hand"])(KEY, 0.3)
    assert "random numbers made (" in str(error.value)


def test_a_guide_and_a_model_that_draw_at_one_address_with_one_key():
    model = tg.gen(lambda: tg.sample("z", dist.Normal(0.0, 1.0)))
    guide = tg.gen(lambda m: tg.sample("z", dist.Normal(m, 1.0)))

    def product(one, two, m):
        return model.simulate(one).retval * guide.simulate(two, m).retval

    with pytest.raises(tg.RandomKeyError, match="the sample at 'z' .* and by the sample at 'z'"):
        expectation(lambda k, m: product(k, k, m))(KEY, 0.5)
    jax.eval_shape(expectation(lambda k, m: product(*jax.random.split(k), m)), KEY, 0.5)
    # Without a derivative there is nothing to be biased.
    product(KEY, KEY, 0.5)


AGAIN = [tg.mvd, tg.local_expectation, tg.arm, tg.disarm, tg.sum_and_sample, tg.unordered_set]


@pytest.mark.table
@pytest.mark.parametrize("estimator", AGAIN, ids=lambda e: e.__name__)
@pytest.mark.parametrize("options", [{}, {"forks": 2}], ids=["all", "some"])
def test_a_key_that_serves_a_value_and_its_replay_is_cloned(estimator, options):
    """JAX is told that the key is used again, so its check of key reuse holds for gradients."""

    def f(key, w):
        one, two = jax.random.split(key)
        b = sample(one, dist.Bernoulli(logits=w), estimator=estimator()).astype(float)
        plate = jax.vmap(lambda k: sample(k, dist.Bernoulli(logits=w + b), estimator=estimator()))
        return plate(jax.random.split(two, 2)).sum().astype(float) * (1.0 + b)

    grad = jax.grad(expectation(f, **options), argnums=1)
    plain = jax.jit(grad)(KEY, 0.3)
    with jax.debug_key_reuse(True):
        assert jax.jit(grad)(jax.random.key(3), 0.3) == plain
