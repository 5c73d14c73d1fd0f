"""Contracts of the language."""

from jax import numpy as jnp

import tracegrad as tg
from tracegrad import dist

from .kinds import (
    KEY,
    Given,
    all_choices,
    body,
    callable_,
    choices,
    contract,
    count,
    flag,
    function,
    key,
    maybe_count,
    maybe_key,
    selection,
    trace,
)
from .programs import TRACE, X, constrained_in, count_up, guide, model, step

TABLE = {
    "gen": contract(
        lambda function: tg.gen(function).simulate(KEY).retval,
        function=body(lambda: tg.sample("x", dist.Normal(0.0, 1.0))),
    ),
    "sample": contract(
        lambda address, what, estimator: (
            tg.gen(lambda: tg.sample(address, what, estimator=estimator)).simulate(KEY).retval
        ),
        address=Given("address", "z"),
        what=Given("drawn", dist.Normal(0.0, 1.0)),
        estimator=Given("estimator", tg.reparam(), optional=True),
    ),
    "GenerativeFunction.simulate": contract(
        lambda key, scale: tg.gen(lambda scale: tg.sample("z", dist.Normal(0.0, scale))).simulate(key, scale).logp,
        key=key(),
        scale=Given("parameter", 1.0),
    ),
    "GenerativeFunction.propose": contract(lambda key: model.propose(key)[1], key=key()),
    "GenerativeFunction.assess": contract(
        lambda choices, key: model.assess(choices, key=key)[0],
        choices=all_choices({"x": 1.0, "z": 0.5}),
        key=maybe_key(),
    ),
    "GenerativeFunction.generate": contract(
        lambda key, constraints: model.generate(key, constraints)[1],
        key=key(),
        constraints=Given("choices", X, optional=True),
    ),
    "GenerativeFunction.update": contract(
        lambda key, trace, constraints: model.update(key, trace, constraints)[1],
        key=key(),
        trace=trace(TRACE),
        constraints=Given("choices", X, optional=True),
    ),
    "GenerativeFunction.regenerate": contract(
        lambda key, trace, selection: model.regenerate(key, trace, selection)[1],
        key=key(),
        trace=trace(TRACE),
        selection=selection("z"),
    ),
    "GenerativeFunction.project": contract(
        lambda trace, selection, key: model.project(trace, selection, key=key),
        trace=trace(TRACE),
        selection=selection("z"),
        key=maybe_key(),
    ),
    "GenerativeFunction.vmap": contract(
        lambda in_axes, axis_size, chunk: (
            guide.vmap(in_axes, axis_size=axis_size, chunk=chunk).simulate(KEY, jnp.zeros(2)).logp
        ),
        in_axes=Given("axes", 0),
        axis_size=maybe_count(2),
        chunk=maybe_count(1),
    ),
    "GenerativeFunction.scan": contract(
        lambda length, reverse, unroll, checkpoint: (
            step.scan(length, reverse=reverse, unroll=unroll, checkpoint=checkpoint).simulate(KEY, 0.0, None).logp
        ),
        length=Given("copies", 2),
        reverse=flag(True),
        unroll=count(1),
        checkpoint=maybe_count(2),
    ),
    "GenerativeFunction.repeat": contract(lambda n: model.repeat(n).simulate(KEY).logp, n=Given("copies", 2)),
    "GenerativeFunction.with_estimators": contract(
        lambda estimators: model.with_estimators(estimators).simulate(KEY).logp,
        estimators=Given("estimators", {"z": tg.reinforce()}),
    ),
    "GenerativeFunction.logps": contract(
        lambda choices, key: model.logps(choices, key=key),
        choices=all_choices({"x": 1.0, "z": 0.5}),
        key=maybe_key(),
    ),
    "GenerativeFunction.do": contract(lambda values: model.do(values).assess(X)[0], values=choices({"z": 0.5})),
    "GenerativeFunction.condition": contract(
        lambda values: model.condition(values).assess({"z": 0.5})[0], values=choices(X)
    ),
    "GenerativeFunction.while_loop": contract(
        lambda condition, max_steps: count_up.while_loop(condition, max_steps=max_steps).simulate(KEY, 0.0).retval,
        condition=callable_(lambda state: state < 2.0),
        max_steps=count(3),
    ),
    "GenerativeFunction.with_scale": contract(
        lambda scale: model.with_scale(scale).assess({"z": 0.5, "x": 1.0})[0], scale=Given("scales", {"x": 2.0})
    ),
    "GenerativeFunction.with_coordinates": contract(
        lambda coordinates: constrained_in(model.with_coordinates(coordinates)),
        coordinates=Given("coordinates", {"z": tg.noncentred()}),
    ),
    "noncentred": contract(
        lambda centring: constrained_in(model.with_coordinates({"z": tg.noncentred(centring)})),
        centring=Given("share", 0.5),
    ),
    "deterministic": contract(
        lambda address, value: tg.predictive(tg.gen(lambda: tg.deterministic(address, value)), key=KEY, n=2),
        address=Given("address", "d"),
        value=Given("value", 1.0),
    ),
    "factor": contract(
        lambda address, logp: tg.gen(lambda: tg.factor(address, logp)).assess({})[0],
        address=Given("address", "f"),
        logp=Given("logits", jnp.array([-1.0, -0.5])),
    ),
    "nan_as_missing": contract(
        lambda distribution: tg.gen(lambda: tg.sample("y", tg.nan_as_missing(distribution))).assess(
            {"y": jnp.array([1.0, jnp.nan])}
        )[0],
        distribution=Given("drawn", dist.Normal(0.0, 1.0).expand([2])),
    ),
    "validated": contract(lambda function: tg.validated(function).simulate(KEY).logp, function=Given("branch", model)),
    "cond": contract(
        lambda predicate, true, false: tg.cond(predicate, true, false)(0.0).function.simulate(KEY, 0.0).logp,
        predicate=flag(True),
        true=Given("branch", guide),
        false=Given("branch", guide),
    ),
    "switch": contract(
        lambda index, branch: tg.switch(index, guide, branch).simulate(KEY, 0.0).logp,
        index=Given("index", 1),
        branch=Given("branch", guide),
    ),
    "merge": contract(
        lambda first, second: tg.merge(first, second),
        first=Given("dicts", {"a": 1.0}),
        second=Given("dicts", {"b": 1.0}),
    ),
    "relabel": contract(
        lambda function, told, inverse: tg.relabel(function, told, inverse=inverse).simulate(KEY, 0.0).logp,
        function=function(guide),
        told=Given("telling", lambda choices: {"u": choices["z"]}),
        inverse=Given("telling", lambda choices: {"z": choices["u"]}, optional=True),
    ),
    "select": contract(lambda pattern: ("z",) in tg.select(pattern), pattern=Given("pattern", "z")),
}
