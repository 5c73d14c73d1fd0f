"""Run in a process of its own, with four devices: fits of data that is spread over them, and of one device, as JSON."""

import json
import warnings

import jax
import optax
from jax import numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import tracegrad as tg

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


def main():
    out = {}
    for name, spread in SPREAD.items():
        for batch in (8,) if name == "replicated" else (None, 8, 6):
            out[f"{name}, {batch}"] = found(spread, batch)
    print(json.dumps(out))


if __name__ == "__main__":
    main()
