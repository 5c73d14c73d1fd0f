"""A module that another process can import, and what that process does with what it is given: numbers as JSON."""

import json
import pickle
import sys

import jax
import numpy as np
import optax

import tracegrad as tg
from tracegrad import dist
from tracegrad.transforms import sample

KEY, W = jax.random.key(0), 0.3
KEYS, WS = jax.random.split(KEY, 3), np.linspace(0.1, 0.5, 3, dtype=np.float32)


@tg.gen
def model(w):
    z = tg.sample("z", dist.Normal(w, 1.0))
    return tg.sample("x", dist.Normal(z, 1.0))


class Guide:
    @tg.gen
    def normal(self, w):
        return tg.sample("z", dist.Normal(w, 0.7))


@tg.expectation
def coin(key, w):
    return 3.0 * sample(key, dist.Bernoulli(logits=w), estimator=tg.reinforce()).astype(float) * w


def loss(key, w):
    return tg.elbo(model, Guide.normal, {"x": 1.0})(key, (w,), (None, w))


def fitted(steps, start=W):
    """Some steps of a fit, in a process that may be another one."""
    return tg.fit(loss, start, optax.adam(0.1), key=KEY, steps=steps, maximize=True, progress=False)


def contents():
    """Things to pickle."""
    return {
        "function": model,
        "method": Guide.normal,
        "combined": model.vmap(in_axes=(None,), axis_size=2),
        "trace": model.simulate(KEY, W),
        "target": tg.Target(model, (W,), {"x": 1.0}),
        "posterior": tg.normalize(tg.Target(model, (W,), {"x": 1.0}), tg.importance(5)),
        "expectation": coin,
        "gradient of an expectation": coin,
        "batch of an expectation": coin,
        "objective": loss,
        "lanes of a function": model,
        "lanes of a bound": tg.elbo(model, Guide.normal, {"x": 1.0}),
        "fit": fitted(2),
    }


BY_VALUE = ("lanes of a bound",)  # has no name by which another process finds it: for cloudpickle alone

USES = {
    "function": lambda f: [f.simulate(KEY, W).retval, jax.grad(lambda w: f.assess({"z": 1.0, "x": 0.0}, w)[0])(W)],
    "method": lambda f: f.simulate(KEY, None, W).retval,
    "combined": lambda f: f.simulate(KEY, W).retval,
    "trace": lambda trace: [trace.logp, trace.choices["z"], trace.function.simulate(KEY, *trace.args).logp],
    "target": lambda target: target.log_prob({"z": 0.5}),
    "posterior": lambda posterior: posterior.simulate(KEY).choices["z"],
    "expectation": lambda f: f(KEY, W),
    "gradient of an expectation": lambda f: jax.value_and_grad(f, argnums=1)(KEY, W),
    "batch of an expectation": lambda f: jax.jit(jax.vmap(f, (0, None)))(jax.random.split(KEY, 8), W),
    "objective": lambda f: jax.value_and_grad(f, argnums=1)(KEY, W),
    "lanes of a function": lambda f: jax.vmap(jax.grad(lambda w, key: f.simulate(key, w).logp))(WS, KEYS),
    "lanes of a bound": lambda f: jax.vmap(jax.grad(lambda w, key: f(key, (w,), (None, w))))(WS, KEYS),
    "fit": lambda fit: [fit.params, fit.history, *jax.tree.leaves(fitted(2, fit))[:2]],
}


def numbers(name, thing):
    return [float(x) for y in jax.tree.leaves(USES[name](thing)) for x in np.ravel(y)]


if __name__ == "__main__":
    found = {how: pickle.loads(data) for how, data in pickle.load(sys.stdin.buffer).items()}
    print(json.dumps({how: {name: numbers(name, x) for name, x in things.items()} for how, things in found.items()}))
