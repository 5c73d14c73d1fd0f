"""Broken on purpose: every mutant of the implementation must be seen by the exact check that the battery uses."""

import random
import sys

import jax
import numpyro.distributions as dist
import pytest
from jax import lax
from jax import numpy as jnp
from program_runs import deviation
from random_programs import random_program
from unbiased_programs import BERNOULLI, NORMAL, Site, assert_exact, first, later, mean_over, precisely
from unbiased_programs import PROGRAMS as BATTERY

import tracegrad as tg
from tracegrad.transforms import Drawn, WeakDerivative, sample


@pytest.fixture(autouse=True)
def double_precision():
    with precisely():
        forget()
        yield
    forget()


def forget():
    """Clear what the package remembers of functions that a mutant replaces."""
    for name, module in list(sys.modules.items()):
        if name.startswith("tracegrad"):
            for thing in vars(module).values():
                if hasattr(thing, "cache_clear"):
                    thing.cache_clear()


# ---- programs ----


def language(name, family, estimator):
    """A program of the battery, the square of its value alone."""
    program = BATTERY[name]
    made = program.language(Site(family, estimator))
    g = tg.expectation(lambda key, w: (made.simulate(key, w).retval ** 2,))
    draws = [f or family for f in program.draws]
    return g, mean_over(lambda draw, w: (program.sums(draw, w) ** 2,), draws)


def two_terms(estimator):
    """A sum of two terms: one of the first draw alone, one, downstream, of both."""

    def f(key, w):
        a, b = jax.random.split(key)
        x = sample(a, dist.Bernoulli(first(w)), estimator=estimator).astype(float)
        y = sample(b, dist.Bernoulli(later(w, x)), estimator=estimator).astype(float)
        return (w[0] * x + (y + 2.0 * x) ** 2,)

    def sums(draw, w):
        x, _ = draw(first(w))
        return (w[0] * x + (draw(later(w, x))[0] + 2.0 * x) ** 2,)

    return tg.expectation(f), mean_over(sums, [BERNOULLI] * 2)


def rewards(estimator):
    """A chain of coins, and the sum of them all: an early score multiplies late rewards."""

    def f(key, w):
        def step(flag, key):
            z = sample(key, dist.Bernoulli(later(w, flag)), estimator=estimator).astype(float)
            return z, z * (1.0 + flag)

        return (lax.scan(step, jnp.zeros(()), jax.random.split(key, 3))[1].sum(),)

    def sums(draw, w):
        flag, total = 0.0, 0.0
        for _ in range(3):
            z, _ = draw(later(w, flag))
            flag, total = z, total + z * (1.0 + flag)
        return (total,)

    return tg.expectation(f), mean_over(sums, [BERNOULLI] * 3)


def _logp(x, p):
    return jnp.log(jnp.where(x > 0.5, p, 1.0 - p))


def particles(estimator):
    """Two particles and the logarithm of their mean weight."""

    @tg.gen
    def guide(w):
        return tg.sample("z", dist.Bernoulli(first(w)), estimator=estimator).astype(float)

    model = tg.gen(lambda w: tg.sample("z", dist.Bernoulli(w[0])))
    bound = tg.iwelbo(model, guide, {}, n=2)

    def sums(draw, w):
        xs = [draw(first(w))[0] for _ in range(2)]
        weights = [_logp(x, w[0]) - _logp(x, first(w)) for x in xs]
        return (jnp.logaddexp(*weights) - jnp.log(2.0),)

    return lambda key, w: (bound(key, (w,), (w,)),), mean_over(sums, [BERNOULLI] * 2)


PROGRAMS = {
    "reinforce": lambda: two_terms(tg.reinforce()),
    "baseline": lambda: two_terms(tg.reinforce(baseline=1.0)),
    "reparam": lambda: language("dependent", NORMAL, tg.reparam()),
    "enum": lambda: language("dependent", BERNOULLI, tg.enum()),
    "mvd": lambda: two_terms(tg.mvd()),
    "local": lambda: two_terms(tg.local_expectation()),
    "reinforce in a plate": lambda: language("vmap", BERNOULLI, tg.reinforce()),
    "reinforce in a scan": lambda: language("scan", BERNOULLI, tg.reinforce()),
    "sum over a scan": lambda: rewards(tg.reinforce()),
    "mvd in a plate": lambda: language("vmap", BERNOULLI, tg.mvd()),
    "mvd in a scan": lambda: language("scan", BERNOULLI, tg.mvd()),
    "mvd in a branch": lambda: language("cond", BERNOULLI, tg.mvd()),
    "two addresses": lambda: language("straight", BERNOULLI, tg.mvd()),
    "particles": lambda: particles(tg.reinforce()),
    "particles under mvd": lambda: particles(tg.mvd()),
}


def check(name):
    assert_exact(*PROGRAMS[name]())


# ---- mutants: (what is replaced, what by, and the program that shows it) ----


def wrapped(path, change):
    """Replace `module:attribute[.attribute]` by `change(original)`."""

    def mutate(patch):
        module, names = path.split(":")
        target = sys.modules[f"tracegrad.{module}"]
        *outer, last = names.split(".")
        for name in outer:
            target = getattr(target, name)
        patch.setattr(target, last, change(getattr(target, last)))

    return mutate


def drawn(change):
    """Change what a score function site gives back."""
    return wrapped(
        "transforms.estimators._reinforce:Reinforce.draw",
        lambda original: lambda self, key, distribution: change(original(self, key, distribution)),
    )


def forked(estimator, change):
    """Change the alternatives and coefficients of a forking site."""
    return wrapped(
        f"transforms.{estimator}.fork",
        lambda original: (
            lambda self, key, distribution, value: WeakDerivative(*change(*original(self, key, distribution, value)))
        ),
    )


MVD, LOCAL = "estimators._mvd:Mvd", "estimators._local_expectation:LocalExpectation"


def _slipped(original):
    """The pathwise derivative of a draw, off by one part in a hundred."""

    def draw(self, key, distribution):
        value = original(self, key, distribution).value
        return Drawn(value + 0.01 * (value - lax.stop_gradient(value)))

    return draw


def _shared_keys(original):
    def split(key, n):
        return None if key is None else jnp.broadcast_to(original(key, n)[:1], (n,))

    return split


def _same_lane(original):
    def keys(key, n):
        found, axes = original(key, n)
        return (None if found is None else found._replace(lane=jnp.zeros_like(found.lane))), axes

    return keys


def _last_step(original):
    """A loop keeps the record of its last step only."""

    def stack(self, record):
        return original(self, jax.tree.map(lambda x: jnp.zeros_like(x).at[-1].set(x[-1]), record))

    return stack


def _without_past(original):
    """The scores that come into a step from outside and from earlier steps are zero."""

    return lambda sources, boxed: original([jnp.zeros_like(s) for s in sources], boxed)


def _blind_to(primitive):
    """Dependence is lost at a primitive: a score is left out of a box that it belongs to."""

    def change(original):
        def after(eqn, inputs):
            return [{}] * len(eqn.outvars) if eqn.primitive.name == primitive else original(eqn, inputs)

        return after

    return change


def _other_neighbour(original):
    """The alternative goes to the place before the one that its coefficient belongs to."""
    return lambda values, alternatives, shape, number: original(values, alternatives, shape, number + 1)


def _other_lane(original):
    return lambda *args: original(*args[:-1], jnp.roll(args[-1], 1))


def _same_key(original):
    return lambda self, address: self.key


MUTANTS = {
    "score dropped": ("reinforce", drawn(lambda d: Drawn(d.value))),
    "score of the wrong sign": ("reinforce", drawn(lambda d: d._replace(score=-d.score))),
    "score 1% too large": ("reinforce", drawn(lambda d: d._replace(score=1.01 * d.score))),
    "box 1% too strong": (
        "reinforce in a scan",
        drawn(lambda d: d._replace(score=d.score + 0.01 * (d.score - lax.stop_gradient(d.score)))),
    ),
    "scores of a plate divided by their number": (
        "reinforce in a plate",
        drawn(lambda d: d._replace(score=d.score / 2)),
    ),
    "baseline with its own sample": ("baseline", drawn(lambda d: d._replace(baseline=d.value.astype(float)))),
    "scores of earlier steps missed": (
        "sum over a scan",
        wrapped("transforms.estimate._credited_loop:Scores", _without_past),
    ),
    "downstream term missed: product": (
        "reinforce",
        wrapped("transforms.analysis._dependence:after", _blind_to("mul")),
    ),
    "downstream term missed: conversion": (
        "reinforce",
        wrapped("transforms.analysis._dependence:after", _blind_to("convert_element_type")),
    ),
    "downstream draw missed": (
        "reinforce",
        wrapped(
            "transforms.estimate._credit_summary:_Scores._sample",
            lambda original: lambda self, *args: [{} for _ in original(self, *args)],
        ),
    ),
    "pathwise derivative 1% too large": ("reparam", wrapped("transforms.estimators._reparam:Reparam.draw", _slipped)),
    "enumerated probabilities to the power 1.01": (
        "enum",
        wrapped(
            "transforms.estimators._enum:Enum.enumerate",
            lambda original: lambda self, d: (lambda v, p: (v, p**1.01))(*original(self, d)),
        ),
    ),
    "enumeration without its first value": (
        "enum",
        wrapped(
            "transforms.estimators._enum:Enum.enumerate",
            lambda original: lambda self, d: tuple(x[1:] for x in original(self, d)),
        ),
    ),
    "coefficients of forks 1% too large": ("mvd", forked(MVD, lambda v, c: (v, 1.01 * c))),
    "coefficients of forks 1% too small": ("local", forked(LOCAL, lambda v, c: (v, 0.99 * c))),
    "coefficients without sign": ("mvd", forked(MVD, lambda v, c: (v, jnp.abs(c)))),
    "coefficients divided by one more than there are": ("local", forked(LOCAL, lambda v, c: (v, c / 2))),
    "an alternative that is the drawn value": ("mvd", forked(MVD, lambda v, c: (1 - v, c))),
    "coefficients of all steps but the last lost": (
        "mvd in a scan",
        wrapped("transforms.estimate._ledger:Ledgers.stack", _last_step),
    ),
    "an alternative in the wrong lane": (
        "mvd in a plate",
        wrapped("transforms.forks._replay:replace_lanes", _other_lane),
    ),
    "versions without their base": (
        "particles under mvd",
        wrapped(
            "transforms.forks.lanes._value:_diagonal", lambda original: lambda *args: jnp.ones_like(original(*args))
        ),
    ),
    "versions of a product missed": (
        "particles under mvd",
        wrapped("transforms.analysis._dependence:after", _blind_to("mul")),
    ),
    "an alternative in the wrong step": (
        "mvd in a scan",
        wrapped("transforms.forks._replay:replace_one", _other_neighbour),
    ),
    "one key for all addresses": ("two addresses", wrapped("core._function:Frame._key", _same_key)),
    "one key for all lanes": ("reinforce in a plate", wrapped("core._combinators:lane_keys", _same_lane)),
    "one key for all steps": ("mvd in a scan", wrapped("core._combinators:_split", _shared_keys)),
    "one key for all particles": (
        "particles",
        wrapped(
            "objectives._bounds:jax.random.split",
            lambda original: lambda key, n=None: original(key) if n is None else jnp.stack([key] * n),
        ),
    ),
}


@pytest.mark.table
@pytest.mark.parametrize("name", PROGRAMS)
def test_without_a_mutant_the_check_passes(name):
    check(name)


@pytest.mark.table
@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_caught(name, monkeypatch):
    program, mutate = MUTANTS[name]
    mutate(monkeypatch)
    # Draws that share a key are refused before anything runs.
    with pytest.raises((AssertionError, tg.RandomKeyError), match="derivative of order|One key is drawn with"):
        check(program)


# Of each mutant, how many of the programs pass it by before one catches it: the search begins there.
AT_RANDOM = {
    "score dropped": 2,
    "score 1% too large": 2,
    "baseline with its own sample": 2,
    "scores of earlier steps missed": 7,
    "downstream term missed: product": 7,
    "pathwise derivative 1% too large": 8,
    "coefficients of forks 1% too large": 16,
    "coefficients of forks 1% too small": 1,
    "an alternative in the wrong lane": 47,
    "one key for all addresses": 4,
    "one key for all lanes": 0,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", AT_RANDOM)
def test_a_mutant_is_caught_by_random_programs(name, monkeypatch):
    _, mutate = MUTANTS[name]
    mutate(monkeypatch)
    chance, known = random.Random(0), AT_RANDOM[name]
    programs = [random_program(chance) for _ in range(100)]
    caught = next(program for program in programs[known:] + programs[:known] if deviation(program))
    monkeypatch.undo()
    forget()
    assert deviation(caught) is None  # it was the mutant
