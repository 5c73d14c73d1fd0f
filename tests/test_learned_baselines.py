"""`fit` carries the baselines of `reinforce(baseline="auto")`: what they learn, and that a run goes on with them."""

import functools

import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp

import tracegrad as tg
from tracegrad import dist
from tracegrad.training._levels import DECAY
from tracegrad.transforms import sample
from tracegrad.transforms._internal import at_levels

AUTO = tg.reinforce(baseline="auto")


@tg.gen
def coins(w):
    return tg.sample("b", dist.Bernoulli(logits=w).to_event(1), estimator=AUTO).astype(float)


def loss(key, w):
    """What credit leaves at each coin is the cost of its pairs: the others' and the constant are not its own."""

    @tg.expectation
    def cost(key, w):
        b = coins.simulate(key, w).retval
        return 50.0 + jnp.sum((10.0 + b) * jnp.roll(b, 1))

    return cost(key, w)


fitted = functools.partial(tg.fit, loss, key=jax.random.key(2), progress=False)


def same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(x, y)


def test_a_fit_learns_the_mean_and_resumes_to_the_same_bits(tmp_path):
    """With weights in steps of a factor DECAY, as written down by hand from the draws of a fit that does not move."""
    still, w = optax.sgd(0.0), jnp.array([0.3, -0.7, 1.1])
    whole = fitted(w, still, steps=40)
    (level,) = whole.baselines.values()

    step_key = jax.random.split(jax.random.key(2))[0]
    at_zero = {"b": (jnp.zeros(3), jnp.zeros(3))}
    drift = jax.vmap(
        jax.grad(lambda levels, t: at_levels(loss, levels)(jax.random.fold_in(step_key, t), w)), (None, 0)
    )(at_zero, jnp.arange(40))
    weights = DECAY ** np.arange(39, -1, -1)
    np.testing.assert_allclose(level.mean, weights @ drift["b"][0] / weights.sum(), rtol=1e-5)

    half = fitted(w, still, steps=15, checkpoint=tmp_path / "run")
    same(fitted(w, still, steps=40, checkpoint=tmp_path / "run", resume=True), whole)
    same(fitted(half, still, steps=25), whole)
    half.save(tmp_path / "half.fit")
    same(tg.load_fit(tmp_path / "half.fit", like=w, optimizer=still), half)
    same(tg.load_fit(tmp_path / "half.fit", like=whole), half)


def test_a_fit_without_such_a_site_has_no_baselines(tmp_path):
    plain = tg.fit(lambda key, x: x**2, 3.0, optax.sgd(0.1), key=jax.random.key(0), steps=3, progress=False)
    assert plain.baselines is None
    plain.save(tmp_path / "plain.fit")
    assert tg.load_fit(tmp_path / "plain.fit", like=plain).baselines is None


def test_it_has_less_noise_than_none_and_goes_the_same_way_up_as_down():
    """One coin, its cost 100 + b: the variance of the gradient is down by more than a hundred after fifty steps."""
    coin = tg.gen(lambda w: tg.sample("b", dist.Bernoulli(logits=w), estimator=AUTO))

    def cost(sign):
        return lambda key, w: (
            sign * tg.expectation(lambda key, w: (100.0 + coin.simulate(key, w).retval.astype(float)) ** 1.5)(key, w)
        )

    down, up = (
        tg.fit(cost(s), 0.2, optax.sgd(1e-5), key=jax.random.key(0), steps=50, progress=False, maximize=s < 0)
        for s in (1.0, -1.0)
    )
    same(up.baselines, down.baselines)
    keys = jax.random.split(jax.random.key(1), 200)

    def noise(level):
        f = at_levels(cost(1.0), {"b": (jnp.asarray(level), jnp.zeros(()))})
        return np.std(jax.jit(jax.vmap(jax.grad(f, argnums=1), (0, None)))(keys, 0.2))

    assert noise(down.baselines["b"].mean) < 0.1 * noise(0.0)


def test_it_goes_with_a_state_with_data_and_with_steps_that_are_skipped():
    """In minibatches, beside a state of the user's own; a step that is not finite leaves the levels as they were."""
    data = jnp.linspace(-1.0, 1.0, 12)

    def loss(key, w, batch, state):
        @tg.expectation
        def cost(key, w, x):
            b = sample(key, dist.Bernoulli(logits=w), estimator=AUTO, label=("b",)).astype(float)
            return (b - x) ** 2 + 7.0

        value = jnp.mean(jax.vmap(cost, (0, None, 0))(jax.random.split(key, len(batch)), w, batch))
        return jnp.where(state == 3, jnp.nan, value), state + 1

    def run(steps):
        return tg.fit(
            loss, 0.1, optax.adam(0.01), key=jax.random.key(0), steps=steps, data=data, batch_size=4,
            state=jnp.array(0), progress=False, on_nonfinite="stop",
        )  # fmt: skip

    with pytest.warns(UserWarning, match="the objective is nan at step 3"):
        stopped = run(6)
    assert (stopped.baselines["b"].mean.shape, int(stopped.state)) == ((), 3)
    same(stopped, run(3))


def test_an_objective_that_credits_its_draws_itself_refuses_it():
    with pytest.raises(
        tg.EstimatorError, match=r"baseline='auto'\) at 'b': .*by an objective that credits its draws itself"
    ):
        tg.fit(
            tg.leave_one_out(lambda key, w: coins.simulate(key, w).retval.sum(), 2), jnp.zeros(2), optax.sgd(0.1),
            key=jax.random.key(0), steps=2, progress=False,
        )  # fmt: skip


@pytest.mark.slow
def test_a_fit_that_chooses_its_estimators_learns_baselines_beside(monkeypatch):
    """Its own estimator is among what is measured, at the baselines of that step."""
    monkeypatch.setattr("tracegrad.training._choosing.SHARE", 50.0)
    run = tg.fit(
        loss, jnp.zeros(2), optax.sgd(0.01), key=jax.random.key(0), steps=40, estimators="auto", tune_every=20,
        progress=False,
    )  # fmt: skip
    assert [chosen.step for chosen in run.choices] == [0, 20]
    assert run.baselines["b"].mean.shape == (2,)


def test_baselines_can_be_chosen_from_outside():
    plain = tg.with_estimators(loss, {"b": tg.reinforce()})
    run = tg.fit(
        plain, jnp.zeros(2), optax.sgd(0.01), key=jax.random.key(0), steps=3, estimators={"b": AUTO}, progress=False
    )
    other = tg.fit(loss, jnp.zeros(2), optax.sgd(0.01), key=jax.random.key(0), steps=3, progress=False)
    same((run.params, run.baselines), (other.params, other.baselines))
