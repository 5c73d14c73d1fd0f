"""Several samples, gradients stated outright: each against the exact gradient of its bound."""

import itertools

import jax
import numpy as np
import pytest
from jax import numpy as jnp

import tracegrad as tg
from tracegrad import dist

KEY = jax.random.key(0)
X = 1.2
NODES = 100


@tg.gen
def model(prior, noise):
    z = tg.sample("z", dist.Normal(prior, 1.0))
    tg.sample("x", dist.Normal(jnp.sin(z) + z, noise))


@tg.gen
def guide(mean, scale):
    tg.sample("z", dist.Normal(mean, scale))


@tg.gen
def switches(rate):
    z = tg.sample("z", dist.Bernoulli(jnp.broadcast_to(rate, (2,))).to_event(1))
    tg.sample("x", dist.Normal(jnp.array([1.5, -1.0]) @ z.astype(float) + 0.3, 0.8))


@tg.gen
def switches_guide(p):
    tg.sample("z", dist.Bernoulli(p).to_event(1))


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def log_weights(theta, phi, nodes):
    """log w and log q at z = mean + scale node, written by hand."""
    z = phi[0] + phi[1] * nodes
    logp = _log_normal(z, theta[0], 1.0) + _log_normal(X, jnp.sin(z) + z, theta[1])
    return logp - _log_normal(z, phi[0], phi[1]), z


def _log_normal(x, mean, scale):
    return -0.5 * ((x - mean) / scale) ** 2 - jnp.log(scale) - 0.5 * jnp.log(2 * jnp.pi)


def quadrature(n):
    nodes, weights = np.polynomial.hermite_e.hermegauss(n)
    return jnp.asarray(nodes), jnp.asarray(weights / weights.sum())


THETA, PHI = (0.3, 0.9), (0.5, 0.7)
ARRAYS = tuple(map(np.float64, THETA)), tuple(map(np.float64, PHI))


def renyi_two(alpha):
    def bound(theta, phi):
        nodes, p = quadrature(NODES)
        w, _ = log_weights(theta, phi, nodes)
        pairs = jnp.logaddexp((1 - alpha) * w[:, None], (1 - alpha) * w[None]) - jnp.log(2.0)
        return p @ pairs @ p / (1 - alpha)

    return bound


def same(found, expected, tolerance=1e-7):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), found, expected)


@pytest.mark.table
@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_dreg_has_the_gradient_of_the_bound_of_two_particles(x64, alpha):
    estimate = tg.exact_expectation(tg.dreg(model, guide, {"x": X}, n=2, alpha=alpha), nodes=NODES)
    value, found = jax.value_and_grad(lambda t, f: estimate(KEY, t, f), argnums=(0, 1))(*ARRAYS)
    same(value, renyi_two(alpha)(*ARRAYS))
    same(found, jax.grad(renyi_two(alpha), argnums=(0, 1))(*ARRAYS))


@pytest.mark.slow
def test_dreg_wake_phi_has_the_expectation_of_the_wake_phase_gradient_of_two_particles(x64):
    def wake(phi):
        nodes, p = quadrature(NODES)
        w, z = jax.lax.stop_gradient(log_weights(ARRAYS[0], phi, nodes))
        share = jax.nn.sigmoid(w[:, None] - w[None])
        logq = _log_normal(z, *phi)
        return p @ (share * logq[:, None] + (1 - share) * logq[None]) @ p

    estimate = tg.exact_expectation(tg.dreg_wake_phi(model, guide, {"x": X}, n=2), nodes=NODES)
    same(jax.grad(estimate, argnums=2)(KEY, *ARRAYS), jax.grad(wake)(ARRAYS[1]))
    same(jax.grad(estimate, argnums=1)(KEY, *ARRAYS), (0.0, 0.0))


def elbo(theta, phi):
    nodes, p = quadrature(NODES)
    return p @ log_weights(theta, phi, nodes)[0]


def test_sticking_the_landing_has_the_gradient_of_the_elbo(x64):
    estimate = tg.exact_expectation(tg.sticking_the_landing(model, guide, {"x": X}), nodes=NODES)
    value, found = jax.value_and_grad(lambda t, f: estimate(KEY, t, f), argnums=(0, 1))(*ARRAYS)
    same(value, elbo(*ARRAYS))
    same(found, jax.grad(elbo, argnums=(0, 1))(*ARRAYS))


def test_sticking_the_landing_holds_parameters_that_the_guide_closes_over(x64):
    def closed(phi):
        around = tg.gen(lambda: tg.sample("z", dist.Normal(*phi)))
        return tg.exact_expectation(tg.sticking_the_landing(model, around, {"x": X}), nodes=NODES)(KEY, ARRAYS[0], ())

    same(jax.grad(closed)(ARRAYS[1]), jax.grad(elbo, argnums=1)(*ARRAYS))


def test_sticking_the_landing_is_refused_inside_the_importance_weighted_bound():
    with pytest.raises(tg.EstimatorError, match="unbiased for the ELBO only.*dreg"):
        tg.sticking_the_landing(model, guide, {"x": X}, n=5)


@pytest.mark.parametrize(
    "make", [tg.sticking_the_landing, lambda *a: tg.dreg(*a, n=2), lambda *a: tg.dreg_wake_phi(*a, n=2)]
)
def test_gradients_of_paths_refuse_draws_without_one(make):
    with pytest.raises(tg.EstimatorError, match="'z' has the estimator reinforce"):
        make(switches, switches_guide, {"x": X})(KEY, (0.3,), (jnp.full(2, 0.5),))


def test_dreg_at_alpha_one_names_the_elbo():
    with pytest.raises(tg.ObjectiveError, match="alpha must be at least 0, and is -1.0.*Write `cubo"):
        tg.dreg(model, guide, {"x": X}, n=2, alpha=-1.0)
    with pytest.raises(tg.ObjectiveError, match="sticking_the_landing"):
        tg.dreg(model, guide, {"x": X}, n=2, alpha=1.0)


# ---- discrete guides: sums over all outcomes ------------------------------------------------------------------------

P = np.array([0.25, 0.5])
RATE = np.float64(0.3)


def outcomes(rate, p):
    """Log weights and probabilities of the four values of z."""
    z = jnp.array(list(itertools.product([0.0, 1.0], repeat=2)))
    logq = z @ jnp.log(p) + (1.0 - z) @ jnp.log1p(-p)
    prior = z.sum(1) * jnp.log(rate) + (1.0 - z).sum(1) * jnp.log1p(-rate)
    return prior + _log_normal(X, 1.5 * z[:, 0] - z[:, 1] + 0.3, 0.8) - logq, jnp.exp(logq)


def bound_of_two(rate, p):
    w, q = outcomes(rate, p)
    return q @ (jnp.logaddexp(w[:, None], w[None]) - jnp.log(2.0)) @ q


@pytest.mark.table
@pytest.mark.parametrize("mean", ["geometric", "arithmetic"])
def test_vimco_has_the_gradient_of_the_bound(x64, mean):
    estimate = tg.exact_expectation(tg.vimco(switches, switches_guide, {"x": X}, n=2, mean=mean))
    value, found = jax.value_and_grad(lambda r, p: estimate(KEY, (r,), (p,)), argnums=(0, 1))(RATE, P)
    same(value, bound_of_two(RATE, P), 1e-10)
    same(found, jax.grad(bound_of_two, argnums=(0, 1))(RATE, P), 1e-10)


@pytest.mark.slow
def test_the_two_means_of_vimco_differ_sample_by_sample():
    grads = [
        jax.grad(tg.vimco(switches, switches_guide, {"x": X}, n=3, mean=mean), argnums=2)(
            KEY, (0.3,), (jnp.array(P, float),)
        )
        for mean in ("geometric", "arithmetic")
    ]
    assert not np.allclose(*[g[0] for g in grads])


@pytest.mark.slow
def test_second_derivatives_of_vimco_are_right(x64):
    estimate = tg.exact_expectation(tg.vimco(switches, switches_guide, {"x": X}, n=2))
    found = jax.hessian(lambda p: estimate(KEY, (RATE,), (p,)))(P)
    same(found, jax.hessian(bound_of_two, argnums=1)(RATE, P), 1e-9)


def elbo_of(rate, p):
    w, q = outcomes(rate, p)
    return q @ w


@pytest.mark.slow
def test_leave_one_out_and_vargrad_have_the_gradient_of_the_elbo(x64):
    single = tg.elbo(switches, switches_guide, {"x": X})
    for objective in (tg.leave_one_out(single, 2), tg.vargrad(switches, switches_guide, {"x": X}, n=2)):
        estimate = tg.exact_expectation(objective)
        value, found = jax.value_and_grad(lambda r, p: estimate(KEY, (r,), (p,)), argnums=(0, 1))(RATE, P)  # noqa: B023
        same(value, elbo_of(RATE, P), 1e-10)
        same(found, jax.grad(elbo_of, argnums=(0, 1))(RATE, P), 1e-10)
    hessian = jax.hessian(lambda p: tg.exact_expectation(tg.leave_one_out(single, 2))(KEY, (RATE,), (p,)))(P)
    same(hessian, jax.hessian(elbo_of, argnums=1)(RATE, P), 1e-9)


@pytest.mark.slow
def test_vargrad_is_leave_one_out_less_the_mean_score_sample_by_sample(x64):
    def draw(key):
        return switches_guide.simulate(key, P).choices["z"]

    z = jax.vmap(draw)(jax.random.split(KEY, 4))
    logw, score = _log_weight(z), np.where(z == 1, 1 / P[None], -1 / (1 - P)[None])
    expected = np.sum((logw - logw.mean())[:, None] * score, axis=0) / 3
    found = jax.grad(tg.vargrad(switches, switches_guide, {"x": X}, n=4), argnums=2)(KEY, (RATE,), (P,))[0]
    same(found, expected, 1e-9)


def _log_weight(z):
    w, _ = outcomes(RATE, P)
    return np.asarray(w)[2 * z[:, 0] + z[:, 1]]


@pytest.mark.table
@pytest.mark.parametrize(
    "objective",
    [
        tg.sticking_the_landing(model, guide, {"x": X}),
        tg.dreg(model, guide, {"x": X}, n=2),
        tg.dreg_wake_phi(model, guide, {"x": X}, n=2),
        tg.vargrad(model, guide, {"x": X}, n=2),
    ],
)
def test_surrogates_refuse_second_derivatives(objective):
    with pytest.raises(tg.HigherOrderError):
        jax.hessian(lambda m: objective(KEY, THETA, (m, 0.7)))(0.5)


def test_samples_that_compare_whole_objectives_are_refused():
    forked = switches_guide.with_estimators({"z": tg.mvd()})
    with pytest.raises(tg.EstimatorError, match="vimco: the sample at 'z'.*reinforce"):
        tg.vimco(switches, forked, {"x": X}, n=2)(KEY, (0.3,), (jnp.full(2, 0.5),))


@pytest.mark.parametrize("n", [1, 0, 2.0])
def test_a_baseline_of_the_others_needs_others(n):
    for make in (
        lambda: tg.leave_one_out(lambda key: 1.0, n),
        lambda: tg.vimco(model, guide, {}, n=n),
        lambda: tg.vargrad(model, guide, {}, n=n),
    ):
        with pytest.raises(tg.ObjectiveError, match="at least 2"):
            make()


def test_vimco_knows_two_means():
    with pytest.raises(tg.ObjectiveError, match="'geometric' or 'arithmetic'"):
        tg.vimco(model, guide, {}, n=2, mean="harmonic")
