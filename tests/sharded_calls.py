"""Run in a process of its own, with four devices: what becomes of the shardings of a `jit` with draws inside, as JSON.

The call that says how its operands and results are spread is in the middle of an objective; around it JAX may choose.
"""

import json

import jax
from jax import numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import tracegrad as tg
from tracegrad import dist
from tracegrad.transforms import sample

KEY, W = jax.random.key(0), jnp.linspace(-1.0, 1.0, 32).reshape(8, 4)


def coins(estimator):
    def draw(key, x):
        keys = jax.random.split(key, x.shape)
        flip = jax.vmap(jax.vmap(lambda k, v: sample(k, dist.Bernoulli(logits=v), estimator=estimator)))
        return flip(keys, x).astype(float) * x

    return draw


def normals(key, x):
    return x + sample(key, dist.Normal(jnp.zeros_like(x), 1.0).to_event(2), estimator=tg.reparam())


def nothing_drawn(key, x):
    return jnp.tanh(x)


DRAWS = {
    "reinforce": coins(tg.reinforce()),
    "mvd": coins(tg.mvd()),
    "reparam": normals,
    "no draw": nothing_drawn,
}


def objective(draw, call, *, loop=False):
    """One draw that is not in the call, then the call, whose results are given back as they are."""

    def f(key, w):
        first, second = jax.random.split(key)
        x = w * (1.0 + sample(first, dist.Bernoulli(0.5), estimator=tg.reinforce()).astype(float))
        if loop:
            y = jax.lax.scan(lambda c, k: (call(draw)(k, c), None), x, jax.random.split(second, 2))[0]
        else:
            y = call(draw)(second, x)
        return jnp.sum(y**2), y

    return tg.expectation(f, has_aux=True)


def spread(draw):
    mesh = jax.make_mesh((2, 2), ("i", "j"), axis_types=(AxisType.Auto, AxisType.Auto))
    everywhere, rows, columns = (NamedSharding(mesh, spec) for spec in (P(), P("i"), P(None, "j")))
    return jax.jit(draw, in_shardings=(everywhere, rows), out_shardings=columns)


def in_types():
    """A sharding that is a part of types."""
    return NamedSharding(jax.make_mesh((4,), ("i",), axis_types=(AxisType.Explicit,)), P("i"))


def typed(draw):
    return jax.jit(draw, in_shardings=(None, in_types()), out_shardings=in_types())


def constraints(jaxpr):
    """The shardings that equations ask for, at any depth."""
    found = set()
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "sharding_constraint":
            found.add(str(eqn.params["sharding"].spec))
        inner = [x for p in eqn.params.values() for x in (p if isinstance(p, tuple) else (p,))]
        found.update(*(constraints(getattr(x, "jaxpr", x)) for x in inner if hasattr(getattr(x, "jaxpr", x), "eqns")))
    return found


def about(f, w=W):
    """The value and the sum of the gradient, how the given-back results are spread, and what constraints there are."""
    step = jax.value_and_grad(f, argnums=1, has_aux=True)
    (value, y), slope = jax.jit(step)(KEY, w)
    asked = constraints(jax.make_jaxpr(step)(KEY, w).jaxpr)
    return {
        "numbers": [float(value), float(jnp.sum(jnp.sin(slope)))],
        "results": str(getattr(y.sharding, "spec", None)),
        "asked": sorted(asked),
    }


def main():
    jax.config.update("jax_disable_most_optimizations", True)
    out = {}
    for name, draw in DRAWS.items():
        out[name] = {
            "plain": about(objective(draw, jax.jit)),
            "spread": about(objective(draw, spread)),
        }
        if draw in (normals, nothing_drawn):
            out[name]["typed"] = about(objective(draw, typed), jax.device_put(W, in_types()))
        out[f"{name} in a loop"] = {
            "plain": about(objective(draw, jax.jit, loop=True)),
            "spread": about(objective(draw, spread, loop=True)),
        }
    print(json.dumps(out))


if __name__ == "__main__":
    main()
