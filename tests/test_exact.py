"""`exact_expectation` itself: what it enumerates, what it refuses, and that it sees the errors it is there to see."""

import jax
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax
from jax import numpy as jnp
from unbiased_programs import KEY, precisely

import tracegrad as tg
from tracegrad.transforms import Direct, Drawn, StandardNoise, noise, sample, standard_noise


@pytest.fixture(autouse=True)
def double_precision():
    with precisely():
        yield


def normal_moment(mean, sd, order):
    return {1: mean, 2: mean**2 + sd**2, 3: mean**3 + 3 * mean * sd**2}[order]


CONTINUOUS = {
    "normal": (lambda w: dist.Normal(w, 0.5 * w), lambda w: normal_moment(w, 0.5 * w, 3)),
    "expanded": (lambda w: dist.Normal(w, 0.5).expand([2]).to_event(1), lambda w: normal_moment(w, 0.5, 3)),
    "uniform": (lambda w: dist.Uniform(-w, 2.0 * w), lambda w: 15.0 * w**4 / (4 * 3.0 * w)),
    "exponential": (lambda w: dist.Exponential(w), lambda w: 6.0 / w**3),
    "log-normal": (lambda w: dist.LogNormal(w, 0.1), lambda w: jnp.exp(3.0 * w + 4.5 * 0.01)),
    "multivariate": (
        lambda w: dist.MultivariateNormal(jnp.stack([w, w]), covariance_matrix=jnp.array([[1.0, 0.5], [0.5, 2.0]])),
        lambda w: w**3 + 3.0 * w,
    ),
}


@pytest.mark.table
@pytest.mark.parametrize("name", CONTINUOUS)
def test_third_moments_of_continuous_families(name):
    """A polynomial of degree three is integrated exactly; the log-normal by the speed of the quadrature."""
    make, moment = CONTINUOUS[name]
    g = tg.expectation(lambda key, w: jnp.ravel(sample(key, make(w)))[0] ** 3)
    mean = tg.exact_expectation(g, nodes=12)
    w = jnp.array(0.7)
    np.testing.assert_allclose(mean(KEY, w), moment(w), rtol=1e-10)
    np.testing.assert_allclose(jax.grad(mean, argnums=1)(KEY, w), jax.grad(moment)(w), rtol=1e-10)


def test_a_family_of_ones_own():
    class Triangle:
        """The sum of two uniform draws, scaled."""

        has_rsample = True

        def __init__(self, scale):
            self.scale = scale

        def sample(self, key):
            return self.scale * jax.random.uniform(key, (2,)).sum()

        def log_prob(self, value):
            raise NotImplementedError

    g = tg.expectation(lambda key, s: sample(key, Triangle(s)) ** 2)
    with pytest.raises(tg.EstimatorError, match="the draw of a Triangle cannot be enumerated"):
        tg.exact_expectation(g)(KEY, jnp.array(2.0))
    standard_noise.register(Triangle)(lambda d: StandardNoise("uniform", (2,), lambda x: d.scale * x.sum()))
    np.testing.assert_allclose(tg.exact_expectation(g)(KEY, jnp.array(2.0)), 4.0 * 7 / 6)


def test_a_gradient_is_itself_a_program_with_a_mean():
    g = tg.expectation(lambda key, p: sample(key, dist.Bernoulli(p)).astype(float) * p)
    gradient = jax.jit(jax.grad(g, argnums=1))

    def batch(key, p):
        return jax.vmap(gradient, in_axes=(0, None))(jax.random.split(key, 2), p)

    np.testing.assert_allclose(tg.exact_expectation(gradient)(KEY, jnp.array(0.25)), 0.5)
    np.testing.assert_allclose(tg.exact_expectation(batch)(KEY, jnp.array(0.25)), [0.5, 0.5])


def test_outputs_of_any_type_are_averaged():
    @tg.expectation
    def g(key, p):
        return sample(key, dist.Bernoulli(p)).astype(float)

    def f(key, p):
        y = g(key, p)
        return {"value": y, "whole": y.astype(int), "truth": y > 0.5}

    out = tg.exact_expectation(f)(KEY, jnp.array(0.25))
    assert {k: float(v) for k, v in out.items()} == {"value": 0.25, "whole": 0.25, "truth": 0.25}


def test_a_program_without_draws():
    assert float(tg.exact_expectation(tg.expectation(lambda key, w: 2.0 * w))(KEY, jnp.array(3.0))) == 6.0


def test_a_key_used_twice_is_seen():
    """E[xy] of two coins is p^2 with a key each; one key for both would give p, and is refused when it is traced."""

    def f(key, p, *, shared):
        a, b = jax.random.split(key)
        x = sample(a, dist.Bernoulli(p)).astype(float)
        return x * sample(a if shared else b, dist.Bernoulli(p)).astype(float)

    apart, shared = (tg.expectation(lambda key, p, shared=s: f(key, p, shared=shared)) for s in (False, True))
    np.testing.assert_allclose(tg.exact_expectation(apart)(KEY, jnp.array(0.25)), 0.0625)
    with pytest.raises(tg.RandomKeyError, match="One key is drawn with twice"):
        tg.exact_expectation(shared)(KEY, jnp.array(0.25))


def test_the_key_says_nothing_about_the_result():
    g = tg.expectation(lambda key, p: sample(key, dist.Bernoulli(p)).astype(float) ** 2)
    found = [float(tg.exact_expectation(g)(jax.random.key(seed), jnp.array(0.75))) for seed in (0, 7)]
    assert found == [0.75, 0.75]


def test_single_precision_serves_too():
    with jax.enable_x64(False):
        g = tg.expectation(lambda key, p: sample(key, dist.Bernoulli(p), estimator=tg.mvd()).astype(float))
        gradient = jax.grad(tg.exact_expectation(g), argnums=1)(KEY, jnp.array(0.25))
        assert gradient.dtype == jnp.float32
        np.testing.assert_allclose(gradient, 1.0, rtol=1e-6)


def test_one_site_in_both_precisions():
    """The shape of a draw is remembered for each precision: integers are wider in double."""
    p = jnp.array(0.5, jnp.float32)
    g = tg.expectation(lambda key, p: sample(key, dist.Bernoulli(p), estimator=tg.mvd()).astype(p.dtype))
    for wide in (False, True, False):
        with jax.enable_x64(wide):
            assert float(jax.jit(jax.grad(g, argnums=1))(KEY, p)) == 1.0


# ---- refusals ----


def refuse(match, f, w=0.25, error=tg.EstimatorError, **options):
    with pytest.raises(error, match=match):
        tg.exact_expectation(f, **options)(KEY, jnp.array(w))


def test_refuses_families_that_it_cannot_enumerate():
    g = tg.expectation(lambda key, w: sample(key, dist.Gamma(w, 1.0)))
    refuse("the draw of a Gamma cannot be enumerated.*standard_noise.register", g)


@pytest.mark.table
@pytest.mark.parametrize("p", [0.0, 1e-5, 0.3, 1 / 3, 1.0])
def test_probabilities_are_those_of_the_draw_whatever_they_are(p):
    g = tg.expectation(lambda key, p: sample(key, dist.Bernoulli(p), estimator=tg.mvd()).astype(float))
    value, slope = jax.value_and_grad(tg.exact_expectation(g), argnums=1)(KEY, jnp.array(p))
    np.testing.assert_allclose([value, slope], [p, 1.0], rtol=1e-12, atol=1e-15)


def test_runs_that_share_a_key_share_its_noise_at_any_probabilities():
    """A flip decides the odds of the next, in the drawn run and in those of the alternatives, in a loop."""

    def step(b, key):
        b = sample(key, dist.Bernoulli(jax.nn.sigmoid(b - 0.3)), estimator=tg.mvd()).astype(float)
        return b, b

    def f(key, w):
        return (lax.scan(step, w, jax.random.split(key, 3))[1] @ jnp.array([1.0, -2.0, 4.0])) ** 2

    def by_hand(w):
        total = 0.0
        for a, b, c in np.ndindex(2, 2, 2):
            odds = zip((a, b, c), (w, float(a), float(b)), strict=True)
            p = [jax.nn.sigmoid((x - 0.3) * (1.0 if flip else -1.0)) for flip, x in odds]
            total = total + p[0] * p[1] * p[2] * (a - 2.0 * b + 4.0 * c) ** 2
        return total

    found = jax.value_and_grad(tg.exact_expectation(tg.expectation(f)), argnums=1)(KEY, jnp.array(0.7))
    np.testing.assert_allclose(found, jax.value_and_grad(by_hand)(0.7), rtol=1e-12)


def test_probabilities_that_depend_on_a_normal_draw():
    """The odds of a category depend on a normal: E of a sum, by quadrature with numpy."""

    def f(key, w):
        a, b = jax.random.split(key)
        x = sample(a, dist.Normal(w, 0.5))
        k = sample(b, dist.Categorical(logits=x * jnp.array([0.0, 0.3, -0.2])), estimator=tg.local_expectation())
        return jnp.array([1.0, -2.0, 3.5])[k] + x

    def by_hand(w):
        x, p = np.polynomial.hermite_e.hermegauss(40)
        x = w + 0.5 * x
        odds = np.exp(x[:, None] * np.array([0.0, 0.3, -0.2]))
        return p / p.sum() @ (odds @ np.array([1.0, -2.0, 3.5]) / odds.sum(1) + x)

    value, slope = jax.value_and_grad(tg.exact_expectation(tg.expectation(f)), argnums=1)(KEY, jnp.array(0.7))
    np.testing.assert_allclose(value, by_hand(0.7), rtol=1e-10)
    np.testing.assert_allclose(slope, (by_hand(0.7 + 1e-5) - by_hand(0.7 - 1e-5)) / 2e-5, rtol=1e-8)


def test_many_nodes_without_a_warning():
    """Moments of a normal and of an exponential by 200 nodes; warnings are errors here."""
    g = tg.expectation(lambda key, w: sample(key, dist.Normal(w, 1.0)) ** 4)
    np.testing.assert_allclose(tg.exact_expectation(g, nodes=200)(KEY, jnp.array(0.0)), 3.0, rtol=1e-12)
    g = tg.expectation(lambda key, w: sample(key, dist.Exponential(w)) ** 2)
    np.testing.assert_allclose(tg.exact_expectation(g, nodes=200)(KEY, jnp.array(1.0)), 2.0, rtol=1e-12)


def test_refuses_probabilities_that_are_nan():
    g = tg.expectation(lambda key, p: sample(key, dist.Bernoulli(jnp.sqrt(p))).astype(float))
    refuse("a draw of finite support has probabilities that are nan", g, -1.0)


def test_refuses_too_many_combinations():
    g = tg.expectation(lambda key, p: sample(key, dist.Bernoulli(p).expand([11]).to_event(1)).astype(float).sum())
    refuse("11 noise variables have 1024 combinations of outcomes or more, over the limit of 1000", g, limit=1000)
    g = tg.expectation(lambda key, w: sample(key, dist.Normal(w, 1.0).expand([3]).to_event(1)).sum())
    refuse("3 noise variables have 4096 combinations of outcomes or more, over the limit of 1000", g, limit=1000)


def test_refuses_random_numbers_of_the_programs_own():
    g = tg.expectation(lambda key, w: w * jax.random.normal(key))
    refuse("random numbers of its own .JAX primitive 'random_bits'.*Draw through `sample`", g)


def test_refuses_while_loops():
    @tg.expectation
    def g(key, w):
        def body(state):
            return state[0] + 1, state[1] + sample(jax.random.fold_in(key, state[0]), dist.Normal(w, 1.0))

        return lax.while_loop(lambda s: s[0] < 2, body, (jnp.zeros((), int), w))[1]

    refuse("inside a `while_loop`, whose number of draws is not known", g)


def test_refuses_samples_outside_an_expectation():
    refuse(
        r"outside `expectation`.*`exact_expectation\(expectation\(f\)\)`",
        lambda key, p: sample(key, dist.Bernoulli(p)).astype(float),
        error=tg.ObjectiveError,
    )


def test_refuses_keys_that_depend_on_draws():
    @tg.expectation
    def g(key, p):
        a, b = jax.random.split(key)
        x = sample(a, dist.Bernoulli(p))
        return sample(jax.random.fold_in(b, x), dist.Bernoulli(p)).astype(float)

    refuse("a key depends on what was drawn", g)


def test_refuses_one_key_for_draws_of_two_kinds():
    @tg.expectation
    def g(key, p):
        return sample(key, dist.Normal(p, 1.0)) * sample(key, dist.Bernoulli(p)).astype(float)

    with pytest.raises(tg.RandomKeyError, match="One key is drawn with twice"):
        tg.exact_expectation(g)(KEY, jnp.array(0.25))


def test_refuses_jit_and_vmap_around_it():
    g = tg.expectation(lambda key, p: sample(key, dist.Bernoulli(p)).astype(float))
    for around in (jax.jit, jax.vmap):
        with pytest.raises(tg.ObjectiveError, match="call it outside `jit` and `vmap`"):
            around(lambda p: tg.exact_expectation(g)(KEY, p))(jnp.array([0.25, 0.5]) if around is jax.vmap else 0.25)


def test_refuses_what_is_no_key():
    with pytest.raises(tg.RandomKeyError, match="exact_expectation needs one typed random key"):
        tg.exact_expectation(lambda key: 0.0)(3)


class Noisy(Direct):
    """The score function with a baseline drawn at random: what an estimator draws is a part of its mean."""

    def draw(self, key, distribution):
        value = lax.stop_gradient(noise(key, jax.tree.map(lax.stop_gradient, distribution)))
        baseline = noise(jax.random.fold_in(key, 1), dist.Normal(0.0, 3.0))
        return Drawn(value, distribution.log_prob(value), baseline if self.fresh else value.astype(float))

    fresh: bool = True


def test_an_estimator_of_ones_own():
    """A random baseline is unbiased; one that is the drawn value takes p (1 - p) d log odds from the gradient of p."""
    for fresh, expected in ((True, 1.0), (False, 0.0)):
        estimator = Noisy(fresh)
        g = tg.expectation(lambda key, p, e=estimator: sample(key, dist.Bernoulli(p), estimator=e).astype(float))
        gradient = jax.grad(tg.exact_expectation(g), argnums=1)(KEY, jnp.array(0.25))
        np.testing.assert_allclose(gradient, expected, atol=1e-12)


def test_a_draw_with_one_outcome():
    """A die of one side; and what a coin leaves when its likelier side is summed."""

    @tg.expectation
    def program(key, p):
        a, b = jax.random.split(key)
        one = tg.transforms.sample(a, dist.Categorical(probs=jnp.ones(1)))
        coin = tg.transforms.sample(b, dist.Bernoulli(p), estimator=tg.sum_and_sample(1))
        return 3.0 * coin.astype(float) + one.astype(float)

    with jax.enable_x64(True):
        value, gradient = jax.value_and_grad(tg.exact_expectation(program), argnums=1)(KEY, jnp.array(0.3))
    np.testing.assert_allclose([value, gradient], [0.9, 3.0], rtol=1e-12)
