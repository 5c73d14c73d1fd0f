"""Run in a process of its own, with two devices: gradients on one device, and the same in pieces on both, as JSON.

What `shard_map` checks is that values which differ between the devices are known to, so that sums over them are not
forgotten: a parameter is the same on both, keys and data are not, and the gradient in the parameter is summed.
"""

import json

import jax
from jax import lax
from jax import numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import tracegrad as tg
from tracegrad import dist
from tracegrad.transforms import sample

KEYS, XS, W = jax.random.split(jax.random.key(0), 4), jnp.arange(4.0), jnp.asarray(0.3)


def flip(key, logit, estimator):
    return sample(key, dist.Bernoulli(logits=logit), estimator=estimator).astype(float)


def loop(estimator):
    def f(key, w, x):
        def body(carry, key):
            state, total = carry
            z = flip(key, w * x + state, estimator)
            return (z, total + z * w + state), z

        # What is carried must vary along the mesh from the start: a rule of `shard_map` for every loop.
        (last, total), ys = lax.scan(body, (0.0 * x, 0.0 * x), jax.random.split(key, 2))
        return (total + last) ** 2 + ys.sum() * w

    return f


def branch(estimator):
    def f(key, w, x):
        first, second = jax.random.split(key)
        z = flip(first, w, estimator)
        return w * lax.cond(z > 0.5, lambda: flip(second, w * x, estimator) + 1.0, lambda: w * x)

    return f


def plate(estimator):
    def f(key, w, x):
        return jax.vmap(lambda k: flip(k, w * x, estimator))(jax.random.split(key, 3)).sum() ** 2 * w

    return f


def enumerated(key, w, x):
    first, second = jax.random.split(key)
    return flip(second, w * x + flip(first, w, tg.enum()), tg.reinforce(baseline=0.3)) * w


guide = tg.gen(lambda w, x: tg.sample("z", dist.Normal(w * x, 1.0)))
model = tg.gen(lambda: tg.sample("x", dist.Normal(tg.sample("z", dist.Normal(0.0, 1.0)), 1.0)))

PROGRAMS = {
    "score in a loop": tg.expectation(loop(tg.reinforce())),
    "forks in a loop": tg.expectation(loop(tg.mvd())),
    "one fork at random in chunks": tg.expectation(loop(tg.mvd()), forks=1, chunk_size=1),
    "score in a branch": tg.expectation(branch(tg.reinforce())),
    "forks in a plate": tg.expectation(plate(tg.local_expectation())),
    "enumeration": tg.expectation(enumerated),
    "bound": lambda key, w, x: tg.iwelbo(model, guide, {"x": 0.2}, n=2)(key, (), (w, x)),
}


def mesh():
    return jax.make_mesh((2,), ("i",), axis_types=(AxisType.Auto,))


def mean_of(f):
    """The mean over a batch; example by example, for JAX itself has no `vmap` of a `cond` under the check."""
    return lambda w, keys, xs: lax.map(lambda kx: f(kx[0], w, kx[1]), (keys, xs)).mean()


def pieces(loss, *, check):
    """Value and gradient from each device's half of the batch."""

    def local(w, keys, xs):
        value, slope = jax.value_and_grad(loss)(w, keys, xs)
        # With the check, the derivative in what is the same everywhere is summed over the devices already.
        return lax.pmean(value, "i"), slope / 2 if check else lax.pmean(slope, "i")

    return jax.shard_map(local, mesh=mesh(), in_specs=(P(), P("i"), P("i")), out_specs=(P(), P()), check_vma=check)


def sharded_arrays(loss):
    """The whole batch, its arrays spread over the devices."""

    def run(w, keys, xs):
        spread = NamedSharding(mesh(), P("i"))
        return jax.value_and_grad(loss)(w, jax.device_put(keys, spread), jax.device_put(xs, spread))

    return run


def numbers(run):
    return [float(y) for y in jax.jit(run)(W, KEYS, XS)]


def main():
    jax.config.update("jax_disable_most_optimizations", True)
    out = {}
    for name, f in PROGRAMS.items():
        loss = mean_of(f)
        ways = {"one device": jax.value_and_grad(loss), "checked": pieces(loss, check=True)}
        if name in ("score in a loop", "forks in a loop"):
            batch = lambda w, keys, xs, f=f: jax.vmap(lambda k, x: f(k, w, x))(keys, xs).mean()  # noqa: E731
            ways |= {
                "unchecked": pieces(loss, check=False),
                "lanes": pieces(batch, check=True),
                "arrays": sharded_arrays(batch),
            }
        out[name] = {way: numbers(run) for way, run in ways.items()}
    print(json.dumps(out))


if __name__ == "__main__":
    main()
