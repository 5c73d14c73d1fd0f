"""Every estimator in every shape of program for every objective: its exact mean against the exact answer.

The programs and their sums over outcomes are in `unbiased_programs`. Nothing here is statistical: the noise of the
estimator is enumerated, and its mean must be the truth to nine digits.
"""

import jax
import numpy as np
import pytest
from exactly import backward
from jax import numpy as jnp
from unbiased_programs import (
    BERNOULLI,
    CATEGORICAL,
    KEY,
    NORMAL,
    PROGRAMS,
    REDRAWN,
    Site,
    W,
    derivatives,
    estimate,
    precisely,
    truth,
)

import tracegrad as tg

# Estimators that are right to second order are tested to it, in forward mode; the others in reverse mode.
SMOOTH = {
    "reparam": Site(NORMAL, tg.reparam()),
    "reinforce": Site(BERNOULLI, tg.reinforce()),
    "enum": Site(BERNOULLI, tg.enum()),
    "enum categorical": Site(CATEGORICAL, tg.enum()),
}
FIRST = {
    "reinforce normal": Site(NORMAL, tg.reinforce()),
    "reinforce with baseline": Site(BERNOULLI, tg.reinforce(baseline=1.7)),
    "mvd": Site(BERNOULLI, tg.mvd()),
    "mvd categorical": Site(REDRAWN, tg.mvd()),
    "local expectation": Site(BERNOULLI, tg.local_expectation()),
    "local expectation categorical": Site(CATEGORICAL, tg.local_expectation()),
}
# A category drawn again takes twelve cells and a second draw: programs of two sites are as many as can be enumerated.
TWO_SITES = {"straight", "dependent", "nested", "scan", "vmap", "choosing"}
CELLS = [(e, name) for e in FIRST for name in PROGRAMS if FIRST[e].family is not REDRAWN or name in TWO_SITES]
# More values than two: the same code with longer arrays, in the constructs that lay them out differently.
QUICK = {"straight", "scan", "vmap", "cond"}


def cell(estimator, name):
    late = estimator.endswith("categorical") and name not in QUICK
    return pytest.param(estimator, name, id=f"{estimator}-{name}", marks=[pytest.mark.slow] if late else [])


@pytest.fixture(autouse=True)
def double_precision():
    with precisely():
        yield


def mean_of(name, site):
    g = estimate(PROGRAMS[name].language(site))
    mean = tg.exact_expectation(g, cells=site.family.cells, nodes=site.family.nodes)
    return lambda w: mean(KEY, w)


def check(found, name, site):
    expected = truth(name, site.family)[: len(found)]
    for order, (a, b) in enumerate(zip(found, expected, strict=True)):
        for objective, x, y in zip(("linear", "quadratic", "log-sum-exp", "density"), a, b, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-9, err_msg=f"{objective}, derivative of order {order}")


def refused(name, estimator):
    return estimator.startswith("enum") and not PROGRAMS[name].top


@pytest.mark.table
@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("estimator", SMOOTH)
def test_value_gradient_and_hessian(name, estimator):
    site = SMOOTH[estimator]
    if refused(name, estimator):
        with pytest.raises(tg.EstimatorError, match=r"local_expectation\(\)`.*or marginalise"):
            mean_of(name, site)(jnp.asarray(W))
    else:
        check(derivatives(mean_of(name, site), 2)(jnp.asarray(W)), name, site)


@pytest.mark.table
@pytest.mark.parametrize(("estimator", "name"), [cell(*c) for c in CELLS])
def test_value_and_gradient(estimator, name):
    site = FIRST[estimator]
    check(backward(mean_of(name, site), jnp.asarray(W)), name, site)


@pytest.mark.parametrize("name", [name for name in PROGRAMS if not PROGRAMS[name].top])
def test_enumeration_in_loops_branches_and_plates_is_refused_in_plain_use_too(name):
    g = estimate(PROGRAMS[name].language(Site(BERNOULLI, tg.enum())))
    for use in (g, jax.jit(g), jax.jacrev(g, argnums=1)):
        with pytest.raises(tg.EstimatorError, match=r"enum\(\) at '.*local_expectation\(\)"):
            use(KEY, jnp.asarray(W))


@pytest.mark.parametrize("name", PROGRAMS)
def test_reparameterising_a_discrete_draw_is_refused(name):
    g = estimate(PROGRAMS[name].language(Site(BERNOULLI, tg.reparam())))
    with pytest.raises(tg.EstimatorError, match=r"reparam\(\) at .*BernoulliProbs has no reparameterised sampler"):
        g(KEY, jnp.asarray(W))


@pytest.mark.parametrize("estimator", [tg.enum(), tg.local_expectation()], ids=repr)
def test_summing_over_an_infinite_support_is_refused(estimator):
    g = estimate(PROGRAMS["straight"].language(Site(NORMAL, estimator)))
    with pytest.raises(tg.EstimatorError, match="Normal has no finite support"):
        g(KEY, jnp.asarray(W))
