"""Contracts of the transformation and its estimators."""

import jax
from jax import numpy as jnp

import tracegrad as tg
from tracegrad import dist

from .kinds import KEY, Given, callable_, contract, count, flag, given, key, maybe_count, number, positive, share
from .programs import categories, flip, guide, slope

TABLE = {
    "expectation": contract(
        lambda fun, **options: jax.value_and_grad(
            tg.expectation(fun, **options), argnums=1, has_aux=options["has_aux"]
        )(KEY, 0.3),
        fun=Given("callable", flip, optional=True),
        has_aux=flag(False),
        chunk_size=maybe_count(1),
        forks=maybe_count(1),
        credit=flag(True),
    ),
    "exact_expectation": contract(
        lambda fun, **options: tg.exact_expectation(fun, **options)(KEY, 0.0),
        "cells",
        fun=callable_(tg.expectation(flip)),
        nodes=count(2),
        limit=count(16),
    ),
    "leave_one_out": contract(
        lambda fun, n: tg.leave_one_out(fun, n)(KEY, 0.3), fun=callable_(flip), n=Given("count", 2)
    ),
    "with_estimators": contract(
        lambda objective, estimators, forks: tg.with_estimators(objective, estimators, forks=forks)(KEY, 0.3),
        objective=callable_(flip),
        estimators=Given("estimators", {"z": tg.reinforce()}),
        forks=maybe_count(2),
    ),
    "by_importance": contract(
        lambda **arguments: jax.grad(tg.expectation(flip, forks=tg.by_importance(**arguments)), argnums=1)(KEY, 0.3),
        k=count(2),
        uniform=share(0.5),
    ),
    "describe_estimators": contract(
        lambda objective, key: str(tg.describe_estimators(objective, key, 0.3)) and 0.0,
        objective=callable_(flip),
        key=key(),
    ),
    "reinforce": contract(lambda baseline: slope(tg.reinforce(baseline)), baseline=Given("number", 0.5, optional=True)),
    "sum_and_sample": contract(lambda k: slope(tg.sum_and_sample(k)), k=count(1)),
    "unordered_set": contract(lambda k: slope(tg.unordered_set(k)), k=count(2)),
    "reparam": contract(
        lambda continuous: jax.grad(
            tg.expectation(
                lambda key, w: guide.with_estimators({"z": tg.reparam(continuous=continuous)}).simulate(key, w).retval
            ),
            argnums=1,
        )(KEY, 0.3),
        continuous=flag(True),
    ),
    "rsvi": contract(
        lambda **arguments: slope(
            tg.rsvi(**arguments),
            lambda key, w, how: (
                tg.gen(lambda: tg.sample("z", dist.Gamma(1.5 + w, 1.0), estimator=how)).simulate(key).retval
            ),
        ),
        augmentation=Given("copies", 1),
        continuous=flag(True),
    ),
    "rebar": contract(
        lambda **arguments: slope(tg.rebar(**arguments)),
        function=given("callable", optional=True)(lambda b: 2.0 * b),
        temperature=positive(0.5),
        scale=number(1.0),
        continuous=flag(True),
    ),
    "relax": contract(
        lambda **arguments: slope(tg.relax(**arguments)), control=callable_(jax.nn.sigmoid), continuous=flag(True)
    ),
    "biased_concrete": contract(
        lambda **arguments: categories(tg.biased_concrete(**arguments)),
        logits=Given("logits", jnp.zeros(3)),
        temperature=positive(0.5),
    ),
    "biased_straight_through": contract(
        lambda **arguments: categories(tg.biased_straight_through(**arguments)),
        logits=Given("logits", jnp.zeros(3)),
        temperature=positive(0.5),
    ),
}
