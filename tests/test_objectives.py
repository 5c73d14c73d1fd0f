"""The library's objectives: value and gradient against sums over all draws, and against quadrature.

On a discrete toy the expectation of each objective at n draws is a sum over 2^n outcomes, written here a second time
from its definition, and `exact_expectation` gives that of the library's estimate: they agree to 1e-9, value and
gradient. At many draws on a conjugate normal the objectives agree with integrals over a grid, within 4.5 standard
errors.
"""

import itertools

import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp
from jax.nn import log_sigmoid, logsumexp, softmax
from jax.scipy.special import xlogy

import tracegrad as tg
from tracegrad import dist

KEY = jax.random.key(0)
X = {"x": 1}


@pytest.fixture
def double():
    with jax.enable_x64(True):
        yield


# ---- a discrete toy: at phi = 0 every draw is a fair coin -----------------------------------------------------------


@tg.gen
def model(theta):
    z = tg.sample("z", dist.Bernoulli(logits=theta))
    tg.sample("x", dist.Bernoulli(probs=jnp.where(z == 1, 0.75, 0.25)))


@tg.gen
def guide(phi):
    tg.sample("z", dist.Bernoulli(logits=phi))


THETA, PHI, LOG_Z = 0.4, 0.0, -0.6


def log_bernoulli(logits, z):
    return log_sigmoid(jnp.where(z == 1, logits, -logits))


def mean_over_draws(f, n, *, fixed):
    """E f(log p, log q, log q of the draws), a function of theta and phi; `fixed` draws have no derivative."""

    def value(theta, phi):
        z = jnp.array(list(itertools.product((0, 1), repeat=n)))
        logq = log_bernoulli(phi, z)
        logp = log_bernoulli(theta, z) + jnp.log(jnp.where(z == 1, 0.75, 0.25))
        drawn = jax.lax.stop_gradient(logq)
        probability = jnp.exp((drawn if fixed else logq).sum(1))
        return jnp.sum(probability * jax.vmap(f)(logp, logq, drawn if fixed else logq))

    return value


def log_mean(x):
    return logsumexp(x) - jnp.log(x.shape[0] * 1.0)


def tempered(p, q, d):
    w = p - q
    return 0.25 * w.mean() + 0.75 * jnp.sum(softmax(0.25 * w) * w)


def jensen_shannon(r):
    return 0.5 * (xlogy(r, r) - (1.0 + r) * jnp.log((1.0 + r) / 2.0))


def forward(p, q, d):
    return jnp.sum(softmax(p - d) * (p - q))


FREE = {
    "elbo": (tg.elbo(model, guide, X), 1, lambda p, q, d: (p - q)[0]),
    "iwelbo": (tg.iwelbo(model, guide, X, n=3), 3, lambda p, q, d: log_mean(p - q)),
    "renyi": (tg.renyi(model, guide, X, alpha=0.5, n=3), 3, lambda p, q, d: 2.0 * log_mean(0.5 * (p - q))),
    "cubo, log_z": (
        lambda key, theta, phi: tg.cubo(model, guide, X, order=2.0, n=3)(key, theta, phi, LOG_Z),
        3,
        lambda p, q, d: LOG_Z + 0.5 * (jnp.mean(jnp.exp(2.0 * (p - q - LOG_Z))) - 1.0),
    ),
    "cubo of one draw, log_z": (
        lambda key, theta, phi: tg.cubo(model, guide, X, order=3.5, n=1)(key, theta, phi, -1.0),
        1,
        lambda p, q, d: -1.0 + (jnp.exp(3.5 * (p - q + 1.0)[0]) - 1.0) / 3.5,
    ),
    "tvo": (tg.tvo(model, guide, X, betas=(0.0, 0.25), n=3), 3, tempered),
    "f_divergence, Z known": (
        tg.f_divergence(model, guide, X, f=lambda r: (r - 1.0) ** 2, n=2, log_z=LOG_Z),
        2,
        lambda p, q, d: jnp.mean((jnp.exp(p - q - LOG_Z) - 1.0) ** 2),
    ),
    "f_divergence": (
        tg.f_divergence(model, guide, X, f=lambda r: -jnp.log(r), n=3),
        3,
        lambda p, q, d: log_mean(p - q) - jnp.mean(p - q),
    ),
    "jensen_shannon": (
        tg.jensen_shannon(model, guide, X, n=3),
        3,
        lambda p, q, d: jnp.mean(jensen_shannon(jnp.exp(p - q - log_mean(p - q)))),
    ),
}
FIXED = {
    "renyi above": (tg.renyi(model, guide, X, alpha=-1.0, n=3), 3, lambda p, q, d: 0.5 * log_mean(2.0 * p - q - d)),
    "cubo": (tg.cubo(model, guide, X, order=2.0, n=3), 3, lambda p, q, d: 0.5 * log_mean(2.0 * p - q - d)),
    "forward_kl": (tg.forward_kl(model, guide, X, n=3), 3, lambda p, q, d: forward(p, q, d) - log_mean(p - d)),
    "wake_theta": (tg.wake_theta(model, guide, X, n=3), 3, lambda p, q, d: log_mean(p - d)),
    "wake_phi": (
        tg.wake_phi(model, guide, X, n=3),
        3,
        lambda p, q, d: jnp.sum(jax.lax.stop_gradient(softmax(p - d)) * q),
    ),
    "trajectory_balance": (
        tg.trajectory_balance(model, guide, X, n=2),
        2,
        lambda p, q, d: jnp.mean((q - p) ** 2) / 2.0,
    ),
    "log_variance": (
        tg.log_variance(model, guide, X, n=3),
        3,
        lambda p, q, d: jnp.sum((q - p - (q - p).mean()) ** 2) / 4.0,
    ),
}


def agree(objective, truth, args, *, cells=2, rtol=1e-9):
    """Exact expectations of the value and of the gradient in every argument, against the truth."""
    args = tuple(map(jnp.asarray, args))
    exact = tg.exact_expectation(objective, cells=cells)
    where = tuple(range(len(args)))
    value, gradient = jax.value_and_grad(exact, argnums=tuple(i + 1 for i in where))(KEY, *args)
    expected, derivative = jax.value_and_grad(truth, argnums=where)(*args)
    np.testing.assert_allclose(value, expected, rtol=rtol)
    for ours, theirs in zip(jax.tree.leaves(gradient), jax.tree.leaves(derivative), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=1e-12)


@pytest.mark.table
@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", [*FREE, *FIXED])
def test_value_and_gradient_are_sums_over_all_draws(name):
    objective, n, f = {**FREE, **FIXED}[name]
    agree(objective, mean_over_draws(f, n, fixed=name in FIXED), (THETA, PHI))


@pytest.mark.usefixtures("double")
def test_symmetric_kl():
    def truth(theta, phi):
        reverse = mean_over_draws(lambda p, q, d: -(p - q).mean(), 2, fixed=False)
        return mean_over_draws(forward, 2, fixed=True)(theta, phi) + reverse(theta, phi)

    agree(tg.symmetric_kl(model, guide, X, n=2), truth, (THETA, PHI))


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(("loss", "args"), [(tg.trajectory_balance, (0.3,)), (tg.log_variance, ())])
def test_balance_losses_have_the_gradient_of_the_elbo(loss, args):
    """On policy, with the draws held fixed, and whatever the constant log Z."""
    exact = tg.exact_expectation(loss(model, guide, X, n=2), cells=2)
    at = tuple(map(jnp.asarray, (THETA, PHI, *args)))
    ours = jax.grad(exact, argnums=2)(KEY, *at)
    elbo = jax.grad(tg.exact_expectation(tg.elbo(model, guide, X), cells=2), argnums=2)(KEY, *at[:2])
    np.testing.assert_allclose(ours, -elbo, rtol=1e-9)


@pytest.mark.table
@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", ["cubo", "forward_kl", "wake_theta", "wake_phi", "trajectory_balance", "log_variance"])
def test_given_draws_stay_so_where_parameters_are_closed_over(name):
    """A model and a guide of closures have the gradients that they have with arguments."""
    _, n, f = FIXED[name]

    @tg.expectation
    def objective(key, theta, phi):
        closed = tg.gen(lambda: model.inline(theta)), tg.gen(lambda: guide.inline(phi))
        return getattr(tg, name)(*closed, X, n=n)(key)

    def truth(theta, phi):
        theta = jax.lax.stop_gradient(theta) if name == "wake_phi" else theta
        return mean_over_draws(f, n, fixed=True)(theta, phi)

    agree(objective, truth, (THETA, PHI))


@pytest.mark.usefixtures("double")
def test_sleep_of_a_model_and_a_guide_of_closures():
    """Of the model's parameter there is no derivative."""

    @tg.expectation
    def closed(key, theta, phi):
        def bernoulli(observed):
            tg.sample("z", dist.Bernoulli(logits=phi * observed["x"].astype(float)))

        return tg.sleep(tg.gen(lambda: model.inline(theta)), tg.gen(bernoulli), "x")(key)

    def truth(theta, phi):
        z, x = jnp.array([[0, 0], [0, 1], [1, 0], [1, 1]]).T
        p = jax.lax.stop_gradient(jnp.exp(log_bernoulli(theta, z))) * jnp.where(z == x, 0.75, 0.25)
        return jnp.sum(p * log_bernoulli(phi * x.astype(float), z))

    agree(closed, truth, (0.0, 0.7), cells=4)


@pytest.mark.usefixtures("double")
def test_sleep():
    amortised = tg.gen(lambda observed, phi: tg.sample("z", dist.Bernoulli(logits=phi * observed["x"].astype(float))))

    def truth(theta, phi):
        z, x = jnp.array([[0, 0], [0, 1], [1, 0], [1, 1]]).T
        p = jax.lax.stop_gradient(jnp.exp(log_bernoulli(theta, z))) * jnp.where(z == x, 0.75, 0.25)
        return jnp.sum(p * log_bernoulli(phi * x.astype(float), z))

    agree(tg.sleep(model, amortised, "x"), truth, (0.0, 0.7), cells=4)
    with pytest.raises(tg.AddressError, match="'y' matches no sample"):
        tg.sleep(model, amortised, "y")(KEY, (0.0,), (0.7,))


# ---- posteriors as guides -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(("n", "index"), [(2, None), (3, tg.enum())])
def test_the_elbo_of_sir_is_the_iwelbo(n, index):
    """In expectation, value and gradient, the chosen index by the score function or enumerated.

    At these parameters the weights of 0 and 1 are equal or 1 : 3, so that two of them make quarters.
    """

    def elbo_of_sir(key, theta, phi):
        posterior = tg.normalize(tg.Target(model, (theta,), X), tg.sir(n, guide, (phi,)))
        if index is not None:
            posterior = posterior.with_estimators({"index": index})
        return tg.elbo(model, posterior, X)(key, (theta,), ())

    truth = mean_over_draws(lambda p, q, d: log_mean(p - q), n, fixed=False)
    agree(tg.expectation(elbo_of_sir), truth, (0.0, 0.0), cells=4)


# ---- sequential Monte Carlo -----------------------------------------------------------------------------------------


@tg.gen
def step(state, x):
    z = tg.sample("z", dist.Bernoulli(logits=jnp.where(state == 1, x, -x)))
    tg.sample("y", dist.Bernoulli(probs=jnp.where(z == 1, 0.75, 0.25)))
    return z, None


@tg.gen
def step_guide(observed, state, x, a):
    tg.sample("z", dist.Bernoulli(logits=jnp.where(state == 1, 2.0 * a, a)))


YS = np.array([1, 0])


def filter_outcomes(xs, proposal):
    """All runs of two particles over two steps: probabilities, log Ẑ, and each particle's path with its last weight."""
    z1, ancestors, z2 = jnp.split(jnp.array(list(itertools.product((0, 1), repeat=6))), 3, axis=1)
    past = jnp.take_along_axis(z1, ancestors, axis=1)
    logr1, logr2 = log_bernoulli(proposal(0, xs[0]), z1), log_bernoulli(proposal(past, xs[1]), z2)
    likelihood1, likelihood2 = (jnp.log(jnp.where(z == y, 0.75, 0.25)) for z, y in zip((z1, z2), YS, strict=True))
    w1 = log_bernoulli(-xs[0], z1) + likelihood1 - logr1
    w2 = log_bernoulli(jnp.where(past == 1, xs[1], -xs[1]), z2) + likelihood2 - logr2
    loga = jnp.take_along_axis(jax.nn.log_softmax(w1, axis=1), ancestors, axis=1)
    log_z = logsumexp(w1, axis=1) + logsumexp(w2, axis=1) - 2.0 * jnp.log(2.0)
    return jnp.exp((logr1 + loga + logr2).sum(1)), log_z, (past, z2), softmax(w2, axis=1)


@pytest.mark.slow
@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("proposal", [None, step_guide])
def test_smc_bound(proposal):
    """Value and gradient, ancestors included, against the sum over all 64 runs."""
    bound = tg.smc_bound(step.scan(), proposal, {"y": YS}, n=2)

    def truth(xs, a):
        propose = (
            (lambda s, x: jnp.where(s == 1, x, -x))
            if proposal is None
            else (lambda s, x: jnp.where(s == 1, 2.0 * a, a))
        )
        probability, log_z, _, _ = filter_outcomes(xs, propose)
        return jnp.sum(probability * log_z)

    def objective(key, xs, a):
        return bound(key, (0, xs), () if proposal is None else (a,))

    agree(tg.expectation(objective), truth, (np.zeros(2), 0.0), cells=4)


@pytest.mark.usefixtures("double")
def test_smc_wake_phi():
    """E[d log q(path)] over paths of the filter, all held fixed."""
    objective = tg.smc_wake_phi(step.scan(), step_guide, {"y": YS}, n=2)

    def truth(a):
        still = jax.lax.stop_gradient(a)
        probability, _, (past, last), chosen = filter_outcomes(
            jnp.zeros(2), lambda s, x: jnp.where(s == 1, 2.0 * still, still)
        )
        logq = log_bernoulli(a, past) + log_bernoulli(jnp.where(past == 1, 2.0 * a, a), last)
        return jnp.sum(probability[:, None] * chosen * logq)

    agree(lambda key, a: objective(key, (0, jnp.zeros(2)), (a,)), truth, (0.0,), cells=4)


@pytest.mark.slow
def test_systematic_resampling_has_its_gradient():
    """The score of the ancestors is that of the interval of u: against the slope of the value, same keys, |z| < 4.5."""
    bound = tg.smc_bound(step.scan(), None, {"y": np.array([1, 0])}, n=4, resampling="systematic")
    keys = jax.random.split(KEY, 200_000)

    def values(x):
        return jax.vmap(lambda k: bound(k, (0, jnp.array([0.3, 0.6]) + x)))(keys)

    gradients = jax.jit(jax.vmap(lambda k: jax.grad(lambda x: bound(k, (0, jnp.array([0.3, 0.6]) + x)))(0.0)))(keys)
    h = 0.2
    slopes = jax.jit(lambda: (values(h) - values(-h)) / (2.0 * h))()
    error = jnp.hypot(gradients.std(), slopes.std()) / len(keys) ** 0.5
    assert error < 0.005
    assert abs(gradients.mean() - slopes.mean()) < 4.5 * error + 0.002  # the slope's own curvature error
    assert abs(gradients.mean()) > 20.0 * error


# ---- nested variational inference -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("double")
def test_nested_vi():
    """Two levels of two draws, against the sum over all of them."""
    move = tg.gen(lambda z, phi: tg.sample("z", dist.Bernoulli(logits=phi * (1.0 + z["z"].astype(float)))))
    back = tg.gen(lambda z, phi: tg.sample("z", dist.Bernoulli(logits=0.5 * phi - z["z"].astype(float))))
    gammas = [lambda z, theta: theta * z["z"].astype(float), lambda z, theta: -0.7 * z["z"].astype(float)]
    objective = tg.nested_vi(gammas, [guide, move], [back], n=2)

    def truth(theta, phi):
        theta, still = jax.lax.stop_gradient((theta, phi))
        pairs = jnp.array(list(itertools.product((0.0, 1.0), repeat=2)))

        def log_v(z, y, phi):
            moved = log_bernoulli(0.5 * phi - y, z) - log_bernoulli(phi * (1.0 + z), y)
            return moved - 0.7 * y - theta * z

        total = 0.0
        for z in pairs:
            made, w = jnp.exp(log_bernoulli(phi, z).sum()), theta * z - log_bernoulli(still, z)
            passed = jax.lax.stop_gradient(made)
            total += made * jnp.mean(log_bernoulli(phi, z) - theta * z) + passed * log_mean(w)
            for y in pairs:
                drawn = jnp.exp(log_bernoulli(phi * (1.0 + z), y).sum())
                total -= passed * drawn * jnp.sum(softmax(w) * log_v(z, y, phi))
                log_z = logsumexp(w + log_v(z, y, still)) - logsumexp(w)
                total += passed * jax.lax.stop_gradient(drawn) * log_z
        return total

    agree(objective, truth, (0.6, 0.0))
    with pytest.raises(tg.DensityError, match="K - 1 reverse"):
        tg.nested_vi(gammas, [guide, move], [], n=2)


@pytest.mark.slow
def test_nested_vi_of_closures_has_the_gradient_of_nested_vi_of_arguments():
    """Key by key: what is drawn to be given carries no score of a parameter that is closed over."""
    move = tg.gen(lambda z, phi: tg.sample("z", dist.Bernoulli(logits=phi * (1.0 + z["z"].astype(float)))))
    gammas = [lambda z: 0.3 * z["z"].astype(float), lambda z: -0.7 * z["z"].astype(float)]

    def given(phi, key):
        return tg.nested_vi(gammas, [guide, move], [move], n=2)(key, (), (phi,))

    @tg.expectation
    def closed(key, phi):
        first, onward = tg.gen(lambda: guide.inline(phi)), tg.gen(lambda z: move.inline(z, phi))
        return tg.nested_vi(gammas, [first, onward], [onward], n=2)(key)

    keys = jax.random.split(KEY, 20)
    slopes = jax.vmap(jax.grad(given), in_axes=(None, 0))(0.4, keys)
    np.testing.assert_allclose(
        jax.vmap(jax.grad(closed, argnums=1), in_axes=(0, None))(keys, 0.4), slopes, rtol=1e-4, atol=1e-6
    )
    assert np.std(slopes) > 0.0


# ---- distances to samples -------------------------------------------------------------------------------------------

SAMPLES = np.array([-0.5, 0.2, 1.4])
shifted = tg.gen(lambda m: (tg.sample("z", dist.Normal(m, 1.0)), tg.sample("other", dist.Bernoulli(probs=0.5))))


@pytest.mark.usefixtures("double")
def test_mmd():
    """A Gaussian kernel of bandwidth 1.5 has closed integrals."""
    draws = tg.gen(lambda m: tg.sample("z", dist.Normal(m, 1.0)))

    def truth(m):
        between = jnp.abs(SAMPLES[:, None] - SAMPLES[None, :])[np.triu_indices(3, 1)]
        cross = jnp.sqrt(2.25 / 3.25) * jnp.exp(-((m - SAMPLES) ** 2) / 6.5)
        return jnp.sqrt(2.25 / 4.25) - 2.0 * cross.mean() + jnp.exp(-(between**2) / 4.5).mean()

    agree(tg.mmd(draws, {"z": SAMPLES}, n=2, bandwidth=1.5), truth, (0.3,), rtol=1e-7)


def test_energy_distance():
    """|x - y| has closed means; 1e5 draws of the estimate and of its gradient, |z| < 4.5."""
    objective = tg.energy_distance(shifted, {"z": SAMPLES}, n=2)

    def truth(m):
        d = m - SAMPLES
        mean = jnp.sqrt(2.0 / jnp.pi) * jnp.exp(-(d**2) / 2.0) + d * jax.lax.erf(d / jnp.sqrt(2.0))
        between = jnp.abs(SAMPLES[:, None] - SAMPLES[None, :])[np.triu_indices(3, 1)]
        return 2.0 * mean.mean() - 2.0 / jnp.sqrt(jnp.pi) - between.mean()

    run = jax.value_and_grad(objective, argnums=1)
    value, gradient = jax.jit(jax.vmap(lambda k: run(k, 0.3)))(jax.random.split(KEY, 100_000))
    for ours, theirs in zip((value, gradient), jax.value_and_grad(truth)(0.3), strict=True):
        assert abs(ours.mean() - theirs) < 4.5 * ours.std() / 1e5**0.5
    with pytest.raises(tg.AddressError, match="'w'"):
        tg.mmd(shifted, {"w": SAMPLES}, n=2)(KEY, (0.3,))


# ---- many draws on a conjugate normal, by quadrature ----------------------------------------------------------------

conjugate = tg.gen(lambda: tg.sample("x", dist.Normal(tg.sample("z", dist.Normal(0.0, 1.0)), 1.0)))
gaussian = tg.gen(lambda mean, log_sd: tg.sample("z", dist.Normal(mean, jnp.exp(log_sd))))
GRID = jnp.linspace(-4.0, 6.0, 4001)
TWO = {"x": 2.0}


def over_grid(f):
    """The integral of f(p, q, Z) over z, p unnormalised."""

    def value(mean, log_sd):
        p = jnp.exp(dist.Normal(0.0, 1.0).log_prob(GRID) + dist.Normal(GRID, 1.0).log_prob(2.0))
        q = jnp.exp(dist.Normal(mean, jnp.exp(log_sd)).log_prob(GRID))
        step = GRID[1] - GRID[0]
        z = p.sum() * step
        return f(p, q, z, lambda x: x.sum() * step)

    return value


def cubo_at(log_z):
    """The chi bound in its form with a guess of log Z."""
    return lambda *args, **options: lambda key, *given: tg.cubo(*args, **options)(key, *given, log_z)


LIMITS = {
    "renyi": (tg.renyi, {"alpha": 0.5}, lambda p, q, z, total: 2.0 * jnp.log(total(jnp.sqrt(p * q)))),
    "cubo": (tg.cubo, {}, lambda p, q, z, total: 0.5 * jnp.log(total(p**2 / q))),
    "cubo, order 1.5": (tg.cubo, {"order": 1.5}, lambda p, q, z, total: jnp.log(total(p**1.5 / q**0.5)) / 1.5),
    "renyi above": (tg.renyi, {"alpha": -1.0}, lambda p, q, z, total: 0.5 * jnp.log(total(p**2 / q))),
    "cubo, log_z": (cubo_at(-2.0), {}, lambda p, q, z, total: -2.5 + 0.5 * total(p**2 / q) * jnp.exp(4.0)),
    "tvo": (
        tg.tvo,
        {"betas": (0.0, 0.5)},
        lambda p, q, z, total: (
            0.5 * total(q * jnp.log(p / q)) + 0.5 * total(jnp.sqrt(p * q) * jnp.log(p / q)) / total(jnp.sqrt(p * q))
        ),
    ),
    "forward_kl": (tg.forward_kl, {}, lambda p, q, z, total: total(p / z * jnp.log(p / z / q))),
    "wake_phi": (tg.wake_phi, {}, lambda p, q, z, total: total(p / z * jnp.log(q))),
    "symmetric_kl": (tg.symmetric_kl, {}, lambda p, q, z, total: total((p / z - q) * jnp.log(p / z / q))),
    "jensen_shannon": (
        tg.jensen_shannon,
        {},
        lambda p, q, z, total: (
            0.5 * total(p / z * jnp.log(2.0 * p / (p + z * q)) + q * jnp.log(2.0 * z * q / (p + z * q)))
        ),
    ),
}


@pytest.mark.table
@pytest.mark.parametrize("name", LIMITS)
def test_limits_by_quadrature(name):
    """40 estimates of 20000 draws each: mean and gradient within 4.5 standard errors, errors themselves small."""
    make, options, integral = LIMITS[name]
    objective = make(conjugate, gaussian, TWO, n=20_000, **options)
    at = (0.8, -0.1)
    run = jax.value_and_grad(lambda params, key: objective(key, (), params))
    value, gradient = jax.jit(lambda keys: jax.lax.map(lambda k: run(at, k), keys))(jax.random.split(KEY, 40))
    expected, derivative = jax.value_and_grad(over_grid(integral), argnums=(0, 1))(*at)
    for ours, theirs in zip((value, *gradient), (expected, *derivative), strict=True):
        error = float(ours.std(ddof=1)) / 40**0.5
        assert error < 0.004
        assert abs(float(ours.mean() - theirs)) < 4.5 * error + 2e-4


# ---- upper bounds ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(("order", "n", "phi"), [(1.0, 1, 0.0), (2.0, 1, np.log(3.0)), (2.0, 3, 0.0), (4.0, 2, 0.0)])
def test_cubo_with_log_z_is_above_the_evidence_at_every_guess_and_number_of_draws(order, n, phi):
    """And at the best guess it is CUBO_m, here a sum of two terms; the derivative in log_z is exact."""
    p = np.array([0.25, 0.75 * np.exp(THETA)]) / (1.0 + np.exp(THETA))
    q = np.array([1.0, np.exp(phi)]) / (1.0 + np.exp(phi))
    evidence, bound = np.log(p.sum()), np.log(np.sum(p**order * q ** (1.0 - order))) / order
    exact = tg.exact_expectation(tg.cubo(model, guide, X, order=order, n=n), cells=4)
    guesses = jnp.array([-1.5, -0.8, 0.5, bound])
    values, slopes = jax.vmap(jax.value_and_grad(lambda c: exact(KEY, jnp.asarray(THETA), jnp.asarray(phi), c)))(
        guesses
    )
    assert (values >= bound - 1e-12).all()
    assert bound >= evidence - 1e-12
    np.testing.assert_allclose(values[-1], bound, rtol=1e-9)
    np.testing.assert_allclose(slopes, 1.0 - np.exp(order * (bound - guesses)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("start", "learned"),
    [((0.0, 0.0), False), ((0.0, -1.0), False), ((-3.0, -1.0), False), ((0.0, 0.0), True), ((2.0, 0.2), True)],
)
def test_cubo_brings_the_guide_to_the_posterior(start, learned):
    """N(x / 2, 1 / 2), where the bound is the evidence: without log_z from guides for which it is infinite, too."""
    x = 2.6
    objective = tg.cubo(conjugate, gaussian, {"x": x})

    def loss(key, w):
        return objective(key, (), w["guide"], w["log_z"] if learned else None)

    found = tg.fit(loss, {"guide": start, "log_z": 0.0}, optax.sgd(0.02), key=KEY, steps=3000, progress=False)
    evidence = -0.5 * np.log(4.0 * np.pi) - x**2 / 4.0
    np.testing.assert_allclose(found.params["guide"], (x / 2.0, -0.5 * np.log(2.0)), atol=1e-3)
    np.testing.assert_allclose(found.history[-100:].mean(), evidence, atol=1e-4)
    np.testing.assert_allclose(found.params["log_z"], evidence if learned else 0.0, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: tg.cubo(model, guide, X, order=0.5), "order must be a number of at least 1"),
        (lambda: tg.cubo(model, guide, X, n=1)(KEY, THETA, PHI), "cubo without log_z: n.*at least 2, and is 1"),
        (lambda: tg.iwelbo(model, guide, X, n=0), "a positive int"),
        (lambda: tg.renyi(model, guide, X, alpha=1), "elbo"),
        (lambda: tg.tvo(model, guide, X, betas=(0.5, 0.2)), "increase from 0.0"),
        (lambda: tg.log_variance(model, guide, X, n=1), "at least 2"),
        (lambda: tg.f_divergence(model, guide, X, f=jnp.square, n=1), "at least 2"),
        (lambda: tg.mmd(guide, {"z": SAMPLES}, n=1), "at least 2"),
    ],
)
def test_refused(make, match):
    with pytest.raises(tg.DensityError, match=match):
        make()
