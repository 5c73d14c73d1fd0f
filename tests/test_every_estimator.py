"""Every exported estimator and multi-sample objective inside a scan, a vmap and a cond, one by one, without statistics.

The noise of the estimator is enumerated, or put at the nodes of a quadrature, and its mean must be the exact value and
gradient. An estimator or objective that is exported and has no row here fails. The three programs of a row draw from
the same keys, so that one enumeration serves them all.
"""

import inspect
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import pytest
from estimator_programs import exported_estimators
from exactly import forward
from jax import lax
from jax import numpy as jnp
from scipy import special
from unbiased_programs import KEY, NODES, WEIGHTS, derivatives, precisely

import tracegrad as tg
from tracegrad import dist
from tracegrad.transforms import StandardNoise, sample, standard_noise


@pytest.fixture(autouse=True)
def double_precision():
    with precisely():
        yield


# ---- what is drawn --------------------------------------------------------------------------------------------------


class Family(NamedTuple):
    """A distribution at parameters w and a number x; its outcomes and their probabilities; where and how finely."""

    make: Callable
    outcomes: Callable
    w: tuple[float, float]
    cells: int = 4
    nodes: int = 4
    path: bool = False
    logp: Callable | None = None


def draw(family, estimator):
    """A site as a float: `(key, w, x) -> value`."""
    return lambda key, w, x: sample(key, family.make(w, x), estimator=estimator).astype(float)


def flips(p_of, w, cells):
    def outcomes(w, x):
        p = p_of(w, x)
        return jnp.array([0.0, 1.0]), jnp.stack([1.0 - p, p])

    return outcomes, w, cells


def _three(w, x):
    u = w[0] ** 2 + w[1] * x
    return jnp.stack([u, 0.75 - u, jnp.full_like(u, 0.25)])


def _logit(w, x):
    return w[0] + w[1] * x


def _normal(w, x):
    return w[0] + w[1] * x, 0.1 * (1.0 + w[0])


def _normal_outcomes(w, x):
    mean, scale = _normal(w, x)
    return mean + scale * jnp.asarray(NODES), jnp.asarray(WEIGHTS / WEIGHTS.sum())


def _log_normal(w, x, value):
    mean, scale = _normal(w, x)
    return log_normal((value - mean) / scale, 0.0) - jnp.log(scale)


def _log_flip(w, x, value):
    sign = 2.0 * value - 1.0
    return -jnp.log1p(jnp.exp(-sign * _logit(w, x)))


SHAPE = 3.5
NORMAL_NODES, NORMAL_WEIGHTS = np.polynomial.hermite_e.hermegauss(32)
GAMMA_NODES = np.where(
    NORMAL_NODES < 0.0,
    special.gammaincinv(SHAPE, special.ndtr(NORMAL_NODES)),
    special.gammainccinv(SHAPE, special.ndtr(-NORMAL_NODES)),
)
"""The gamma of this shape as a smooth function of normal noise, at the nodes: as much probability below."""


class SmoothGamma(dist.Gamma):
    """A gamma of shape `SHAPE` whose draws are enumerated through standard normal noise."""


@standard_noise.register(SmoothGamma)
def _(d):
    def push(x):
        return jnp.asarray(GAMMA_NODES)[jnp.argmin(jnp.abs(jnp.asarray(NORMAL_NODES) - x))] / d.rate

    return StandardNoise("normal", (), push)


def _gamma(w, x):
    return SmoothGamma(SHAPE - 0.5 + w[0], 2.0 + w[1] * (1.0 + x))


def _gamma_outcomes(w, x):
    d = _gamma(w, x)
    z = jnp.asarray(GAMMA_NODES) / lax.stop_gradient(d.rate)
    logp = jax.vmap(d.log_prob)(z)
    return z, jnp.asarray(NORMAL_WEIGHTS / NORMAL_WEIGHTS.sum()) * jnp.exp(logp - lax.stop_gradient(logp))


def _quarter(w, x):
    return w[0] ** 2 + w[1] * x


QUARTER = Family(lambda w, x: dist.Bernoulli(_quarter(w, x)), *flips(_quarter, (0.5, 0.25), 4))
# At even odds the threshold of mirrored noise is between the nodes; the parameters move the odds from there.
EVEN = Family(
    lambda w, x: dist.Bernoulli(logits=_logit(w, x)),
    *flips(lambda w, x: 1.0 / (1.0 + jnp.exp(-_logit(w, x))), (0.0, 0.0), 2),
    logp=_log_flip,
)
THREE = Family(
    lambda w, x: dist.Categorical(probs=_three(w, x)), lambda w, x: (jnp.arange(3.0), _three(w, x)), (0.5, 0.25)
)
REDRAWN = THREE._replace(make=lambda w, x: dist.Categorical(logits=jnp.log(_three(w, x))), cells=12)
NORMAL = Family(lambda w, x: dist.Normal(*_normal(w, x)), _normal_outcomes, (0.5, 0.25), nodes=12, path=True)
GAMMA = Family(_gamma, _gamma_outcomes, (0.5, 0.25), nodes=len(GAMMA_NODES), path=True)

ESTIMATORS = {
    "reinforce": [(THREE, tg.reinforce(baseline=0.7)), (NORMAL, tg.reinforce())],
    "reparam": [(NORMAL, tg.reparam())],
    "enum": [(THREE, tg.enum())],
    "local_expectation": [(THREE, tg.local_expectation())],
    "mvd": [(QUARTER, tg.mvd()), (REDRAWN, tg.mvd()), (THREE, tg.mvd())],
    "rsvi": [(GAMMA, tg.rsvi(0))],
    "arm": [(EVEN, tg.arm())],
    "disarm": [(EVEN, tg.disarm())],
    "relax": [(EVEN._replace(nodes=6), tg.relax(lambda z: 0.5 * jax.nn.sigmoid(z) ** 2))],
    "rebar": [(EVEN._replace(nodes=6), tg.rebar(lambda b: (b - 0.3) ** 2, temperature=1.0, scale=0.7))],
    "sum_and_sample": [(THREE, tg.sum_and_sample(1)), (THREE, tg.sum_and_sample(2))],
    "unordered_set": [(REDRAWN, tg.unordered_set(2))],
}

# ---- three programs of two draws ------------------------------------------------------------------------------------


def cost(a, b, w):
    return (a - w[1] * b) ** 2 + jnp.sin(a + b) + w[0] * a


def flag(a, family):
    """What the second draw of the scan depends on."""
    return a if family.path else jnp.minimum(a, 1.0)


def goes(a, w, family):
    """Which branch: by the draw where it is discrete."""
    return w[0] > -1.0 if family.path else a > 0.5


ELSE = 0.3
NARROW = NORMAL._replace(nodes=10, logp=_log_normal)


def scan(draw, key, w, family, start=0.0):
    def step(x, key):
        value = draw(key, w, x)
        return flag(value, family), value

    return lax.scan(step, jnp.asarray(start), jax.random.split(key, 2))[1]


def vmap(draw, key, w, family, start=0.0):
    xs = jnp.stack([jnp.asarray(start), jnp.ones(())])
    return jax.vmap(lambda k, x: draw(k, w, x))(jax.random.split(key, 2), xs)


def cond(draw, key, w, family, start=0.0):
    first, second = jax.random.split(key)
    a = draw(first, w, jnp.asarray(start))
    return a, lax.cond(goes(a, w, family), lambda: draw(second, w, jnp.ones(())), lambda: jnp.asarray(ELSE))


CONSTRUCTS = {"scan": scan, "vmap": vmap, "cond": cond}


def joint(name, family, w, start=0.0):
    """The pairs of outcomes, shape (m, m), and their probabilities."""
    a, p = family.outcomes(w, jnp.asarray(start))
    xs = flag(a, family) if name == "scan" else jnp.ones(a.shape)
    b, q = jax.vmap(lambda x: family.outcomes(w, x))(xs)
    if name == "cond":
        taken = jnp.broadcast_to(goes(a, w, family), a.shape)[:, None]
        b, q = jnp.where(taken, b, ELSE), jnp.where(taken, q, 1.0 / a.size)
    return jnp.broadcast_to(a[:, None], b.shape), b, p[:, None] * q


def check(objective, truth, w, **options):
    """Value and gradient of `objective(key, w)`, a dict, against those of `truth(w)`."""
    w = jnp.asarray(w)
    estimate = tg.exact_expectation(objective, **options)
    for found, expected in zip(forward(lambda w: estimate(KEY, w), w), jax.jit(derivatives(truth, 1))(w), strict=True):
        for name in expected:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-9, atol=1e-9, err_msg=name)


ROWS = [
    pytest.param(*row, id=f"{name}-{i}", marks=[pytest.mark.slow] if i else [])
    for name, rows in ESTIMATORS.items()
    for i, row in enumerate(rows)
]


def test_every_exported_estimator_has_a_row():
    assert exported_estimators() == set(ESTIMATORS)
    assert all(ESTIMATORS.values())


@pytest.mark.table
@pytest.mark.parametrize(("family", "estimator"), [row for row in ROWS if "enum" not in row.id])
def test_the_mean_of_an_estimator_is_exact_in_each_construct(family, estimator):
    site = draw(family, estimator)

    def program(construct):
        return tg.expectation(lambda key, w: cost(*construct(site, key, w, family), w))

    programs = {name: program(construct) for name, construct in CONSTRUCTS.items()}

    def truth(w):
        pairs = {name: joint(name, family, w) for name in CONSTRUCTS}
        return {name: jnp.sum(p * cost(a, b, w)) for name, (a, b, p) in pairs.items()}

    options = {"cells": family.cells, "nodes": family.nodes}
    check(lambda key, w: {name: g(key, w) for name, g in programs.items()}, truth, family.w, **options)


@pytest.mark.parametrize(("family", "estimator"), [row.values for row in ROWS if "enum" in row.id])
def test_an_enumerated_site_is_exact_before_each_construct_and_refused_inside(family, estimator):
    inside = draw(family, tg.reinforce())

    def program(construct):
        def f(key, w):
            first, rest = jax.random.split(key)
            start = flag(draw(family, estimator)(first, w, jnp.zeros(())), family)
            return start * w[1] + cost(*construct(inside, rest, w, family, start), w)

        return tg.expectation(f)

    programs = {name: program(construct) for name, construct in CONSTRUCTS.items()}

    def truth(w):
        starts, p = family.outcomes(w, jnp.zeros(()))

        def at(name, start):
            a, b, q = joint(name, family, w, start)
            return start * w[1] + jnp.sum(q * cost(a, b, w))

        return {name: p @ jax.vmap(lambda x, n=name: at(n, flag(x, family)))(starts) for name in CONSTRUCTS}

    check(lambda key, w: {name: g(key, w) for name, g in programs.items()}, truth, family.w, cells=family.cells)
    site = draw(family, estimator)
    for name, construct in CONSTRUCTS.items():
        refused = tg.expectation(lambda key, w, c=construct: sum(c(site, key, w, family)))
        if name == "cond":
            refused = tg.expectation(lambda key, w: lax.cond(w[0] > 0.0, lambda: site(key, w, w[0]), lambda: w[0]))
        with pytest.raises(tg.EstimatorError, match=r"local_expectation\(\)`.*or marginalise"):
            jax.grad(refused, argnums=1)(KEY, jnp.asarray(family.w))


# ---- objectives of several samples ----------------------------------------------------------------------------------

OBSERVED = 1.2


def latents(name, family):
    """A generative function of the two draws of a construct, at addresses in a loop, a plate or a branch."""

    @tg.gen
    def lane(w, x):
        return tg.sample("z", family.make(w, x)).astype(float)

    @tg.gen
    def step(carry, _):
        w, x = carry
        value = lane.inline(w, x)
        return (w, flag(value, family)), value

    @tg.gen
    def program(w):
        if name == "scan":
            return tg.sample("steps", step.scan()((w, jnp.zeros(())), jnp.zeros(2)))[1]
        if name == "vmap":
            return tg.sample("lanes", lane.vmap(in_axes=(None, 0))(w, jnp.array([0.0, 1.0])))
        a = lane.inline(w, jnp.zeros(()))
        otherwise = tg.gen(lambda w, x: jnp.asarray(ELSE))
        b = tg.sample("branch", tg.cond(goes(a, w, family), lane, otherwise)(w, jnp.ones(())))
        return jnp.stack([a, b])

    return program


def log_joint(name, family, w, a, b):
    """The log density of pairs of outcomes, by the formulas of the families."""

    def one(a, b):
        x = flag(a, family) if name == "scan" else jnp.ones(())
        second = family.logp(w, x, b)
        if name == "cond":
            second = jnp.where(goes(a, w, family), second, 0.0)
        return family.logp(w, jnp.zeros(()), a) + second

    return jax.vmap(one)(jnp.ravel(a), jnp.ravel(b))


def log_normal(x, mean):
    return -0.5 * (x - mean) ** 2 - 0.5 * jnp.log(2.0 * jnp.pi)


def log_mean(x, y):
    return jnp.logaddexp(x, y) - jnp.log(2.0)


def power(order):
    return lambda x, y, p, q: log_mean(order * x, order * y) / order


def tangent(order, log_z):
    return lambda x, y, p, q: (
        log_z + (0.5 * (jnp.exp(order * (x - log_z)) + jnp.exp(order * (y - log_z))) - 1.0) / order
    )


def chi(order):
    """What has the gradient of the chi bound, self-normalised: draws held, densities not."""
    return lambda x, y, p, q: (
        log_mean(order * x + p - lax.stop_gradient(p), order * y + q - lax.stop_gradient(q)) / order
    )


def cubo_at(log_z):
    return lambda *args: lambda key, *given: tg.cubo(*args, order=2.0, n=2)(key, *given, log_z)


def wake(x, y, p, q):
    """What has the gradient of the wake phase: weights held."""
    share = jax.nn.sigmoid(lax.stop_gradient(x - y))
    return share * p + (1.0 - share) * q


def tempered(x, y, p, q):
    share = jax.nn.sigmoid(0.25 * (x - y))
    return 0.25 * 0.5 * (x + y) + 0.75 * (share * x + (1.0 - share) * y)


def mean_of_two(x, y, p, q):
    return 0.5 * (x + y)


class Row(NamedTuple):
    """An objective of a model, a guide and observations, and what it is the mean of.

    `bound` is a function of two log weights and of the log q of the two draws. `held` is for a gradient in the guide
    alone, at given draws.
    """

    make: Callable
    bound: Callable = power(1.0)
    held: bool = False


def two(objective, **options):
    return lambda *args: objective(*args, n=2, **options)


SCORES = {
    "iwelbo": Row(two(tg.iwelbo)),
    "renyi": Row(two(tg.renyi, alpha=0.5), power(0.5)),
    "cubo": Row(two(tg.cubo, order=2.0), chi(2.0), held=True),
    "cubo, log_z": Row(cubo_at(-1.5), tangent(2.0, -1.5)),
    "tvo": Row(two(tg.tvo, betas=(0.0, 0.25)), tempered),
    "vimco": Row(two(tg.vimco)),
    "vimco, arithmetic": Row(two(tg.vimco, mean="arithmetic")),
    "vargrad": Row(two(tg.vargrad), mean_of_two),
    "leave_one_out": Row(lambda *args: tg.leave_one_out(tg.elbo(*args), 2), mean_of_two),
}
PATHS = {
    "sticking_the_landing": Row(tg.sticking_the_landing, mean_of_two),
    "dreg": Row(two(tg.dreg)),
    "dreg, alpha": Row(two(tg.dreg, alpha=0.5), power(0.5)),
    "dreg_wake_phi": Row(two(tg.dreg_wake_phi), wake, held=True),
}


# Divergences, wake-sleep and sequential objectives have exact tests of their own, in `test_objectives`.
ELSEWHERE = set(
    """f_divergence forward_kl jensen_shannon log_variance symmetric_kl trajectory_balance smc_bound smc_wake_phi
    wake_phi wake_theta""".split()
)


def exported_objectives() -> set[str]:
    """Functions of a model, a guide and a number of samples; and leave-one-out."""
    found = {"leave_one_out"}
    for name, value in vars(tg).items():
        if inspect.isfunction(value) and {"model", "guide", "n"} <= set(inspect.signature(value).parameters):
            found.add(name)
    return found


def test_every_exported_objective_of_several_samples_has_a_row():
    assert exported_objectives() - ELSEWHERE == {name.split(",")[0] for name in (*SCORES, *PATHS)}
    assert ELSEWHERE < exported_objectives()


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "family"), [(SCORES, EVEN), (PATHS, NARROW)], ids=["scores", "paths"])
@pytest.mark.parametrize("name", CONSTRUCTS)
def test_the_mean_of_an_objective_of_two_samples_is_exact(name, rows, family):
    """Value, and gradients in the parameters of the model and of the guide."""
    made = latents(name, family)

    @tg.gen
    def model(w):
        a, b = made.inline(w)
        tg.sample("x", dist.Normal(a + 0.5 * b, 1.0))

    objectives = {key: row.make(model, made, {"x": OBSERVED}) for key, row in rows.items()}

    def run(key, w):
        return {k: o(key, (lax.stop_gradient(w[0]) if rows[k].held else w[0],), (w[1],)) for k, o in objectives.items()}

    def truth(w):
        fixed = lax.stop_gradient(w[0])
        return {k: mean(row, name, family, fixed if row.held else w[0], w[1]) for k, row in rows.items()}

    w = np.array([family.w, family.w]) + np.array([[-0.05, 0.02], [0.0, 0.0]])
    check(run, truth, w, cells=family.cells, nodes=family.nodes)


def mean(row, name, family, model, guide):
    """The exact mean of an objective over the outcomes of two draws from the guide."""
    a, b, q = joint(name, family, guide)
    a, b, q = lax.stop_gradient((a, b, q)) if row.held else (a, b, q)
    logq = log_joint(name, family, guide, a, b)
    log_w = log_joint(name, family, model, a, b) + log_normal(OBSERVED, jnp.ravel(a + 0.5 * b)) - logq
    return jnp.ravel(q) @ row.bound(log_w[:, None], log_w[None], logq[:, None], logq[None]) @ jnp.ravel(q)
