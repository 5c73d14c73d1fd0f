"""Run in a process of its own, with eight devices: values and gradients on one of them and on a mesh of all, as JSON.

On a mesh with Explicit axes, which is what `jax.make_mesh` makes by default, shardings are parts of types.
"""

import json

import jax
from jax import numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from sharded_programs import branch, enumerated, guide, loop, model

import tracegrad as tg
from tracegrad import dist
from tracegrad.transforms import sample

KEYS, XS, W = jax.random.split(jax.random.key(0), 8), jnp.linspace(-1.0, 1.0, 8), jnp.asarray(0.3)


def one(family, estimator):
    def f(key, w, x):
        return (sample(key, family(w * x), estimator=estimator).astype(float) + w) ** 2

    return tg.expectation(f)


def coin(logit):
    return dist.Bernoulli(logits=logit)


PROGRAMS = {
    "simulate": lambda key, w, x: guide.simulate(key, w, x).logp + guide.simulate(key, w, x).choices["z"] * w,
    "assess": lambda key, w, x: guide.assess({"z": x}, w, x)[0],
    "assess a coin": lambda key, w, x: tg.gen(lambda v: tg.sample("b", coin(v))).assess({"b": 1}, w * x)[0],
    "reparam": one(lambda v: dist.Normal(v, 1.0), tg.reparam()),
    "reinforce": one(coin, tg.reinforce()),
    "mvd": one(coin, tg.mvd()),
    "enum": one(coin, tg.enum()),
    "score in a loop": tg.expectation(loop(tg.reinforce())),
    "forks in a loop": tg.expectation(loop(tg.mvd())),
    "score in a branch": tg.expectation(branch(tg.reinforce())),
    "enumeration": tg.expectation(enumerated),
    "bound": lambda key, w, x: tg.iwelbo(model, guide, {"x": 0.2}, n=2)(key, (), (w, x)),
}


def placed(kind):
    mesh = jax.make_mesh((8,), ("i",), axis_types=(kind,))
    spread = NamedSharding(mesh, P("i"))
    return jax.device_put(W, NamedSharding(mesh, P())), jax.device_put(KEYS, spread), jax.device_put(XS, spread)


def numbers(f, arguments):
    def examples(w, keys, xs):
        return jax.vmap(lambda key, x: f(key, w, x))(keys, xs)

    values = jax.jit(examples)(*arguments)
    return [*map(float, jax.device_get(values)), float(jax.jit(jax.grad(lambda *a: examples(*a).mean()))(*arguments))]


def main():
    jax.config.update("jax_disable_most_optimizations", True)
    ways = {"one device": (W, KEYS, XS), "explicit": placed(AxisType.Explicit), "auto": placed(AxisType.Auto)}
    print(json.dumps({name: {way: numbers(f, at) for way, at in ways.items()} for name, f in PROGRAMS.items()}))


if __name__ == "__main__":
    main()
