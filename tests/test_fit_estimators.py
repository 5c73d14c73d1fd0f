"""`fit` with estimators by address, and with such as it chooses itself: exact, unbiased, resumed to the same bits."""

import json
import time

import jax
import numpy as np
import optax
import pytest
from jax import lax
from jax import numpy as jnp

import tracegrad as tg
from tracegrad import dist
from tracegrad.training import _choosing
from tracegrad.training._run import Run

KEY = jax.random.key(5)
W = jnp.array([0.3, -0.4, 1.0])
MVD, SCORE, SUMMED = ({"b": e} for e in (tg.mvd(), tg.reinforce(), tg.sum_and_sample(1)))


@tg.gen
def coins(w):
    b = tg.sample("b", dist.Bernoulli(logits=w).to_event(1))
    return tg.sample("z", dist.Normal(b.astype(jnp.float32) @ jnp.arange(1.0, 4.0), 1.0))


@tg.expectation
def cost(key, w):
    return coins.simulate(key, w).retval ** 2


def fit(objective=cost, params=W, **options):
    given = {"optimizer": optax.sgd(0.01), "key": KEY, "steps": 12, "progress": False} | options
    return tg.fit(objective, params, given.pop("optimizer"), **given)


def same(one, other):
    assert np.array_equal(one.params, other.params)
    assert np.array_equal(one.history, other.history)


@pytest.fixture
def pinned(monkeypatch):
    """Choices that are said beforehand, in place of measured ones: by step; what tunings were given is noted."""

    class Pinned:
        by_step = staticmethod(lambda step: MVD)
        asked: list = []

        def __init__(self, objective, args, key, argnums):
            self.objective = objective

        def tune(self, args, key, budget, *, held):
            run = self.runs[-1]
            self.asked.append({"step": run.done, "args": args, "key": key, "held": held, "budget": budget})
            sites = self.by_step(run.done)
            sites = sites(self.objective, key, args) if callable(sites) else sites
            return tg.EstimatorChoice(sites, "kept", (), 0.0)

        runs: list = []

    Pinned.asked, Pinned.runs = [], []

    def seconds(run):
        Pinned.runs.append(run)
        return 0.0, 1e6

    monkeypatch.setattr(_choosing, "Tuner", Pinned)
    monkeypatch.setattr(Run, "seconds", seconds)
    return Pinned


def alternating(step):
    return (MVD, SCORE, SUMMED)[step // 3 % 3]


# ---- the same steps as by hand --------------------------------------------------------------------------------------


def test_a_dict_of_estimators_is_with_estimators():
    same(fit(estimators=MVD), fit(tg.with_estimators(cost, MVD)))
    assert not np.array_equal(fit(estimators=MVD).params, fit().params)


def test_what_is_chosen_is_what_is_optimised_bit_by_bit(pinned):
    chosen = fit(estimators="auto")
    same(chosen, fit(tg.with_estimators(cost, MVD)))
    (first, *later) = chosen.choices
    assert first == (0, tuple(MVD.items()), "kept")
    assert [entry.step for entry in later] == [3, 6, 9]
    assert "sites=(('b', mvd()),)" in str(chosen.choices)
    assert "Chosen(step=9" in str(chosen)


def test_choices_that_change_are_legs_of_their_own(pinned):
    pinned.by_step = staticmethod(alternating)
    chosen = fit(tune_every=3)
    assert [(c.step, dict(c.sites)) for c in chosen.choices] == [(s, alternating(s)) for s in (0, 3, 6, 9)]
    by_hand = None
    for step in (0, 3, 6, 9):
        by_hand = fit(tg.with_estimators(cost, alternating(step)), W if by_hand is None else by_hand, steps=3)
    same(chosen, by_hand)


def test_programs_are_kept_so_that_going_back_compiles_nothing(pinned):
    traced = []

    def counted(key, w):
        traced.append(1)
        return cost(key, w)

    def traces(steps):
        traced.clear()
        pinned.by_step = staticmethod(alternating)
        fit(lambda key, w: counted(key, w), tune_every=3, steps=steps)
        return len(traced)

    assert traces(9) == traces(36)


def test_an_objective_may_have_a_batch_its_rows_a_scale_and_a_state(pinned):
    def loss(key, w, batch, indices, scale, state):
        value = cost(key, w) * scale + jnp.mean(batch) + indices.sum().astype(jnp.float32)
        return value, state.update(value)

    options = {"data": jnp.arange(10.0), "batch_size": 2, "state": tg.MovingAverage(), "maximize": True}
    chosen = fit(loss, estimators="auto", **options)
    plain = fit(tg.with_estimators(loss, MVD), **options)
    same(chosen, plain)
    assert float(chosen.state.value) == float(plain.state.value)


def test_batches_of_an_iterator_are_neither_lost_nor_taken_twice(pinned):
    def loss(key, w, batch):
        return cost(key, w) + 0.0 * w.sum() + batch.mean()

    given = [np.full(2, float(i)) for i in range(12)]
    same(fit(loss, estimators="auto", data=iter(given)), fit(tg.with_estimators(loss, MVD), data=iter(given)))


def test_an_iterator_that_ends_ends_the_run(pinned):
    def loss(key, w, batch):
        return cost(key, w) + batch.mean()

    with pytest.warns(UserWarning, match="stops after 3 steps"):
        assert len(fit(loss, tune_every=3, data=iter([np.ones(2)] * 3)).history) == 3


# ---- a choice knows nothing of the draws of its step ----------------------------------------------------------------


def test_a_choice_is_made_from_what_is_there_before_its_step(pinned):
    seen = {}
    fit(tune_every=3, callback=lambda so_far: seen.update({len(so_far.history): so_far.params}), every=3)
    assert [entry["step"] for entry in pinned.asked] == [0, 3, 6, 9]
    for entry in pinned.asked[1:]:
        assert np.array_equal(entry["args"][0], seen[entry["step"]])


def test_the_draws_of_a_choice_are_those_of_no_step(pinned):
    """What the objective is at the key of a choice is what it is at no step: its draws are continuous."""

    def at_its_key(objective, key, args):
        drawn.append(float(objective(key, *args)))
        return MVD

    drawn = []
    pinned.by_step = staticmethod(lambda step: at_its_key)
    history = np.asarray(fit(tune_every=1, optimizer=optax.sgd(0.0)).history)
    assert len(set(drawn)) == len(drawn) == 12
    assert not set(drawn) & {float(x) for x in history}


@pytest.mark.slow
def test_choosing_by_what_was_drawn_leaves_the_gradient_unbiased(pinned):
    """One coin, 4 b: the score function where the choice's own draw is 0, the weak derivative where it is 1.

    The derivative in the probability is 4. Were that draw the step's, steps would give 0 or 4, and 1 on average.
    """
    flip = tg.gen(lambda p: tg.sample("b", dist.Bernoulli(p)))
    four = tg.expectation(lambda key, p: 4.0 * flip.simulate(key, p).retval.astype(jnp.float32))
    pinned.by_step = staticmethod(lambda step: lambda f, key, args: MVD if f(key, *args) > 0.0 else SCORE)

    def slope(seed):
        return 0.25 - float(fit(four, 0.25, key=jax.random.key(seed), steps=1, tune_every=1, optimizer=UP).params)

    UP = optax.sgd(1.0)
    slopes = np.array([slope(seed) for seed in range(150)])
    assert abs(slopes.mean() - 4.0) < 4.0 * slopes.std() / np.sqrt(len(slopes))
    assert {round(x) for x in slopes} >= {0, 4, 16}


# ---- left and taken up again ----------------------------------------------------------------------------------------


class Killed(Exception):
    pass


def killed_at(step):
    def callback(so_far):
        if len(so_far.history) == step:
            raise Killed

    return {"callback": callback, "every": 1}


@pytest.mark.parametrize("step", [1, 7, *(pytest.param(step, marks=pytest.mark.slow) for step in (5, 6, 11))])
def test_a_run_that_is_killed_goes_on_to_the_same_bits(step, pinned, tmp_path):
    """Its times are others after it: a choice for a step before is the one in the file, and is not made anew."""
    pinned.by_step = staticmethod(alternating)
    whole = fit(tune_every=3)
    kept = {"tune_every": 3, "checkpoint": tmp_path, "checkpoint_every": 2}
    with pytest.raises(Killed):
        fit(**kept, **killed_at(step))
    pinned.asked.clear()
    again = fit(resume=True, **kept)
    same(again, whole)
    assert again.choices == whole.choices
    taken_up = 0 if step <= 2 else (step - 1) // 2 * 2
    assert [entry["step"] for entry in pinned.asked] == [s for s in (0, 3, 6, 9) if s > taken_up or s == 0 == taken_up]


def test_what_the_file_says_is_used_until_it_is_time_again(pinned, tmp_path):
    kept = {"tune_every": 6, "checkpoint": tmp_path, "checkpoint_every": 2}
    with pytest.raises(Killed):
        fit(**kept, **killed_at(5))
    pinned.by_step = staticmethod(lambda step: SCORE)
    again = fit(resume=True, **kept)
    assert [(c.step, dict(c.sites)) for c in again.choices] == [(0, MVD), (6, SCORE)]
    half = fit(tg.with_estimators(cost, MVD), steps=6)
    same(again, fit(tg.with_estimators(cost, SCORE), half, steps=6))


def test_a_fit_and_its_file_keep_the_choices(pinned, tmp_path):
    pinned.by_step = staticmethod(alternating)
    half = fit(tune_every=3, steps=6)
    half.save(tmp_path / "run")
    again = tg.load_fit(tmp_path / "run", like=W, optimizer=optax.sgd(0.01))
    assert again.choices == half.choices
    same(fit(params=again, tune_every=3, steps=6), fit(tune_every=3))
    own = fit(params=again, steps=6)
    assert own.choices == (*half.choices, (6, (), "kept"))
    same(own, fit(params=tg.Fit(half.params, half.history, half.opt_state, origin=half.origin), steps=6))


def test_an_estimator_that_is_not_known_by_its_name_is_refused(pinned, tmp_path):
    from tracegrad.training._chosen import chosen_of

    told = json.loads(json.dumps([entry.said() for entry in fit(estimators="auto").choices]))
    assert chosen_of("file", told)[0] == (0, tuple(MVD.items()), "kept")
    told[0]["sites"]["b"] = "guesswork()"
    with pytest.raises(tg.CheckpointError, match=r"file has the estimator guesswork\(\) at 'b'"):
        chosen_of("file", told)


# ---- what is measured -----------------------------------------------------------------------------------------------


def test_a_run_that_is_too_short_says_so():
    with pytest.warns(UserWarning, match="too short to choose"):
        short = fit(estimators="auto")
    assert short.choices == ()
    same(short, fit())


@pytest.mark.slow
def test_it_measures_and_finds_what_is_better(monkeypatch):
    """By score function the variance of this gradient is tens of times larger."""
    monkeypatch.setattr(_choosing, "SHARE", 10.0)
    monkeypatch.setattr(Run, "seconds", lambda run: (0.0, 1.0))

    def loss(key, w, batch, state):
        value = cost(key, w) + batch.mean()
        return value, state.update(value)

    tuned = fit(loss, estimators="auto", data=jnp.arange(4.0), batch_size=2, state=tg.MovingAverage(), steps=4)
    assert str(dict(tuned.choices[0].sites)["b"]) not in ("reinforce()", "reparam()")
    assert str(dict(tuned.choices[0].sites)["z"]) == "reparam()"


@pytest.mark.slow
def test_choosing_takes_no_more_than_its_share(monkeypatch):
    """Of a long run it is 5 %; here more, that a short one has something to choose in."""
    share, spent, tune = 0.5, [], _choosing.Tuner.tune

    def timed(*args, **options):
        choice = tune(*args, **options)
        spent.append(choice.seconds)
        return choice

    def loss(key, w):
        slow = lax.fori_loop(0, 300, lambda _, x: jnp.tanh(x @ x), jnp.full((100, 100), 1e-3 * w[0]))
        return cost(key, w) + slow.sum()

    monkeypatch.setattr(_choosing, "SHARE", share)
    monkeypatch.setattr(_choosing.Tuner, "tune", timed)
    begun = time.perf_counter()
    tuned = fit(loss, tune_every=150, steps=150)
    assert len(spent) == len(tuned.choices) > 0
    assert sum(spent) < 1.5 * share * (time.perf_counter() - begun)


def test_the_objective_is_left_alone_where_it_cannot_be_measured(monkeypatch):
    """A gradient that is not a number names no best estimator; that of the run is then refused as ever."""
    monkeypatch.setattr(_choosing, "SHARE", 1.0)
    monkeypatch.setattr(Run, "seconds", lambda run: (0.0, 0.01))
    bad = tg.expectation(lambda key, w: coins.simulate(key, w).retval * jnp.log(w.sum() - 10.0))
    with pytest.raises(tg.errors.FitError, match="step 0"):
        fit(bad, estimators="auto")


# ---- arguments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"estimators": "autoo"}, tg.errors.FitError, "must be \"auto\", or a dict .* is 'autoo'"),
        ({"estimators": tg.mvd()}, tg.errors.FitError, 'must be "auto"'),
        ({"estimators": True}, tg.errors.FitError, 'must be "auto"'),
        ({"estimators": {"b": "mvd"}}, tg.EstimatorError, "must be given an estimator like"),
        ({"estimators": {"c": tg.mvd()}}, tg.AddressError, "'c' matches no sample"),
        ({"estimators": MVD, "tune_every": 3}, tg.errors.FitError, "Leave one of them out"),
        ({"tune_every": 0}, tg.errors.FitError, "tune_every must be"),
        ({"tune_every": True}, tg.errors.FitError, "tune_every must be"),
        ({"tune_every": 2.5}, tg.errors.FitError, "tune_every must be"),
        ({"objective": lambda key, w: jnp.sum(w**2), "estimators": "auto"}, tg.errors.FitError, "no sample sites"),
    ],
)
def test_what_does_not_fit_is_refused(options, error, match):
    with pytest.raises(error, match=match):
        fit(**options)


def test_several_processes_are_refused_by_name(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(tg.errors.FitError, match="others in each process"):
        fit(estimators="auto")
