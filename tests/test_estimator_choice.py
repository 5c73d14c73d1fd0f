"""Which estimator a site uses: the default rule, at the site, from outside, in loops and nested calls."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import tracegrad as tg
from tracegrad import dist
from tracegrad.transforms import Direct, Drawn, noise

KEY = jax.random.key(0)


class Spy(Direct):
    """An estimator that leaves its name in a list where it is used, and else is the score function."""

    name: str = eqx.field(static=True)
    used: list = eqx.field(static=True)

    def __hash__(self):
        return hash(self.name)

    def draw(self, key, distribution):
        self.used.append(self.name)
        return Drawn(noise(key, distribution))


class Spies:
    """Makes spies, and says which were used by the gradient of a program."""

    def __init__(self):
        self.used = []

    def __getitem__(self, name):
        return Spy(name, self.used)

    def of(self, program, *args):
        self.used.clear()
        objective = tg.expectation(
            lambda key, p: jnp.sum(jax.tree.leaves(program(p).simulate(key, *args).choices)[0] * p)
        )
        jax.make_jaxpr(jax.grad(objective, argnums=1))(KEY, 0.5)
        return sorted(set(self.used))


@pytest.fixture
def spy():
    return Spies()


def chosen(program, *args):
    """The estimator of every site, by the label that the primitive carries, without a gradient."""
    found = {}

    def look(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "sample":
                found["/".join(eqn.params["site"].label)] = repr(eqn.params["site"].prototype())
            for value in eqn.params.values():
                for item in value if isinstance(value, tuple | list) else (value,):
                    if hasattr(getattr(item, "jaxpr", item), "eqns"):
                        look(getattr(item, "jaxpr", item))

    look(jax.make_jaxpr(lambda key: program.simulate(key, *args).logp)(KEY).jaxpr)
    return found


@tg.gen
def leaf():
    tg.sample("u", dist.Bernoulli(0.5))
    tg.sample("v", dist.Bernoulli(0.5), estimator=tg.enum())


@tg.gen
def tree():
    tg.sample("u", dist.Bernoulli(0.5))
    tg.sample("left", leaf())
    tg.sample("right", leaf.with_estimators({"u": tg.mvd()})())


def test_the_default_rule():
    @tg.gen
    def program():
        tg.sample("normal", dist.Normal(0.0, 1.0))
        tg.sample("gamma", dist.Gamma(2.0, 1.0))
        tg.sample("coin", dist.Bernoulli(0.5))
        tg.sample("vector", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
        tg.sample("coins", dist.Bernoulli(jnp.full(2, 0.5)).to_event(1))
        tg.sample("logged", dist.LogNormal(0.0, 1.0))
        weights = dist.Categorical(jnp.full(2, 0.5))
        tg.sample("mixture", dist.MixtureSameFamily(weights, dist.Normal(jnp.zeros(2), 1.0)))
        tg.sample("joint", dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2)))
        tg.sample("simplex", dist.Dirichlet(jnp.ones(2)))

    score, path = "reinforce()", "reparam()"
    assert chosen(program) == {
        "normal": path, "gamma": path, "coin": score, "vector": path, "coins": score, "logged": path,
        "mixture": score, "joint": path, "simplex": path,
    }  # fmt: skip


def test_from_inside_and_from_outside():
    assert chosen(tree) == {
        "u": "reinforce()",
        "left/u": "reinforce()",
        "left/v": "enum()",
        "right/u": "mvd()",
        "right/v": "enum()",
    }


@pytest.mark.parametrize(
    ("patterns", "changed"),
    [
        ({"u": tg.mvd()}, {"u": "mvd()"}),
        ({"left": tg.mvd()}, {"left/u": "mvd()", "left/v": "mvd()"}),
        ({"left/v": tg.mvd()}, {"left/v": "mvd()"}),
        ({("left", "v"): tg.mvd()}, {"left/v": "mvd()"}),
        ({"*/v": tg.mvd()}, {"left/v": "mvd()", "right/v": "mvd()"}),
        ({"**/u": tg.local_expectation()}, dict.fromkeys(["u", "left/u", "right/u"], "local_expectation()")),
        ({"*": tg.mvd()}, dict.fromkeys(["u", "left/u", "left/v", "right/u", "right/v"], "mvd()")),
        ({"*": tg.mvd(), "left": tg.enum(), "left/u": tg.reinforce()},
         {"u": "mvd()", "left/u": "reinforce()", "left/v": "enum()", "right/u": "mvd()", "right/v": "mvd()"}),
        ({"left/u": tg.mvd(), "*/u": tg.enum()}, {"left/u": "mvd()", "right/u": "enum()"}),
        # As many literal parts: the longer one.
        ({"**/v": tg.local_expectation(), "left": tg.mvd()},
         {"left/u": "mvd()", "left/v": "local_expectation()", "right/v": "local_expectation()"}),
    ],
    ids=str,
)  # fmt: skip
def test_the_most_specific_pattern_wins(patterns, changed):
    assert chosen(tree.with_estimators(patterns)) == chosen(tree) | changed
    backwards = dict(reversed(patterns.items()))
    assert chosen(tree.with_estimators(backwards)) == chosen(tree) | changed


def test_outside_beats_inside():
    once = leaf.with_estimators({"u": tg.mvd(), "v": tg.mvd()})
    twice = once.with_estimators({"*": tg.local_expectation()})
    assert chosen(twice) == {"u": "local_expectation()", "v": "local_expectation()"}
    nested = tg.gen(lambda: tg.sample("a", once())).with_estimators({"a/u": tg.enum()})
    assert chosen(nested) == {"a/u": "enum()", "a/v": "mvd()"}


def test_through_every_combinator():
    step = tg.gen(lambda c, x: (c, tg.sample("z", dist.Bernoulli(0.5))))
    program = tg.gen(
        lambda: (
            tg.sample("steps", step.scan(2)(0.0)),
            tg.sample("plate", leaf.repeat(2)()),
            tg.sample("branch", tg.cond(True, leaf, leaf)()),
            tg.sample("shown", leaf.mask()(True)),
            tg.sample("loops", tg.gen(lambda c, x: (c, tg.sample("in", step.scan(2)(0.0)))).scan(2)(0.0)),
        )
    )
    everywhere = program.with_estimators(
        {
            "steps/z": tg.mvd(),
            "plate": tg.mvd(),
            "branch/u": tg.mvd(),
            "shown/*": tg.mvd(),
            ("loops", "in", "z"): tg.enum(),
        }
    )
    assert chosen(everywhere) == {
        "steps/z": "mvd()", "plate/u": "mvd()", "plate/v": "mvd()", "branch/u": "mvd()", "branch/v": "enum()",
        "shown/u": "mvd()", "shown/v": "mvd()", "loops/in/z": "enum()",
    }  # fmt: skip
    assert chosen(step.scan(3).with_estimators({"z": tg.mvd()}), 0.0) == {"z": "mvd()"}
    assert chosen(step.with_estimators({"z": tg.mvd()}).scan(3), 0.0) == {"z": "mvd()"}


def test_a_program_of_its_own_inside_is_not_reached():
    """What `simulate` runs inside a body is another program: the caller's patterns are not about its addresses."""
    program = tg.gen(lambda: (leaf.simulate(KEY), tg.sample("u", dist.Bernoulli(0.5)))[1])
    assert chosen(program.with_estimators({"u": tg.mvd()}))["u"] == "mvd()"
    only = tg.gen(lambda: leaf.simulate(KEY).retval)
    with pytest.raises(tg.AddressError, match="'u' matches no sample"):
        only.with_estimators({"u": tg.mvd()}).simulate(KEY)


def test_with_estimators_changes_no_draw_and_no_density():
    other = tree.with_estimators({"*": tg.mvd()})
    a, b = tree.simulate(KEY), other.simulate(KEY)
    assert eqx.tree_equal(a.choices, b.choices)
    assert a.logp == b.logp
    assert tree.assess(a.choices)[0] == other.assess(a.choices)[0]
    assert chosen(tree)["u"] == "reinforce()"


def test_the_estimator_that_was_chosen_is_the_one_that_runs(spy):
    def program(p):
        return tg.gen(lambda: tg.sample("z", dist.Normal(p, 1.0), estimator=spy["site"]))

    assert spy.of(program) == ["site"]
    assert spy.of(lambda p: program(p).with_estimators({"z": spy["inner"]})) == ["inner"]
    assert spy.of(lambda p: program(p).with_estimators({"z": spy["inner"]}).with_estimators({"*": spy["outer"]})) == [
        "outer"
    ]


def test_an_estimator_that_holds_an_array_gives_way_to_another():
    """Its array is an operand of the site, which the question whether the new one fits must take, too."""
    coin = tg.gen(lambda p: tg.sample("b", dist.Bernoulli(p), estimator=tg.reinforce(baseline=jnp.array(0.5))))
    objective = tg.expectation(lambda key, p: 4.0 * coin.simulate(key, p).retval.astype(float))
    assert float(jax.grad(tg.with_estimators(objective, {"b": tg.mvd()}), argnums=1)(KEY, 0.25)) == 4.0
    with pytest.raises(tg.EstimatorError, match=r"reparam\(\) at 'b': BernoulliProbs has no reparameterised sampler"):
        tg.with_estimators(objective, {"b": tg.reparam()})(KEY, 0.25)
