"""`fit`: the optimisation loop, its minibatches, its state and its errors."""

import jax
import numpy as np
import optax
import pytest
from jax import lax
from jax import numpy as jnp

import tracegrad as tg
from tracegrad import dist
from tracegrad.transforms import nonfinite

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


def test_arguments_that_do_not_fit_are_refused():
    def run(objective=quadratic, params=None, **options):
        params = {"x": 0.0} if params is None else params
        return tg.fit(objective, params, optax.sgd(0.1), **{"key": KEY, "steps": 2, "progress": False, **options})

    with pytest.raises(tg.FitError, match="steps must be a positive integer, and is 0"):
        run(steps=0)
    with pytest.raises(tg.FitError, match="holds no floating-point array"):
        run(params={"n": 3})
    with pytest.raises(tg.FitError, match="batch_size is given without data"):
        run(batch_size=3)
    with pytest.raises(tg.FitError, match="must be between 1 and the number of examples, 10, and is 11"):
        run(data=DATA, batch_size=11)
    with pytest.raises(tg.FitError, match="must have one leading size"):
        run(data=(DATA, DATA[:3]))
    with pytest.raises(tg.FitError, match="must return a scalar, and returned the shape \\[2\\]"):
        run(lambda key, p: p["x"] * jnp.ones(2))
    with pytest.raises(tg.RandomKeyError, match="one typed random key"):
        run(key=0)


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


def test_a_callback_that_is_never_called_is_refused():
    with pytest.raises(tg.FitError, match="without a `callback`"):
        tg.fit(quadratic, {"x": 0.0}, optax.sgd(0.1), key=KEY, steps=2, every=1)
    with pytest.raises(tg.FitError, match="every must be a positive integer, and is 0"):
        tg.fit(quadratic, {"x": 0.0}, optax.sgd(0.1), key=KEY, steps=2, every=0, callback=print)


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
