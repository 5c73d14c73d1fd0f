"""A control-flow construct of one's own is one class: the one below, of which nothing else in the package knows.

`twice` runs a program on an operand, and again on what came out, with a key each time and one parameter.
"""

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from jax.extend import core as jex

import tracegrad as tg
from tracegrad.transforms import describe_sites, sample
from tracegrad.transforms.program.control import Control, control_of
from tracegrad.transforms.program.control._base import _TABLE, body

PRIMITIVE = jex.Primitive("twice")
PRIMITIVE.multiple_results = True
PRIMITIVE.def_abstract_eval(lambda *avals, jaxpr: jaxpr.out_avals)


def twice(function, key, x, theta):
    """`function(second, function(first, x, theta), theta)`, as one equation, with two keys split from one."""
    first, second = jax.random.split(key)
    closed = jax.make_jaxpr(function)(first, x, theta)
    return PRIMITIVE.bind(first, second, x, theta, jaxpr=closed)[0]


@pytest.fixture(autouse=True)
def construct():
    """The construct is known while these tests run."""

    class Twice(Control):
        names = ("twice",)

        def bodies(self, eqn):
            return [body(eqn.params["jaxpr"], "twice", 2)]

        def run(self, step, operands, mode, alternative):
            (inside,), (first, second, x, theta) = self.bodies(step.eqn), operands
            records = []
            for t, key in enumerate((first, second)):
                at = alternative and alternative.turn(t, inside.jaxpr)
                (x,), record = mode.inner(inside.jaxpr, [*inside.consts, key, x, theta], at)
                records.append(record)
            return [x], mode.records.join(records)

        def flow(self, eqn, states, domain):
            first, second, x, theta = states
            (between,) = domain.through(eqn.params["jaxpr"], [first, x, theta])
            return domain.through(eqn.params["jaxpr"], [second, between, theta])

        def inside(self, eqn, states, outs, domain):
            jaxpr = self.bodies(eqn)[0].jaxpr
            first, second, x, theta = states
            return [(jaxpr, [first, x, theta]), (jaxpr, [second, outs[0], theta])]

    yield
    del _TABLE["twice"]


def program(estimator):
    def turn(key, x, theta):
        p = jax.nn.sigmoid(theta - x)
        return x + sample(key, tg.dist.Bernoulli(p), estimator=estimator, label="b").astype(float)

    return turn


def mean(theta):
    """E[x^3 + theta x] after two turns from 0, by hand."""
    p = 1.0 / (1.0 + np.exp(-(theta - np.arange(2.0))))
    chances = [(1 - p[0]) ** 2, p[0] * (1 - p[1]) + (1 - p[0]) * p[0], p[0] * p[1]]
    return sum(c * (x**3 + theta * x) for x, c in enumerate(chances))


@pytest.mark.table
@pytest.mark.parametrize("credit", [True, False])
@pytest.mark.parametrize("estimator", [tg.reinforce(), tg.mvd(), tg.local_expectation(), tg.sum_and_sample(1)], ids=str)
def test_estimators_are_unbiased_inside(estimator, credit):
    @tg.expectation(credit=credit)
    def objective(key, theta):
        x = twice(program(estimator), key, jnp.zeros(()), theta)
        return x**3 + theta * x

    exact = tg.exact_expectation(objective)
    with jax.enable_x64(True):
        value, slope = jax.value_and_grad(exact, argnums=1)(jax.random.key(0), 0.3)
    assert float(value) == pytest.approx(mean(0.3), rel=1e-6)
    assert float(slope) == pytest.approx((mean(0.3 + 1e-5) - mean(0.3 - 1e-5)) / 2e-5, rel=1e-6)


def test_what_is_refused_and_reported_knows_it_too():
    @tg.expectation
    def enumerated(key, theta):
        return twice(program(tg.enum()), key, jnp.zeros(()), theta)

    with pytest.raises(tg.EstimatorError, match="enum\\(\\) at 'b' is inside a loop"):
        jax.grad(enumerated, argnums=1)(jax.random.key(0), 0.3)

    @tg.expectation
    def jumps(key, theta):
        def turn(key, x, theta):
            z = sample(key, tg.dist.Normal(theta, 1.0), label="z")
            return x + jnp.where(z > 0.0, 1.0, 0.0)

        return twice(turn, key, jnp.zeros(()), theta)

    with pytest.warns(tg.DiscontinuityWarning, match="'z'"):
        jax.grad(jumps, argnums=1)(jax.random.key(0), 0.3)
    assert "twice" in str(describe_sites(jumps, jax.random.key(0), 0.3))


def test_without_its_class_a_sample_inside_is_refused_by_name():
    known = _TABLE.pop("twice")
    try:

        @tg.expectation
        def objective(key, theta):
            return twice(program(tg.reinforce()), key, jnp.zeros(()), theta)

        with pytest.raises(tg.NoRuleError, match="'twice'"):
            jax.grad(objective, argnums=1)(jax.random.key(0), 0.3)
    finally:
        _TABLE["twice"] = known
    assert control_of(jax.make_jaxpr(lambda x: x + 1.0)(1.0).jaxpr.eqns[0]) is None
