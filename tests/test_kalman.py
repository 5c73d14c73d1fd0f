"""Linear-Gaussian chains with their latents integrated out and drawn, against one dense normal over all steps."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

import tracegrad as tg
from tracegrad import dist

KEY = jax.random.key(0)
STEPS = 4
RNG = np.random.default_rng(0)
XS = jnp.asarray(RNG.normal(size=(STEPS, 2)), jnp.float32)
YS = jnp.asarray(RNG.normal(size=(STEPS, 2)), jnp.float32)
VS = jnp.asarray(RNG.normal(size=STEPS), jnp.float32)
W = {
    "move": jnp.array([[0.8, 0.3], [-0.2, 0.6]]),
    "noise": jnp.array([[0.7, 0.0], [0.2, 0.5]]),
    "scale": jnp.array(0.6),
    "look": jnp.array([[1.0, 0.5], [0.0, 1.2]]),
}


@tg.gen
def full(carry, x):
    """A vector and a number that depends on it, a counter, inputs; a vector and a number are seen."""
    (at, level), t, w = carry
    at = tg.sample("at", dist.MultivariateNormal(w["move"] @ at + 0.1 * level + x, scale_tril=w["noise"]))
    level = tg.sample("a level", dist.Normal(0.5 * level + at[0] - x[1], w["scale"] + 0.1 * t))
    tg.sample("y", dist.Normal(w["look"] @ at + 0.3, 0.4).to_event(1))
    tg.sample("v", dist.Normal(level - at.sum(), 0.5))
    return ((2.0 * at, level), t + 1.0, w), at


def init(w):
    return (jnp.array([0.3, -0.1]), 0.2), 0.0, w


def dense(w, n):
    """Mean and covariance of all latents (n, 3) and all that is seen (n, 3), in double precision."""
    w = jax.tree.map(lambda x: np.asarray(x, float), w)
    xs = np.asarray(XS, float)
    size = 6 * n
    # Each row says how a number is made of independent standard normals, its last entry the constant.
    made = np.zeros((n, 6, size + 1))
    previous = np.zeros((3, size + 1))
    previous[:, -1] = [0.3, -0.1, 0.2]
    for t in range(n):
        unit = np.eye(size + 1)[6 * t : 6 * t + 6]
        const = np.eye(size + 1)[-1]
        at = w["move"] @ previous[:2] + 0.1 * previous[2] + np.outer(xs[t], const) + w["noise"] @ unit[:2]
        level = 0.5 * previous[2] + at[0] - xs[t, 1] * const + (w["scale"] + 0.1 * t) * unit[2]
        made[t, :2], made[t, 2] = at, level
        made[t, 3:5] = w["look"] @ at + 0.3 * const + 0.4 * unit[3:5]
        made[t, 5] = level - at.sum(0) + 0.5 * unit[5]
        previous = np.concatenate([2.0 * at, level[None]])
    latent, seen = made[:, :3].reshape(3 * n, -1), made[:, 3:].reshape(3 * n, -1)
    return latent, seen


def gaussian(rows):
    return rows[:, -1], rows[:, :-1] @ rows[:, :-1].T


def seen_values(n, there=None):
    return np.concatenate([np.asarray(YS, float)[:n], np.asarray(VS, float)[:n, None]], 1).reshape(-1)


def log_normal(x, mean, covariance):
    apart = x - mean
    return -0.5 * (apart @ np.linalg.solve(covariance, apart) + np.linalg.slogdet(2.0 * np.pi * covariance)[1])


def likelihood(algorithm, n=STEPS):
    chain = tg.marginal(full.scan(), ("y", "v"), algorithm)
    return lambda w: chain.assess({"y": YS[:n], "v": VS[:n]}, init(w), XS[:n])[0]


BOTH = pytest.mark.parametrize("algorithm", [tg.kalman(), tg.kalman(parallel=True)], ids=["in turn", "parallel"])


@BOTH
@pytest.mark.parametrize("n", [1, 2, STEPS])
def test_the_density_is_that_of_one_dense_normal(algorithm, n):
    mean, covariance = gaussian(dense(W, n)[1])
    ours = jax.jit(likelihood(algorithm, n))(W)
    np.testing.assert_allclose(ours, log_normal(seen_values(n), mean, covariance), rtol=2e-5)


@BOTH
def test_its_derivative_by_differences(algorithm):
    grads = jax.jit(jax.grad(likelihood(algorithm)))(W)
    step = 1e-5

    def at(name, index, by):
        w = jax.tree.map(lambda x: np.array(x, float), W)
        w[name][index] += by
        return log_normal(seen_values(STEPS), *gaussian(dense(w, STEPS)[1]))

    for name, index in (("move", (0, 1)), ("noise", (1, 0)), ("noise", (1, 1)), ("scale", ()), ("look", (1, 1))):
        wanted = (at(name, index, step) - at(name, index, -step)) / (2.0 * step)
        np.testing.assert_allclose(grads[name][index], wanted, rtol=2e-4, atol=2e-4)


@BOTH
def test_draws_have_the_mean_and_covariance_of_the_smoother(algorithm):
    """|z| < 4.5 for each mean and each product, at 20000 draws; and logp is the density of the draw."""
    latent, seen = dense(W, STEPS)
    mean, covariance = gaussian(np.concatenate([latent, seen]))
    k = len(latent)
    gain = covariance[:k, k:] @ np.linalg.inv(covariance[k:, k:])
    mean, covariance = (
        mean[:k] + gain @ (seen_values(STEPS) - mean[k:]),
        covariance[:k, :k] - gain @ covariance[k:, :k],
    )
    target = tg.Target(full.scan(), (init(W), XS), {"y": YS, "v": VS})
    made = jax.jit(jax.vmap(tg.normalize(target, algorithm).simulate))(jax.random.split(KEY, 20_000))
    draws = np.concatenate([made.choices["at"], made.choices["a level"][..., None]], 2).reshape(20_000, -1) - mean
    spread = np.sqrt(np.diag(covariance))
    assert np.abs(draws.mean(0) / spread).max() < 4.5 / np.sqrt(len(draws))
    products = draws.T @ draws / len(draws)
    error = np.sqrt((np.outer(spread, spread) ** 2 + covariance**2) / len(draws))
    assert np.abs((products - covariance) / error).max() < 4.5
    for draw, logp in zip(draws[:3], made.logp[:3], strict=True):
        np.testing.assert_allclose(logp, log_normal(draw, 0.0, covariance), rtol=1e-4)


def test_the_joint_density_of_a_draw():
    """log gamma of a draw over Z is what `simulate` says, and `assess` of the draw says it again."""
    target = tg.Target(full.scan(), (init(W), XS), {"y": YS, "v": VS})

    @jax.jit
    def of(key):
        posterior = tg.normalize(target, tg.kalman())
        made = posterior.simulate(key)
        by_hand = target.log_prob(made.choices) - likelihood(tg.kalman())(W)
        return made.logp, posterior.assess(made.choices)[0], by_hand

    one, two, three = of(KEY)
    np.testing.assert_allclose(one, three, rtol=1e-4)
    np.testing.assert_allclose(two, three, rtol=1e-4)


@pytest.mark.slow
def test_both_ways_agree_over_many_steps():
    @tg.gen
    def step(x, _):
        x = tg.sample("x", dist.Normal(0.97 * x + 0.1, 0.5))
        tg.sample("y", dist.Normal(x, 0.8))
        return x, None

    ys = jnp.sin(0.1 * jnp.arange(300.0))

    @jax.jit
    def both(ys):
        chains = [tg.marginal(step.scan(length=300), "y", tg.kalman(parallel=p)) for p in (False, True)]
        return [jax.value_and_grad(lambda ys, c=c: c.assess({"y": ys}, 0.0)[0])(ys) for c in chains]

    (one, first), (other, second) = both(ys)
    np.testing.assert_allclose(one, other, rtol=1e-5)
    np.testing.assert_allclose(first, second, atol=1e-4)


def test_it_is_differentiable_under_expectation():
    """The evidence bound with the exact posterior as guide is the log likelihood whatever is drawn; so is its slope."""
    target = lambda w: tg.Target(full.scan(), (init(w), XS), {"y": YS, "v": VS})  # noqa: E731

    @tg.expectation
    def bound(key, w):
        made = tg.normalize(target(w), tg.kalman()).simulate(key)
        return target(w).log_prob(made.choices) - made.logp

    value, grads = jax.jit(jax.value_and_grad(bound, argnums=1))(KEY, W)
    wanted, slopes = jax.jit(jax.value_and_grad(likelihood(tg.kalman())))(W)
    np.testing.assert_allclose(value, wanted, rtol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3), grads, slopes)


def test_what_is_missing_counts_for_nothing():
    """NaN among the observations, a masked observation, and lanes of several sequences."""

    @tg.gen
    def seen(x):
        tg.sample("v", dist.Normal(2.0 * x, 0.3))

    @tg.gen
    def step(x, there):
        x = tg.sample("x", dist.Normal(0.9 * x, 1.0))
        tg.sample("y", tg.nan_as_missing(dist.Normal(x, 0.5)))
        tg.sample("seen", seen.mask()(there, x))
        return x, None

    chain = tg.marginal(step.scan(), ("y", "seen"), tg.kalman())
    there = jnp.array([True, False, False])
    ys = jnp.array([[0.5, jnp.nan, 1.0], [jnp.nan, jnp.nan, jnp.nan]])
    vs = jnp.array([0.7, 5.0, -3.0])
    run = jax.vmap(lambda ys: chain.assess({"y": ys, "seen": {"v": vs}}, 0.0, there)[0])
    ours = jax.jit(run)(ys)
    prior = np.array(
        [[0.9 ** abs(i - j) * sum(0.81**k for k in range(min(i, j) + 1)) for j in range(3)] for i in range(3)]
    )
    look = np.array([[1.0, 0, 0], [2.0, 0, 0], [0, 0, 1.0]])
    covariance = look @ prior @ look.T + np.diag([0.25, 0.09, 0.25])
    np.testing.assert_allclose(ours[0], log_normal(np.array([0.5, 0.7, 1.0]), 0.0, covariance), rtol=1e-5)
    np.testing.assert_allclose(ours[1], log_normal(np.array([0.7]), 0.0, covariance[1:2, 1:2]), rtol=1e-5)
    slopes = jax.jit(jax.grad(lambda ys: run(ys).sum()))(ys)
    assert np.isfinite(slopes).all()


# ---- what is refused ------------------------------------------------------------------------------------------------


def chain_of(latent=lambda x: dist.Normal(0.9 * x, 1.0), seen=lambda z, x: dist.Normal(z, 1.0), carry=lambda z, x: z):
    @tg.gen
    def step(x, _):
        z = tg.sample("z", latent(x))
        tg.sample("y", seen(z, x))
        return carry(z, x), None

    return step


REFUSED = {
    "nonlinear mean": (chain_of(lambda x: dist.Normal(jnp.sin(x), 1.0)), "mean of 'z' is not known to be affine"),
    "nonlinear observation": (chain_of(seen=lambda z, x: dist.Normal(z * z, 1.0)), "mean of 'y' is not known"),
    "variance of the state": (chain_of(lambda x: dist.Normal(x, 1.0 + x**2)), "variance of 'z' depends"),
    "variance of the observation": (chain_of(seen=lambda z, x: dist.Normal(z, jnp.exp(z))), "variance of 'y' depends"),
    "latent of another family": (chain_of(lambda x: dist.Laplace(x, 1.0)), "'z' is a Laplace"),
    "observation of another family": (chain_of(seen=lambda z, x: dist.Cauchy(z, 1.0)), "'y' is a Cauchy"),
    "a discrete latent": (
        chain_of(lambda x: dist.Bernoulli(0.5), lambda z, x: dist.Normal(z.astype(float), 1.0), lambda z, x: x),
        "'z' is a Bernoulli",
    ),
    "not Markov": (chain_of(carry=lambda z, x: z + x), "Markov"),
    "carry that is not affine": (chain_of(carry=lambda z, x: jnp.abs(z)), "carry of step is not affine"),
    "rounded": (chain_of(lambda x: dist.Normal(x + jnp.floor(x), 1.0)), "mean of 'z' is not known to be affine"),
    "stopped": (
        chain_of(lambda x: dist.Normal(x + jax.lax.stop_gradient(x), 1.0)),
        "mean of 'z' is not known to be affine",
    ),
    "chosen by the state": (
        chain_of(lambda x: dist.Normal(jnp.where(x > 0, x, 2.0 * x), 1.0)),
        "not known to be affine",
    ),
    "observation of the state before": (
        chain_of(seen=lambda z, x: dist.Normal(z + x, 1.0)),
        "'y' depends on the state",
    ),
}


def density(step, **kwargs):
    chain = tg.marginal(step.scan(length=2), "y", tg.kalman())
    return chain.assess({"y": jnp.zeros(2)}, 0.0, **kwargs)[0]


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_linear_and_gaussian_is_refused_by_name(name):
    step, text = REFUSED[name]
    with pytest.raises(tg.DensityError, match=f"{text}(.|\n)*smc"):
        density(step)


@tg.gen
def weighed(x, _):
    z = tg.sample("z", dist.Normal(x, 1.0))
    tg.factor("soft", -(z**2))
    tg.sample("y", dist.Normal(z, 1.0))
    return z, None


@tg.gen
def sometimes(x, _):
    z = tg.sample("z", tg.cond(x > 0, unit, unit)()) + tg.sample("other", unit.mask()(True))
    tg.sample("y", dist.Normal(z, 1.0))
    return z, None


@tg.gen
def unit():
    return tg.sample("u", dist.Normal(0.0, 1.0))


def test_other_things_that_are_refused():
    for step, text in ((weighed, "factor"), (sometimes, "in a branch")):
        with pytest.raises(tg.DensityError, match=text):
            density(step)
    with pytest.raises(tg.DensityError, match="'y' has a scale"):
        density(chain_of().with_scale({"y": 2.0}))
    with pytest.raises(tg.DensityError, match="forward `scan`"):
        tg.marginal(unit, "u", tg.kalman()).assess({"u": 0.0})
    for algorithm in (tg.kalman(), tg.forward_filter()):
        with pytest.raises(tg.DensityError, match="has no steps"):
            tg.marginal(chain_of().scan(length=0), "y", algorithm).assess({"y": jnp.zeros(0)}, 0.0)
    with pytest.raises(tg.DensityError, match="parallel"):
        tg.kalman(parallel=1)
    with pytest.raises(tg.RandomKeyError):
        tg.normalize(tg.Target(chain_of().scan(length=2), (0.0,), {"y": jnp.zeros(2)}), tg.kalman()).simulate(None)


def test_a_factor_of_parameters_alone_is_counted():
    @tg.gen
    def step(x, _):
        z = tg.sample("z", dist.Normal(x, 1.0))
        tg.factor("constant", 0.25)
        tg.sample("y", dist.Normal(z, 1.0))
        return z, None

    np.testing.assert_allclose(density(step), density(chain_of(lambda x: dist.Normal(x, 1.0))) + 0.5, rtol=1e-6)
