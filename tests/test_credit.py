"""Causal credit: the mean of a credited gradient is exact to every order that the score function gives, and its
variance is that of the terms that depend on a draw."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from unbiased_programs import assert_exact, derivatives, precisely

import tracegrad as tg
from tracegrad import dist
from tracegrad.transforms import log_density

KEY = jax.random.key(5)
FLIP = tg.gen(lambda logit: tg.sample("z", dist.Bernoulli(logits=logit), estimator=tg.reinforce()).astype(float))


def flip(key, logit):
    return FLIP.simulate(key, logit).retval


# Programs over flips of probability 1/4, 1/2 or 3/4, whose noise a grid of four cells enumerates exactly. The logits
# are at multiples of log 3, and the parameter w is zero: its derivatives are what is tested.
A = float(np.log(3.0))


def plate(key, w, draw=flip):
    z = jax.vmap(lambda k, a: draw(k, w + a))(jax.random.split(key, 3), jnp.array([A, 0.0, -A]))
    return jnp.sum((z - 0.3) ** 2 * jnp.array([1.0, 2.0, 3.0])) + 0.1 * w


def mean_of_plate(key, w, draw=flip):
    z = jax.vmap(lambda k: draw(k, w))(jax.random.split(key, 3))
    return jnp.mean(jnp.where(z > 0.5, z * w + 2.0, -1.0).reshape(3, 1) @ jnp.ones((1, 2)))


def elements(key, w, draw=None):
    site = tg.gen(
        lambda: tg.sample(
            "z", dist.Bernoulli(logits=w + jnp.array([A, 0.0])).to_event(1), estimator=tg.reinforce()
        ).astype(float)
    )
    tr = site.simulate(key)
    return jnp.sum(tr.retval * jnp.array([1.0, 5.0])) - tr.logp


def steps_in_carry(key, w, draw=flip):
    def body(carry, k):
        c, total = carry
        z = draw(k, w + A * (2.0 * c - 1.0))
        return (z, total + (z - 0.3) ** 2 + 0.5 * c * w), None

    return jax.lax.scan(body, (0.0, 0.0), jax.random.split(key, 3))[0][1]


def steps_stacked(key, w, draw=flip):
    def body(c, k):
        z = draw(k, w + A * (2.0 * c - 1.0))
        return z, (z - 0.3) ** 2 + 0.5 * c

    return jnp.sum(jax.lax.scan(body, 0.0, jax.random.split(key, 3), reverse=True)[1] * jnp.array([1.0, 2.0, 3.0]))


def upstream_of_a_loop(key, w, draw=flip):
    first, rest = jax.random.split(key)
    b = draw(first, w)

    def body(carry, k):
        c, total = carry
        z = draw(k, w + A * c * b)
        return (z, total + (z - 0.3) ** 2 + b * c), z

    (_, total), zs = jax.lax.scan(body, (b, b * 0.1), jax.random.split(rest, 2))
    return total + 2.0 * b + zs[1] * 3.0 * b + zs[0]


def nested_loops(key, w, draw=flip):
    def inner(carry, k):
        c, total = carry
        z = draw(k, w + A * c)
        return (z, total + z * 0.7 + c), None

    def outer(carry, k):
        return jax.lax.scan(inner, carry, jax.random.split(k, 2))[0], carry[0]

    (_, total), cs = jax.lax.scan(outer, (0.0, 0.0), jax.random.split(key, 2))
    return total + cs.sum()


def lanes_of_loops(key, w, draw=flip):
    return jnp.mean(jax.vmap(lambda k: steps_in_carry(k, w, draw))(jax.random.split(key, 2)))


def loop_of_lanes(key, w, draw=flip):
    def body(carry, k):
        c, total = carry
        z = jax.vmap(lambda k, c: draw(k, w + A * c))(jax.random.split(k, 2), c)
        return (z, total + (z - 0.3) ** 2), z.sum()

    (_, total), sums = jax.lax.scan(body, (jnp.zeros(2), jnp.zeros(2)), jax.random.split(key, 2))
    return total.sum() / 3.0 + sums[0]


def branches(key, w, draw=flip):
    k1, k2, k3 = jax.random.split(key, 3)
    b, d = draw(k1, w), draw(k3, w - A)
    c = jax.lax.cond(b > 0.5, lambda: draw(k2, w + A), lambda: jnp.asarray(0.5))
    return c + b * 2.0 + d * 10.0


def outputs_of_a_branch(key, w, draw=flip):
    """Of what comes out of a branch, each depends on its own part of what went in and of what was drawn inside."""
    k1, k2, k3, k4 = jax.random.split(key, 4)
    a, b, d = draw(k1, w), draw(k2, w - A), draw(k3, w + A)

    def drawn(a, b):
        return draw(k4, w + A * a), b * 2.0, (a - 0.3) ** 2

    x, y, z = jax.lax.cond(d > 0.5, drawn, lambda a, b: (a * w, b - 0.3, a), a, b)
    u, v = jax.checkpoint(lambda a: (draw(jax.random.fold_in(k4, 1), w), a * 3.0 + w))(b)
    return x * 2.0 + (y - 0.3) ** 2 + z * 3.0 + u * 5.0 + v


def jitted(key, w, draw=flip):
    k1, k2, k3 = jax.random.split(key, 3)

    @jax.jit
    def cost(a, b):
        return a * 3.0 + b * w + 1.0

    return jax.jit(lambda k: cost(draw(k, w), draw(k2, w + A)))(k1) + jax.checkpoint(lambda k: draw(k, w))(k3) * 0.5


def nonlinear(key, w, draw=flip):
    z = jax.vmap(lambda k: draw(k, w))(jax.random.split(key, 3))
    return jax.nn.logsumexp(z * 2.0 - w) + z[0]


def indexed(key, w, draw=flip):
    k1, k2 = jax.random.split(key)
    z = jax.vmap(lambda k: draw(k, w))(jax.random.split(k1, 3))
    i = draw(k2, w).astype(int)
    table = jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    return jnp.sum(table[z.astype(int), jnp.arange(3)]) + z[i] + jax.lax.dynamic_slice(z, (i,), (2,)).sum()


PROGRAMS = [
    plate,
    mean_of_plate,
    elements,
    steps_in_carry,
    steps_stacked,
    upstream_of_a_loop,
    nested_loops,
    lanes_of_loops,
    loop_of_lanes,
    branches,
    outputs_of_a_branch,
    jitted,
    nonlinear,
    indexed,
]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda f: f.__name__)
def test_credit_leaves_the_mean_exact_to_second_order(program):
    """With and without credit the exact means of value, gradient and second derivative are the same."""
    with precisely():
        credited = tg.exact_expectation(tg.expectation(program), cells=4)
        plain = tg.exact_expectation(tg.expectation(program, credit=False), cells=4)
        found = derivatives(lambda w: credited(KEY, w), 2)(jnp.zeros(()))
        expected = derivatives(lambda w: plain(KEY, w), 2)(jnp.zeros(()))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def variance(g, w, n=4000):
    grads = jax.jit(jax.vmap(jax.grad(g, argnums=1), (0, None)))(jax.random.split(KEY, n), w)
    return float(np.mean(np.var(np.asarray(grads).reshape(n, -1), axis=0)))


def gain(program, w):
    return variance(tg.expectation(program, credit=False), w) / variance(tg.expectation(program), w)


def test_a_plate_of_independent_sites_gains_a_factor_of_a_thousand():
    """64 sites in a vmap, a cost that is a sum over lanes; each lane is credited with its own cost alone."""

    def program(key, w):
        z = jax.vmap(flip)(jax.random.split(key, 64), w)
        return jnp.sum((z - 0.3) ** 2 * jnp.arange(64.0) / 8.0)

    assert gain(program, jnp.linspace(-1.0, 1.0, 64)) > 1000.0


def test_the_elements_of_one_site_are_lanes():
    def program(key, w):
        site = tg.gen(lambda: tg.sample("z", dist.Bernoulli(logits=w).to_event(1), estimator=tg.reinforce()))
        tr = site.simulate(key)
        return jnp.sum((tr.retval.astype(float) - 0.3) ** 2 * jnp.arange(64.0)) - tr.logp

    assert gain(program, jnp.linspace(-1.0, 1.0, 64)) > 1000.0


def test_a_chain_is_credited_step_by_step():
    """20 steps with a cost each: a choice pays for the steps from its own on."""

    def program(key, w):
        def body(carry, k):
            c, total = carry
            z = flip(k, w * (2.0 * c - 1.0))
            return (z, total + (z - 0.3) ** 2 + 0.5 * c), None

        return jax.lax.scan(body, (0.0, 0.0), jax.random.split(key, 20))[0][1]

    assert gain(program, jnp.asarray(0.4)) > 2.0


def test_the_outputs_of_a_branch_are_credited_one_by_one():
    """Ten lanes that only pass through a branch, where one more is drawn: each lane pays for itself and the choice."""

    def program(key, w):
        k1, k2, k3 = jax.random.split(key, 3)
        z = jax.vmap(lambda k: flip(k, w))(jax.random.split(k1, 10))
        choice = 0.1 * flip(k3, 0.0)

        def extra(z):
            return flip(k2, w), 2.0 * z

        x, z = jax.lax.cond(choice > 0.0, extra, lambda z: (0.0, z + w), z)
        return x + jnp.sum((z - 0.3) ** 2)

    assert gain(program, jnp.asarray(0.4)) > 5.0


def test_loops_inside_loops_are_credited_step_by_step():
    def program(key, w):
        def inner(carry, k):
            c, total = carry
            z = flip(k, w * (2.0 * c - 1.0))
            return (z, total + (z - 0.3) ** 2 + 0.5 * c), None

        def outer(carry, k):
            return jax.lax.scan(inner, carry, jax.random.split(k, 5))[0], None

        return jax.lax.scan(outer, (0.0, 0.0), jax.random.split(key, 4))[0][1]

    assert gain(program, jnp.asarray(0.4)) > 2.0


def test_the_credit_of_an_elbo_is_that_of_its_terms_by_hand():
    """For independent latents the credited gradient is sum_i (log p_i - log q_i) d log q_i, draw by draw."""
    logits, x = jnp.linspace(-1.0, 1.0, 5), jnp.array([0.3, 1.0, -0.2, 0.5, 2.0])
    unit = tg.gen(lambda a: tg.sample("z", dist.Bernoulli(logits=a)))

    @tg.gen
    def latent(x):
        z = tg.sample("z", dist.Bernoulli(probs=0.3))
        tg.sample("x", dist.Normal(z.astype(float), 1.0))

    def elbo(key, w):
        q = unit.vmap().simulate(key, w)
        logp, _ = latent.vmap().assess({**q.choices, "x": x}, x)
        return logp - q.logp

    def by_hand(key, w):
        z = unit.vmap().simulate(key, jax.lax.stop_gradient(w)).choices["z"]

        def term(z, x, a):
            logq = log_density(dist.Bernoulli(logits=a), z)
            logp = log_density(dist.Bernoulli(probs=0.3), z) + log_density(dist.Normal(z.astype(float), 1.0), x)
            return jax.lax.stop_gradient(logp - logq) * logq - logq

        return jnp.sum(jax.vmap(term)(z, x, w))

    for seed in range(5):
        key = jax.random.key(seed)
        found = jax.grad(tg.expectation(elbo), argnums=1)(key, logits)
        expected = jax.grad(lambda w, key=key: by_hand(key, w))(logits)
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)


def test_mvd_does_not_see_noise_that_its_flip_does_not_touch():
    """A flip plus independent noise of variance 100: the noise cancels exactly in the difference."""

    def program(key, w):
        k1, k2 = jax.random.split(key)
        b = tg.gen(lambda: tg.sample("b", dist.Bernoulli(logits=w), estimator=tg.mvd())).simulate(k1).retval
        return 3.0 * b.astype(float) + tg.gen(lambda: tg.sample("e", dist.Normal(0.0, 10.0))).simulate(k2).retval

    assert variance(tg.expectation(program), jnp.asarray(0.3), n=200) < 1e-9


def test_exactness_is_against_the_truth():
    """The programs above agree with each other; this one agrees with the sum over outcomes too."""

    def truth(w):
        p = jax.nn.sigmoid(w + jnp.array([A, 0.0, -A]))
        cost = jnp.array([1.0, 2.0, 3.0])
        return jnp.sum(cost * (p * 0.7**2 + (1.0 - p) * 0.3**2)) + 0.1 * w

    with precisely():
        assert_exact(tg.expectation(plate), truth, jnp.zeros(()), hessian=True, cells=4)
