"""Run in a process of its own, with eight devices: fits of data that is spread over them, and of one device, as JSON.

So are fits of an objective whose particles are spread, and how many operations each device does for a step.
"""

import json
import sys
import warnings

import jax
import optax
from jax import numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import tracegrad as tg
from tracegrad import dist
from tracegrad.training._arguments import trained
from tracegrad.training._data import Batches
from tracegrad.training._loop import objective_of
from tracegrad.training._mesh import check_mesh, everywhere

KINDS = (AxisType.Auto, AxisType.Explicit)
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
    return jax.device_put(x, NamedSharding(jax.make_mesh((8,), ("i",), axis_types=(axes,)), spec))


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


def step_flops(objective, w, data, batch, mesh):
    """The floating-point operations that each device does for the gradient of a step."""
    batches = Batches(data, batch, jax.random.key(0), mesh)
    w, static = trained(everywhere(w, mesh))
    loss = objective_of(objective, static, batches, stateful=False, maximize=False)

    def step(w, fed):
        return jax.grad(lambda w: loss(w, jax.random.key(0), *batches.at(fed, 0), None)[0])(w)

    return jax.jit(step).lower(w, batches.feed(0, 1, 1)[0]).compile().cost_analysis()["flops"]


def flops():
    """Those of a regression, by minibatches and whole, on one device and on eight."""
    data, eight = (jnp.ones((2048, 32)), jnp.ones(2048)), check_mesh(jax.make_mesh((8,), ("i",)))
    return {
        str(batch): [step_flops(regression, jnp.ones((32, 128)), data, batch, mesh) for mesh in (None, eight)]
        for batch in (None, 1024)
    }


def regression(key, w, data):
    x, y = data
    return jnp.mean(jax.nn.relu(x @ w).sum(1) - y)


# ---- particles ------------------------------------------------------------------------------------------------------

XS = jnp.linspace(-1.0, 1.0, 16)


@tg.gen
def model():
    z = tg.sample("z", dist.Normal(jnp.zeros(16), 1.0).to_event(1))
    tg.sample("x", dist.Normal(z, 0.5).to_event(1))


@tg.gen
def guide(w):
    tg.sample("z", dist.Normal(w["mean"], jnp.exp(w["log_sd"])).to_event(1))


def of_particles(mesh, count):
    """The bound of importance sampling, its particles over the devices of a mesh, if there is one."""

    def log_weight(key, w):
        drawn = guide.simulate(key, w)
        return model.assess({"z": drawn.choices["z"], "x": XS})[0] - drawn.logp

    def bound(key, w):
        keys = jax.random.split(key, count)
        if mesh is not None:
            put = jax.device_put if AxisType.Explicit in mesh.axis_types else jax.lax.with_sharding_constraint
            keys = put(keys, NamedSharding(mesh, P("i")))
        return jax.nn.logsumexp(jax.vmap(log_weight, (0, None))(keys, w)) - jnp.log(count)

    return tg.expectation(bound)


def particles():
    """A fit of the bound of 32 particles on one device and on eight, and what each device does of 4096."""
    w, out = {"mean": jnp.zeros(16), "log_sd": jnp.zeros(16)}, {}
    for axes in (None, *KINDS):
        mesh = None if axes is None else jax.make_mesh((8,), ("i",), axis_types=(axes,))
        options = {"key": jax.random.key(0), "steps": 20, "maximize": True, "progress": False}
        run = tg.fit(of_particles(mesh, 32), w, optax.adam(0.1), **options)
        out["one device" if axes is None else axes.name] = {
            "params": jax.tree.map(lambda x: x.tolist(), run.params),
            "history": run.history.tolist(),
            "flops": step_flops(of_particles(mesh, 4096), w, None, None, None),
        }
    return out


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


def spread_data():
    """Fits by how their data lie, on meshes, what is refused, and the work of each device."""
    out = {}
    for name, spread in SPREAD.items():
        for batch in (8,) if name == "replicated" else (None, 8, 6):
            out[f"{name}, {batch}"] = found(spread, batch)
    meshes = {}
    for axes in KINDS:
        meshes[f"{axes.name}, whole"] = by_mesh(axes, (8,), ("i",), 16, None)
        meshes[f"{axes.name}, 8"] = by_mesh(axes, (8,), ("i",), 16, 8)
        meshes[f"{axes.name}, 8 of 15"] = by_mesh(axes, (8,), ("i",), 15, 8)
        meshes[f"{axes.name}, 8, two axes"] = by_mesh(axes, (4, 2), ("i", "j"), 16, 8)
    out |= {"meshes": meshes, "flops": flops()}
    refused = {}
    for name, (size, batch) in {"whole": (15, None), "batch": (16, 6)}.items():
        try:
            by_mesh(AxisType.Auto, (8,), ("i",), size, batch)
        except tg.FitError as error:
            refused[name] = str(error)
    return out | {"refused": refused}


def main():
    print(json.dumps({"data": spread_data, "particles": particles}[sys.argv[1]]()))


if __name__ == "__main__":
    main()
