"""A `while_loop` under `vmap` inside an `expectation`, its number of steps another in each lane."""

import jax
import numpy as np
import pytest
from jax import lax
from jax import numpy as jnp

import tracegrad as tg
from tracegrad import dist
from tracegrad.transforms import choose_estimators, expectation, sample

KEY, P = jax.random.key(0), 0.3
STEPS = jnp.array([0, 3, 1])


def coin(key, p, estimator):
    return sample(key, dist.Bernoulli(p), estimator=estimator).astype(float)


def until(steps, body, start):
    """`body` so often, on a state whose first part counts."""
    return lax.while_loop(lambda s: s[0] < steps, lambda s: (s[0] + 1, *body(*s)), (jnp.zeros((), int), *start))[1:]


def plain(estimator):
    def lane(key, p, steps):
        def body(i, key, total):
            key, now = jax.random.split(key)
            return key, total + coin(now, p * (1.0 + 0.1 * total), estimator)

        return until(steps, body, (key, 0.5 * p))[1]

    return lane


def scan_inside(key, p, steps):
    def body(i, key, total):
        key, now = jax.random.split(key)

        def step(carry, key):
            return carry + coin(key, p, tg.reinforce()), None

        return key, lax.scan(step, total, jax.random.split(now, 3))[0]

    return until(steps, body, (key, 0.5 * p))[1]


def plate_inside(key, p, steps):
    def body(i, total):
        keys = jax.random.split(jax.random.fold_in(key, i), 3)
        return (total + jax.vmap(lambda k: coin(k, p * (1.0 + 0.1 * total), tg.reinforce()))(keys).sum() / 3.0,)

    return until(steps, body, (0.5 * p,))[0]


def loop_inside(key, p, steps):
    def body(i, key, total):
        key, now = jax.random.split(key)
        inside = until(i + 1, lambda j, sum: (sum + coin(jax.random.fold_in(now, j), p, tg.reinforce()),), (0.0 * p,))
        return key, total + inside[0]

    return until(steps, body, (key, 0.5 * p))[1]


def drawn_with_again(key, p, steps):
    """What a lane that is done would draw is drawn after the loop, from the same key."""

    def body(i, key, total):
        now, then = jax.random.split(key)
        return then, total + coin(now, p, tg.reinforce())

    key, total = until(steps, body, (key, 0.5 * p))
    return total + 2.0 * coin(jax.random.split(key)[0], p, tg.reinforce())


def past_the_end(key, p, steps):
    """Past the last step the probability is none."""

    def body(i, key, total):
        key, now = jax.random.split(key)
        share = jnp.sqrt((steps - i).astype(float) - 0.5)
        return key, total + coin(now, p * share / (1.0 + share), tg.reinforce())

    return until(steps, body, (key, 0.5 * p))[1]


LANES = {
    "reinforce": plain(tg.reinforce()),
    "a baseline": plain(tg.reinforce(baseline=0.7)),
    "scan inside": scan_inside,
    "plate inside": plate_inside,
    "loop inside": loop_inside,
    "drawn with again": drawn_with_again,
    "past the end": past_the_end,
}


def in_lanes(lane):
    def f(key, p):
        keys = jax.random.split(key, len(STEPS))
        return jax.vmap(lambda k, n: lane(k, p, n))(keys, STEPS).sum() ** 2 * p

    return f


def one_by_one(lane):
    def f(key, p):
        keys = jax.random.split(key, len(STEPS))
        return sum(lane(k, p, n) for k, n in zip(keys, STEPS, strict=True)) ** 2 * p

    return f


def rows_in_lanes(lane):
    """As many rows as lanes, which share the numbers of steps."""

    def f(key, p):
        rows = jax.random.split(key, (len(STEPS), len(STEPS)))
        ys = jax.vmap(lambda keys: jax.vmap(lambda k, n: lane(k, p, n))(keys, STEPS))(rows)
        return jnp.sum(ys.sum(1) ** 2) * p

    return f


def rows_one_by_one(lane):
    def f(key, p):
        rows = jax.random.split(key, (len(STEPS), len(STEPS)))
        return sum(sum(lane(k, p, n) for k, n in zip(keys, STEPS, strict=True)) ** 2 for keys in rows) * p

    return f


def value_and_slope(f, credit):
    return jax.jit(lambda p: jax.jvp(lambda p: expectation(f, credit=credit)(KEY, p), (p,), (1.0,)))(P)


@pytest.mark.table
@pytest.mark.parametrize("name", LANES)
@pytest.mark.parametrize("ways", [(in_lanes, one_by_one), (rows_in_lanes, rows_one_by_one)], ids=["lanes", "rows"])
def test_lanes_have_the_value_and_the_gradient_of_loops_one_by_one(name, ways):
    found, truth = (value_and_slope(way(LANES[name]), credit=False) for way in ways)
    assert np.isfinite(truth).all()
    assert truth[1] != 0.0
    np.testing.assert_allclose(found, truth, rtol=1e-5)


@pytest.mark.table
@pytest.mark.parametrize("name", ["reinforce", "a baseline", "drawn with again"])
def test_the_mean_of_many_gradients_is_that_of_the_enumeration(name):
    """Three lanes of n coins each, and two coins' worth after the loop where it goes on with its key."""

    def truth(p):
        def outcomes(steps):
            table = {0.5 * p: 1.0}
            for _ in range(steps):
                new = {}
                for total, weight in table.items():
                    q = p if name == "drawn with again" else p * (1.0 + 0.1 * total)
                    new[total] = new.get(total, 0.0) + weight * (1.0 - q)
                    new[total + 1.0] = new.get(total + 1.0, 0.0) + weight * q
                table = new
            if name == "drawn with again":
                table = {t + 2.0 * b: 0.0 for t in table for b in (0, 1)} | _after(table, p)
            return table

        lanes = [outcomes(int(n)) for n in STEPS]
        first = sum(t * w for lane in lanes for t, w in lane.items())
        variance = sum(sum(t * t * w for t, w in a.items()) - sum(t * w for t, w in a.items()) ** 2 for a in lanes)
        return (first**2 + variance) * p

    slope = (truth(P + 1e-5) - truth(P - 1e-5)) / 2e-5
    g = expectation(in_lanes(LANES[name]))
    draws = jax.jit(jax.vmap(lambda k: jax.jvp(lambda p: g(k, p), (P,), (1.0,))))(jax.random.split(KEY, 100_000))
    for ys, expected in zip(draws, (truth(P), slope), strict=True):
        ys = np.asarray(ys, float)
        assert abs(ys.mean() - expected) < 4.0 * ys.std() / np.sqrt(len(ys))


def _after(table, p):
    out = {}
    for total, weight in table.items():
        out[total] = out.get(total, 0.0) + weight * (1.0 - p)
        out[total + 2.0] = out.get(total + 2.0, 0.0) + weight * p
    return out


def test_choosing_estimators_from_outside_is_refused():
    chosen = choose_estimators(expectation(in_lanes(LANES["reinforce"])), lambda label, present: tg.reinforce())
    with pytest.raises(tg.transforms.NoRuleError, match=r"lanes end apart. Name the estimators at the sites"):
        chosen(KEY, P)


def test_a_key_that_mixes_the_lanes_is_refused():
    def lane(key, p, steps):
        def body(i, total):
            word = lax.psum(jax.random.key_data(jax.random.fold_in(key, i)), "lanes")
            return (total + coin(jax.random.wrap_key_data(word + i.astype("uint32")), p, tg.reinforce()),)

        return until(steps, body, (0.5 * p,))[0]

    def f(key, p):
        keys = jax.random.split(key, len(STEPS))
        return jax.vmap(lambda k, n: lane(k, p, n), axis_name="lanes")(keys, STEPS).sum()

    with pytest.raises(tg.transforms.NoRuleError, match="its key mixes the lanes"):
        jax.jvp(lambda p: expectation(f)(KEY, p), (P,), (1.0,))
