"""What the fuzzer found: arguments that passed, or died far from where they were given; what is said of them now."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tracegrad as tg
from tracegrad import auto, dist

KEY = jax.random.key(0)
TWO = jax.random.split(KEY)
model = tg.gen(lambda: tg.sample("x", dist.Normal(tg.sample("z", dist.Normal(0.0, 1.0)), 1.0)))
guide = tg.gen(lambda w: tg.sample("z", dist.Normal(w, 1.0)))
target = tg.Target(model, (), {"x": 1.0})
space = tg.to_unconstrained(target)
draws = tg.WeightedDraws({"z": jnp.zeros(3)}, jnp.zeros(3))
average = tg.MovingAverage()


@tg.expectation
def flip(key, w):
    return 2.0 * tg.gen(lambda: tg.sample("b", dist.Bernoulli(logits=w))).simulate(key).retval.astype(float)


def drawn(what, address="z"):
    return tg.gen(lambda: tg.sample(address, what)).simulate(KEY)


def generator(*_):
    yield 1.0


NORMAL = {"loc": np.zeros(1), "log_scale": np.zeros(1)}
REFUSED = {
    "address of a wildcard": (lambda: drawn(dist.Normal(0.0, 1.0), "*"), "other than the '*' and '**' of patterns"),
    "class of a distribution": (lambda: drawn(dist.Normal), "takes a distribution", "got the class Normal"),
    "complex parameter": (lambda: drawn(dist.Normal(0.0, 1j)), "parameter scale of the Normal at 'z'", "real", "1j"),
    "complex, of an event": (lambda: drawn(dist.Normal(np.zeros(2), 1j).to_event(1)), "parameter scale", "at 'z'"),
    "merge, number for an address": (lambda: tg.merge({3: 1.0}), "addresses, which are non-empty strings", "3"),
    "merge, empty address": (lambda: tg.merge({"": 1.0}), "addresses, which are non-empty strings", "''"),
    "draw, two keys": (lambda: target.draw(TWO), "Target.draw needs one typed random key"),
    "log_prob, number for a key": (lambda: target.log_prob({"z": 0.0}, key=3), "Target.log_prob needs one typed"),
    "log_prob, array": (lambda: target.log_prob(jnp.zeros(2)), "takes dicts of choices"),
    "without_observed, None": (lambda: target.without_observed(None), "takes dicts of choices, and got NoneType"),
    "ravel, unknown": (lambda: space.ravel({"z": 0.0, "y": 0.0}), "the coordinates", "'y'"),
    "ravel, missing": (lambda: space.ravel({}), "coordinates of 'z' are missing"),
    "ravel, shape": (lambda: space.ravel({"z": jnp.zeros(2)}), "coordinates of 'z' have the shape ()", "(2,)"),
    "ravel, text": (lambda: space.ravel({"z": "1"}), "the coordinates of 'z' must be a finite number", "'1'"),
    "point, complex": (lambda: space.log_prob(np.array([1j])), "a point must be a finite number"),
    "point, nan": (lambda: space.constrain(np.array([np.nan])), "a point must be a finite number"),
    "around, unknown": (lambda: auto.full_rank(target, around=NORMAL | {"lowre": 0.0}), "`around`", "'lowre'"),
    "around, complex": (
        lambda: space.around(NORMAL | {"loc": np.array([1j])}),
        "params['loc'] must be a finite number",
    ),
    "mean, number": (lambda: draws.mean(3), "a function fn of the choices, and got int"),
    "mean, generator": (lambda: draws.mean(generator), "generator function"),
    "mean, text": (lambda: draws.mean(lambda c: "1"), "fn must return real numbers, and returned str"),
    "mean, generative function": (lambda: draws.mean(guide), "got a generative function"),
    "average, shape": (lambda: tg.MovingAverage(shape=(0.5,)), "shape must be", "0.5"),
    "average, shape of no tuple": (lambda: tg.MovingAverage(shape=2), "shape must be a tuple of integers, and is 2"),
    "average, rank": (lambda: average.update(jnp.zeros(2)), "objective has the shape [2]", "shape=..."),
    "average, dict": (lambda: average.update({}), "objective must be a finite number"),
    "baseline, shape": (lambda: tg.baseline_loss(jnp.zeros(2), jnp.zeros(3)), "the shape of the objective, [2]", "[3]"),
    "baseline, nan": (lambda: tg.baseline_loss(0.0, np.nan), "baseline must be a finite number, and is nan"),
    "predicate, two": (lambda: tg.cond(2, guide, guide), "one boolean (or an integer 0 or 1), and got 2"),
    "predicate, nan": (lambda: tg.cond(np.nan, guide, guide), "one boolean", "nan"),
    "index, text": (lambda: tg.switch("1", guide, guide).simulate(KEY, 0.0), "chosen by one integer", "'1'"),
    "logits, dict": (lambda: tg.biased_concrete({}, 0.5), "biased_concrete(logits) takes a float array", "got dict"),
    "logits, nan": (lambda: tg.biased_concrete(np.full(3, np.nan), 0.5), "logits must be numbers, or minus infinity"),
    "samples, nan": (lambda: tg.mmd(guide, {"z": np.full(3, np.nan)}), "samples at 'z' must be a finite number"),
    "samples, shape": (
        lambda: tg.mmd(guide, {"z": np.zeros((3, 2))})(KEY, (0.0,)),
        "each at 'z' has the shape [2], and a draw there has []",
    ),
    "bandwidth, vector": (lambda: tg.mmd(guide, {"z": np.zeros(3)}, bandwidth=np.ones(2)), "bandwidth must be a pos"),
    "init, nan": (
        lambda: tg.nuts(target, key=KEY, chains=1, init={"z": np.full(1, np.nan)}),
        "`init` is not finite at 'z'",
    ),
    "objective, text": (lambda: tg.expectation(lambda key: "1")(KEY), "must return arrays, and returned '1'"),
    "objective, complex": (
        lambda: tg.check_unbiased(lambda key, w: jax.lax.complex(flip(key, w), w), 0.3, key=KEY),
        "check_unbiased: the objective must return one float",
    ),
    "objective, vector": (
        lambda: tg.compare_estimators(lambda key, w: jnp.ones(2) * w, 0.3, key=KEY, sites={"b": [tg.mvd()]}),
        "compare_estimators: the objective must return one float",
    ),
    "exact, number": (lambda: tg.check_unbiased(flip, 0.3, key=KEY, exact=1.0), "`exact` is a function", "1.0"),
    "sites, names": (
        lambda: tg.compare_estimators(flip, 0.3, key=KEY, sites={"b": ["mvd"]}),
        "'mvd' at 'b' is no estimator",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_the_text_says_what_came_and_where(what):
    run, *texts = REFUSED[what]
    with pytest.raises(tg.TracegradError, match="(?s)" + ".*".join(map(re.escape, texts))):
        run()


def test_what_stays_right():
    """Traced values have nothing to check; NumPy's and Python's numbers, lists of logits, integers for a predicate."""
    assert jax.jit(space.log_prob)(jnp.zeros(1)) == space.log_prob(np.zeros(1))
    assert jax.grad(lambda b: tg.baseline_loss(jnp.float32(1.0), b))(0.0) == -2.0
    assert jax.jit(lambda b: tg.cond(b, guide, guide).simulate(KEY, 0.0).logp)(1) < 0.0
    assert tg.cond(np.int64(1), guide, guide).simulate(KEY, 0.0).logp < 0.0
    assert drawn(tg.biased_concrete([0.0, -np.inf], 0.5)).retval[1] == 0.0
    assert draws.mean(lambda c: c["z"] > -1.0) == 1.0
    assert target.without_observed({"z": 1.0, "x": 2.0}) == {"z": 1.0}
    assert auto.full_rank(target, around=auto.mean_field(target).init(KEY)).init(KEY)["loc"].shape == (1,)
