"""When a run ends by itself, what it averages, and how much noise its gradients have."""

import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp

import tracegrad as tg

KEY = jax.random.key(1)


def run(objective, params=0.0, optimizer=None, **options):
    given = {"key": KEY, "steps": 1000, "progress": False}
    return tg.fit(objective, params, optax.sgd(0.1) if optimizer is None else optimizer, **(given | options))


# ---- the stopping rule ----------------------------------------------------------------------------------------------


def falls_until(settle_at, noise=0.0):
    """An objective that falls by 0.1 a step until a step, whatever the parameters are."""

    def objective(key, w, state):
        left = jnp.maximum(settle_at - state, 0).astype(float)
        return 0.0 * w + 0.1 * left + noise * jax.random.normal(key), state + 1

    return objective


def windows_by_hand(history, window, patience):
    """The step at which the rule says that the losses have stopped falling: NumPy, window by window."""
    best, best_error, stale = np.inf, 0.0, 0
    for end in range(window, len(history) + 1, window):
        part = np.asarray(history[end - window : end], float)
        mean, error = part.mean(), part.std() / np.sqrt(window)
        if mean < best - np.hypot(error, best_error):
            best, best_error, stale = mean, error, 0
        else:
            stale += 1
        if stale == patience:
            return end
    return len(history)


def test_a_run_ends_when_its_objective_has_stopped_falling():
    """It is flat from step 100 on: two windows of twenty that are no better, and the run is over."""
    found = run(falls_until(100), state=0, patience=2, window=20)
    assert len(found.history) == 160
    assert int(found.state) == 160


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_rule_is_that_of_windows_and_their_errors(sign, seed):
    objective = falls_until(200, noise=1.0)
    options = {"state": 0, "key": jax.random.key(seed), "steps": 500}
    whole = run(objective, **options)
    found = run(
        lambda *args, state: (sign * objective(*args, state)[0], state + 1),
        **options,
        patience=3,
        window=25,
        maximize=sign < 0,
    )
    assert len(found.history) == windows_by_hand(whole.history, 25, 3) < 500
    np.testing.assert_allclose(sign * found.history, whole.history[: len(found.history)], rtol=1e-5)


def test_it_does_not_matter_how_the_steps_are_grouped_nor_where_the_run_was_left(tmp_path):
    options = {"state": 0, "patience": 2, "window": 20}
    objective = falls_until(100, noise=0.3)
    whole = run(objective, **options)
    grouped = run(objective, **options, callback=lambda _: None, every=7)
    run(objective, **options, checkpoint=tmp_path, checkpoint_every=33, callback=lambda _: True, every=70)
    resumed = run(objective, **options, checkpoint=tmp_path, checkpoint_every=33, resume=True)
    again = run(objective, **options, checkpoint=tmp_path, resume=True)
    for other in (grouped, resumed, again):
        np.testing.assert_array_equal(other.history, whole.history)
        assert int(other.state) == int(whole.state) == len(whole.history)


def test_a_run_that_does_not_settle_takes_all_steps():
    assert len(run(falls_until(5000), state=0, patience=1, window=50).history) == 1000


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"patience": 0}, "patience must be a positive int, and is 0"),
        ({"patience": 1.5}, "patience must be a positive int, and is 1.5"),
        ({"window": 10}, "`window` is given without `patience`"),
        ({"patience": 1, "window": 1}, "window must be an int of at least 2, and is 1"),
        ({"average_from": -1}, "average_from must be an int of at least 0, and is -1"),
        ({"average_from": 0.5}, "average_from must be an int of at least 0, and is 0.5"),
    ],
)
def test_what_does_not_fit_is_refused(options, match):
    with pytest.raises(tg.FitError, match=match):
        run(lambda key, w: w**2, **options)


# ---- averages -------------------------------------------------------------------------------------------------------


def noisy(key, params):
    return jnp.sum((params["w"] + jax.random.normal(key)) ** 2) + jnp.abs(params["z"]) ** 2


START = {"w": jnp.zeros(2), "z": 1.0 + 1.0j, "name": "n"}


@pytest.mark.parametrize("tail", [0, 3, 9, 20])
def test_the_average_is_that_of_the_parameters_after_each_step_from_there_on(tail):
    seen = []
    found = run(noisy, START, steps=10, average_from=tail, callback=lambda so_far: seen.append(so_far.params), every=1)
    for name in ("w", "z"):
        expected = np.mean([np.asarray(p[name]) for p in seen[min(tail, 9) :]], axis=0)
        np.testing.assert_allclose(found.average[name], expected, rtol=1e-5)
    assert found.average["name"] == "n"
    plain = run(noisy, START, steps=10)
    np.testing.assert_allclose(plain.params["w"], found.params["w"], rtol=1e-6)
    assert plain.average is None


@pytest.mark.slow
def test_the_average_of_a_run_that_was_left_is_that_of_the_whole(tmp_path):
    whole = run(noisy, START, steps=10, average_from=3)
    half = run(noisy, START, steps=6, average_from=3)
    rest = run(noisy, half, steps=4, average_from=3)
    run(noisy, START, steps=10, average_from=3, checkpoint=tmp_path, callback=lambda _: True, every=5)
    resumed = run(noisy, START, steps=10, average_from=3, checkpoint=tmp_path, resume=True)
    for other in (rest, resumed):
        np.testing.assert_array_equal(other.average["w"], whole.average["w"])


# ---- signal and noise -----------------------------------------------------------------------------------------------


def tilted(key, params):
    noise = jax.random.normal(key, (3,))
    return jnp.sum(params["a"] * (2.0 + 0.5 * noise[:2])) + params["b"] * noise[2] + 3.0 * params["c"]


def test_the_ratio_of_signal_to_noise_is_that_of_each_leaf():
    """The mean gradient is (2, 2) with variance 1/4 each; noise alone, at most of the order of its error; no noise."""
    params = {"a": jnp.zeros(2), "b": 0.0, "c": 1.0, "name": "n"}
    found = tg.signal_to_noise(tilted, params, key=KEY, draws=4000)
    np.testing.assert_allclose(found["a"], 4.0, rtol=0.05)
    assert found["b"] < 0.05
    assert found["c"] > 1e4
    assert found["name"] is None


def test_minibatches_are_noise_too():
    """The gradient at 0 over a batch of b examples is -2 mean(x): mean -2, variance 4 (1/b) 24/24 (1 - (b - 1)/24)."""
    data = jnp.asarray(np.random.default_rng(0).permutation(np.repeat([0.0, 2.0], 12)), jnp.float32)

    def square(key, w, x):
        return jnp.mean((w - x) ** 2)

    variance = 4.0 / 4 * (24 - 4) / 23
    found = tg.signal_to_noise(square, 0.0, key=KEY, draws=3000, data=data, batch_size=4)
    np.testing.assert_allclose(found, 2.0 / np.sqrt(variance), rtol=0.05)
    assert tg.signal_to_noise(square, 0.0, key=KEY, draws=3, data=data) > 1e4


@pytest.mark.parametrize("draws", [1, 0, 2.0, None])
def test_one_draw_has_no_noise(draws):
    with pytest.raises(tg.FitError, match="signal_to_noise: draws must be an int of at least 2"):
        tg.signal_to_noise(tilted, {"a": jnp.zeros(2), "b": 0.0, "c": 1.0}, key=KEY, draws=draws)
