"""Constrained and frozen parameters: fits whose answers are known, values that stay inside."""

import equinox as eqx
import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp
from numpyro.distributions import constraints

import tracegrad as tg

STARTS = {
    "positive": (tg.positive, np.array([0.5, 2.0]), constraints.positive),
    "unit_interval": (tg.unit_interval, np.array([0.5, 0.9]), constraints.unit_interval),
    "simplex": (tg.simplex, np.array([0.2, 0.3, 0.5]), constraints.simplex),
    "ordered": (tg.ordered, np.array([-1.0, 0.0, 3.0]), constraints.ordered_vector),
    "scale_tril": (tg.scale_tril, np.array([[2.0, 0.0], [-1.0, 0.5]]), constraints.lower_cholesky),
}


def fitted(loss, params, steps=300, rate=0.1):
    return tg.fit(loss, params, optax.adam(rate), key=jax.random.key(0), steps=steps, progress=False)


@pytest.mark.table
@pytest.mark.parametrize("name", STARTS)
def test_a_start_is_where_it_starts_and_steps_stay_inside(name):
    make, start, constraint = STARTS[name]
    np.testing.assert_allclose(make(start).value, start, atol=1e-5)
    far = fitted(
        lambda key, params: -jnp.sum(params["x"] * jnp.arange(start.size).reshape(start.shape).astype(float)),
        {"x": make(start)},
        5,
        1.0,
    )
    value = tg.unwrap(far.params)["x"]
    assert bool(jnp.all(constraint(value)))
    assert not np.allclose(value, start, atol=1e-3)


def test_the_maximum_likelihood_is_found():
    """Of a normal: the mean and the standard deviation of the data; of a categorical: the frequencies."""
    data, counts = np.array([1.0, 2.0, 4.0, 7.0]), np.array([5.0, 3.0, 2.0])

    def loss(key, params):
        normal = tg.dist.Normal(params["mean"], params["sd"]).log_prob(data).sum()
        return -normal - (counts * jnp.log(params["p"])).sum()

    params = {"mean": 0.0, "sd": tg.positive(1.0), "p": tg.simplex(np.full(3, 1 / 3))}
    found = tg.unwrap(fitted(loss, params, 1500).params)
    assert float(found["sd"]) == pytest.approx(data.std(), rel=1e-3)
    np.testing.assert_allclose(found["p"], counts / 10.0, rtol=1e-3)


def test_what_is_frozen_stays():
    network = eqx.nn.Linear(2, 1, key=jax.random.key(0))
    params = {"network": tg.frozen(network), "scale": tg.frozen(tg.positive(3.0)), "shift": 0.0}

    def loss(key, params):
        return (params["network"](jnp.ones(2))[0] * params["scale"] + params["shift"] - 1.0) ** 2

    run = fitted(loss, params)
    before, after = tg.unwrap(params), tg.unwrap(run.params)
    assert eqx.tree_equal(before["network"], after["network"])
    assert float(after["scale"]) == pytest.approx(3.0)
    assert float(run.history[-1]) < 1e-4
    with pytest.raises(tg.FitError, match="no floating-point array to train"):
        fitted(loss, tg.frozen(params))


def test_a_fit_goes_on_from_constrained_parameters():
    def loss(key, params):
        return (params["sd"] - 2.0) ** 2

    whole = fitted(loss, {"sd": tg.positive(1.0)}, 20)
    half = fitted(loss, fitted(loss, {"sd": tg.positive(1.0)}, 10), 10)
    assert float(whole.params["sd"].raw) == float(half.params["sd"].raw)


@pytest.mark.parametrize(
    ("make", "start"),
    [
        (tg.positive, 0.0),
        (tg.positive, np.nan),
        (tg.unit_interval, 1.5),
        (tg.simplex, [0.5, 0.6]),
        (tg.ordered, [1.0, 0.0]),
        (tg.scale_tril, [[1.0, 1.0], [0.0, 1.0]]),
        (tg.positive, "one"),
        (tg.positive, None),
        (tg.positive, [[1.0], [1.0, 2.0]]),
        (tg.positive, ["one"]),
        (tg.positive, np.inf),
        (tg.unit_interval, 1.0),
        (tg.simplex, [0.0, 1.0]),
        (tg.simplex, 0.5),
        (tg.ordered, 0.5),
        (tg.ordered, [0.5, np.inf]),
        (tg.scale_tril, 1.0),
        (tg.scale_tril, np.ones((2, 3))),
    ],
)
def test_a_start_outside_is_refused(make, start):
    with pytest.raises(tg.FitError, match=f"{make.__name__}: the start must be"):
        make(start)


def test_starts_may_be_traced():
    assert float(jax.jit(lambda x: tg.positive(x).value)(2.0)) == pytest.approx(2.0)
