"""Proposals that draw a few latents by kernels and the others given them, on a model whose integral is known."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from scipy import stats

import tracegrad as tg
from tracegrad import dist
from tracegrad.auto._nested import MOST, OUTER, _cholesky, _drawn, _log_mixture, _solved_above, _solved_below, nested

Y = np.linspace(-1.0, 1.5, 9)
NOISE = 0.5


@tg.gen
def effects():
    """Given the scale each observation is normal, of variance scale^2 + NOISE^2."""
    scale = tg.sample("scale", dist.LogNormal(0.0, 1.0))
    z = tg.sample("z", dist.Normal(0.0, scale).expand([len(Y)]))
    tg.sample("y", dist.Normal(z, NOISE))


TARGET = tg.Target(effects, (), {"y": jnp.asarray(Y, float)})


def made(seed=0):
    """The proposal, matched to points about a normal, and those points with their weights."""
    family = tg.auto.full_rank(TARGET, scale=0.7)
    proposal, start = nested(family, family.init(jax.random.key(seed)))
    points = 0.3 + 0.6 * jax.random.normal(jax.random.key(1), (400, 10))
    points = points.at[:, 0].set(0.3 + 0.6 * stats.norm.ppf((np.arange(400) + 0.5) / 400))  # in order: picked evenly
    weights = jax.nn.softmax(jax.random.normal(jax.random.key(2), (400,)))
    return proposal, proposal.matched(start, points, weights), points, weights


@pytest.fixture(scope="module")
def drawn():
    proposal, params, *_ = made()
    run = jax.jit(jax.vmap(lambda key: proposal.draw(key, params, ())))
    return proposal, params, *run(jax.random.split(jax.random.key(3), 20))


@pytest.mark.slow
def test_weights_are_the_integral_over_the_many_where_they_are_normal_given_the_few(drawn):
    """Of each draw gamma / q is p(y, scale) / q(scale), whatever the effects are."""
    proposal, params, points, logq = drawn
    gamma = jax.jit(jax.vmap(proposal.space.log_prob))(points)
    outer = np.asarray(points[:, 0], np.float64)
    marginal = stats.norm.logpdf(Y, 0.0, np.sqrt(np.exp(2.0 * outer[:, None]) + NOISE**2)).sum(1)
    marginal += stats.norm.logpdf(outer)
    few = jax.vmap(lambda x: _log_mixture(params, x[None]))(points[:, 0])
    np.testing.assert_allclose(gamma - logq, marginal - np.asarray(few), atol=2e-3)


@pytest.mark.slow
def test_a_draw_is_weighed_as_it_was_drawn(drawn):
    proposal, params, points, logq = drawn
    again = jax.jit(jax.vmap(lambda x: proposal.weigh(params, x)))(points)
    np.testing.assert_allclose(again, logq, rtol=1e-4, atol=1e-3)


def test_kernels_have_the_moments_of_weighted_points_and_integrate_to_one():
    """A share of a quarter is of the wide Student t, of variance 5/3; the rest has the moments that are matched."""
    _, params, points, weights = made()
    mean = float(weights @ points[:, 0])
    grid = np.linspace(-80.0, 80.0, 64_001)
    density = np.exp(jax.jit(jax.vmap(lambda x: _log_mixture(params, x[None])))(jnp.asarray(grid, float)))
    assert np.trapezoid(density, grid) == pytest.approx(1.0, abs=2e-3)
    assert np.trapezoid(density * grid, grid) == pytest.approx(mean, abs=0.02)
    whole = float(params["whole"][0, 0]) ** 2
    variance = np.trapezoid(density * (grid - mean) ** 2, grid)
    assert variance == pytest.approx((0.75 + 0.25 * 5.0 / 3.0) * whole, rel=0.03)


@pytest.mark.slow
def test_draws_have_the_density_of_the_kernels():
    _, params, *_ = made()
    draws = np.asarray(jax.vmap(lambda key: _drawn(params, key))(jax.random.split(jax.random.key(4), 4000)))[:, 0]
    grid = np.linspace(-60.0, 60.0, 24_001)
    density = np.exp(jax.jit(jax.vmap(lambda x: _log_mixture(params, x[None])))(jnp.asarray(grid, float)))
    below = np.cumsum(density) * (grid[1] - grid[0])
    assert stats.kstest(np.interp(draws, grid, below), "uniform").pvalue > 1e-3


def test_latents_that_do_not_fall_apart_have_no_such_proposals():
    """Too many at once, or too many in all; of few alone each is drawn by kernels."""

    def of(*sizes):
        @tg.gen
        def model():
            for i, size in enumerate(sizes):
                tg.sample(f"z{i}", dist.Normal(0.0, 1.0).expand([size]))

        family = tg.auto.mean_field(tg.Target(model))
        return nested(family, family.init(jax.random.key(0)))

    assert of(OUTER + 1) is None
    assert of(1, MOST + 1) is None
    few, _ = of(2, OUTER - 2)
    assert [len(part) for part in few.parts] == [OUTER, 0]
    assert few.in_words() == "Proposals draw 'z0', 'z1' by kernels about draws that were weighed."
    both, _ = of(1, OUTER + 1)
    assert "draw 'z0' by kernels" in both.in_words()
    assert "the others given them by a normal at the mode" in both.in_words()


def test_factors_and_solutions_are_those_of_a_library():
    """In lanes, of one to some rows; of a matrix that has no factor what is there is not finite."""
    for size in (1, 4):
        half = jax.random.normal(jax.random.key(5), (3, size, size))
        matrices = half @ half.mT + jnp.eye(size)[None]
        right = jnp.arange(1.0, size + 1.0)
        factors = jax.vmap(_cholesky)(matrices)
        np.testing.assert_allclose(factors, np.linalg.cholesky(np.asarray(matrices)), rtol=1e-4, atol=1e-5)
        for factor in factors:
            dense = np.asarray(factor)
            np.testing.assert_allclose(_solved_below(factor, right), np.linalg.solve(dense, right), rtol=1e-4)
            np.testing.assert_allclose(_solved_above(factor, right), np.linalg.solve(dense.T, right), rtol=1e-4)
    assert not np.isfinite(_cholesky(jnp.array([[1.0, 2.0], [2.0, 1.0]]))).all()


def test_programs_that_decompose_matrices_have_no_such_proposals():
    @tg.gen
    def field():
        scale = tg.sample("scale", dist.LogNormal(0.0, 1.0))
        tg.sample("z", dist.MultivariateNormal(jnp.zeros(9), scale * jnp.eye(9)))

    family = tg.auto.mean_field(tg.Target(field))
    assert nested(family, family.init(jax.random.key(0))) is None
