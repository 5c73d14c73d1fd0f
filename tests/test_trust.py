"""Tools of trust: choosing estimators on an objective, describing, checking and comparing them."""

import itertools

import jax
import numpy as np
import pytest
from jax import numpy as jnp

import tracegrad as tg
from tracegrad import dist
from tracegrad.transforms import Direct, Drawn, log_density, noise, sample
from tracegrad.transforms._internal import outcome_sum

KEY = jax.random.key(3)


@tg.gen
def step(state, x):
    z = tg.sample("z", dist.Bernoulli(logits=x + state))
    return z.astype(float), z


@tg.gen
def program(w):
    k = tg.sample("k", dist.Categorical(logits=w * jnp.arange(3.0)), estimator=tg.enum())
    b = tg.sample("b", dist.Bernoulli(logits=w * jnp.ones(2)).to_event(1))
    y = tg.sample("y", dist.Normal(w, 1.0))
    _, zs = tg.sample("steps", step.scan()(0.0, w * jnp.ones(4)))
    return k + y + b.sum() + zs.sum()


@tg.expectation
def objective(key, w):
    with jax.numpy_dtype_promotion("standard"):
        return program.simulate(key, w).retval ** 2


@tg.expectation
def kinked(key, w):
    x = tg.gen(lambda: tg.sample("x", dist.Normal(w, 1.0))).simulate(key).retval
    return x * (x > 0.5).astype(float)


@tg.expectation
def flips(key, w):
    b = tg.gen(lambda: tg.sample("b", dist.Bernoulli(logits=w), estimator=tg.reinforce())).simulate(key).retval
    return 3.0 * b.astype(float) + w


def test_a_description_names_every_site_its_place_and_its_cost():
    found = tg.describe_estimators(objective, KEY, 0.3)
    assert isinstance(found, tuple)
    rows = {row.label: row for row in found}
    assert list(rows) == [("k",), ("b",), ("y",), ("steps", "z")]
    assert [row.reason for row in found] == ["chosen", "default", "default", "default"]
    assert (rows["k",].runs, rows["b",].runs, rows["steps", "z"].runs) == (3, 0, 0)
    assert (rows["steps", "z"].draws, rows["steps", "z"].where) == (4, "scan 4")
    assert str(rows["y",].estimator) == "reparam()"
    forked = tg.describe_estimators(tg.with_estimators(objective, {"b": tg.mvd(), "**/z": tg.mvd()}), KEY, 0.3)
    assert [row.runs for row in forked] == [3, 2, 0, 4]
    assert "steps/z  BernoulliLogits" in str(forked)


@pytest.mark.slow
def test_estimators_are_chosen_on_a_whole_objective():
    """Through vmap, jit and scan around the expectation; the values stay those of the same draws."""

    def loss(key, w):
        return jnp.mean(jax.jit(jax.vmap(lambda k: objective(k, w)))(jax.random.split(key, 3)))

    other = tg.with_estimators(loss, {"*": tg.reinforce(baseline=jnp.ones(())), "k": tg.enum(), "steps": tg.mvd()})
    np.testing.assert_allclose(loss(KEY, 0.3), other(KEY, 0.3), rtol=1e-6)
    kinds = [str(row.estimator).split("(")[0] for row in tg.describe_estimators(other, KEY, 0.3)]
    assert kinds == ["enum", "reinforce", "reinforce", "mvd"]
    assert jnp.isfinite(jax.jit(jax.grad(other, argnums=1))(KEY, jnp.asarray(0.3)))


@pytest.mark.slow
def test_a_choice_on_an_objective_is_checked():
    with pytest.raises(tg.AddressError, match="'q' matches no sample. The objective has: 'b', 'k', 'steps/z', 'y'"):
        tg.with_estimators(objective, {"q": tg.mvd()})(KEY, 0.3)
    with pytest.raises(tg.EstimatorError, match="enum\\(\\) at 'y': Normal has no finite support"):
        tg.with_estimators(objective, {"y": tg.enum()})(KEY, 0.3)
    with pytest.raises(tg.EstimatorError, match="must be given an estimator"):
        tg.with_estimators(objective, {"y": 3.0})


@pytest.mark.slow
def test_the_check_finds_the_bias_of_reparameterisation_at_a_jump():
    """E[x 1(x > 0.5)]: the pathwise derivative misses the jump; the score function does not."""
    with pytest.warns(tg.DiscontinuityWarning, match="at 'x' reaches a discontinuity: gt"):
        report = tg.check_unbiased(kinked, jnp.asarray(0.3), key=KEY, draws=20_000)
    assert not report.passed
    assert not report
    assert report.max_abs_z > 20.0
    assert "FAILED" in str(report)
    assert tg.check_unbiased(tg.with_estimators(kinked, {"x": tg.reinforce()}), 0.3, key=KEY, draws=20_000).passed


@pytest.mark.slow
def test_the_check_compares_with_enumeration_and_with_given_values():
    report = tg.check_unbiased(flips, 0.4, key=KEY, draws=20_000)
    assert isinstance(report, tg.BiasReport)
    assert report.passed
    assert report.reference == "exact enumeration of 2 outcomes"

    def exact(w):
        return 3.0 * jax.nn.sigmoid(w) + w

    assert tg.check_unbiased(flips, 0.4, key=KEY, draws=20_000, exact=exact).passed
    pair = (exact(0.4), (jax.grad(exact)(0.4),))
    assert tg.check_unbiased(flips, 0.4, key=KEY, draws=20_000, exact=pair).passed
    assert not tg.check_unbiased(flips, 0.4, key=KEY, draws=20_000, exact=lambda w: exact(w) + 0.1 * w).passed


def test_the_comparison_ranks_by_variance_times_time():
    found = tg.compare_estimators(
        flips, jnp.asarray(0.4), key=KEY, draws=2000, sites={"b": [tg.reinforce(), tg.mvd(), tg.reparam()]}
    )
    assert isinstance(found, tg.Comparison)
    by = {str(row["choice"]["b"]): row for row in found.rows}
    p = float(jax.nn.sigmoid(0.4))
    # d/dw = 3 b (b - p): its variance, exactly.
    second = p * (3.0 * (1.0 - p)) ** 2
    np.testing.assert_allclose(by["reinforce()"]["variance"], second - (3.0 * p * (1.0 - p)) ** 2, rtol=0.1)
    assert by["mvd()"]["variance"] < 1e-9
    assert "no reparameterised sampler" in by["reparam()"]["refused"]
    assert list(found.best) == ["b"]
    assert str(found.best["b"]) == "mvd()"
    assert set(found.by_site()["b"]) == {"reinforce()", "mvd()", "reparam()"}
    assert "refused" in str(found)
    assert found.plot().get_ylabel() == "gradient variance"


def test_choose_estimators_at_the_level_of_labels():
    from tracegrad.transforms import choose_estimators, describe_sites

    g = choose_estimators(flips, lambda label, present: tg.enum())
    assert [str(row.estimator) for row in describe_sites(g, KEY, 0.4)] == ["enum()"]
    slope = 3.0 * jax.nn.sigmoid(0.4) * (1.0 - jax.nn.sigmoid(0.4)) + 1.0
    np.testing.assert_allclose(jax.grad(g, argnums=1)(KEY, 0.4), slope, rtol=1e-6)


def test_the_reference_keeps_a_site_that_the_score_function_cannot_serve():
    """A uniform's bound moves its support; the flip beside it is compared with the score function."""

    @tg.expectation
    def program(key, w):
        k1, k2 = jax.random.split(key)
        u = tg.gen(lambda: tg.sample("u", dist.Uniform(0.0, jnp.exp(w)))).simulate(k1).retval
        b = tg.gen(lambda: tg.sample("b", dist.Bernoulli(logits=w), estimator=tg.mvd())).simulate(k2).retval
        return u * (1.0 + b.astype(float))

    report = tg.check_unbiased(program, jnp.asarray(0.2), key=KEY, draws=20_000)
    assert report.passed
    assert "score function" in report.reference


# ---- exact enumeration, wherever the sites are ----------------------------------------------------------------------


@tg.gen
def lane(w, x):
    return tg.sample("b", dist.Bernoulli(logits=w * x)).astype(float)


@tg.gen
def chain(w):
    """Five draws: a chain of two in a loop, a plate of two of which one value decides, and one in a branch."""
    state, _ = tg.sample("steps", step.scan()(0.0, w * jnp.array([1.0, -0.5])))
    a, b = tg.sample("lanes", lane.vmap(in_axes=(None, 0))(w, jnp.array([2.0, 0.3])))
    other = tg.gen(lambda w, x: 0.7 + w)
    c = tg.sample("branch", tg.cond(a > 0.5, lane, other)(w, jnp.asarray(0.4)))
    return (state + a * b + 2.0 * c) ** 2


def _p(b, logit):
    return jax.nn.sigmoid(logit) if b else jax.nn.sigmoid(-logit)


def chain_by_hand(w):
    total = 0.0
    for s, t, a, b, c in itertools.product((0, 1), repeat=5):
        p = _p(s, w) * _p(t, -0.5 * w + s) * _p(a, 2.0 * w) * _p(b, 0.3 * w) * _p(c, 0.4 * w)
        total = total + p * (t + a * b + 2.0 * (c if a else 0.7 + w)) ** 2
    return total


def on_chain(estimators, program=chain):
    return tg.expectation(lambda key, w: program.with_estimators(estimators).simulate(key, w).retval)


@pytest.mark.slow
def test_sites_in_loops_plates_and_branches_are_enumerated():
    with jax.enable_x64(True):
        mean = outcome_sum(on_chain({"**/b": tg.mvd()}))
        w = jnp.asarray(0.4)
        (value, outcomes), slope = jax.value_and_grad(mean, argnums=1, has_aux=True)(KEY, w)
        assert outcomes == 32
        np.testing.assert_allclose(value, chain_by_hand(w), rtol=1e-12)
        np.testing.assert_allclose(slope, jax.grad(chain_by_hand)(w), rtol=1e-12)


@pytest.mark.slow
def test_the_check_says_what_it_compares_with_and_why():
    f = on_chain({"**/b": tg.local_expectation()})
    report = tg.check_unbiased(f, 0.4, key=KEY, draws=4_000)
    assert report.passed
    assert report.reference == "exact enumeration of 32 outcomes"
    over = tg.check_unbiased(f, 0.4, key=KEY, draws=4_000, limit=31)
    assert over.passed
    assert over.reference == (
        "the score function at every site (enumeration: 32 combinations of values are over the limit of 31)"
    )


@pytest.mark.slow
def test_the_check_sees_a_bias_of_a_site_in_a_loop():
    """A baseline that is a multiple of the drawn value itself, in a loop and in a plate."""

    class Selfish(Direct):
        def draw(self, key, distribution):
            value = noise(key, jax.tree.map(jax.lax.stop_gradient, distribution))
            return Drawn(value, log_density(distribution, value), 4.0 * value.astype(float))

    for pattern in ("steps/z", "lanes/b"):
        report = tg.check_unbiased(on_chain({pattern: Selfish()}), 0.4, key=KEY, draws=20_000)
        assert not report.passed
        assert "exact enumeration" in report.reference


@pytest.mark.parametrize("make", [lambda f: tg.leave_one_out(f, 2), "dreg"])
def test_an_objective_that_states_its_own_gradient_needs_to_be_told_the_truth(make):
    f = make(flips) if callable(make) else _bound()
    with pytest.raises(tg.EstimatorError, match="states its own gradient.*`exact=lambda"):
        tg.check_unbiased(f, 0.4, key=KEY, draws=1_000)
    if callable(make):
        assert tg.check_unbiased(f, 0.4, key=KEY, draws=4_000, exact=lambda w: 3.0 * jax.nn.sigmoid(w) + w).passed


def _bound():
    guide = tg.gen(lambda m: tg.sample("z", dist.Normal(m, 1.0)))
    model = tg.gen(lambda: tg.sample("x", dist.Normal(tg.sample("z", dist.Normal(0.0, 1.0)), 1.0)))
    return lambda key, m: tg.dreg(model, guide, {"x": 0.2}, n=2)(key, (), (m,))


def _twice(key, w):
    return sample(key, dist.Bernoulli(w)).astype(float) * sample(key, dist.Bernoulli(w)).astype(float)


def _once(key, w):
    return sample(key, dist.Bernoulli(w)).astype(float)


def _of_two_sizes(key, w):
    k = sample(key, dist.Categorical(probs=jnp.full(3, 1 / 3)))
    return sample(key, dist.Bernoulli(w)).astype(float) * k.astype(float)


def _key_of_a_draw(key, w):
    b = sample(key, dist.Bernoulli(w))
    return sample(jax.random.fold_in(key, b), dist.Bernoulli(w)).astype(float)


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (lambda key, w: sample(key, dist.Normal(w, 1.0)), "the support at an unnamed site is not finite"),
        (_twice, "a key is drawn from twice, or depends on what was drawn"),
        (_key_of_a_draw, "a key is drawn from twice, or depends on what was drawn"),
        (_of_two_sizes, "one key is drawn from for two distributions of different sizes"),
        (lambda key, w: w * jax.random.uniform(key), "random numbers of its own"),
        (tg.leave_one_out(_once, 2), "states its own gradient"),
    ],
)
def test_what_cannot_be_enumerated_says_why(f, message):
    with pytest.raises(tg.EstimatorError, match=message):
        outcome_sum(f)(KEY, 0.5)


# ---- what a default has to go by -------------------------------------------------------------------------------------


class Silent:
    """A distribution that does not say whether its draws are differentiated along their path."""

    def __init__(self, loc):
        self.loc = loc

    def sample(self, key, sample_shape=()):
        return self.loc + jax.random.normal(key, sample_shape)

    def log_prob(self, value):
        return -0.5 * (value - self.loc) ** 2


class Counting(Silent):
    """One of whole numbers: nothing to be said."""

    def sample(self, key, sample_shape=()):
        return jnp.ones(sample_shape, int)


class Stated(Silent):
    """One that says so."""

    has_rsample = False


@pytest.mark.parametrize(
    ("family", "estimator", "said"),
    [
        (Silent, None, True),
        (Silent, tg.reinforce(), True),
        (Stated, None, False),
        (Counting, None, False),
        (lambda m: dist.Normal(m, 1.0), None, False),
        (lambda m: dist.Poisson(jnp.exp(m)), None, False),
    ],
)
def test_a_default_that_could_not_be_judged_is_said(family, estimator, said):
    program = tg.gen(lambda m: tg.sample("z", family(m), estimator=estimator))
    f = tg.expectation(lambda key, m: program.simulate(key, m).retval * 1.0)
    with jax.numpy_dtype_promotion("standard"):
        report = tg.describe_estimators(f, jax.random.key(0), 0.3)
    hint = "z: Silent does not say whether the derivative of its draws is the pathwise one"
    assert str(report).splitlines()[-1].startswith(hint) == said
    assert bool(report[0].hint) == said
