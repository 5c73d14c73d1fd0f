"""Automatic families: densities on the choices, exact posteriors recovered, and what they refuse."""

import functools

import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp

import tracegrad as tg
from tracegrad import auto, dist

KEY = jax.random.key(0)

# ---- a conjugate normal model: z ~ N(0, I), y ~ N(A z, 0.5^2) --------------------------------------------------------

A = np.array([[1.0, 0.9, 0.2], [0.5, 1.0, -0.4], [1.5, 1.0, 0.3], [0.2, 0.3, 1.0]])
Y = np.array([1.0, -0.5, 2.0, 0.7])
PRECISION = np.eye(3) + A.T @ A / 0.25
COVARIANCE = np.linalg.inv(PRECISION)
MEAN = COVARIANCE @ A.T @ Y / 0.25
MARGINAL = A @ A.T + 0.25 * np.eye(4)
LOG_EVIDENCE = -0.5 * (Y @ np.linalg.solve(MARGINAL, Y) + np.linalg.slogdet(2.0 * np.pi * MARGINAL)[1])


@tg.gen
def pair():
    return tg.sample("b", dist.Normal(0.0, 1.0).expand([2]))


@tg.gen
def regression():
    a = tg.sample("a", dist.Normal(0.0, 1.0))
    z = jnp.concatenate([a[None], tg.sample("sub", pair())])
    tg.sample("y", dist.Normal(jnp.asarray(A, jnp.float32) @ z, 0.5))


TARGET = tg.Target(regression, (), {"y": jnp.asarray(Y, jnp.float32)})


def fitted(family, *, steps=1500, rate=0.05, lanes=16):
    target = family.space.target
    bound = tg.elbo(target.function, family.guide, target.observed)

    def objective(key, params):
        return jnp.mean(jax.vmap(lambda k: bound(k, target.args, params))(jax.random.split(key, lanes)))

    optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps))
    params = family.init(jax.random.key(1))
    return tg.fit(objective, params, optimizer, key=KEY, steps=steps, maximize=True, progress=False).params


@functools.cache
def full_rank_fit():
    family = auto.full_rank(TARGET)
    return family, fitted(family)


def test_mean_field_has_the_sds_of_the_conditionals():
    """sd / sqrt(Sigma_ii Lambda_ii), which is 1 / sqrt(Lambda_ii): by up to half too small here."""
    params = fitted(auto.mean_field(TARGET))
    np.testing.assert_allclose(params["loc"], MEAN, atol=0.03)
    expected = np.sqrt(np.diag(COVARIANCE)) / np.sqrt(np.diag(COVARIANCE) * np.diag(PRECISION))
    np.testing.assert_allclose(np.exp(params["log_scale"]), expected, rtol=0.04)
    assert np.max(np.sqrt(np.diag(COVARIANCE) * np.diag(PRECISION))) > 1.5


def check_normal(params, factor):
    covariance = np.asarray(factor @ factor.T)
    sds = np.sqrt(np.diag(COVARIANCE))
    assert np.max(np.abs(params["loc"] - MEAN) / sds) < 0.1
    np.testing.assert_allclose(np.sqrt(np.diag(covariance)), sds, rtol=0.1)
    return covariance


def cholesky(family, params):
    return np.linalg.cholesky(family.distribution(params).covariance_matrix)


def test_full_rank_recovers_a_normal_posterior():
    family, params = full_rank_fit()
    covariance = check_normal(params, cholesky(family, params))
    np.testing.assert_allclose(covariance, COVARIANCE, atol=0.1 * np.max(COVARIANCE))


def test_low_rank_recovers_a_normal_posterior_of_its_rank():
    """Two factors and a diagonal hold any covariance of three coordinates' size here, nearly."""
    family = auto.low_rank(TARGET, 2)
    check_normal(params := fitted(family), cholesky(family, params))


@functools.cache
def laplace_normal():
    return auto.laplace(TARGET).init(KEY)


def test_laplace_is_exact_on_a_normal_posterior():
    """Then every importance weight is the evidence."""
    family = auto.laplace(TARGET)
    params = laplace_normal()
    np.testing.assert_allclose(params["loc"], MEAN, atol=1e-4)
    np.testing.assert_allclose(family.distribution(params).covariance_matrix, COVARIANCE, atol=1e-5)
    found = tg.importance_sampling(TARGET, family.guide, params, key=KEY, n=100)
    np.testing.assert_allclose(found.log_weights, LOG_EVIDENCE, atol=1e-3)
    assert found.k_hat == -np.inf


def test_laplace_refuses_a_flat_direction():
    flat = tg.gen(lambda: tg.sample("z", dist.Laplace(0.0, 1.0)))
    with pytest.raises(tg.FitError, match="not curved downwards"):
        auto.laplace(tg.Target(flat)).init(KEY)


def test_delta_finds_the_mode_of_the_choices():
    """Of a Gamma(3, 2) that is 1, where the mode on the log scale would be 1.5."""
    family = auto.delta(tg.Target(tg.gen(lambda: tg.sample("z", dist.Gamma(3.0, 2.0)))))
    params = fitted(family, steps=500, lanes=1)
    trace = family.guide.simulate(KEY, params)
    assert abs(float(trace.choices["z"]) - 1.0) < 1e-3
    assert abs(float(trace.logp)) < 1e-6
    assert float(family.guide.assess(trace.choices, params)[0]) == pytest.approx(0.0, abs=1e-5)
    assert float(family.guide.assess({"z": 2.0}, params)[0]) == -np.inf


def test_k_hat_tells_a_good_family_from_a_bad_one():
    family, params = full_rank_fit()
    wide = params | {"log_scale": params["log_scale"] + 0.3}
    narrow = params | {"log_scale": params["log_scale"] - 1.2}
    good, bad = (tg.importance_sampling(TARGET, family.guide, p, key=KEY, n=2000) for p in (wide, narrow))
    assert good.k_hat < 0.5 < 0.7 < bad.k_hat
    assert float(good.log_evidence) == pytest.approx(LOG_EVIDENCE, abs=0.1)
    assert float(bad.ess) < 200.0 < float(good.ess)
    smoothed, _ = good.psis()
    assert float(jax.nn.logsumexp(smoothed)) == pytest.approx(0.0, abs=1e-4)


# ---- densities ------------------------------------------------------------------------------------------------------


@tg.gen
def halves():
    k = tg.sample("k", dist.DiscreteUniform(2, 4))
    tg.sample("s", dist.HalfNormal(1.0))
    tg.sample("x", dist.Normal(k.astype(float), 1.0))


MIXED = tg.Target(halves, (), {"x": 3.5})
POSITIVE = tg.Target(tg.gen(lambda: tg.sample("s", dist.HalfNormal(1.0))))
ONE_DIMENSION = {
    "mean_field": auto.mean_field,
    "full_rank": auto.full_rank,
    "low_rank": functools.partial(auto.low_rank, rank=1),
    "flow": auto.flow,
}


def perturbed(family):
    """Parameters away from their start, where a family is what it can be."""
    params = family.init(jax.random.key(2))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(3), len(leaves))
    leaves = [x + 0.3 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    moved = tree.unflatten(leaves)
    return moved | {"log_scale": moved["log_scale"] + 2.0}


@pytest.mark.table
@pytest.mark.parametrize("name", ONE_DIMENSION)
def test_densities_integrate_to_one_and_are_those_of_the_draws(name):
    """The mass over s > 0 and k is one, and the part of it below a point is the frequency of draws there."""
    family = ONE_DIMENSION[name](MIXED)
    params = perturbed(family)
    logs = jnp.linspace(-12.0, 12.0, 4001)

    def density(k, u):
        return jnp.exp(family.guide.assess({"k": k, "s": jnp.exp(u)}, params)[0] + u)

    over = jax.jit(jax.vmap(jax.vmap(density, in_axes=(None, 0)), in_axes=(0, None)))
    mass = np.asarray(over(jnp.array([2, 3, 4]), logs), np.float64).sum(0) * (24.0 / 4000.0)
    assert mass.sum() == pytest.approx(1.0, abs=2e-3)
    middle = int(np.searchsorted(np.cumsum(mass), 0.3))
    n = 20_000
    traces = jax.jit(jax.vmap(lambda key: family.guide.simulate(key, params)))(jax.random.split(KEY, n))
    below = float(jnp.mean(jnp.log(traces.choices["s"]) < logs[middle]))
    p = mass[:middle].sum() + 0.5 * mass[middle]
    assert abs(below - p) < 4.0 * np.sqrt(p * (1.0 - p) / n) + 2e-3
    first = jax.tree.map(lambda x: x[:50], traces.choices)
    assessed = jax.jit(jax.vmap(lambda c: family.guide.assess(c, params)[0]))(first)
    np.testing.assert_allclose(assessed, traces.logp[:50], atol=2e-3)


@tg.gen
def step(c, _):
    z = tg.sample("z", dist.Uniform(c, c + 2.0))
    return z, None


@tg.gen
def many():
    s = tg.sample("s", dist.HalfNormal(1.0))
    tg.sample("p", dist.Dirichlet(jnp.ones(3)))
    tg.sample("steps", step.scan(length=2)(s, None))
    tg.sample("bits", tg.gen(lambda: tg.sample("b", dist.Bernoulli(0.5).expand([2]).to_event(1))).repeat(3)())
    tg.sample("x", dist.Normal(0.0, s))


@pytest.mark.slow
def test_simulate_and_assess_agree_on_nested_choices():
    """Supports that depend on other choices, in a loop; a simplex; discrete sites in a plate and as events."""
    with jax.enable_x64(True):
        family = auto.flow(tg.Target(many, (), {"x": 0.5}))
        params = perturbed(family)
        trace, assessed = jax.jit(
            lambda key: (t := family.guide.simulate(key, params), family.guide.assess(t.choices, params)[0])
        )(KEY)
    assert float(assessed) == pytest.approx(float(trace.logp), abs=1e-9)
    assert trace.logp.dtype == np.float64
    assert trace.choices["bits"]["b"].shape == (3, 2)
    assert params["logits"]["bits"]["b"].shape == (3, 2, 2)
    assert family.space.size == 5
    assert bool(jnp.all(trace.choices["steps"]["z"] > jnp.stack([trace.choices["s"], trace.choices["steps"]["z"][0]])))


def test_the_log_determinant_is_that_of_the_map():
    chain = tg.gen(lambda: tg.sample("steps", step.scan(length=2)(tg.sample("s", dist.HalfNormal(1.0)), None)))
    space = tg.to_unconstrained(tg.Target(chain))
    point = jnp.array([0.3, -0.5, 1.2])

    def stacked(point):
        choices = space.constrain(point)
        return jnp.concatenate([choices["s"][None], choices["steps"]["z"]])

    _, log_det = jnp.linalg.slogdet(jax.jacfwd(stacked)(point))
    log_gamma = space.target.log_prob(space.constrain(point))
    assert float(space.log_prob(point)) == pytest.approx(float(log_gamma + log_det), abs=1e-5)
    np.testing.assert_allclose(space.unconstrain(space.constrain(point)), point, atol=1e-5)
    np.testing.assert_array_equal(space.ravel(space.unravel(point)), point)
    assert isinstance(space, tg.Unconstrained)


def test_values_outside_the_support_have_no_density():
    family = auto.mean_field(MIXED)
    params = family.init(KEY)
    density = jax.jit(lambda choices: family.guide.assess(choices, params)[0])
    assert np.isfinite(density({"k": 4, "s": 1.0}))
    for wrong in ({"k": 5, "s": 1.0}, {"k": 2, "s": -1.0}):
        assert float(density(wrong)) == -np.inf


def test_discrete_latents_have_exact_gradients_by_enumeration():
    """With the posterior's logits the bound is the evidence; away from them its gradient is the exact one."""
    target = tg.Target(
        tg.gen(lambda: tg.sample("x", dist.Normal(tg.sample("k", dist.DiscreteUniform(2, 4)).astype(float), 1.0))),
        (),
        {"x": 3.5},
    )
    family = auto.mean_field(target)
    joint = jnp.stack([target.log_prob({"k": k}) for k in (2, 3, 4)])
    bound = tg.elbo(target.function, family.guide.with_estimators({"k": tg.enum()}), target.observed)
    params = family.init(KEY)
    posterior = params | {"logits": {"k": joint}}
    assert float(bound(KEY, (), posterior)) == pytest.approx(float(jax.nn.logsumexp(joint)), abs=1e-5)

    def exact(logits):
        q = jax.nn.softmax(logits)
        return q @ (joint - jnp.log(q))

    logits = jnp.array([0.3, -0.2, 0.1])
    grad = jax.grad(lambda x: bound(KEY, (), params | {"logits": {"k": x}}))(logits)
    np.testing.assert_allclose(grad, jax.grad(exact)(logits), atol=1e-5)


# ---- eight schools --------------------------------------------------------------------------------------------------

# Rubin, Estimation in Parallel Randomized Experiments, 1981, table 1; Gelman et al., Bayesian Data Analysis, 5.5.
EFFECTS = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


@tg.gen
def schools():
    mu = tg.sample("mu", dist.Normal(0.0, 5.0))
    tau = tg.sample("tau", dist.HalfCauchy(5.0))
    theta = tg.sample("theta", dist.Normal(0.0, 1.0).expand([8]))
    tg.sample("y", dist.Normal(mu + tau * theta, jnp.asarray(ERRORS, jnp.float32)))


def schools_evidence():
    """By quadrature over log tau: given it the effects are jointly normal."""
    logs = np.linspace(-15.0, 12.0, 4001)

    def at(tau):
        covariance = np.diag(ERRORS**2 + tau**2) + 25.0
        normal = -0.5 * (EFFECTS @ np.linalg.solve(covariance, EFFECTS) + np.linalg.slogdet(2 * np.pi * covariance)[1])
        return np.exp(normal) * 2.0 / (np.pi * 5.0 * (1.0 + (tau / 5.0) ** 2)) * tau

    return np.log(sum(at(t) for t in np.exp(logs)) * (logs[1] - logs[0]))


@pytest.mark.slow
def test_eight_schools_bound_is_below_the_evidence_and_near_it():
    assert schools_evidence() == pytest.approx(-31.3113, abs=1e-3)
    target = tg.Target(schools, (), {"y": jnp.asarray(EFFECTS, jnp.float32)})
    family = auto.full_rank(target)
    params = fitted(family, steps=600, rate=0.04, lanes=8)
    found = tg.importance_sampling(target, family.guide, params, key=KEY, n=4000)
    elbo, error = float(jnp.mean(found.log_weights)), float(jnp.std(found.log_weights)) / 4000**0.5
    assert elbo < -31.3113 + 4.0 * error
    assert elbo > -31.9
    assert abs(float(found.mean()["mu"]) - 4.397) < 0.5  # its posterior mean, by the same quadrature


# ---- refusals -------------------------------------------------------------------------------------------------------

normal = tg.gen(lambda: tg.sample("z", dist.Normal(0.0, 1.0)))
other = tg.gen(lambda: tg.sample("w", dist.Normal(0.0, 1.0)))
coin = tg.gen(lambda: tg.sample("b", dist.Bernoulli(0.5)))


@tg.gen
def branching():
    b = tg.sample("b", dist.Bernoulli(0.5))
    tg.sample("y", tg.cond(b == 1, normal, other)())


@tg.gen
def estimated():
    tg.sample("inner", tg.marginal(tg.gen(lambda: (normal.inline(), other.inline())[0]), "z", tg.importance(2))())


class Plain:
    def sample(self, key):
        return jax.random.normal(key)

    def log_prob(self, value):
        return -0.5 * value**2


@pytest.mark.parametrize(
    ("make", "program", "message"),
    [
        (tg.to_unconstrained, coin, "latents at 'b' are discrete.*Marginalise them.*categorical family"),
        (auto.delta, coin, "are discrete"),
        (auto.laplace, coin, "are discrete"),
        (auto.flow, coin, "no continuous latent"),
        (auto.mean_field, tg.gen(lambda: tg.sample("n", dist.Poisson(3.0))), "'n' .Poisson. has no finite support"),
        (auto.mean_field, branching, "are not sampled on every run"),
        (
            auto.mean_field,
            tg.gen(lambda: tg.sample("m", normal.mask()(jnp.zeros((), bool)))),
            "latents 'm/z' are not sampled on every run .*`mask` leaves",
        ),
        (auto.mean_field, estimated, "'inner/z' belong to a density that is an estimate"),
        (auto.mean_field, tg.gen(lambda: tg.sample("o", Plain())), "no bijection from the real line"),
        (functools.partial(auto.low_rank, rank=0), normal, "rank must be a positive int, and is 0"),
        (functools.partial(auto.flow, make=lambda key, base: 3), normal, "must return a flow of flowjax"),
    ],
)
def test_what_has_no_such_family_is_refused(make, program, message):
    with pytest.raises(tg.DensityError, match=message):
        make(tg.Target(program))


def test_misuse_says_what_to_write():
    with pytest.raises(tg.DensityError, match=r"got Function. Write `Target\("):
        auto.mean_field(normal)
    family = auto.mean_field(MIXED)
    assert isinstance(family, auto.Family)
    with pytest.raises(tg.DensityError, match="give all .it is assessed. or none"):
        family.guide.generate(KEY, {"s": 1.0}, family.init(KEY))
    with pytest.raises(tg.AddressError, match="takes one argument, the parameters"):
        family.guide.simulate(KEY)
    with pytest.raises(tg.RandomKeyError):
        family.init(0)
    space = tg.to_unconstrained(POSITIVE)
    with pytest.raises(tg.ChoiceError, match="a vector of 1 real coordinates"):
        space.log_prob(jnp.zeros(2))


@pytest.mark.slow
def test_an_observed_marginal_does_not_count_in_the_map():
    """A chain whose states are summed out, beside a continuous latent: the map's determinant is that of the latent."""

    @tg.gen
    def state(carry, _):
        z, p = carry
        z = tg.sample("z", dist.Bernoulli(probs=jnp.where(z == 1, p, 0.2)))
        tg.sample("y", dist.Normal(z.astype(float), 1.0))
        return (z, p), None

    @tg.gen
    def model():
        p = tg.sample("p", dist.Beta(2.0, 2.0))
        tg.sample("chain", tg.marginal(state.scan(length=3), "y", tg.forward_filter())((0, p), None))

    target = tg.Target(model, (), {"chain": {"y": jnp.array([0.1, 1.2, 0.9])}})
    space = tg.to_unconstrained(target)
    point = jnp.array([0.4])
    p = jax.nn.sigmoid(point[0])
    expected = target.log_prob({"p": p}) + jnp.log(p * (1.0 - p))
    np.testing.assert_allclose(space.log_prob(point), expected, rtol=1e-5)


@pytest.mark.parametrize("make", [auto.mean_field, auto.full_rank])
def test_around_laplace_a_family_starts_at_the_posterior(make):
    """On a normal posterior: every weight is the evidence before any step, correlations and all."""
    family = make(TARGET, around=laplace_normal())
    found = tg.importance_sampling(TARGET, family.guide, family.init(KEY), key=KEY, n=100)
    np.testing.assert_allclose(found.log_weights, LOG_EVIDENCE, atol=1e-3)


def test_around_a_normal_the_density_is_that_of_the_draws():
    """Around a correlated normal, simulate and assess agree, and the points map back."""
    with jax.enable_x64(True):
        target = tg.Target(tg.gen(lambda: tg.sample("z", dist.Gamma(2.0, 1.0).expand([3]))))
        normal = auto.full_rank(target).init(KEY)
        normal = {**normal, "lower": jnp.full((3, 3), 0.7), "log_scale": jnp.array([0.3, -0.5, 0.1])}
        family = auto.low_rank(target, 1, around=normal)
        params = perturbed(family)
        trace = family.guide.simulate(KEY, params)
        assert float(family.guide.assess(trace.choices, params)[0]) == pytest.approx(float(trace.logp), abs=1e-6)
        point = jnp.array([0.1, -0.4, 2.0])
        np.testing.assert_allclose(family.space.unconstrain(family.space.constrain(point)), point, atol=1e-6)


def test_around_takes_the_parameters_of_a_normal():
    with pytest.raises(tg.DensityError, match=r"auto\.laplace"):
        auto.full_rank(TARGET, around={"loc": jnp.zeros(2)})


@pytest.mark.slow
def test_laplace_takes_the_mode_with_the_most_mass():
    """Of two, nine tenths of the mass in one, whichever a start is near to: a single start ends in the other."""
    far = dist.MixtureSameFamily(
        dist.Categorical(probs=jnp.array([0.1, 0.9])), dist.Normal(jnp.array([-6.0, 6.0]), 1.0)
    )
    target = tg.Target(tg.gen(lambda: tg.sample("z", far)))
    modes = {n: jax.vmap(auto.laplace(target, starts=n).init)(jax.random.split(KEY, 10))["loc"][:, 0] for n in (1, 12)}
    np.testing.assert_allclose(modes[12], 6.0, atol=1e-3)
    assert np.any(np.asarray(modes[1]) < 0.0)


@pytest.mark.parametrize("name", ["loc", "log_scale", "lower"])
def test_parameters_that_are_not_finite_name_the_sites_whose_coordinates_they_are(name):
    @tg.gen
    def program():
        tg.sample("a", dist.Normal(0.0, 1.0))
        tg.sample("rows", dist.Normal(0.0, 1.0).expand([2]).to_event(1))

    family = tg.auto.full_rank(tg.Target(program))
    params = family.init(jax.random.key(0))
    bad = params | {name: params[name].at[1].set(jnp.nan)}
    with pytest.raises(tg.DensityError, match=rf"'{name}' among its parameters is not finite for .* of 'rows'\. Look"):
        family.guide.simulate(jax.random.key(1), bad)


def test_describing_a_space_draws_nothing():
    """Shapes and supports are read off the traced program: what it would draw is neither compiled nor run."""
    drawn = []

    class Counted(dist.Normal):
        def sample(self, key, sample_shape=()):
            return jax.pure_callback(lambda x: drawn.append(1) or x, self.loc, self.loc)

    target = tg.Target(tg.gen(lambda: tg.sample("z", Counted(jnp.zeros(()), 1.0))))
    assert tg.to_unconstrained(target).size == 1
    assert drawn == []


def test_laplace_stops_where_rounding_hides_any_gain():
    """A slope of 1e-5 is out of reach where the log density is of the order of 1e7: it stops all the same."""
    seen = []

    @tg.gen
    def steep():
        z = tg.sample("z", dist.Normal(0.0, 1.0))
        jax.debug.callback(lambda: seen.append(1))
        tg.sample("y", dist.Normal(z, 1e-3).expand([300]))

    y = jnp.linspace(0.3, 0.9, 300)
    params = auto.laplace(tg.Target(steep, (), {"y": y}), starts=1).init(KEY)
    jax.effects_barrier()
    assert params["loc"][0] == pytest.approx(0.6, abs=1e-4)
    assert 0 < len(seen) < 150
