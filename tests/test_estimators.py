"""Every gradient estimator against exact gradients, in line and in a plate in a branch in a loop; and its refusals.

`TABLE` drives it; an estimator that is exported and not in the table fails.
"""

import itertools

import jax
import numpy as np
import optax
import pytest
from estimator_programs import (
    N,
    bernoulli,
    categorical,
    check,
    check_mean,
    counts,
    exact,
    exported_estimators,
    gamma,
    h,
    inputs,
    normal,
    objective,
    odds,
)
from exactly import exact_key
from jax import numpy as jnp

import tracegrad as tg
from tracegrad import dist
from tracegrad.transforms import sample

KEY = jax.random.key(0)

four = counts(lambda *logits: dist.Categorical(logits=jnp.stack(logits, -1)), 0.5, -0.4, 0.2, 0.0, most=4)


def wave(z):
    return jnp.sum(jnp.sin(z) * jnp.cos(jnp.arange(z.size, dtype=float)).reshape(z.shape))


TABLE = {
    "reinforce": [(categorical, tg.reinforce()), (categorical, tg.reinforce(baseline=0.7))],
    "reparam": [(normal, tg.reparam()), (gamma, tg.reparam())],
    "local_expectation": [(categorical, tg.local_expectation())],
    "mvd": [(normal, tg.mvd()), (categorical, tg.mvd())],
    "rsvi": [(gamma, tg.rsvi(0)), (gamma, tg.rsvi(2))],
    "arm": [(odds, tg.arm())],
    "disarm": [(bernoulli, tg.disarm())],
    "relax": [(odds, tg.relax(wave)), (categorical, tg.relax(wave))],
    "rebar": [
        (bernoulli, tg.rebar(h)),
        (categorical, tg.rebar(wave, temperature=0.7, scale=0.5)),
        (categorical, tg.rebar()),
    ],
    "sum_and_sample": [(categorical, tg.sum_and_sample(1)), (categorical, tg.sum_and_sample(2))],
    "unordered_set": [
        (categorical, tg.unordered_set(2)),
        (bernoulli, tg.unordered_set(2)),
        (four, tg.unordered_set(3)),
    ],
    "enum": [],  # below: not for loops and plates, by design
}
ROWS = [  # the second of an estimator is slow: each construct by itself is in test_every_estimator
    pytest.param(*row, id=f"{name}-{i}", marks=[pytest.mark.slow] if i else [])
    for name, rows in TABLE.items()
    for i, row in enumerate(rows)
]
FORKS = ["local_expectation", "mvd", "arm", "disarm", "sum_and_sample", "unordered_set"]


def test_every_exported_estimator_is_in_the_table():
    assert exported_estimators() == set(TABLE)


@pytest.mark.table
@pytest.mark.parametrize(("family", "estimator"), ROWS)
def test_gradient_in_line_and_in_a_plate_in_a_branch_in_a_loop(family, estimator):
    assert check(family, estimator) < 0.02


def test_leave_one_out_in_line_and_in_a_plate_in_a_branch_in_a_loop():
    def draw(key, row):
        return sample(key, categorical.make(*row)).astype(float)

    theta = jnp.stack([jnp.asarray(categorical.params), 0.9 * jnp.asarray(categorical.params)])
    program = objective(draw)

    def gradient(key, rest):
        flags = rest[1]
        single = lambda k, t: program(k, (jax.random.split(jax.random.fold_in(k, 1), (2, 2)), flags), t)  # noqa: E731
        return jax.grad(tg.leave_one_out(single, 3), argnums=1)(key, theta)

    truth = jax.jit(jax.jacobian(lambda t: exact(categorical, t)))(theta)
    assert check_mean(gradient, truth).max() < 0.02


# ---- exactly, without statistics ------------------------------------------------------------------------------------


def joint(f, p):
    """E f(b) over independent flips, by enumeration."""
    b = jnp.array(list(itertools.product([0.0, 1.0], repeat=len(p))))
    return jnp.prod(jnp.where(b == 1.0, p[None], 1.0 - p[None]), axis=1) @ jax.vmap(f)(b)


def cost(b):
    return (b @ jnp.arange(1.0, 1.0 + b.size) - 1.3) ** 2 + 0.4 * b[0] * b[-1]


@pytest.mark.table
@pytest.mark.parametrize("how", [*FORKS, "enum"])
@pytest.mark.parametrize("event", [True, False])
def test_elements_of_one_site_exactly(how, event):
    """A site with elements: enumerated over the flips; over the estimator's noise by quadrature where it has some."""

    def f(key, p):
        d = dist.Bernoulli(p).to_event(1) if event else dist.Bernoulli(p)
        return cost(sample(key, d, estimator=getattr(tg, how)()).astype(float))

    with jax.enable_x64(True):
        p = np.array([0.5, 0.5])
        estimate = tg.exact_expectation(tg.expectation(f), cells=2, nodes=4)
        found = jax.grad(estimate, argnums=1)(KEY, p)
        np.testing.assert_allclose(found, jax.grad(lambda p: joint(cost, p))(p), rtol=1e-10)


VALUES = np.array([1.0, -2.0, 3.5, 0.7])


def categories(estimator):
    def f(key, w):
        return jnp.asarray(VALUES, float)[sample(key, dist.Categorical(logits=w), estimator=estimator)]

    return tg.expectation(f)


def flops(program, *args):
    return jax.jit(jax.grad(program, argnums=1)).lower(KEY, *args).compile().cost_analysis()["flops"]


def test_a_sum_over_all_values_but_one_costs_what_the_local_expectation_costs():
    def program(estimator):
        def objective(key, w):
            b = sample(key, dist.Bernoulli(logits=w), estimator=estimator).astype(float)
            return jnp.sum(jnp.sin(b * jnp.ones((64, 64)) @ jnp.ones((64, 64))))

        return tg.expectation(objective)

    assert flops(program(tg.sum_and_sample(1)), 0.3) == flops(program(tg.local_expectation()), 0.3)


@pytest.mark.table
@pytest.mark.parametrize("k", [2, 3, 4])
def test_unordered_sets_of_any_size_exactly(k):
    """Four values of odds 3 : 1 : 1 : 1; what is left after each draw is enumerated on sixty cells."""
    with jax.enable_x64(True):
        w = jnp.log(jnp.array([3.0, 1.0, 1.0, 1.0]) / 6.0)
        f = categories(tg.unordered_set(k))
        if k < 4:  # with four the set is the whole support, and any draw gives the exact gradient
            f = tg.exact_expectation(f, cells=30 * (k - 1))
        np.testing.assert_allclose(
            jax.grad(f, argnums=1)(KEY, w), jax.grad(lambda w: jax.nn.softmax(w) @ jnp.asarray(VALUES))(w), rtol=1e-10
        )


@pytest.mark.slow
def test_a_larger_set_has_less_variance():
    w = jnp.log(jnp.array([0.4, 0.3, 0.2, 0.1]))
    found = [variances(categories(e), w) for e in (tg.reinforce(), *map(tg.unordered_set, (2, 3)))]
    assert found[0] > 1.2 * found[1] > 1.2**2 * found[2]
    assert variances(categories(tg.unordered_set(4)), w, 200) < 1e-10


@pytest.mark.table
@pytest.mark.parametrize("p", [[1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]])
@pytest.mark.parametrize("k", [2, 3, 4])
def test_values_without_probability_leave_a_set_finite(k, p):
    """At a sure value, and at a pair of them: d/dlogit of E f."""
    w = jnp.log(jnp.asarray(p))
    found = jax.grad(categories(tg.unordered_set(k)), argnums=1)(KEY, jnp.maximum(w, -1e4))
    np.testing.assert_allclose(found, np.array(p) * (VALUES - np.array(p) @ VALUES), atol=1e-6)


@pytest.mark.table
@pytest.mark.parametrize("how", ["arm", "disarm"])
def test_one_site_has_one_alternative_however_many_elements(how):
    """All elements are mirrored together: at even odds the cost of the drawn values meets that of the complement."""
    estimator = getattr(tg, how)()
    f = tg.expectation(lambda key, w: cost(sample(key, dist.Bernoulli(logits=w), estimator=estimator).astype(float)))
    w = jnp.zeros(5)
    b = sample(KEY, dist.Bernoulli(logits=w)).astype(float)
    found = jax.grad(f, argnums=1)(KEY, w)
    if how == "disarm":
        np.testing.assert_allclose(found, 0.25 * (cost(b) - cost(1 - b)) * (2 * b - 1), rtol=1e-4)
    assert np.all(np.sign(found) == np.sign((cost(b) - cost(1 - b)) * (2 * b - 1)))


def variances(program, theta, n=4000):
    keys = jax.random.split(KEY, n)
    return np.asarray(jax.jit(jax.vmap(lambda k: jax.grad(program, argnums=1)(k, theta)))(keys)).var(0).sum()


@pytest.mark.slow
def test_rebar_has_a_control_for_any_site_of_finite_support():
    """The relaxed value: of two values between them, of more their mean; chosen from outside, for all sites at once."""
    z = jnp.array([0.3, -1.2])
    two = tg.rebar(temperature=0.5, scale=3.0).function(dist.Bernoulli(jnp.full(2, 0.4)))
    assert float(two(z)) == pytest.approx(3.0 * float(jnp.sum(jax.nn.sigmoid(z / 0.5))), rel=1e-6)
    logits = jnp.array([[0.3, -1.2, 0.4]])
    three = tg.rebar(temperature=2.0).function(dist.Categorical(logits=logits))
    assert float(three(logits)) == pytest.approx(float(jax.nn.softmax(logits[0] / 2.0) @ jnp.arange(3.0)), rel=1e-6)

    @tg.gen
    def program(w):
        a = tg.sample("a", dist.Bernoulli(logits=w))
        b = tg.sample("b", dist.Categorical(logits=jnp.stack([w, -w, a.astype(float)])))
        return (a + 1.0) * (b.astype(float) - 0.4) ** 2

    def slope(estimator):
        chosen = program.with_estimators({"**": estimator})
        f = tg.expectation(lambda key, w: chosen.simulate(key, w).retval)
        with jax.numpy_dtype_promotion("standard"):
            return jax.jit(jax.vmap(lambda key: jax.grad(f, argnums=1)(key, 0.3)))(jax.random.split(KEY, 20_000))

    exact = slope(tg.enum())[0]
    found = np.asarray(slope(tg.rebar()))
    assert abs(found.mean() - exact) < 4.0 * found.std() / np.sqrt(len(found))
    assert "rebar(temperature=0.5, scale=1.0)" in repr(tg.rebar())


@pytest.mark.slow
@pytest.mark.parametrize("how", ["arm", "disarm"])
@pytest.mark.parametrize("w", [0.37, -1.2])
def test_mirrored_draws_have_exact_expectations_at_any_odds(how, w):
    """The mirrored value is a draw of finite support, so that no quadrature has a jump to meet."""

    def under(estimator):
        def f(key, w):
            one, two, three = jax.random.split(key, 3)
            a = sample(one, dist.Bernoulli(logits=w), estimator=estimator)
            b = jax.lax.cond(
                a == 1,
                lambda: 3.0 * sample(two, dist.Bernoulli(logits=2.0 * w), estimator=estimator),
                lambda: sample(three, dist.Bernoulli(logits=-w), estimator=estimator) + 0.5,
            )
            return (b - 0.3) ** 2 + a * b

        with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
            return float(jax.grad(tg.exact_expectation(tg.expectation(f)), argnums=1)(exact_key(), w))

    def by_hand(w):
        a, one, none = (jax.nn.sigmoid(x) for x in (w, 2.0 * w, -w))
        if_one = one * (2.7**2 + 3.0) + (1.0 - one) * 0.3**2
        return a * if_one + (1.0 - a) * (none * 1.2**2 + (1.0 - none) * 0.2**2)

    with jax.enable_x64(True):
        assert under(getattr(tg, how)()) == pytest.approx(float(jax.grad(by_hand)(w)), rel=1e-10)


@pytest.mark.slow
def test_disarm_has_less_variance_than_arm_and_both_less_than_reinforce():
    w = jnp.array([0.8, -0.4, 0.2])

    def under(estimator):
        return variances(
            tg.expectation(lambda k, w: cost(sample(k, dist.Bernoulli(logits=w), estimator=estimator).astype(float))), w
        )

    assert under(tg.disarm()) < under(tg.arm()) < under(tg.reinforce())


@pytest.mark.slow
def test_the_score_part_of_rsvi_vanishes_with_augmentation():
    def under(estimator):
        f = tg.expectation(lambda k, a: sample(k, dist.Gamma(a, 1.0), estimator=estimator) ** 2)
        return variances(f, jnp.float32(1.2))

    assert under(tg.rsvi(10)) < under(tg.rsvi(1)) < under(tg.reinforce())


def test_rsvi_draws_what_the_site_draws():
    f = tg.expectation(lambda k, a: sample(k, dist.Gamma(a, 2.0), estimator=tg.rsvi(2)))
    value, _ = jax.jit(jax.value_and_grad(f, argnums=1))(KEY, 0.7)
    np.testing.assert_allclose(value, sample(KEY, dist.Gamma(0.7, 2.0)), rtol=1e-6)


# ---- second derivatives: right, or refused --------------------------------------------------------------------------


@pytest.mark.table
@pytest.mark.parametrize("how", FORKS)
def test_forks_refuse_second_derivatives(how):
    f = tg.expectation(lambda k, p: cost(sample(k, dist.Bernoulli(p), estimator=getattr(tg, how)()).astype(float)))
    with pytest.raises(tg.HigherOrderError):
        jax.hessian(f, argnums=1)(KEY, jnp.array([0.3, 0.6]))


@pytest.mark.slow
def test_second_derivatives_of_relax_are_right():
    def f(key, p):
        return cost(sample(key, dist.Bernoulli(p), estimator=tg.relax(lambda z: wave(0.3 * z))).astype(float))

    with jax.enable_x64(True):
        p = np.array([0.5, 0.5])
        run = jax.jit(jax.vmap(lambda k: jax.hessian(tg.expectation(f), argnums=1)(k, p)))
        hessian = np.asarray(run(jax.random.split(KEY, 50_000)))
        error = hessian.std(0) / np.sqrt(len(hessian)) + 1e-9
        assert np.abs((hessian.mean(0) - jax.hessian(lambda p: joint(cost, p))(p)) / error).max() < 4.5


def test_second_derivatives_of_rsvi_are_right():
    """E z^2 = a (a + 1) / b^2."""
    f = tg.expectation(lambda k, a, b: sample(k, dist.Gamma(a, b), estimator=tg.rsvi(1)) ** 2)
    found = jax.jit(jax.vmap(lambda k: jnp.stack(jax.hessian(f, argnums=(1, 2))(k, 1.5, 2.0)[0])))(inputs(KEY)[0])
    found = np.asarray(found, np.float64)
    error = found.std(0) / np.sqrt(N)
    truth = np.array([2 / 4.0, -2 * (2 * 1.5 + 1) / 8.0])
    assert np.abs((found.mean(0) - truth) / error).max() < 4.5


# ---- control variates and baselines ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_control_variate_that_is_trained_lowers_the_variance():
    def loss(key, w, scale):
        how = tg.rebar(cost, scale=scale, temperature=0.8)
        return cost(sample(key, dist.Bernoulli(logits=w), estimator=how).astype(float))

    w = jnp.array([0.5, -0.3])

    def trained(key, scale):
        f = lambda w, s: tg.expectation(loss)(key, w, s)  # noqa: E731
        return tg.control_loss(f, w, scale)

    def variance(scale):
        return variances(tg.expectation(lambda k, w: loss(k, w, scale)), w)

    slopes = jax.jit(jax.vmap(lambda k: jax.grad(trained, argnums=1)(k, jnp.float32(0.0))))
    slope = np.mean(slopes(jax.random.split(KEY, 4000)))
    step = (variance(jnp.float32(0.05)) - variance(jnp.float32(-0.05))) / 0.1
    np.testing.assert_allclose(slope, step, rtol=0.15)
    result = tg.fit(
        lambda k, s: jnp.mean(jax.vmap(lambda k: trained(k, s))(jax.random.split(k, 64))),
        0.0,
        optax.sgd(0.05),
        key=KEY,
        steps=100,
        progress=False,
    )
    assert variance(result.params) < 0.9 * variance(jnp.float32(0.0))


def test_a_moving_average_is_carried_through_fit_and_is_that_of_previous_steps():
    def loss(key, w, state):
        f = lambda k, w: 5.0 + sample(k, dist.Bernoulli(logits=w), estimator=tg.reinforce(state.value)).astype(float)  # noqa: E731
        value = tg.expectation(f)(key, w)
        return value, state.update(value)

    result = tg.fit(loss, 0.0, optax.sgd(0.1), key=KEY, steps=30, state=tg.MovingAverage(0.8), progress=False)
    average, weight = 0.0, 0.0
    for x in np.asarray(result.history):
        average, weight = 0.8 * average + 0.2 * x, 0.8 * weight + 0.2
    np.testing.assert_allclose(result.state.value, average / weight, rtol=1e-5)
    assert tg.MovingAverage().value == 0.0
    with pytest.raises(tg.ObjectiveError, match="decay"):
        tg.MovingAverage(1.0)
    with pytest.raises(tg.FitError, match="pair"):
        tg.fit(lambda k, w, state: w, 0.0, optax.sgd(0.1), key=KEY, steps=1, state=tg.MovingAverage(), progress=False)


def test_a_learned_baseline_leaves_the_expected_gradient_and_lowers_the_variance():
    """b(context) with the loss inside the expectation: exact gradients in w, and b at the mean of the objective."""

    def f(key, w, b, x):
        baseline = b[0] + b[1] * x
        value = 3.0 + x * sample(key, dist.Bernoulli(logits=w), estimator=tg.reinforce(baseline)).astype(float)
        return value + tg.baseline_loss(value, baseline)

    with jax.enable_x64(True):
        estimate = tg.exact_expectation(tg.expectation(f), cells=2)
        for b in (np.array([0.0, 0.0]), np.array([3.0, 0.5])):
            grads = jax.grad(estimate, argnums=(1, 2))(KEY, np.float64(0.0), b, np.float64(2.0))
            np.testing.assert_allclose(grads[0], 2.0 * 0.25, rtol=1e-10)
            slope = -2.0 * (4.0 - b[0] - 2.0 * b[1])
            np.testing.assert_allclose(grads[1], [slope, 2.0 * slope], atol=1e-10)


def test_a_control_variate_closing_over_traced_arrays_is_refused():
    with pytest.raises(tg.EstimatorError, match="Partial"):
        jax.grad(lambda slope: tg.relax(lambda z: slope * z.sum()) and 0.0)(1.0)


# ---- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("estimator", "distribution", "message"),
    [
        (tg.arm(), dist.Categorical(logits=jnp.zeros(3)), "3 values.*two values"),
        (tg.disarm(), dist.Normal(0.0, 1.0), "no finite support.*two values"),
        (tg.relax(wave), dist.Poisson(1.0), "no finite support"),
        (tg.rebar(wave), dist.Normal(0.0, 1.0), "no finite support"),
        (tg.sum_and_sample(3), dist.Categorical(logits=jnp.zeros(3)), "leaves none to draw.*local_expectation"),
        (tg.sum_and_sample(1), dist.Poisson(1.0), "no finite support"),
        (tg.unordered_set(2), dist.Poisson(1.0), "no finite support"),
        (
            tg.unordered_set(4),
            dist.Categorical(logits=jnp.zeros(3)),
            "4 of the 3 values.*local_expect",
        ),
        (tg.rsvi(), dist.Beta(1.0, 2.0), "no rejection sampler here.*reparam"),
        (tg.mvd(), dist.Beta(1.0, 2.0), "no measure-valued derivative"),
        (tg.local_expectation(), dist.Poisson(1.0), "no finite support"),
        (tg.enum(), dist.Poisson(1.0), "no finite support"),
        (tg.reparam(), dist.Bernoulli(0.5), "no reparameterised sampler"),
        (tg.reinforce(), dist.Uniform(jnp.zeros(2), 1.0), "support of Uniform moves"),
        (tg.reinforce(), dist.Delta(jnp.zeros(2)), "support of Delta moves"),
    ],
)
def test_where_an_estimator_does_not_apply_it_says_so(estimator, distribution, message):
    with pytest.raises(tg.EstimatorError, match=message):
        sample(KEY, distribution, estimator=estimator)


@pytest.mark.parametrize(
    "make",
    [
        lambda: tg.rsvi(-1),
        lambda: tg.sum_and_sample(0),
        lambda: tg.unordered_set(1),
        lambda: tg.unordered_set(13),
        lambda: tg.unordered_set(2.0),
        lambda: tg.relax(3.0),
        lambda: tg.rebar(3),
    ],
)
def test_options_out_of_range_are_refused(make):
    with pytest.raises(tg.EstimatorError):
        make()


def test_a_control_variate_is_a_scalar():
    f = tg.expectation(lambda k, w: 1.0 * sample(k, dist.Bernoulli(logits=w), estimator=tg.relax(lambda z: z)).sum())
    with pytest.raises(tg.EstimatorError, match="float scalar"), jax.numpy_dtype_promotion("standard"):
        jax.grad(f, argnums=1)(KEY, jnp.zeros(3))


def test_fixed_bounds_and_numpy_parameters_are_no_obstacle():
    assert sample(KEY, dist.Uniform(np.zeros(2), 1.0), estimator=tg.reinforce()).shape == (2,)
    assert sample(KEY, dist.Bernoulli(np.array([0.2, 0.7]))).shape == (2,)
