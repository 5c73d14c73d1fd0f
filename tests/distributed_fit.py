"""Run as one of two processes that work together, each with its own half of the data; what they find, as JSON."""

import json
import sys
import warnings

import jax

PROCESS, PORT, FOLDER = int(sys.argv[1]), sys.argv[2], sys.argv[3]
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"127.0.0.1:{PORT}", num_processes=2, process_id=PROCESS)

import numpy as np  # noqa: E402
import optax  # noqa: E402
from jax import numpy as jnp  # noqa: E402
from jax.sharding import NamedSharding  # noqa: E402
from jax.sharding import PartitionSpec as P  # noqa: E402

import tracegrad as tg  # noqa: E402

X = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
Y = (X @ np.array([1.0, -2.0, 0.5])).astype(np.float32)


def objective(key, w, data):
    x, y = data
    return jnp.mean((x @ w - y + 0.1 * jax.random.normal(key)) ** 2)


def main():
    mesh = jax.make_mesh((2,), ("i",))
    mine = slice(8 * PROCESS, 8 * PROCESS + 8)
    data = tuple(jax.make_array_from_process_local_data(NamedSharding(mesh, P("i")), x[mine]) for x in (X, Y))
    warnings.simplefilter("error")
    out = {}
    for name, batch in (("whole", None), ("batch", 8)):
        options = {"key": jax.random.key(0), "batch_size": batch, "progress": False}
        optimizer, start = optax.adam(0.1), np.zeros(3, np.float32)
        kept = {"checkpoint": f"{FOLDER}/{name}", "checkpoint_every": 5}
        tg.fit(objective, start, optimizer, steps=20, data=data, mesh=mesh, **options, **kept,
               callback=lambda _: True, every=12)  # fmt: skip
        run = tg.fit(objective, start, optimizer, steps=20, data=data, mesh=mesh, **options, **kept, resume=True)
        alone = tg.fit(objective, start, optimizer, steps=20, data=(X, Y), **options)
        out[name] = {
            "params": np.asarray(run.params).tolist(),
            "alone": np.asarray(alone.params).tolist(),
            "history": np.asarray(run.history).tolist(),
            "processes": len({d.process_index for d in run.params.sharding.device_set}),
        }
    print(json.dumps(out))


if __name__ == "__main__":
    main()
