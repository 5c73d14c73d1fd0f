"""Chains whose latents are summed exactly: by forward filtering and by enumeration, against a sum by hand."""

import itertools

import jax
import numpy as np
import pytest
from chain_programs import XS, YS, W, two_choices
from jax import numpy as jnp

import tracegrad as tg

KEY = jax.random.key(0)


def likelihood(algorithm):
    filtered = tg.marginal(two_choices.scan(), "y", algorithm)
    return lambda w: filtered.assess({"y": YS}, (0, 0.0, w), XS)[0]


def brute_likelihood(w):
    grid = jnp.array(list(itertools.product(range(3), range(3), range(2), range(2))))

    def joint(v):
        return two_choices.scan().assess({"z": v[:2], "b": v[2:], "y": YS}, (0, 0.0, w), XS)[0]

    return jax.nn.logsumexp(jax.vmap(joint)(grid))


def test_forward_filter_and_enumeration_agree_with_a_sum_by_hand():
    """A state, a counter and parameters in the carry; two choices a step."""
    value, gradient = jax.jit(jax.value_and_grad(brute_likelihood))(W)
    for algorithm in (tg.forward_filter(), tg.exact(), tg.exact(chunk_size=5)):
        ours, grads = jax.jit(jax.value_and_grad(likelihood(algorithm)))(W)
        np.testing.assert_allclose(ours, value, rtol=1e-5)
        np.testing.assert_allclose(grads, gradient, atol=1e-5)


@pytest.mark.parametrize("algorithm", [tg.forward_filter(), tg.exact()])
def test_exact_posteriors_draw_from_the_posterior(algorithm):
    """Paths against their exact probabilities, 36 of them: |z| < 4.5 at 40000 draws; and logp is their log density."""
    target = tg.Target(two_choices.scan(), ((0, 0.0, W), XS), {"y": YS})
    made = jax.jit(jax.vmap(tg.normalize(target, algorithm).simulate))(jax.random.split(KEY, 40_000))
    digits = jnp.concatenate([made.choices["z"], made.choices["b"]], axis=1)
    code = np.asarray(digits @ jnp.array([12, 4, 2, 1]))
    log_z = likelihood(tg.forward_filter())(W)
    expected = {c: float(p) for c, p in zip(code[:4000], np.exp(made.logp[:4000]), strict=True)}
    assert abs(sum(expected.values()) - 1.0) < 1e-3
    assert np.isfinite(log_z)
    for c, p in expected.items():
        assert abs((code == c).mean() - p) < 4.5 * np.sqrt(p * (1.0 - p) / len(code))


def test_a_chain_inside_a_program():
    """Its site holds the kept choices; its return value is the dict of them."""

    @tg.gen
    def program(w):
        chain = tg.marginal(two_choices.scan(), "y", tg.forward_filter())
        return tg.sample("steps", chain((0, 0.0, w), XS))["y"]

    logp, ys = program.assess({"steps": {"y": YS}}, W)
    np.testing.assert_allclose(logp, likelihood(tg.forward_filter())(W), rtol=1e-6)
    np.testing.assert_array_equal(ys, YS)
