"""What authors of estimators, distributions, algorithms and objectives write against: each name, with exact answers."""

import warnings

import equinox as eqx
import jax
import numpy as np
import pytest
from jax import lax
from jax import numpy as jnp

import tracegrad as tg
from tracegrad import dist
from tracegrad.algorithms import Algorithm, Estimate, Retained, at_index, choose, each, log_mean_exp, split
from tracegrad.transforms import (
    Accepted,
    Direct,
    Drawn,
    Enumerate,
    Estimator,
    Fork,
    Path,
    Scored,
    WeakDerivative,
    accepted_noise,
    check_pathwise,
    describe_sites,
    detached,
    elementwise,
    expectation,
    held,
    log_density,
    magic_box,
    moving_support,
    noise,
    positive_support,
    probabilities,
    reparameterised,
    sample,
    scored,
    standard_noise,
    stated,
    support,
    with_surrogate,
)

KEY = jax.random.key(0)


def slope(objective, *args):
    """The exact mean of the derivative in the first argument."""
    return float(jax.grad(tg.exact_expectation(objective), argnums=1)(KEY, *args))


# ---- estimators -----------------------------------------------------------------------------------------------------


class Score(Direct):
    """The score function, less a baseline."""

    baseline: float = 0.0

    def draw(self, key, distribution):
        value = lax.stop_gradient(noise(key, distribution))
        return Drawn(value, log_density(distribution, value), jnp.asarray(self.baseline))


class OtherSide(Fork):
    """The other side of a coin."""

    def fork(self, key, distribution, value):
        sign = jnp.where(value == 0, 1.0, -1.0)
        return WeakDerivative((1 - value)[None], (sign * distribution.probs)[None])


class Sides(Enumerate):
    """Both sides of a coin."""

    def enumerate(self, distribution):
        return jnp.array([0, 1]), jnp.stack([1.0 - distribution.probs, distribution.probs])


class Along(Path, Direct):
    """The path of the draw."""

    pathwise = True

    def draw(self, key, distribution):
        return Drawn(noise(key, distribution))


def coin(key, p, estimator):
    return sample(key, dist.Bernoulli(probs=p), estimator=estimator, label="coin").astype(float)


@pytest.mark.table
@pytest.mark.parametrize("estimator", [Score(), Score(2.0), OtherSide(), Sides()], ids=repr)
def test_an_estimator_of_each_kind_serves_a_branch(estimator):
    """E (a + b)^2 with b ~ p where a, else 1 - p: E = p 4 p + p (1 - p) + (1 - p)(1 - p) = 4 p^2 + 1 - p."""

    @expectation
    def f(key, p):
        first, second = jax.random.split(key)
        a = coin(first, p, estimator)
        b = coin(second, jnp.where(a == 1.0, p, 1.0 - p), estimator)
        return (a + b) ** 2

    assert slope(f, 0.3) == pytest.approx(8.0 * 0.3 - 1.0, abs=1e-4)


@pytest.mark.table
@pytest.mark.parametrize("estimator", [Score(1.0), OtherSide()], ids=repr)
def test_an_estimator_sees_one_lane_of_plates_and_loops(estimator):
    """The square of the number of heads of six coins, three in a loop and three in a plate: 6 p + 30 p^2."""

    @expectation
    def f(key, p):
        plate, loop = jax.random.split(key)
        lanes = jax.vmap(lambda k: coin(k, p, estimator))(jax.random.split(plate, 3)).sum()
        steps, _ = lax.scan(lambda n, k: (n + coin(k, p, estimator), None), 0.0, jax.random.split(loop, 3))
        return (lanes + steps) ** 2

    assert slope(f, 0.25) == pytest.approx(6.0 + 60.0 * 0.25, abs=1e-3)


def test_the_kinds_are_those_of_the_library():
    kinds = {Direct: tg.reinforce(), Fork: tg.mvd(), Enumerate: tg.enum(), Path: tg.reparam()}
    assert [kind.__name__ for kind, one in kinds.items() if not isinstance(one, kind)] == []
    assert all(isinstance(one, Estimator) for one in kinds.values())
    assert Score().refuses(dist.Beta(1.0, 1.0)) is None


def test_a_path_of_ones_own_is_warned_of_its_jumps():
    def f(key, m, estimator):
        z = sample(key, dist.Normal(m, 1.0), estimator=estimator)
        return jnp.where(z > 0.0, z, 0.0) + jnp.where(z > 0.0, 1.0, 0.0)

    jumps = expectation(lambda key, m: f(key, m, Along()))
    with pytest.warns(tg.DiscontinuityWarning):
        jax.grad(jumps, argnums=1)(KEY, 0.5)
    vouched = expectation(lambda key, m: f(key, m, Along(continuous=True)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jax.grad(vouched, argnums=1)(KEY, 0.5)
    (report,) = describe_sites(jumps, KEY, 0.5)
    assert isinstance(report, tg.transforms.SiteReport)
    assert report.jumps
    assert isinstance(describe_sites(vouched, KEY, 0.5), tg.transforms.Description)


def test_a_path_of_ones_own_is_right():
    f = expectation(lambda key, m: sample(key, dist.Normal(m, 2.0), estimator=Along()) ** 2)
    assert slope(f, 1.5) == pytest.approx(3.0, abs=1e-5)


# ---- distributions --------------------------------------------------------------------------------------------------


class Plain:
    """An object of two methods that says nothing about itself; two sides, up with probability p."""

    def __init__(self, p):
        self.p = p

    def sample(self, key):
        return jnp.where(jax.random.uniform(key) < self.p, 1.0, -1.0)

    def log_prob(self, value):
        return jnp.log(jnp.where(value == 1.0, self.p, 1.0 - self.p))


class Telling(Plain):
    """The same, which says what it knows in its class alone."""

    def enumerate_support(self):
        return jnp.array([-1.0, 1.0])


class Stretched:
    """Uniform between 0 and a parameter, in one line reparameterised."""

    has_rsample = True

    def __init__(self, high):
        self.high = high

    def sample(self, key):
        return self.high * jax.random.uniform(key)

    def log_prob(self, value):
        return jnp.where((value >= 0.0) & (value <= self.high), -jnp.log(self.high), -jnp.inf)


def test_a_class_that_says_nothing_has_answers():
    one = Plain(0.3)
    questions = (reparameterised, support, moving_support, positive_support, standard_noise)
    assert [bool(question(one)) for question in questions] == [False] * 5
    assert elementwise(one) is one
    assert probabilities(one, jnp.array([-1.0, 1.0])) is None


def test_a_class_answers_by_what_it_has():
    assert reparameterised(Stretched(2.0))
    np.testing.assert_array_equal(support(Telling(0.3)), [-1.0, 1.0])


def test_a_class_of_numpyros_kind_says_in_one_line_whether_it_is_reparameterised():
    class Named(dist.Distribution):
        """By its parameters."""

        arg_constraints = {"loc": dist.constraints.real}
        reparametrized_params = ["loc"]

        def __init__(self, loc):
            self.loc = loc
            super().__init__(jnp.shape(loc))

    class Told(Named):
        """By a flag, its parameters left out."""

        reparametrized_params = []
        has_rsample = True

    class Held(dist.Normal):
        """By a flag, against what it inherits."""

        has_rsample = False

    assert [reparameterised(cls(0.0)) for cls in (Named, Told, Held, dist.Normal)] == [True, True, False, True]
    assert reparameterised(Told(jnp.zeros(2)).to_event(1))


def test_families_of_numpyro_answer():
    assert [reparameterised(d) for d in (dist.Normal(0.0, 1.0), dist.Poisson(2.0))] == [True, False]
    assert [positive_support(d) for d in (dist.Gamma(2.0, 1.0), dist.Normal(0.0, 1.0))] == [True, False]
    assert [moving_support(d) for d in (dist.Uniform(0.0, jnp.array(2.0)), dist.Beta(2.0, 1.0))] == [True, False]
    assert elementwise(dist.Normal(jnp.zeros(3), 1.0).to_event(1)).batch_shape == (3,)


@pytest.mark.table
@pytest.mark.parametrize("estimator", [tg.enum(), tg.local_expectation(), tg.reinforce()], ids=repr)
def test_a_finite_support_is_all_that_enumerating_estimators_need(estimator):
    """E (x + 3)^2 = 16 p + 4 (1 - p)."""
    f = expectation(lambda key, p: (sample(key, Telling(p), estimator=estimator) + 3.0) ** 2)
    assert slope(f, 0.3) == pytest.approx(12.0, abs=1e-4)


@pytest.mark.slow
def test_a_support_that_moves_must_be_told():
    """By its score a uniform has no derivative at all: unbiased is only the path, and the score is refused."""
    score = expectation(lambda key, high: sample(key, Stretched(high), estimator=tg.reinforce()))
    assert float(jax.grad(score, argnums=1)(KEY, 2.0)) != pytest.approx(0.5)  # biased: nobody has told

    class Told(Stretched):
        """The same, told."""

    moving_support.register(Told, lambda distribution: True)
    with pytest.raises(tg.EstimatorError, match="Told"):
        jax.grad(expectation(lambda key, high: sample(key, Told(high), estimator=tg.reinforce())), argnums=1)(KEY, 2.0)


def test_a_positive_draw_may_be_divided_by_where_it_is_told():
    class Positive(Stretched):
        """The same, told to be above zero."""

    positive_support.register(Positive, lambda distribution: True)
    by = {
        cls: expectation(lambda key, high, cls=cls: 1.0 / (1.0 + 1.0 / sample(key, cls(high))))
        for cls in (Stretched, Positive)
    }
    with pytest.warns(tg.DiscontinuityWarning):
        jax.grad(by[Stretched], argnums=1)(KEY, 2.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jax.grad(by[Positive], argnums=1)(KEY, 2.0)


def test_a_rejection_sampler_may_be_registered():
    """An exponential whose accepted noise is itself one, z = noise / rate: nothing is left for the score."""

    class Waiting(dist.Exponential):
        """An exponential with a sampler of its own."""

    @accepted_noise.register(Waiting)
    def _(distribution, key, value, augmentation):
        accepted = lax.stop_gradient(value * distribution.rate)
        return Accepted(accepted / distribution.rate, -accepted)

    f = expectation(lambda key, rate: sample(key, Waiting(rate), estimator=tg.rsvi()) ** 2)
    assert slope(f, 2.0) == pytest.approx(-4.0 / 2.0**3, abs=1e-5)


# ---- algorithms -----------------------------------------------------------------------------------------------------


class Doubled(Algorithm):
    """The mean of two weights, by the parts that algorithms share."""

    chunk_size: int | None = eqx.field(static=True, default=None)
    indices = ("which",)

    def estimate(self, key, target):
        latents, log_weights, log_gammas = each(target.draw, split(key, 2, target, "doubled"), self.chunk_size)

        def draw(key):
            return at_index((latents, log_gammas), choose(key, log_weights, target, "which"))

        return Estimate(log_mean_exp(log_weights), draw)

    def estimate_given(self, key, target, retained):
        (other,) = split(key, 1, target, "doubled")
        return log_mean_exp(jnp.stack([retained.log_observed, target.draw(other)[1]]))


class Forgetful(Doubled):
    """The same without what is retained."""

    def estimate_given(self, key, target, retained):
        return self.estimate(key, target).log_z


@tg.gen
def pair(p):
    u = tg.sample("u", dist.Bernoulli(probs=p))
    tg.sample("x", dist.Bernoulli(probs=jnp.where(u == 1, 0.75, 0.25)))


TARGET = tg.Target(pair, (0.75,), {"x": 1})
Z = 0.75 * 0.75 + 0.25 * 0.25


def mean_of(program):
    return np.asarray(tg.exact_expectation(tg.expectation(program))(KEY))


def inverse(function, address, *args):
    """E[1{x = v} / w] of simulate for both values v: 1 and 1 where the density is what it should be."""

    def program(key):
        trace = function.simulate(key, *args)
        return jnp.where(trace.choices[address] == jnp.array([0, 1]), jnp.exp(-trace.logp), 0.0)

    return mean_of(program)


@pytest.mark.table
@pytest.mark.parametrize("algorithm", [Doubled(), Doubled(chunk_size=1)], ids=["at once", "in chunks"])
def test_an_algorithm_of_ones_own_keeps_both_laws(algorithm):
    kept, latent = tg.marginal(pair, "x", algorithm), tg.normalize(TARGET, algorithm)
    assert mean_of(lambda key: jnp.exp(kept.assess({"x": 1}, 0.75, key=key)[0])) == pytest.approx(Z, abs=1e-5)
    np.testing.assert_allclose(inverse(kept, "x", 0.75), 1.0, atol=1e-5)
    np.testing.assert_allclose(inverse(latent, "u"), 1.0, atol=1e-5)


def test_an_algorithm_that_forgets_the_retained_is_found_out():
    assert np.abs(inverse(tg.marginal(pair, "x", Forgetful()), "x", 0.75) - 1.0).max() > 0.01


def test_an_index_of_ones_own_carries_an_estimator():
    latent = tg.normalize(TARGET, Doubled())
    objective = tg.expectation(lambda key: latent.simulate(key).logp)
    assert "which" in str(tg.describe_estimators(objective, KEY))
    chosen = tg.expectation(lambda key: latent.with_estimators({"which": tg.enum()}).simulate(key).logp)
    assert "enum()" in str(tg.describe_estimators(chosen, KEY))
    with pytest.raises(tg.AddressError, match="'index'"):
        latent.with_estimators({"index": tg.enum()}).simulate(KEY)


def test_an_algorithm_has_two_methods():
    class Half(Algorithm):
        """One of the two."""

        def estimate(self, key, target):
            return Estimate(jnp.zeros(()), lambda key: ({}, jnp.zeros(())))

    with pytest.raises(TypeError, match="estimate_given"):
        Half()


def test_what_is_retained_is_used_as_it_is():
    latents, log_observed, log_gamma = TARGET.draw(KEY)
    kept = Retained(latents, log_gamma, log_observed)
    assert tg.importance(1).estimate_given(KEY, TARGET, kept) == log_observed
    assert kept.record is None
    assert log_gamma == pytest.approx(float(TARGET.log_prob(latents)), abs=1e-6)


def test_keys_are_split_or_asked_for():
    assert tg.algorithms.split(KEY, 3, TARGET, "mine").shape == (3,)
    with pytest.raises(tg.RandomKeyError, match=r"\(mine\), so this operation needs a key"):
        tg.algorithms.split(None, 3, TARGET, "mine")


def test_each_is_one_vmap_or_chunks_with_the_same_derivative():
    xs = jnp.arange(5.0)
    for size in (None, 1, 2, 5):
        np.testing.assert_allclose(each(lambda x: x**3, xs, size), np.arange(5.0) ** 3)
        found = jax.grad(lambda w, size=size: jnp.sum(each(lambda x: w * x**3, xs, size)))(1.0)
        assert found == pytest.approx(100.0)


def test_weights_are_averaged_and_counted():
    w = np.array([0.5, 1.0, 4.0, 0.0])
    with np.errstate(divide="ignore"):
        logs = jnp.asarray(np.log(w))
    assert float(log_mean_exp(logs)) == pytest.approx(np.log(w.mean()), abs=1e-6)
    assert float(tg.algorithms.effective_size(logs)) == pytest.approx(w.sum() ** 2 / (w**2).sum(), abs=1e-5)


def test_an_index_is_chosen_by_its_weight():
    logs = jnp.log(jnp.array([1.0, 5.0, 2.0]))
    found = mean_of(lambda key: jax.nn.one_hot(choose(key, logs, TARGET), 3))
    np.testing.assert_allclose(found, [0.125, 0.625, 0.25], atol=1e-5)
    assert at_index({"a": jnp.arange(3)}, 2)["a"] == 2


# ---- objectives that state their own gradient -----------------------------------------------------------------------


def test_a_surrogate_has_the_derivative_and_not_the_value():
    value, found = jax.value_and_grad(lambda x: with_surrogate(x**2, 10.0 * x))(3.0)
    assert (float(value), float(found)) == (9.0, 10.0)
    with pytest.raises(tg.HigherOrderError):
        jax.grad(jax.grad(lambda x: with_surrogate(x**2, 10.0 * x**2)))(3.0)


def test_what_is_held_has_no_derivative_through_a_closure():
    assert float(jax.grad(lambda w: held(lambda x: w * x**2)(w))(3.0)) == 18.0  # not 27


def test_a_detached_draw_has_none_of_path_and_score():
    for estimator in (tg.reparam(), tg.reinforce()):
        f = detached(lambda key, m, e=estimator: m * sample(key, dist.Normal(m, 1.0), estimator=e))
        value, found = jax.value_and_grad(f, argnums=1)(KEY, 2.0)
        assert float(value) == pytest.approx(2.0 * float(found))


def test_scores_laid_open_make_an_unbiased_objective():
    """With any baseline, and a path beside the score: E b z = 1.5 p^2, where b ~ p and z ~ N(1.5 p, 1)."""

    def f(key, p):
        one, other = jax.random.split(key)
        return coin(one, p, tg.reinforce()) * sample(other, dist.Normal(1.5 * p, 1.0))

    def objective(key, p):
        value, score, control = scored(f)(key, p)
        return stated((value - 0.7) * magic_box(score) + 0.7 + control)

    assert isinstance(scored(f)(KEY, 0.3), Scored)
    assert slope(objective, 0.3) == pytest.approx(3.0 * 0.3, abs=1e-5)
    with pytest.raises(tg.ObjectiveError, match="not linear"):
        jax.grad(expectation(lambda key, p: objective(key, p) ** 2), argnums=1)(KEY, 0.3)
    with pytest.raises(tg.EstimatorError, match=r"^mine: the sample at 'coin' has the estimator mvd\(\)"):
        scored(lambda key, p: coin(key, p, tg.mvd()), "mine")(KEY, 0.3)


def test_paths_are_asked_for():
    check_pathwise("mine", lambda key: sample(key, dist.Normal(0.0, 1.0)), KEY)
    with pytest.raises(tg.EstimatorError, match=r"^mine: the sample at 'coin' has the estimator reinforce\(\)"):
        check_pathwise("mine", lambda key: coin(key, 0.5, tg.reinforce()), KEY)


# ---- groups ---------------------------------------------------------------------------------------------------------


def test_a_group_is_another_way_to_say_a_name():
    assert tg.objectives.elbo is tg.elbo
    assert tg.estimators.mvd is tg.mvd
    assert tg.errors.AddressError is tg.AddressError
    assert tg.algorithms.smc is tg.smc
