"""`fit`: the optimisation loop, its minibatches, its state and its errors."""

import jax
import numpy as np
import optax
import pytest
from jax import lax
from jax import numpy as jnp

import tracegrad as tg
from tracegrad import dist
from tracegrad.transforms._internal import nonfinite

KEY = jax.random.key(2)
DATA = jnp.arange(10.0)


def quadratic(key, params):
    return (params["x"] - 3.0) ** 2


def test_it_minimises_and_maximises():
    down = tg.fit(quadratic, {"x": 0.0}, optax.sgd(0.1), key=KEY, steps=100, progress=False)
    assert isinstance(down, tg.Fit)
    np.testing.assert_allclose(down.params["x"], 3.0, atol=1e-5)
    assert down.history.shape == (100,)
    np.testing.assert_allclose(down.history[0], 9.0)
    up = tg.fit(lambda k, p: -quadratic(k, p), {"x": 0.0}, optax.sgd(0.1), key=KEY, steps=100, maximize=True)
    np.testing.assert_allclose(up.params["x"], 3.0, atol=1e-5)
    np.testing.assert_allclose(up.history[0], -9.0)


def test_the_steps_are_those_of_the_optimiser():
    """Ten steps of Adam by hand, on a random objective: the same parameters."""

    def noisy(key, x):
        return x**2 + x * jax.random.normal(key)

    found = tg.fit(noisy, jnp.asarray(1.0), optax.adam(0.1), key=KEY, steps=10, progress=False)
    x, optimizer, step_key = jnp.asarray(1.0), optax.adam(0.1), jax.random.split(KEY)[0]
    state = optimizer.init(x)
    for i in range(10):
        slope = jax.grad(noisy, argnums=1)(jax.random.fold_in(step_key, i), x)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(slope, state, x)
        x = optax.apply_updates(x, updates)
    np.testing.assert_allclose(found.params, x, rtol=1e-5)


def complex_well(key, params):
    """Lowest at 1 + 2j, and at 3 in what is real beside it: 5 |z - (1 + 2j)|^2 / 2 + (x - 3)^2 / 2, coupled."""
    z, x = params["z"], params["x"]
    return jnp.sum(jnp.abs(z - (1 + 2j)) ** 2 + 0.5 * (jnp.real(z) - 1.0) * (x - 3.0)) + jnp.sum((x - 3.0) ** 2)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("optimizer", [optax.sgd(0.1), optax.adam(0.1)])
@pytest.mark.parametrize("start", [{"z": 0j, "x": 0.0}, {"z": jnp.zeros(2, complex), "x": jnp.zeros(2)}])
def test_complex_parameters_go_down_and_up(sign, optimizer, start):
    """Real ones beside them, a step at a time from the real and the imaginary part alike."""
    found = tg.fit(
        lambda key, p: sign * complex_well(key, p),
        start,
        optimizer,
        key=KEY,
        steps=400,
        maximize=sign < 0,
        progress=False,
    )
    np.testing.assert_allclose(found.params["z"], jnp.full_like(start["z"], 1 + 2j), atol=1e-3)
    np.testing.assert_allclose(found.params["x"], jnp.full_like(start["x"], 3.0), atol=1e-3)
    assert found.params["x"].dtype == jnp.float32


def test_one_step_from_a_complex_parameter_is_that_of_its_two_parts():
    """Gradient descent in (real, imaginary) by hand: -0.1 (2 a + b, 4 b + a) from (2, -1)."""

    def objective(key, z):
        a, b = jnp.real(z), jnp.imag(z)
        return a**2 + 2.0 * b**2 + a * b

    found = tg.fit(objective, 2.0 - 1.0j, optax.sgd(0.1), key=KEY, steps=1, progress=False)
    np.testing.assert_allclose(found.params, (2.0 - 0.1 * 3.0) + 1j * (-1.0 - 0.1 * -2.0), rtol=1e-6)


@pytest.mark.parametrize("optimizer", [optax.sgd(0.1), optax.adam(0.1), optax.inject_hyperparams(optax.adam)(0.1)])
@pytest.mark.parametrize(
    ("one", "state"),
    [
        (1.0, 0.0),
        (np.float64(1.0), np.zeros(())),
        (jnp.asarray(1.0), 0),
        (jnp.float32(1.0), jnp.float32(0.0)),
        (1j, 0j),
    ],
)
def test_the_loop_is_compiled_once_whatever_the_numbers(optimizer, one, state):
    """The objective is traced by each compilation: Python's floats, and weak types, cost no further one."""
    traced = []

    def objective(key, p, state):
        traced.append(p["x"])
        return jnp.abs(p["x"] - 3.0) ** 2, state + 1

    options = {"key": KEY, "state": state, "progress": False, "every": 2, "callback": lambda _: None}
    found = tg.fit(objective, {"x": one}, optimizer, steps=9, **options)
    assert len(traced) == 1
    assert not found.params["x"].weak_type
    tg.fit(objective, found, optimizer, steps=9, **{**options, "state": None})
    assert len(traced) == 2


def test_every_example_is_used_equally_often():
    """Two and ten passes over ten examples in batches of four: counted by the gradient of a linear objective."""
    seen = []

    def objective(key, p, batch):
        return jnp.sum(p * jax.nn.one_hot(batch.astype(int), 10).sum(0))

    for steps in (5, 25):
        out = tg.fit(
            objective, jnp.zeros(10), optax.sgd(1.0), key=KEY, steps=steps, data=DATA, batch_size=4, progress=False
        )
        seen.append(-np.asarray(out.params))
    np.testing.assert_array_equal(seen[0], 2.0)
    np.testing.assert_array_equal(seen[1], 10.0)


def test_an_objective_may_ask_for_the_scale_of_a_minibatch():
    """The scaled sum over a batch is an unbiased estimate of the sum over the data."""

    def objective(key, p, batch, scale):
        return scale * jnp.sum(batch) + 0.0 * p

    out = tg.fit(objective, 1.0, optax.sgd(0.1), key=KEY, steps=5, data=DATA, batch_size=2, progress=False)
    np.testing.assert_allclose(np.mean(out.history), float(DATA.sum()), rtol=1e-6)


def test_progress_shows_the_objective_and_the_rate(capsys):
    tg.fit(quadratic, {"x": 0.0}, optax.sgd(0.1), key=KEY, steps=50)
    shown = capsys.readouterr().err
    assert "50/50" in shown
    assert "objective" in shown


def run_into_trouble(objective, params, rate=1.0, steps=50):
    tg.fit(objective, params, optax.sgd(rate), key=KEY, steps=steps, progress=False)


def test_an_objective_that_is_no_longer_finite_stops_the_run_at_its_step_and_line():
    def objective(key, x):
        return jnp.log(x + 2.5) + x

    with pytest.raises(tg.FitError, match=r"the objective is nan at step 3, first in `log` \(.*test_fit.py:\d+"):
        run_into_trouble(lambda key, x: jnp.where(x < 0.0, objective(key, x) * 0.0 + x, x), 0.0)


def test_a_density_that_is_no_longer_finite_is_named_by_its_site():
    @tg.gen
    def model(scale):
        tg.sample("x", dist.Normal(0.0, scale))

    @tg.gen
    def nested(scale):
        tg.sample("inner", model(scale))

    def objective(key, scale):
        return scale + 0.0 * nested.assess({"inner": {"x": 0.0}}, scale)[0]

    with pytest.raises(tg.FitError, match="the objective is nan at step 1, first in .* at the site 'inner/x'"):
        run_into_trouble(objective, jnp.asarray(1.0))


def test_a_density_in_a_loop_under_expectation_is_named_by_its_site():
    @tg.gen
    def step(c, _):
        return tg.sample("w", dist.Normal(c, jnp.abs(c))) * 0.0, None

    @tg.gen
    def chain(c):
        tg.sample("steps", step.scan(3)(c, None))

    objective = tg.expectation(lambda key, c: chain.simulate(key, c).logp)
    with pytest.raises(tg.FitError, match="at step 0, first in .* at the site 'w'|at the site 'steps/w'"):
        run_into_trouble(objective, jnp.asarray(1.0))


def test_a_gradient_that_is_not_finite_stops_the_run_before_it_spoils_the_objective():
    def objective(key, params):
        return jnp.sqrt(params["a"]) + params["b"] ** 2

    with pytest.raises(
        tg.FitError, match=r"the gradient of params\['a'\] is not finite at step 0, first in `div` .*:\d+"
    ):
        run_into_trouble(objective, {"a": jnp.asarray(0.0), "b": jnp.asarray(1.0)}, steps=1)


def test_an_update_that_is_not_finite_stops_the_run():
    with pytest.raises(tg.FitError, match="the optimiser's update is not finite at step 0. Look for"):
        run_into_trouble(lambda key, x: x**2, jnp.asarray(1.0), rate=jnp.inf, steps=1)


def test_a_run_with_a_state_goes_on_with_it():
    def counting(key, x, state):
        return (x - state) ** 2, state + 1.0

    options = {"key": KEY, "progress": False}
    whole = tg.fit(counting, 1.0, optax.sgd(0.1), steps=6, state=0.0, **options)
    rest = tg.fit(
        counting,
        tg.fit(counting, 1.0, optax.sgd(0.1), steps=2, state=0.0, **options),
        optax.sgd(0.1),
        steps=4,
        **options,
    )
    assert float(rest.state) == 6.0
    assert float(rest.params) == float(whole.params)


def test_a_parameter_that_is_infinite_from_the_start_may_stay_so():
    params = {"x": jnp.asarray(1.0), "bound": jnp.array([-jnp.inf, 0.0])}
    found = tg.fit(lambda k, p: p["x"] ** 2 + 0.0 * p["bound"][1], params, optax.sgd(0.1), key=KEY, steps=3)
    assert np.isneginf(found.params["bound"][0])
    assert found.params["x"] < 1.0


def noisy_slope(key, x, batch):
    return (x - batch.mean() + jax.random.normal(key)) ** 2


def test_a_run_that_was_left_goes_on_as_if_it_had_not_been():
    options = {"key": KEY, "data": DATA, "batch_size": 2, "progress": False}
    whole = tg.fit(noisy_slope, 1.0, optax.adam(0.1), steps=12, **options)
    part = tg.fit(noisy_slope, 1.0, optax.adam(0.1), steps=5, **options)
    rest = tg.fit(noisy_slope, part, optax.adam(0.1), steps=7, **options)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(rest), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_callback_sees_the_run_and_may_end_it():
    seen = []

    def look(so_far):
        seen.append((len(so_far.history), float(so_far.params)))
        return len(seen) == 3

    options = {"key": KEY, "data": DATA, "batch_size": 2, "progress": False}
    ended = tg.fit(noisy_slope, 1.0, optax.adam(0.1), steps=50, callback=look, every=4, **options)
    whole = tg.fit(noisy_slope, 1.0, optax.adam(0.1), steps=12, **options)
    assert [steps for steps, _ in seen] == [4, 8, 12]
    np.testing.assert_array_equal(ended.history, whole.history)
    assert seen[-1][1] == float(whole.params)
    tg.fit(noisy_slope, 1.0, optax.adam(0.1), steps=6, callback=look, every=4, **options)
    assert [steps for steps, _ in seen[3:]] == [4, 6]


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: lax.scan(lambda c, y: (jnp.log(c), y), x, None, 4)[0], "`log`"),
        (lambda x: lax.cond(x > 0.0, lambda x: x / (x - x), lambda x: x, x), "`div`"),
        (lambda x: jnp.where(x > 0.0, jnp.log(-x), 0.0) - jnp.exp(1000.0 * x), "`log`"),
        (lambda x: jnp.where(x > 0.0, x, jnp.log(-x)), None),
        (jax.checkpoint(lambda x: jnp.arcsin(2.0 * x)), "`asin`"),
    ],
)
def test_where_a_number_that_is_not_finite_comes_from(function, words):
    found = nonfinite(function, 1.0)
    assert found is None if words is None else found.startswith(words)
