"""`tune_estimators` measures what is so, chooses what is cheapest, and never what is biased."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

import tracegrad as tg
from tracegrad import dist

KEY = jax.random.key(3)


@tg.gen
def coin(p):
    return tg.sample("b", dist.Bernoulli(p))


@tg.expectation
def four_times(key, p):
    return 4.0 * coin.simulate(key, p).retval.astype(jnp.float32)


@pytest.fixture(scope="module")
def of_a_coin():
    return tg.tune_estimators(four_times, 0.25, key=KEY, budget=20.0)


def rows_of(choice, site):
    return {row["candidate"]: row for row in choice.rows if row["site"] == site}


def test_variances_are_those_of_the_gradient(of_a_coin):
    """By reinforce it is 16 with probability 1/4 and else 0, so that its variance is 48; by mvd it is always 4."""
    rows = rows_of(of_a_coin, "b")
    assert rows["mvd()"]["variance"] == rows["enum()"]["variance"] == 0.0
    score = rows["reinforce()"]
    assert score["pairs"] >= 8
    assert abs(score["variance"] - 48.0) < 4.0 * score["variance_error"]
    assert 0.0 < score["variance_error"] < 48.0
    assert score["cost"] == score["variance"] * score["milliseconds"]


def test_what_has_no_variance_wins_and_what_does_not_fit_is_refused(of_a_coin):
    rows = rows_of(of_a_coin, "b")
    (winner,) = [name for name, row in rows.items() if row["chosen"]]
    assert rows[winner]["variance"] == 0.0
    assert str(of_a_coin.sites["b"]) == winner
    assert "no reparameterised sampler" in rows["reparam()"]["refused"]
    assert of_a_coin.forks == "kept"
    assert of_a_coin.untried == ()


def test_it_prints_and_draws_what_it_measured(of_a_coin):
    assert isinstance(of_a_coin, tg.EstimatorChoice)
    lines = str(of_a_coin).splitlines()
    assert lines[0].split()[:3] == ["site", "candidate", "variance"]
    assert sum(line.endswith("chosen") for line in lines) == 1
    assert any(line.startswith("b     reparam()") and line.endswith("refused") for line in lines)
    drawn = sum(row["refused"] is None for row in of_a_coin.rows)
    assert len(of_a_coin.plot().texts) == drawn


def test_the_choice_is_put_to_use_on_the_objective_and_keeps_its_expectation(of_a_coin):
    tuned = of_a_coin.apply(four_times)
    assert str(tg.describe_estimators(tuned, KEY, 0.25)[0].estimator) == str(of_a_coin.sites["b"])
    assert float(jax.grad(tg.exact_expectation(tuned), argnums=1)(KEY, 0.25)) == 4.0


def test_a_path_that_jumps_is_never_chosen():
    """The path derivative of a step is zero: the site that has it by default gets another, and spoils no other site."""

    @tg.gen
    def two(m):
        return tg.sample("y", dist.Bernoulli(0.5)), tg.sample("z", dist.Normal(m, 1.0))

    @tg.expectation
    def above(key, m):
        y, z = two.simulate(key, m).retval
        return jnp.where(z > 0.0, 1.0, 0.0) * (1.0 + y.astype(jnp.float32))

    choice = tg.tune_estimators(above, 0.3, key=KEY, budget=10.0)
    assert "reparam" not in str(choice.sites["z"])
    assert "reaches a discontinuity" in rows_of(choice, "z")["reparam()"]["refused"]
    assert any(row["refused"] is None for row in rows_of(choice, "y").values())


@tg.gen
def many_coins(w):
    return tg.sample("b", dist.Bernoulli(logits=w).to_event(1))


def pairs_of(w):
    def objective(key, w):
        b = many_coins.simulate(key, w).retval.astype(jnp.float32)
        return (b @ jnp.arange(1.0, len(b) + 1)) ** 2 / len(b) ** 2

    return tg.expectation(objective)


@pytest.mark.slow
def test_forks_are_chosen_where_there_are_many():
    w = jnp.linspace(-1.0, 1.0, 40)
    choice = tg.tune_estimators(pairs_of(w), w, key=KEY, budget=30.0)
    rows = rows_of(choice, "forks")
    if isinstance(choice.sites["b"], tg.transforms.Fork):
        assert set(rows) == {"kept", "all", "1", "4", "16"}
        (winner,) = [name for name, row in rows.items() if row["chosen"]]
        assert winner == ("all" if choice.forks is None else str(choice.forks))
        assert rows["all"]["variance"] < rows["1"]["variance"]
    else:
        assert not rows


@pytest.mark.slow
def test_a_number_of_forks_is_put_on_an_objective_from_outside():
    """All three alternatives are exact given the others; one of them, drawn, has the same mean and more variance."""
    w = jnp.array([0.3, -0.4, 1.0])
    objective = tg.expectation(lambda key, w: pairs_of(w)(key, w), forks=2)
    by_forks = {}
    for forks in ("kept", None, 1):
        chosen = tg.with_estimators(objective, {"b": tg.local_expectation()}, forks=forks)
        grads = jax.vmap(lambda k, f=chosen: jax.grad(f, argnums=1)(k, w))(jax.random.split(KEY, 4000))
        by_forks[forks] = np.asarray(grads)
    exact = jax.grad(tg.exact_expectation(objective), argnums=1)(KEY, w)
    for grads in by_forks.values():
        error = grads.std(0) / np.sqrt(len(grads))
        assert np.all(np.abs(grads.mean(0) - exact) < 4.5 * error)
    total = {forks: grads.var(0).sum() for forks, grads in by_forks.items()}
    assert total[None] < total["kept"] < total[1]


def test_without_time_every_site_keeps_its_own():
    @tg.expectation
    def both(key, p):
        out = coin.simulate(key, p)
        return 2.0 * out.retval.astype(jnp.float32)

    chosen = tg.with_estimators(both, {"b": tg.reinforce()}, forks=3)
    tuning = tg.tune_estimators(chosen, 0.5, key=KEY, budget=1e-9)
    assert tuning.sites == {"b": tg.reinforce()}
    assert (tuning.untried, tuning.forks) == (("b",), "kept")
    assert tuning.rows == ()
    assert "No time was left for b." in str(tuning)


def test_a_site_whose_own_is_best_keeps_its_baseline():
    """The description of a site has no arrays: what is put in place of it would have lost them."""

    @tg.gen
    def with_baseline(p, c):
        return tg.sample("b", dist.Geometric(p), estimator=tg.reinforce(baseline=c))

    objective = tg.expectation(lambda key, p, c: with_baseline.simulate(key, p, c).retval.astype(jnp.float32))
    kept = tg.EstimatorChoice({"b": tg.reinforce()}, "kept", (), 0.0).apply(objective)
    slopes = [float(jax.grad(f, argnums=1)(KEY, 0.3, 2.0)) for f in (objective, kept)]
    plain = float(jax.grad(tg.with_estimators(objective, {"b": tg.reinforce()}), argnums=1)(KEY, 0.3, 2.0))
    assert slopes[0] == slopes[1] != plain


def test_only_the_arguments_that_are_named_count():
    def of_two(key, p, q):
        return 4.0 * coin.simulate(key, p).retval.astype(jnp.float32) + q

    choice = tg.tune_estimators(tg.expectation(of_two), 0.25, 1.0, key=KEY, budget=10.0, argnums=1)
    assert {row["variance"] for row in choice.rows if not row["refused"]} == {0.0}


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"budget": 0.0}, tg.EstimatorError, "budget must be a positive number"),
        ({"budget": float("nan")}, tg.EstimatorError, "budget must be a positive number"),
        ({"argnums": 1}, tg.EstimatorError, "argnums must be an int from 0 to 0"),
        ({"argnums": True}, tg.EstimatorError, "argnums must be an int"),
        ({"key": 0}, tg.RandomKeyError, "key"),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, text):
    with pytest.raises(error, match=text):
        tg.tune_estimators(four_times, 0.25, **{"key": KEY, **arguments})


def test_traced_arguments_are_refused():
    with pytest.raises(tg.EstimatorError, match="outside `jit`"):
        jax.jit(lambda p: tg.tune_estimators(four_times, p, key=KEY).seconds)(0.25)


def test_an_objective_without_sites_or_without_parameters_is_refused():
    with pytest.raises(tg.AddressError, match="no sample sites"):
        tg.tune_estimators(lambda key, p: p**2, 0.25, key=KEY)
    with pytest.raises(tg.EstimatorError, match="no floating-point argument"):
        tg.tune_estimators(lambda key, n: four_times(key, 0.25), 1, key=KEY)


@pytest.mark.parametrize("forks", [0, -1, 1.5, True, "all"])
def test_a_wrong_number_of_forks_is_refused(forks):
    with pytest.raises(tg.EstimatorError, match="forks must be a positive int"):
        tg.with_estimators(four_times, {"b": tg.mvd()}, forks=forks)(KEY, 0.25)
