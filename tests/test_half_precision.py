"""Networks in bfloat16, densities in float32: what a network computes is rounded, and what is summed is not."""

import equinox as eqx
import jax
import numpy as np
import pytest
from jax import numpy as jnp

import tracegrad as tg
from tracegrad import dist
from tracegrad.transforms import log_density

KEY = jax.random.key(2)
X = jnp.linspace(-1.0, 1.0, 50)
Y = jnp.sin(3.0 * X)
NETWORK = eqx.nn.MLP("scalar", "scalar", 16, 1, key=KEY)
ROUNDING = 2.0**-8
"""Of a number in bfloat16."""


def in_half(tree):
    return jax.tree.map(lambda x: x.astype(jnp.bfloat16) if eqx.is_inexact_array(x) else x, tree)


@tg.gen
def model(network):
    slope = tg.sample("slope", dist.Normal(0.0, 1.0))
    means = jax.vmap(network)(X.astype(network.layers[0].weight.dtype)).astype(jnp.float32)
    tg.sample("y", dist.Normal(means + slope * X, 0.1).to_event(1))


@tg.gen
def guide(network):
    mean = network(jnp.asarray(0.5, network.layers[0].weight.dtype)).astype(jnp.float32)
    tg.sample("slope", dist.Normal(mean, 0.3))


def bound_and_slope(network):
    arrays, rest = eqx.partition(network, eqx.is_inexact_array)

    def bound(key, arrays):
        network = eqx.combine(arrays, rest)
        return tg.elbo(model, guide, {"y": Y})(key, network, network)

    return jax.jit(jax.value_and_grad(bound, argnums=1))(KEY, arrays)


def test_gradients_are_right_to_the_accuracy_of_the_network():
    value, slope = bound_and_slope(in_half(NETWORK))
    wanted, of_single = bound_and_slope(jax.tree.map(lambda x: x, in_single(in_half(NETWORK))))
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, wanted, rtol=10 * ROUNDING)
    for found, right in zip(jax.tree.leaves(slope), jax.tree.leaves(of_single), strict=True):
        assert found.dtype == jnp.bfloat16
        size = jnp.abs(right).max()
        np.testing.assert_allclose(found.astype(jnp.float32) / size, right / size, atol=10 * ROUNDING)


def in_single(tree):
    return jax.tree.map(lambda x: x.astype(jnp.float32) if eqx.is_inexact_array(x) else x, tree)


HALVES = {
    "a batch": lambda loc: dist.Normal(jnp.full(10_000, loc), jnp.ones((), loc.dtype)),
    "an event": lambda loc: dist.Normal(loc, jnp.ones((), loc.dtype)).expand([10_000]).to_event(1),
    "flips": lambda loc: dist.Bernoulli(logits=loc).expand([10_000]),
}


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", HALVES)
def test_log_densities_of_many_data_are_summed_in_single_precision(name, dtype):
    """Ten thousand data: a sum in bfloat16 would be a multiple of 64."""
    loc = jnp.asarray(0.296875, dtype)  # exact in both
    values = jnp.asarray(jnp.arange(10_000) % 2 == 0, dtype)
    program = tg.gen(lambda loc: tg.sample("y", HALVES[name](loc)))
    values = values.astype(program.simulate(KEY, loc).choices["y"].dtype)
    logp, _ = program.assess({"y": values}, loc)
    assert logp.dtype == program.simulate(KEY, loc).logp.dtype == jnp.float32
    one = log_density(HALVES[name](jnp.asarray(0.296875)), values.astype(jnp.float32))
    np.testing.assert_allclose(logp, jnp.sum(one), rtol=1e-5)


def test_a_density_of_ones_own_is_at_least_single():
    class Flat:
        def sample(self, key):
            return jnp.zeros((), jnp.bfloat16)

        def log_prob(self, value):
            return jnp.zeros((), jnp.bfloat16)

    assert log_density(Flat(), jnp.zeros((), jnp.bfloat16)).dtype == jnp.float32
