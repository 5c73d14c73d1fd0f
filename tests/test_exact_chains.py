"""Chains whose latents are summed exactly: by forward filtering and by enumeration, against a sum by hand."""

import itertools

import jax
import numpy as np
import pytest
from chain_programs import XS, YS, W, two_choices
from jax import numpy as jnp

import tracegrad as tg
from tracegrad import dist
from tracegrad.transforms._jax import inner_jaxprs, open_jaxpr

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


@pytest.mark.slow
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


# ---- how a filter lays its chain out --------------------------------------------------------------------------------


@tg.gen
def moving(carry, x):
    """A state that is made with the step's input and with a counter, a flag of the first step, and masked choices."""
    state, t, w = carry
    flag, u = x
    z = tg.sample("z", dist.Categorical(logits=jnp.where(flag, w[0], w[1] * state + 0.3 * u * t)))
    on = tg.sample("on", coin.mask()(z > 0, 0.3))
    tg.sample("y", dist.Normal(w[0, z] + on + 0.1 * t, 1.0))
    return ((z.astype(float) + 1.0) * u, t + 1.0, w), None


@tg.gen
def coin(p):
    return tg.sample("b", dist.Bernoulli(p)).astype(float)


U, Y3 = jnp.array([0.4, -1.2, 0.7]), jnp.array([0.5, -0.3, 1.4])


def of_moving(algorithm, flags=None):
    def likelihood(w):
        first = jnp.arange(3) == 0 if flags is None else flags
        chain = tg.marginal(moving.scan(), "y", algorithm)
        return chain.assess({"y": Y3}, (0.0, 0.0, w), (first, U))[0]

    return likelihood


FLAGS = jnp.arange(3) == 0


@pytest.mark.parametrize("limit", [1 << 24, 1])
@pytest.mark.parametrize("flags", [None, FLAGS], ids=["traced", "known"])
def test_what_the_moves_weigh_may_be_another_thing_at_each_step(limit, flags, monkeypatch):
    monkeypatch.setattr("tracegrad.algorithms._forward_filter.LIMIT", limit)
    w = W[:2]
    value, gradient = jax.jit(jax.value_and_grad(of_moving(tg.exact())))(w)
    ours, grads = jax.jit(jax.value_and_grad(of_moving(tg.forward_filter(), flags)))(w)
    np.testing.assert_allclose(ours, value, rtol=1e-5)
    np.testing.assert_allclose(grads, gradient, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("limit", [1 << 24, 1])
def test_draws_of_such_a_chain_have_its_posterior(limit, monkeypatch):
    """The frequencies of paths against their densities, which sum to one: |z| < 4.5 at 20000 draws."""
    monkeypatch.setattr("tracegrad.algorithms._forward_filter.LIMIT", limit)
    target = tg.Target(moving.scan(), ((0.0, 0.0, W[:2]), (FLAGS, U)), {"y": Y3})
    posterior = tg.normalize(target, tg.forward_filter())
    made = jax.jit(jax.vmap(posterior.simulate))(jax.random.split(KEY, 20_000))
    on = jnp.where(made.choices["z"] > 0, made.choices["on"]["b"], 0)
    code = np.asarray((2 * made.choices["z"] + on) @ jnp.array([36, 6, 1]))
    found = {c: float(np.exp(logp)) for c, logp in zip(code, np.asarray(made.logp), strict=True)}
    assert sum(found.values()) == pytest.approx(1.0, abs=1e-2)
    for c, p in found.items():
        assert abs((code == c).mean() - p) < 4.5 * np.sqrt(p * (1.0 - p) / len(code))


def equations(jaxpr):
    for eqn in open_jaxpr(jaxpr).eqns:
        yield eqn
        for inner in inner_jaxprs(eqn):
            yield from equations(inner)


def loops(jaxpr):
    """The primitives in the loops of a jaxpr."""
    bodies = [inner for eqn in equations(jaxpr) if eqn.primitive.name == "scan" for inner in inner_jaxprs(eqn)]
    return {eqn.primitive.name for body in bodies for eqn in equations(body)}


def test_the_loop_is_products_and_nothing_else(monkeypatch):
    """No density, no look-up and no exponential in it: neither of the value nor of the derivative."""
    monkeypatch.setattr("tracegrad.algorithms._chain_sums._repaired", lambda weights, scaled, found, in_logs: found)
    at = jax.make_jaxpr(jax.value_and_grad(likelihood(tg.forward_filter())))(W)
    found = loops(at.jaxpr)
    assert "dot_general" in found
    assert not found & {"gather", "dynamic_slice", "scatter-add", "scatter_add", "exp", "log", "while", "cond"}


def test_a_chain_of_one_step():
    filtered, exact = (tg.marginal(two_choices.scan(), "y", a) for a in (tg.forward_filter(), tg.exact()))
    target = tg.Target(two_choices.scan(), ((0, 0.0, W), XS[:1]), {"y": YS[:1]})

    @jax.jit
    def all_of_it(key):
        made = tg.normalize(target, tg.forward_filter()).simulate(key)
        totals = (each.assess(target.observed, *target.args)[0] for each in (filtered, exact))
        return made.choices, target.log_prob(made.choices) - made.logp, *totals

    choices, by_draw, total, by_hand = all_of_it(KEY)
    assert choices["z"].shape == (1,)
    np.testing.assert_allclose([by_draw, total], by_hand, rtol=1e-5)


def test_what_cannot_be_has_no_derivative():
    """Transitions of probability zero: the derivative in the others is that of the sum by hand, and none is nan."""

    @tg.gen
    def step(state, _):
        z = tg.sample("z", dist.Categorical(logits=LOGITS[state] + jnp.where(jnp.isinf(LOGITS[state]), 0.0, scale[0])))
        tg.sample("y", dist.Normal(scale[0] * z.astype(float), 1.0))
        return z, None

    LOGITS = jnp.array([[0.0, 0.3, -jnp.inf], [-jnp.inf, 0.1, 0.4], [-jnp.inf, -jnp.inf, 0.0]])
    ys, scale = jnp.array([0.1, 1.2, 0.7]), [1.0]

    def value(algorithm, s):
        scale[0] = s
        return tg.marginal(step.scan(length=3), "y", algorithm).assess({"y": ys}, 0)[0]

    ours, theirs = (jax.jit(jax.grad(lambda s, a=a: value(a, s)))(1.3) for a in (tg.forward_filter(), tg.exact()))
    assert np.isfinite(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_many_sequences_at_once():
    many = jnp.stack([YS, 2.0 * YS, YS + 1.0])
    chain = tg.marginal(two_choices.scan(), "y", tg.forward_filter())
    one = jax.jit(lambda ys: chain.assess({"y": ys}, (0, 0.0, W), XS)[0])
    np.testing.assert_allclose(jax.vmap(one)(many), [one(ys) for ys in many], rtol=1e-5)
