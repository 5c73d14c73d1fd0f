"""Contracts of training and trust."""

import functools
import tempfile
from pathlib import Path

import optax
from jax import numpy as jnp

import tracegrad as tg

from .kinds import (
    KEY,
    Given,
    callable_,
    contract,
    count,
    flag,
    floats,
    key,
    maybe_count,
    positive,
    share,
)
from .programs import (
    flip,
    start,
)


def fit_kept(checkpoint, **arguments):
    """A fit that is kept in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        return tg.fit(checkpoint=folder if checkpoint == "new" else checkpoint, **arguments).params


@functools.cache
def kept_fit():
    """A file with a fit."""
    path = Path(tempfile.mkdtemp()) / "kept"
    tg.fit(lambda key, w: w**2, 0.5, optax.sgd(0.1), key=KEY, steps=1, progress=False).save(path)
    return path


TABLE = {
    "fit": contract(
        fit_kept,
        "state",
        objective=callable_(lambda key, w, x: jnp.mean((w - x) ** 2)),
        params=Given("params", jnp.array(0.5)),
        optimizer=Given("optimizer", optax.sgd(0.1)),
        key=key(),
        steps=count(2),
        data=Given("data", jnp.arange(4.0)),
        batch_size=maybe_count(2),
        maximize=flag(False),
        progress=flag(False),
        callback=Given("callback", lambda run: None, optional=True),
        every=maybe_count(1),
        patience=maybe_count(1),
        window=maybe_count(2),
        average_from=Given("copies", 1, optional=True),
        estimators=Given("estimators", None, optional=True),
        tune_every=Given("count where there is none", None, optional=True),
        mesh=Given("mesh", None, optional=True),
        on_nonfinite=Given("name", "raise"),
        checkpoint=Given("path", "new", optional=True),
        checkpoint_every=maybe_count(1),
        keep=maybe_count(1),
        resume=flag(False),
    ),
    "load_fit": contract(
        lambda path, **options: tg.load_fit(kept_fit() if path == "kept" else path, 0.0, **options).params,
        "like",
        "state",
        path=Given("path", "kept"),
        optimizer=Given("optimizer", optax.sgd(0.1)),
    ),
    "Fit.save": contract(
        lambda path: tg.Fit({"w": 1.0}, jnp.zeros(1), None).save(kept_fit() if path == "kept" else path),
        path=Given("path", "kept"),
    ),
    "signal_to_noise": contract(
        tg.signal_to_noise,
        "state",
        objective=callable_(lambda key, w, x: jnp.mean((w - x) ** 2)),
        params=Given("params", jnp.array(0.5)),
        key=key(),
        draws=count(3),
        data=Given("data", jnp.arange(4.0)),
        batch_size=maybe_count(2),
    ),
    "positive": start(jnp.array(0.5), tg.positive),
    "unit_interval": start(jnp.array(0.25), tg.unit_interval),
    "simplex": start(jnp.array([0.25, 0.75]), tg.simplex),
    "ordered": start(jnp.array([-1.0, 0.5]), tg.ordered),
    "scale_tril": start(jnp.array([[1.0, 0.0], [0.5, 2.0]]), tg.scale_tril),
    "frozen": contract(lambda: tg.unwrap(tg.frozen({"a": 1.0})), "value"),
    "unwrap": contract(lambda: tg.unwrap({"a": 1.0, "b": tg.positive(2.0)}), "params"),
    "MovingAverage": contract(
        lambda decay, shape: tg.MovingAverage(decay, shape=shape).update(1.0).value,
        decay=share(0.9),
        shape=Given("shape", ()),
    ),
    "MovingAverage.update": contract(tg.MovingAverage().update, objective=floats(jnp.array(1.0))),
    "baseline_loss": contract(tg.baseline_loss, objective=floats(jnp.ones(2)), baseline=floats(jnp.ones(2))),
    "control_loss": contract(
        tg.control_loss, "control", objective=callable_(lambda w, c: w * c), params=Given("params", jnp.array(0.5))
    ),
    "check_unbiased": contract(
        lambda objective, **options: tg.check_unbiased(objective, 0.3, **options).max_abs_z,
        objective=callable_(tg.expectation(flip)),
        key=key(),
        exact=Given("exact", None, optional=True),
        draws=count(64),
        limit=count(16),
    ),
    "tune_estimators": contract(
        lambda objective, **options: len(tg.tune_estimators(objective, 0.3, **options).sites) * 1.0,
        "argnums",
        objective=callable_(tg.expectation(flip)),
        key=key(),
        budget=positive(1e-3),
    ),
    "compare_estimators": contract(
        lambda objective, **options: len(tg.compare_estimators(objective, 0.3, **options).rows) * 1.0,
        objective=callable_(tg.expectation(flip)),
        key=key(),
        sites=Given("candidates", {"z": [tg.reinforce(), tg.mvd()]}),
        draws=count(8),
    ),
}

TABLE["control_loss"] = TABLE["control_loss"]._replace(
    call=lambda objective, params: tg.control_loss(objective, params, 0.5)
)
