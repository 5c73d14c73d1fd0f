"""Outside its support a density is zero, with no derivative: every family, traced or not, against numbers by hand."""

import warnings

import jax
import numpy as np
import optax
import pytest
import scipy.stats as st
from jax import numpy as jnp

import tracegrad as tg
from tracegrad import dist
from tracegrad.transforms import log_density
from tracegrad.transforms._internal import lenient

KEY = jax.random.key(0)
ROUND = dist.transforms.AffineTransform(1.0, 2.0)
WEIGHTS = jnp.array([0.25, 0.75])

FAMILIES = {
    "uniform": (lambda a: dist.Uniform(a, 3.0), 2.0, -np.log(2.0), 4.0),
    "uniform, below": (lambda a: dist.Uniform(a, 3.0), 1.0, -np.log(2.0), 0.5),
    "exponential": (dist.Exponential, 2.0, -2.0, -1.0),
    "exponential, at its edge": (dist.Exponential, 0.0, 0.0, -1e-6),
    "half-normal": (dist.HalfNormal, 0.0, st.halfnorm.logpdf(0.0), -1.0),
    "half-Cauchy": (dist.HalfCauchy, 2.0, st.halfcauchy.logpdf(2.0), -2.0),
    "gamma": (lambda a: dist.Gamma(a, 2.0), 0.7, st.gamma.logpdf(0.7, 1.0, scale=0.5), -0.7),
    "inverse gamma": (lambda a: dist.InverseGamma(a, 2.0), 0.7, st.invgamma.logpdf(0.7, 1.0, scale=2.0), -0.7),
    "log-normal": (lambda s: dist.LogNormal(0.0, s), 0.7, st.lognorm.logpdf(0.7, 1.0), -0.7),
    "log-normal at 0": (lambda s: dist.LogNormal(0.0, s), 0.7, st.lognorm.logpdf(0.7, 1.0), 0.0),
    "Weibull": (lambda s: dist.Weibull(s, 2.0), 0.7, st.weibull_min.logpdf(0.7, 2.0), -0.7),
    "beta": (lambda a: dist.Beta(a, 2.0), 0.3, st.beta.logpdf(0.3, 1.0, 2.0), 1.3),
    "beta, below": (lambda a: dist.Beta(a, 2.0), 0.3, st.beta.logpdf(0.3, 1.0, 2.0), -0.3),
    "Pareto": (lambda s: dist.Pareto(s, 3.0), 2.0, st.pareto.logpdf(2.0, 3.0), 0.5),
    "von Mises": (lambda k: dist.VonMises(0.0, k), 1.0, st.vonmises.logpdf(1.0, 1.0), 4.0),
    "truncated": (
        lambda s: dist.TruncatedNormal(0.0, s, low=-1.0, high=2.0),
        0.5,
        st.truncnorm.logpdf(0.5, -1, 2),
        2.5,
    ),
    "half-truncated": (lambda s: dist.TruncatedNormal(0.0, s, low=1.0), 1.5, st.truncnorm.logpdf(1.5, 1, np.inf), 0.5),
    "affine of uniform": (lambda a: dist.TransformedDistribution(dist.Uniform(0.0, a), ROUND), 2.0, -np.log(2.0), 3.5),
    "independent": (
        lambda r: dist.Exponential(jnp.stack([r, r])).to_event(1),
        [1.0, 2.0],
        -3.0,
        [-1.0, -2.0],
    ),
    "expanded": (lambda r: dist.Exponential(r).expand([2]).to_event(1), [1.0, 2.0], -3.0, [-1.0, -2.0]),
    "masked": (
        lambda r: dist.Exponential(jnp.stack([r, r])).mask(jnp.array([True, False])).to_event(1),
        [1.0, -np.inf],
        -1.0,
        [-1.0, jnp.nan],
    ),
    "mixture of one family": (
        lambda r: dist.MixtureSameFamily(dist.Categorical(WEIGHTS), dist.Exponential(jnp.stack([r, 2.0 * r]))),
        1.0,
        np.log(0.25 * np.exp(-1.0) + 1.5 * np.exp(-2.0)),
        -1.0,
    ),
    "mixture": (
        lambda r: dist.MixtureGeneral(
            dist.Categorical(WEIGHTS), [dist.Exponential(r), dist.HalfNormal(r)], support=dist.constraints.real
        ),
        1.0,
        np.log(0.25 * np.exp(-1.0) + 0.75 * st.halfnorm.pdf(1.0)),
        -1.0,
    ),
    "Dirichlet": (
        lambda a: dist.Dirichlet(jnp.stack([a, a + 1.0])),
        [0.3, 0.7],
        st.beta.logpdf(0.3, 1.0, 2.0),
        [0.6, 0.7],
    ),
    "LKJ": (lambda c: dist.LKJ(2, c), [[1.0, 0.4], [0.4, 1.0]], -np.log(2.0), [[1.0, 1.4], [1.4, 1.0]]),
    "improper": (lambda _: dist.ImproperUniform(dist.constraints.positive, (), (2,)), [1.0, 2.0], 0.0, [1.0, -2.0]),
    "zero-inflated": (lambda r: dist.ZeroInflatedPoisson(0.5, r), 1, np.log(0.5) - 1.0, -1),
    "Bernoulli": (lambda p: dist.Bernoulli(0.4 * p), 1, np.log(0.4), 7),
    "Bernoulli, logits": (lambda x: dist.Bernoulli(logits=x), 1, -np.log1p(np.exp(-1.0)), -1),
    "binomial": (lambda p: dist.Binomial(3, 0.5 * p), 2, np.log(3 / 8), 4),
    "categorical": (lambda a: dist.Categorical(logits=jnp.stack([a, a])), 1, np.log(0.5), -1),
    "categorical, above": (lambda a: dist.Categorical(logits=jnp.stack([a, a])), 1, np.log(0.5), 7),
    "multinomial": (lambda a: dist.Multinomial(2, logits=jnp.stack([a, a])), [1, 1], np.log(0.5), [1, 2]),
    "Poisson": (dist.Poisson, 1, -1.0, -1),
    "geometric": (lambda p: dist.Geometric(0.5 * p), 1, np.log(0.25), -1),
    "discrete uniform": (lambda _: dist.DiscreteUniform(0, 3), 2, -np.log(4.0), 5),
}


@pytest.mark.table
@pytest.mark.parametrize("name", FAMILIES)
def test_a_density_outside_the_support(name):
    """-inf, and zero derivatives of the first and second order, in the value and in the parameter; inside, the formula.

    In the batch beside it a value inside keeps its own.
    """
    make, good, expected, bad = FAMILIES[name]
    good, bad = jnp.asarray(good), jnp.asarray(bad)
    program = tg.gen(lambda p: tg.sample("x", make(p)))

    def logp(p, x):
        return program.assess({"x": x}, p)[0]

    @jax.jit
    def both(p, x):
        value, slope = jax.vmap(jax.value_and_grad(logp), (None, 0))(p, x)
        return value, slope, jax.grad(jax.grad(logp))(p, x[1])

    with lenient():
        value, slope, second = both(jnp.asarray(1.0), jnp.stack([good, bad]))
    np.testing.assert_allclose(value, [expected, -np.inf], rtol=2e-5, atol=2e-6)
    assert np.isfinite(slope[0])
    assert (slope[1], second) == (0.0, 0.0)
    if jnp.issubdtype(bad.dtype, jnp.floating):
        with lenient():
            assert not np.any(jax.jit(jax.grad(logp, argnums=1))(jnp.asarray(1.0), bad))


@pytest.mark.parametrize("name", ["uniform", "gamma", "beta", "von Mises", "Dirichlet", "independent", "mixture"])
def test_nan_stays_nan(name):
    make, good, _, _ = FAMILIES[name]
    value = jnp.asarray(good) * jnp.nan
    assert jnp.isnan(jax.jit(lambda x: jnp.sum(log_density(make(jnp.asarray(1.0)), x)))(value))


def test_a_flip_between_0_and_1_is_relaxed():
    """A float in between has the linear formula, traced as by hand; beyond, nothing."""
    f = jax.jit(lambda x: log_density(dist.Bernoulli(logits=2.0), x))
    np.testing.assert_allclose(f(0.3), 0.6 - np.log1p(np.exp(2.0)), rtol=1e-6)
    assert f(1.1) == -np.inf


def test_what_is_drawn_is_not_looked_at():
    """No comparison with the support in a program that draws and scores; one where the value comes from elsewhere."""
    g = tg.gen(lambda r: tg.sample("t", dist.Exponential(r)))
    drawn = str(jax.make_jaxpr(lambda k: g.simulate(k, 1.0).logp)(KEY))
    given = str(jax.make_jaxpr(lambda t: g.assess({"t": t}, 1.0)[0])(1.0))
    assert "-inf" not in drawn
    assert "-inf" in given
    real = tg.gen(lambda m: tg.sample("x", dist.Normal(m, 1.0)))
    assert "-inf" not in str(jax.make_jaxpr(lambda x: real.assess({"x": x}, 1.0)[0])(1.0))


# ---- values that are known are refused ------------------------------------------------------------------------------

wait = tg.gen(lambda r: tg.sample("t", dist.Exponential(r)))
step = tg.gen(lambda c, r: (c, tg.sample("t", dist.Exponential(r))))
nested = tg.gen(lambda r: tg.sample("inner", wait.repeat(2)(r)))
BAD = np.array([1.0, -1.0])
ENTRANCES = {
    "jit": lambda r: wait.assess({"t": -1.0}, r)[0],
    "vmap": lambda r: wait.vmap(None, axis_size=2).assess({"t": BAD}, r)[0],
    "scan": lambda r: step.scan().assess({"t": BAD}, 0.0, jnp.stack([r, r]))[0],
    "nested": lambda r: nested.assess({"inner": {"t": BAD}}, r)[0],
    "generate": lambda r: wait.generate(KEY, {"t": -1.0}, r)[1],
    "target": lambda r: tg.Target(wait.repeat(2), (r,), {"t": BAD}).log_prob({}),
    "objective": lambda r: tg.elbo(nested, tg.gen(lambda: None), {"inner": {"t": BAD}})(KEY, (r,)),
    "draws": lambda r: (
        tg.importance_sampling(tg.Target(nested, (r,), {"inner": {"t": BAD}}), key=KEY, n=3).log_evidence
    ),
}


@pytest.mark.parametrize("name", ENTRANCES)
def test_a_known_value_outside_is_refused_under_every_trace(name):
    address = "inner/t" if name in ("nested", "objective", "draws") else "t"
    with pytest.raises(tg.ChoiceError, match=rf"'{address}' \(a Exponential\) is outside the support: expected Pos"):
        jax.jit(jax.grad(ENTRANCES[name]))(1.0)


def test_validation_can_be_left_out_and_edges_are_inside():
    free = tg.gen(lambda: tg.sample("t", dist.Exponential(1.0, validate_args=False)))
    assert free.assess({"t": -1.0})[0] == -np.inf
    assert wait.assess({"t": 0.0}, 1.0)[0] == 0.0
    through = jax.jit(lambda d: tg.gen(lambda: tg.sample("t", d)).assess({"t": -1.0})[0])
    with pytest.raises(tg.ChoiceError, match="outside the support"):
        through(dist.Exponential(1.0))


@pytest.mark.parametrize("around", [jax.jit, lambda f: jax.jit(jax.vmap(f)), jax.grad])
def test_validated_checks_traced_values_while_the_program_runs(around):
    checked = tg.validated(tg.gen(lambda: tg.sample("a", wait(1.0))))

    def f(t):
        return jnp.sum(jax.vmap(lambda t: checked.assess({"a": {"t": t}})[0])(jnp.atleast_1d(t)))

    one = jnp.ones(2) if around not in (jax.jit, jax.grad) else jnp.ones(())
    assert np.all(np.isfinite(around(f)(2.0 * one)))
    with pytest.raises(Exception, match=r"'a/t' \(a Exponential\) is outside the support"):
        jax.block_until_ready(around(f)(-one))


def test_fit_names_the_site_of_data_outside_the_support():
    """Minibatches are traced: the run stops at the first one whose density is zero."""

    def loss(key, rate, data):
        return -wait.vmap(None, axis_size=2).assess({"t": data}, jnp.exp(rate))[0]

    with pytest.raises(tg.FitError, match=r"at step 0\. The choice at 't' .* is outside the support"):
        tg.fit(loss, jnp.asarray(0.0), optax.sgd(0.1), key=KEY, steps=3, data=jnp.array([1.0, -1.0]), batch_size=2)


# ---- guides whose support is the larger -----------------------------------------------------------------------------

model = tg.gen(lambda: tg.sample("y", dist.Normal(tg.sample("z", dist.Exponential(1.0)), 0.5)))
normal = tg.gen(lambda: tg.sample("z", dist.Normal(-0.9, 0.4), estimator=tg.reinforce()))
paths = tg.gen(lambda: tg.sample("z", dist.Normal(-0.9, 0.4)))
OBJECTIVES = {
    "elbo": tg.elbo(model, normal, {"y": -1.0}),
    "iwelbo": tg.iwelbo(model, normal, {"y": -1.0}, n=2),
    "vimco": tg.vimco(model, normal, {"y": -1.0}, n=2),
    "vargrad": tg.vargrad(model, normal, {"y": -1.0}, n=2),
    "sticking": tg.sticking_the_landing(model, paths, {"y": -1.0}),
    "lanes": tg.elbo(model.repeat(2), normal.repeat(2), {"y": jnp.full(2, -1.0)}),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_larger_guide_is_told(name):
    with pytest.warns(tg.SupportWarning, match=r"draws at 'z' from Real\(\), and the model's density is zero outside"):
        jax.eval_shape(OBJECTIVES[name], KEY)


def test_the_bound_of_a_larger_guide_is_no_finite_number():
    """Log p(y) is -3.957; q leaves the positive numbers with probability 0.988, where log p is -inf."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tg.SupportWarning)
        draws = jax.vmap(OBJECTIVES["elbo"])(jax.random.split(KEY, 1000))
    assert abs(np.mean(np.isneginf(draws)) - st.norm.cdf(0.9 / 0.4)) < 0.02
    assert not np.any(np.isnan(draws))


QUIET = {
    "the same": (lambda _: dist.Exponential(2.0), dist.Gamma(1.0, 1.0)),
    "smaller": (lambda _: dist.Uniform(0.0, 1.0), dist.Exponential(1.0)),
    "unknown": (lambda w: dist.Uniform(w, 1.0), dist.Exponential(1.0)),
    "a point": (lambda w: dist.Delta(jnp.exp(w)), dist.Exponential(1.0)),
    "mapped": (lambda _: dist.TransformedDistribution(dist.Uniform(0.0, 1.0), ROUND), dist.Exponential(1.0)),
    "real": (lambda _: dist.Exponential(1.0), dist.Normal(0.0, 1.0)),
    "counts": (lambda _: dist.Binomial(3, 0.5), dist.Poisson(1.0)),
}
TOLD = {
    "wider": (lambda _: dist.Uniform(0.0, 2.0), dist.Beta(2.0, 2.0)),
    "lower": (lambda _: dist.Uniform(-1.0, 1.0), dist.Exponential(1.0)),
    "more categories": (lambda _: dist.Categorical(jnp.ones(3) / 3), dist.Categorical(jnp.ones(2) / 2)),
    "more counts": (lambda _: dist.Poisson(1.0), dist.Binomial(3, 0.5)),
    "off the simplex": (lambda _: dist.Normal(jnp.zeros(2), 1.0).to_event(1), dist.Dirichlet(jnp.ones(2))),
    "bounds not known": (lambda _: dist.Normal(0.0, 1.0), None),
}


@pytest.mark.parametrize("name", [*QUIET, *TOLD])
def test_when_it_is_told(name):
    make, prior = (QUIET | TOLD)[name]
    p = tg.gen(lambda w: tg.sample("z", prior or dist.Uniform(w, w + 1.0)))
    q = tg.gen(lambda w: tg.sample("z", make(w)))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        jax.eval_shape(tg.elbo(p, q, {}), KEY, (0.5,), (0.5,))
    assert [w.category for w in said] == [tg.SupportWarning] * (name in TOLD)


# ---- masks ----------------------------------------------------------------------------------------------------------

FLAGS, MISSING = jnp.array([True, False, True]), jnp.array([1.0, jnp.nan, -2.0])
MU = jnp.array([0.5, 1.5, 2.5])
point = tg.gen(lambda m: tg.sample("y", dist.Normal(m, 1.0)))
chain = tg.gen(lambda m: tg.sample("w", dist.Normal(tg.sample("y", dist.Normal(m, 1.0)), 1.0)))
several = tg.gen(lambda d: tg.sample("y", d))
MASKED = {
    "combinator": tg.gen(lambda mu: tg.sample("p", point.mask().vmap()(FLAGS, mu))),
    "distribution": tg.gen(lambda mu: tg.sample("p", several(dist.Normal(mu, 1.0).mask(FLAGS)))),
    "event": tg.gen(lambda mu: tg.sample("p", several(dist.Normal(mu, 1.0).mask(FLAGS).to_event(1)))),
    "chain": tg.gen(lambda mu: tg.sample("p", chain.mask().vmap()(FLAGS, mu))),
}


@pytest.mark.parametrize("around", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("name", MASKED)
def test_missing_data_are_nan_under_a_mask(name, around):
    """Value and derivative are those of the entries that are there."""
    given = {"p": {"y": MISSING} | ({"w": MISSING} if name == "chain" else {})}
    value, slope = around(jax.value_and_grad(lambda mu: MASKED[name].assess(given, mu)[0]))(MU)
    y, mu = np.array([1.0, -2.0]), np.array([0.5, 2.5])
    expected = st.norm.logpdf(y, mu).sum() + (2 * st.norm.logpdf(0.0) if name == "chain" else 0.0)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(slope, [0.5, 0.0, -4.5], rtol=1e-6)


def test_what_is_given_under_a_mask_stays_in_the_trace():
    trace, _ = MASKED["combinator"].generate(KEY, {"p": {"y": MISSING}}, MU)
    np.testing.assert_array_equal(trace.choices["p"]["y"], MISSING)


@pytest.mark.parametrize("flag", [True, False])
def test_a_mask_of_one_flag(flag):
    """A positive latent of a value that it cannot have."""
    f = jax.value_and_grad(lambda r: wait.mask().assess({"t": -1.0}, flag, r)[0])
    if flag:
        with pytest.raises(tg.ChoiceError, match="outside the support"):
            f(2.0)
    else:
        assert f(2.0) == (0.0, 0.0)


def test_values_that_count_are_checked_under_a_mask_of_the_distribution():
    with pytest.raises(tg.ChoiceError, match="outside the support"):
        tg.gen(lambda: tg.sample("t", dist.Exponential(jnp.ones(2)).mask(jnp.array([False, True])))).assess({"t": BAD})


MASKS = {
    "False": lambda d: d.mask(False),
    "array": lambda d: d.mask(jnp.array(False)),
    "expanded": lambda d: d.mask(False).expand([1]),
    "event": lambda d: d.expand([2]).mask(jnp.array([True, False])).to_event(1),
}
ESTIMATORS = [tg.reinforce(), tg.enum(), tg.local_expectation(), tg.mvd(), tg.sum_and_sample(1), tg.unordered_set(2)]


@pytest.mark.table
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
@pytest.mark.parametrize("mask", MASKS)
def test_a_masked_draw_has_the_law_of_what_is_masked(mask, estimator):
    """E[3 b] = 3 p in every element, its derivative 3; the density that it counts with is that of the mask."""
    g = tg.gen(lambda p: tg.sample("b", MASKS[mask](dist.Bernoulli(p)), estimator=estimator))
    size = 2 if mask == "event" else 1
    f = tg.expectation(lambda key, p: 3.0 * jnp.sum(g.simulate(key, p).retval.astype(float)))
    mean = tg.exact_expectation(f, cells=5)
    value, slope = jax.value_and_grad(mean, argnums=1)(KEY, 0.4)
    np.testing.assert_allclose((value, slope), (1.2 * size, 3.0 * size), rtol=1e-5)
    expected = np.log(0.4) if mask == "event" else 0.0
    np.testing.assert_allclose(g.assess({"b": jnp.ones_like(g.simulate(KEY, 0.4).retval)}, 0.4)[0], expected, rtol=1e-5)


def test_a_masked_normal_by_score():
    """d E x^2 / d mu = 2 mu = 0.8."""
    g = tg.gen(lambda m: tg.sample("x", dist.Normal(m, 1.0).mask(False), estimator=tg.reinforce()))
    f = tg.expectation(lambda key, m: g.simulate(key, m).retval ** 2)
    assert tg.check_unbiased(f, 0.4, key=KEY, draws=20_000, exact=(1.16, (0.8,))).passed


# ---- distributions that are refused ---------------------------------------------------------------------------------


def test_a_refused_parameter_names_the_site():
    scale = -1.0

    def program():
        tg.sample("a", dist.Normal(0.0, 1.0))
        return tg.sample(
            "z",
            dist.Normal(0.0, scale),
        )

    inner = tg.gen(program)
    outer = tg.gen(lambda: tg.sample("sub", inner()))
    text = r"refuses the distribution at 'sub/z' in program: Normal distribution got invalid scale parameter\. It was "
    with pytest.raises(tg.DistributionError, match=text + r"built at .*test_supports\.py:\d+: `dist\.Normal"):
        jax.jit(outer.simulate)(KEY)


def test_a_refused_parameter_before_its_address():
    def program():
        tg.sample("a", dist.Normal(0.0, 1.0))
        d = dist.Categorical(probs=jnp.array([0.5, 0.9]))
        return tg.sample("c", d)

    with pytest.raises(tg.DistributionError, match=r"at the sample after 'a' in program: .*: `d = dist\.Categorical"):
        tg.gen(program).simulate(KEY)


def test_other_errors_of_a_body_are_left_alone():
    def program():
        raise ValueError("mine")

    with pytest.raises(ValueError, match="^mine$"):
        tg.gen(program).simulate(KEY)


def test_a_distribution_without_a_sampler():
    flat = tg.gen(lambda: tg.sample("x", dist.ImproperUniform(dist.constraints.positive, (), ())))
    assert flat.assess({"x": 2.0})[0] == 0.0
    assert flat.generate(KEY, {"x": 2.0})[1] == 0.0
    with pytest.raises(tg.ChoiceError, match="'x' .* is outside the support"):
        flat.assess({"x": -2.0})
    with pytest.raises(tg.DistributionError, match=r"'x' cannot be drawn: a ImproperUniform has a density and no samp"):
        flat.simulate(KEY)
