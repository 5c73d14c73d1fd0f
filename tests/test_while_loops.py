"""Bounded loops as a combinator: geometric and stick-breaking programs against their closed forms."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from scipy import stats

import tracegrad as tg

STEPS = 6


@tg.gen
def flip(state):
    count, _, p = state
    heads = tg.sample("heads", tg.dist.Bernoulli(p)) == 1
    return count + 1, heads, p


flips = flip.while_loop(lambda state: ~state[1], max_steps=STEPS)


@tg.gen
def waiting(p):
    count, _, _ = tg.sample("flips", flips((0, False, p)))
    tg.sample("y", tg.dist.Normal(count.astype(float), 1.0))


def chances(p):
    """Of 1 to STEPS flips, the last of which is not asked for heads."""
    n = np.arange(1, STEPS + 1)
    return np.where(n < STEPS, (1 - p) ** (n - 1) * p, (1 - p) ** (STEPS - 1))


@pytest.mark.slow
def test_the_number_of_turns_is_geometric():
    def evidence(p):
        return tg.marginal(waiting, "y", tg.exact()).assess({"y": 2.5}, p)[0]

    def expected(p):
        return np.log(np.dot(chances(p), stats.norm.pdf(2.5, np.arange(1, STEPS + 1), 1.0)))

    assert float(evidence(0.3)) == pytest.approx(expected(0.3), rel=1e-5)
    slope = (expected(0.3001) - expected(0.2999)) / 2e-4
    assert float(jax.jit(jax.grad(evidence))(0.3)) == pytest.approx(slope, abs=1e-3)


@pytest.mark.table
@pytest.mark.parametrize("estimator", [tg.reinforce(), tg.mvd(), tg.local_expectation()])
def test_gradients_of_expectations_are_exact_in_the_mean(estimator):
    """d/dp E[count], the mean over all outcomes of the estimator's own noise."""

    def counted(key, p):
        trace = flips.with_estimators({"heads": estimator}).simulate(key, (0.0, False, p))
        return trace.retval[0]

    exact = tg.exact_expectation(tg.expectation(counted))
    slope = jax.grad(exact, argnums=1)(jax.random.key(0), 0.3)
    n = np.arange(1, STEPS + 1)
    expected = np.dot(chances(0.3001) - chances(0.2999), n) / 2e-4
    assert float(slope) == pytest.approx(expected, abs=1e-2)


def test_the_density_is_that_of_the_turns_that_ran():
    heads = jnp.array([0, 0, 1, 1, 0, 1])
    logp, (count, done, _) = flips.assess({"heads": heads}, (0, False, 0.3))
    assert (int(count), bool(done)) == (3, True)
    assert float(logp) == pytest.approx(np.log(0.7 * 0.7 * 0.3), rel=1e-5)
    traced = jax.jit(lambda h: flips.assess({"heads": h}, (0, False, 0.3))[0])
    assert float(traced(heads)) == pytest.approx(float(logp))


def test_none_one_and_all_turns():
    none = flip.while_loop(lambda state: state[0] < 0, max_steps=3).simulate(jax.random.key(0), (0, False, 0.5))
    assert (int(none.retval[0]), float(none.logp)) == (0, 0.0)
    all_three = flip.while_loop(lambda state: state[0] < 99, max_steps=3)
    with pytest.warns(UserWarning, match="while_loop at the outermost level was cut off after max_steps=3"):
        every = all_three.simulate(jax.random.key(0), (0, False, 0.5))
    assert int(every.retval[0]) == 3
    assert float(every.logp) == pytest.approx(3 * np.log(0.5), rel=1e-5)
    with pytest.raises(tg.ChoiceError, match="max_steps"):
        flip.while_loop(lambda state: state[1], max_steps=0)


def test_a_run_that_is_cut_off_says_so():
    """At its address where that is known; in lanes and compiled its state does. An end at the last step is no cut."""
    heads = jnp.array([[0, 0, 0], [0, 0, 1], [1, 0, 0]])
    three = flip.while_loop(lambda state: ~state[1], max_steps=3)
    model = tg.gen(lambda: tg.sample("flips", three((0, False, 0.3))))
    with pytest.warns(UserWarning, match="while_loop at 'flips' was cut off after max_steps=3.*Raise `max_steps`"):
        model.assess({"flips": {"heads": heads[0]}})
    for ended in heads[1:]:
        assert bool(model.assess({"flips": {"heads": ended}})[1][1])
    lanes = jax.jit(jax.vmap(lambda h: model.assess({"flips": {"heads": h}})[1][1]))(heads)
    assert lanes.tolist() == [False, True, True]


def test_a_factor_gives_runs_that_are_cut_off_no_density():
    """What is left are the runs of one to three flips: 1 - 0.7^3 in all."""

    @tg.gen
    def within_three():
        _, done, _ = tg.sample("flips", flip.while_loop(lambda state: ~state[1], max_steps=3)((0, False, 0.3)))
        tg.factor("ended", jnp.where(done, 0.0, -jnp.inf))

    runs = jnp.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]])
    logps = jax.vmap(lambda h: within_three.assess({"flips": {"heads": h}})[0])(runs)
    np.testing.assert_allclose(jnp.exp(logps), [0.3, 0.21, 0.147, 0.0], rtol=1e-5)


def test_breaking_a_stick():
    """Pieces Beta(1, 2) of what is left, until less than a tenth is: the density of the pieces that were broken."""

    @tg.gen
    def piece(left):
        return left * (1.0 - tg.sample("share", tg.dist.Beta(1.0, 2.0)))

    sticks = piece.while_loop(lambda left: left > 0.1, max_steps=8)
    shares = jnp.array([0.5, 0.6, 0.7, 0.1, 0.1, 0.1, 0.1, 0.1])
    logp, left = sticks.assess({"share": shares}, 1.0)
    assert float(left) == pytest.approx(0.5 * 0.4 * 0.3)
    assert float(logp) == pytest.approx(stats.beta.logpdf([0.5, 0.6, 0.7], 1.0, 2.0).sum(), rel=1e-4)


def test_lanes_end_apart():
    traces = jax.vmap(lambda key: flips.simulate(key, (0, False, 0.5)))(jax.random.split(jax.random.key(0), 2000))
    share = np.bincount(np.asarray(traces.retval[0]), minlength=STEPS + 1)[1:] / 2000
    np.testing.assert_allclose(share, chances(0.5), atol=5 * np.sqrt(0.25 / 2000))


@pytest.mark.parametrize(
    ("program", "condition", "words"),
    [
        (flip, lambda state: state[0], "one bool"),
        (flip, lambda state: jnp.array([True, False]), "one bool"),
        (tg.gen(lambda state: (state, 1.0)), lambda state: True, "same structure"),
        (flip, None, "a condition"),
    ],
)
def test_bad_loops_are_refused(program, condition, words):
    with pytest.raises(tg.ChoiceError, match=words):
        program.while_loop(condition, max_steps=3).simulate(jax.random.key(0), (0, False, 0.5))
