"""Coordinates chosen from outside: the density on the new space against formulas, the choices unchanged."""

import jax
import numpy as np
import optax
import pytest
from exactly import exact_key
from jax import numpy as jnp
from scipy import stats

import tracegrad as tg

SIGMA = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
Y = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
"""Eight schools: Rubin, Estimation in Parallel Randomized Experiments, 1981."""


TRANSFORMS = tg.dist.transforms


@tg.gen
def schools():
    mu = tg.sample("mu", tg.dist.Normal(0.0, 5.0))
    tau = tg.sample("tau", tg.dist.HalfCauchy(5.0))
    theta = tg.sample("theta", tg.dist.Normal(mu, tau).expand([8]).to_event(1))
    tg.sample("y", tg.dist.Normal(theta, SIGMA).to_event(1))


def log_density(mu, tau, theta):
    prior = stats.norm.logpdf(mu, 0.0, 5.0) + stats.halfcauchy.logpdf(tau, scale=5.0)
    return prior + stats.norm.logpdf(theta, mu, tau).sum() + stats.norm.logpdf(Y, theta, SIGMA).sum()


@pytest.mark.parametrize("centring", [0.0, 1.0, 0.3, np.linspace(0.0, 1.0, 8)])
def test_the_density_in_other_coordinates(centring):
    """log gamma(T(u)) + log |dtau / dlog tau| + sum_i (1 - c_i) log tau."""
    target = tg.Target(schools.with_coordinates({"theta": tg.noncentred(centring)}), observed={"y": Y})
    with jax.enable_x64(True):
        space = tg.to_unconstrained(target)
        point = np.random.default_rng(0).normal(size=10)
        choices = jax.tree.map(np.asarray, space.constrain(jnp.asarray(point)))
        mu, tau = point[0], np.exp(point[1])
        share = tau ** (1.0 - centring)
        theta = mu + share * (point[2:] - centring * mu)
        np.testing.assert_allclose(choices["theta"], theta, rtol=1e-10)
        log_det = np.log(tau) + np.sum(np.broadcast_to(np.log(share), 8))
        assert float(space.log_prob(jnp.asarray(point))) == pytest.approx(log_density(mu, tau, theta) + log_det)
        np.testing.assert_allclose(space.unconstrain(choices), point, rtol=1e-8)


@pytest.mark.slow
def test_a_funnel_has_a_mode_in_noncentred_coordinates():
    """Centred, the density of the hierarchy is infinite where the scale is zero, and there is nothing to curve."""
    centred = tg.Target(schools, observed={"y": Y})
    with pytest.raises(tg.FitError):
        tg.auto.laplace(centred).init(jax.random.key(0))
    noncentred = tg.Target(schools.with_coordinates({"theta": tg.noncentred()}), observed={"y": Y})
    family = tg.auto.laplace(noncentred)
    draws = family.guide.simulate(jax.random.key(1), family.init(jax.random.key(0))).choices
    assert sorted(draws) == ["mu", "tau", "theta"]


def test_sites_of_many_kinds_are_noncentred():
    factor = np.array([[2.0, 0.0], [0.5, 1.0]])

    @tg.gen
    def inner(scale):
        tg.sample("t", tg.dist.StudentT(3.0, 1.0, scale))

    @tg.gen
    def model():
        scale = tg.sample("scale", tg.dist.LogNormal(0.0, 1.0))
        tg.sample("rows", inner.vmap()(scale * jnp.array([1.0, 2.0])))
        tg.sample("vector", tg.dist.MultivariateNormal(jnp.ones(2), scale_tril=scale * factor))
        tg.sample("plain", tg.dist.Normal(scale, 1.0).mask(True))  # noqa: FBT003  (numpyro's)

    chosen = model.with_coordinates({"rows/t": tg.noncentred(), "vector": tg.noncentred(), "pl*": tg.noncentred()})
    with pytest.raises(tg.AddressError, match="'pl\\*' matches no sample"):
        tg.to_unconstrained(tg.Target(chosen))
    chosen = model.with_coordinates({"**": tg.noncentred(), "scale": tg.dist.transforms.ExpTransform()})
    space = tg.to_unconstrained(tg.Target(chosen))
    u = {"scale": 0.4, "rows": {"t": jnp.array([1.0, -1.0])}, "vector": jnp.array([0.3, -0.2]), "plain": 0.7}
    found = space.constrain(space.ravel(u))
    scale = np.exp(0.4)
    np.testing.assert_allclose(found["rows"]["t"], 1.0 + scale * np.array([1.0, -2.0]), rtol=1e-5)
    np.testing.assert_allclose(found["vector"], 1.0 + scale * factor @ [0.3, -0.2], rtol=1e-5)
    np.testing.assert_allclose(found["plain"], scale + 0.7, rtol=1e-5)


@pytest.mark.parametrize(
    ("coordinates", "error", "words"),
    [
        ({"tau": tg.noncentred()}, tg.DensityError, "noncentred\\(\\) at 'tau': a HalfCauchy"),
        ({"thta": tg.noncentred()}, tg.AddressError, "'thta' matches no sample"),
        ({"theta": 0.5}, tg.DensityError, "must be given `noncentred\\(\\)`"),
        (tg.noncentred(), tg.AddressError, "takes a dict"),
        ({"theta": tg.noncentred(jnp.ones(3))}, tg.DensityError, "'theta': a centring of the shape \\(3,\\)"),
        ({"mu": TRANSFORMS.ExpTransform()}, tg.DensityError, "at 'mu': a ExpTransform leads from"),
        ({"mu": TRANSFORMS.ExpTransform().inv}, tg.DensityError, "at 'mu'"),
        ({"mu": TRANSFORMS.OrderedTransform()}, tg.DensityError, "at 'mu'"),
        ({"tau": TRANSFORMS.SigmoidTransform()}, tg.DensityError, "at 'tau'"),
    ],
)
def test_bad_coordinates_are_named(coordinates, error, words):
    with pytest.raises(error, match=words):
        tg.to_unconstrained(tg.Target(schools.with_coordinates(coordinates), observed={"y": Y}))


INTERVAL = TRANSFORMS.AffineTransform(2.0, 3.0, domain=tg.dist.constraints.unit_interval)


@pytest.mark.table
@pytest.mark.parametrize(
    ("distribution", "transform", "size"),
    [
        (tg.dist.Dirichlet(jnp.ones(3)), TRANSFORMS.StickBreakingTransform(), 2),
        (tg.dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2)), TRANSFORMS.AffineTransform(1.0, 2.0), 2),
        (tg.dist.Normal(0.0, 1.0).expand([2]), TRANSFORMS.LowerCholeskyAffine(jnp.zeros(2), jnp.eye(2)), 2),
        (tg.dist.Gamma(1.0, 1.0), TRANSFORMS.SoftplusTransform(), 1),
        (tg.dist.HalfNormal(1.0), TRANSFORMS.ExpTransform(), 1),
        (tg.dist.Beta(1.0, 1.0).expand([2]).to_event(1), TRANSFORMS.SigmoidTransform(), 2),
        (tg.dist.Uniform(2.0, 5.0), TRANSFORMS.ComposeTransform([TRANSFORMS.SigmoidTransform(), INTERVAL]), 1),
    ],
)
def test_transforms_that_lead_to_the_support_are_taken(distribution, transform, size):
    model = tg.gen(lambda: tg.sample("z", distribution)).with_coordinates({"z": transform})
    space = tg.to_unconstrained(tg.Target(model))
    point = jnp.full(size, 0.3)
    np.testing.assert_allclose(space.unconstrain(space.constrain(point)), point, rtol=1e-5)


def test_a_discrete_latent_has_no_coordinates_to_choose():
    model = tg.gen(lambda: tg.sample("b", tg.dist.Bernoulli(0.5)))
    with pytest.raises(tg.DensityError, match="'b' \\(BernoulliProbs\\) is discrete"):
        tg.auto.mean_field(tg.Target(model.with_coordinates({"b": tg.noncentred()})))


@pytest.mark.parametrize("centring", [-0.1, 1.5, np.nan, "half"])
def test_a_centring_is_a_share(centring):
    with pytest.raises(tg.DensityError, match="from 0 to 1"):
        tg.noncentred(centring)


def test_addresses_choices_and_density_are_the_same():
    chosen = schools.with_coordinates({"theta": tg.noncentred()})
    trace = chosen.simulate(jax.random.key(0))
    plain = schools.simulate(jax.random.key(0))
    assert jax.tree.all(jax.tree.map(lambda x, y: bool(jnp.all(x == y)), trace.choices, plain.choices))
    assert float(trace.logp) == float(plain.logp) == float(chosen.assess(plain.choices)[0])
    schools.update(jax.random.key(1), trace, {"mu": 1.0})  # It is a trace of the same program.


# ---- a centring that is learned --------------------------------------------------------------------------------------


@tg.gen
def chain():
    mu = tg.sample("mu", tg.dist.Normal(0.0, 1.0))
    theta = tg.sample("theta", tg.dist.Normal(mu, 0.3))
    tg.sample("y", tg.dist.Normal(theta, 0.5))


def chain_target(centring):
    return tg.Target(chain.with_coordinates({"theta": tg.noncentred(centring)}), observed={"y": 1.0})


def bound_of(centring, draw=lambda f: f):
    bound = tg.elbo(chain, tg.auto.mean_field(chain_target(centring)).guide, {"y": 1.0})
    return draw(lambda key, params: bound(key, (), params))


def bound_by_hand(loc, log_scale, logit):
    """E_q[log p] + entropy where (mu, theta) is a linear map of independent normals."""
    c = jax.nn.sigmoid(logit)
    share = 0.3 ** (1.0 - c)
    there = jnp.array([[1.0, 0.0], [1.0, 0.0]]) + jnp.array([[0.0, 0.0], [-1.0, 0.0]]) * c * share
    there = there.at[1, 1].set(share)
    mean, spread = there @ loc, there @ jnp.diag(jnp.exp(2.0 * log_scale)) @ there.T

    def expected(direction, shift, scale):
        square = (direction @ mean - shift) ** 2 + direction @ spread @ direction
        return -0.5 * square / scale**2 - jnp.log(scale) - 0.5 * jnp.log(2.0 * jnp.pi)

    prior = expected(jnp.array([1.0, 0.0]), 0.0, 1.0) + expected(jnp.array([-1.0, 1.0]), 0.0, 0.3)
    entropy = jnp.sum(log_scale) + jnp.log(share) + jnp.log(2.0 * jnp.pi) + 1.0
    return prior + expected(jnp.array([0.0, 1.0]), 1.0, 0.5) + entropy


@pytest.mark.table
@pytest.mark.parametrize("logit", [-1.5, 0.0, 2.0])
def test_the_gradient_goes_through_a_learned_centring(logit):
    with jax.enable_x64(True):
        loc, log_scale = jnp.array([0.3, -0.4]), jnp.array([-0.5, 0.2])
        params = {"loc": loc, "log_scale": log_scale, "centring_logits": {"theta": jnp.asarray(logit)}}
        found = jax.value_and_grad(bound_of("learned", tg.exact_expectation), argnums=1)(exact_key(), params)
        hand = jax.value_and_grad(bound_by_hand, argnums=(0, 1, 2))(loc, log_scale, jnp.asarray(logit))
        np.testing.assert_allclose(found[0], hand[0], rtol=1e-9)
        slopes = found[1]["loc"], found[1]["log_scale"], found[1]["centring_logits"]["theta"]
        for one, other in zip(slopes, hand[1], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("logit", "centring"), [(-100.0, 0.0), (100.0, 1.0)])
def test_the_ends_of_a_learned_centring_are_the_two_forms(logit, centring):
    params = {"loc": jnp.array([0.3, -0.4]), "log_scale": jnp.array([-0.5, 0.2])}
    learned = params | {"centring_logits": {"theta": jnp.asarray(logit)}}
    here = bound_of("learned")(jax.random.key(1), learned)
    np.testing.assert_allclose(here, bound_of(centring)(jax.random.key(1), params), rtol=1e-5)


@pytest.mark.slow
def test_a_learned_centring_is_fitted_and_comes_back_in_the_users_coordinates():
    """Given mu, theta moves by r mu: at c 0.3^(1 - c) = 1 - r the coordinates are independent, and the fit exact."""
    family = tg.auto.mean_field(chain_target("learned"))
    start = family.init(jax.random.key(0)) | {"centring_logits": {"theta": jnp.asarray(2.0)}}
    bound = tg.elbo(chain, family.guide, {"y": 1.0}, draws=20)
    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, 800))
    fitted = tg.fit(
        lambda key, params: -bound(key, (), params),
        start,
        optimizer,
        key=jax.random.key(1),
        steps=800,
        progress=False,
    )
    c = float(jax.nn.sigmoid(fitted.params["centring_logits"]["theta"]))
    assert c * 0.3 ** (1.0 - c) == pytest.approx(1.0 - (1 / 0.09) / (1 / 0.09 + 4.0), abs=0.03)
    draws = family.posterior(fitted.params).sample(jax.random.key(2), 4000)
    assert sorted(draws) == ["mu", "theta"]
    # p(mu | y): precision 1 + 1 / 0.34, mean y / 1.34.
    assert float(draws["mu"].mean()) == pytest.approx(1.0 / 1.34, abs=0.05)
    assert float(draws["mu"].std()) == pytest.approx((1.0 + 1.0 / 0.34) ** -0.5, rel=0.05)


@pytest.mark.parametrize(
    "use", [tg.to_unconstrained, tg.auto.laplace, lambda t: tg.nuts(t, key=jax.random.key(0), draws=1, warmup=1)]
)
def test_what_has_no_parameters_learns_no_centring(use):
    with pytest.raises(tg.DensityError, match="the centring of 'theta' is learned"):
        use(chain_target("learned"))
