"""Run in a process of its own, with four devices: fits of data that is spread over them, and of one device, as JSON."""

import json
import warnings

import jax
import optax
from jax import numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import tracegrad as tg
from tracegrad.training._data import Batches
from tracegrad.training._loop import objective_of
from tracegrad.training._mesh import check_mesh, everywhere

X = jax.random.normal(jax.random.key(1), (16, 3))
Y = X @ jnp.array([1.0, -2.0, 0.5])
SPREAD = {
    "one device": None,
    "Auto": (AxisType.Auto, P("i")),
    "Explicit": (AxisType.Explicit, P("i")),
    "replicated": (AxisType.Auto, P()),
}


def put(x, spread):
    if spread is None:
        return x
    axes, spec = spread
    return jax.device_put(x, NamedSharding(jax.make_mesh((4,), ("i",), axis_types=(axes,)), spec))


def found(spread, batch):
    rows = set()

    def objective(key, w, data):
        x, y = data
        residuals = x @ w - y
        jax.debug.inspect_array_sharding(residuals, callback=lambda s: rows.add(s.shard_shape(residuals.shape)[0]))
        return jnp.mean(residuals**2)

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        data = put(X, spread), put(Y, spread)
        options = {"key": jax.random.key(0), "steps": 20, "batch_size": batch, "progress": False}
        run = tg.fit(objective, jnp.zeros(3), optax.sgd(0.1), data=data, **options)
    texts = sorted({str(w.message) for w in warned if "fit:" in str(w.message)})
    return {"params": run.params.tolist(), "rows on a device": sorted(rows), "warned": texts}


def step_flops(mesh):
    """The floating-point operations that each device does for a step."""
    X8, Y8 = jnp.ones((64, 32)), jnp.ones(64)
    batches = Batches((X8, Y8), 32, jax.random.key(0), mesh)
    loss = objective_of(
        lambda key, w, d: jnp.mean(jax.nn.relu(d[0] @ w).sum(1)), None, batches, stateful=False, maximize=False
    )
    w = everywhere(jnp.ones((32, 32)), mesh)
    rows = jnp.arange(32)

    def step(w, data, rows):
        return jax.grad(lambda w: loss(w, jax.random.key(0), *batches.at((rows[None], data), 0), None)[0])(w)

    return jax.jit(step).lower(w, batches._data, rows).compile().cost_analysis()["flops"]


def by_mesh(axes, shape, names, size, batch, w=None):
    """What a fit on a mesh finds, and how its parameters lie."""
    mesh = jax.make_mesh(shape, names, axis_types=(axes,) * len(shape))
    rows = set()

    def objective(key, w, data):
        x, y = data
        residuals = x @ w - y + 0.1 * jax.random.normal(key)
        jax.debug.inspect_array_sharding(residuals, callback=lambda s: rows.add(s.shard_shape(residuals.shape)[0]))
        return jnp.mean(residuals**2)

    options = {"key": jax.random.key(0), "steps": 20, "batch_size": batch, "progress": False}
    data = (X[:size], Y[:size])
    w = jnp.zeros(3) if w is None else w
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = tg.fit(objective, w, optax.adam(0.1), data=data, mesh=mesh, **options)
    alone = tg.fit(objective, jnp.zeros(3), optax.adam(0.1), data=data, **options)
    return {
        "params": run.params.tolist(),
        "alone": alone.params.tolist(),
        "rows on a device": min(rows),
        "devices": len(run.params.sharding.device_set),
    }


def main():
    out = {}
    for name, spread in SPREAD.items():
        for batch in (8,) if name == "replicated" else (None, 8, 6):
            out[f"{name}, {batch}"] = found(spread, batch)
    meshes = {}
    for axes in (AxisType.Auto, AxisType.Explicit):
        meshes[f"{axes.name}, whole"] = by_mesh(axes, (4,), ("i",), 16, None)
        meshes[f"{axes.name}, 8"] = by_mesh(axes, (4,), ("i",), 16, 8)
        meshes[f"{axes.name}, 8 of 15"] = by_mesh(axes, (4,), ("i",), 15, 8)
        meshes[f"{axes.name}, 8, two axes"] = by_mesh(axes, (2, 2), ("i", "j"), 16, 8)
    out["meshes"] = meshes
    four = check_mesh(jax.make_mesh((4,), ("i",)))
    out["flops"] = [step_flops(None), step_flops(four)]
    refused = {}
    for name, (size, batch) in {"whole": (15, None), "batch": (16, 6)}.items():
        try:
            by_mesh(AxisType.Auto, (4,), ("i",), size, batch)
        except tg.FitError as error:
            refused[name] = str(error)
    out["refused"] = refused
    print(json.dumps(out))


if __name__ == "__main__":
    main()
