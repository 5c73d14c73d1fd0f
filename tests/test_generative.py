"""Laws of the generative function interface, each against exact answers; Gen's meanings."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tracegrad as tg
from tracegrad import dist

KEY = jax.random.key(0)
norm = jax.scipy.stats.norm.logpdf


def z_score(draws, exact):
    """How many standard errors the mean of draws is from the exact value."""
    return float(abs(draws.mean() - exact) / (draws.std() / np.sqrt(len(draws)) + 1e-12))


def agrees(draw, exact):
    """Two stages: |z| < 4 at 1e5 draws, else |z| < 5 at 1.6e6 with a fresh key. `draw(key)` is one draw."""
    many = jax.jit(lambda key, n: jax.vmap(draw)(jax.random.split(key, n)), static_argnums=1)
    return (
        z_score(many(jax.random.key(11), 10**5), exact) < 4 or z_score(many(jax.random.key(12), 16 * 10**5), exact) < 5
    )


# ---- a program of finite choices, nested, with continuous relatives -------------------------------------------------

P = {"a": 0.3, "k": jnp.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]]), "b": jnp.array([0.1, 0.5, 0.9])}


@tg.gen
def inner(k, p):
    return tg.sample("b", dist.Bernoulli(p["b"][k]))


@tg.gen
def finite(p):
    a = tg.sample("a", dist.Bernoulli(p["a"]))
    k = tg.sample("k", dist.Categorical(p["k"][a]))
    b = tg.sample("sub", inner(k, p))
    return a + 2 * k + 6 * b


@tg.gen
def real(loc):
    z = tg.sample("z", dist.Normal(loc, 2.0))
    tg.sample("x", dist.Normal(z, 1.0))
    return z


SUPPORT = [{"a": a, "k": k, "sub": {"b": b}} for a, k, b in itertools.product(range(2), range(3), range(2))]


def by_hand(c, p=P):
    a, k, b = c["a"], c["k"], c["sub"]["b"]
    pa, pb = p["a"], p["b"][k]
    return float(jnp.log(pa if a else 1 - pa) + jnp.log(p["k"][a][k]) + jnp.log(pb if b else 1 - pb))


def test_densities_sum_to_one_and_are_those_written_by_hand():
    logps = jnp.stack([finite.assess(c, P)[0] for c in SUPPORT])
    assert jnp.allclose(logps, jnp.array([by_hand(c) for c in SUPPORT]), rtol=1e-5)
    assert jnp.allclose(jnp.exp(logps).sum(), 1.0, atol=1e-6)
    assert [int(finite.assess(c, P)[1]) for c in SUPPORT] == [c["a"] + 2 * c["k"] + 6 * c["sub"]["b"] for c in SUPPORT]


def test_densities_integrate_to_one():
    grid = jnp.linspace(-16.0, 16.0, 401)
    density = jax.jit(
        jax.vmap(jax.vmap(lambda z, x: jnp.exp(real.assess({"z": z, "x": x}, 0.5)[0]), (None, 0)), (0, None))
    )
    assert jnp.allclose(density(grid, grid).sum() * (grid[1] - grid[0]) ** 2, 1.0, atol=1e-4)


def test_simulate_draws_from_the_density_that_assess_gives():
    counts = jax.jit(jax.vmap(lambda key: finite.simulate(key, P).retval))(jax.random.split(KEY, 10**5))
    frequency = jnp.bincount(counts, length=12) / len(counts)
    exact = jnp.exp(jnp.array([finite.assess(c, P)[0] for c in SUPPORT]))
    code = jnp.array([c["a"] + 2 * c["k"] + 6 * c["sub"]["b"] for c in SUPPORT])
    error = (frequency[code] - exact) / jnp.sqrt(exact * (1 - exact) / len(counts))
    assert float(jnp.abs(error).max()) < 4.5


@pytest.mark.parametrize(("program", "args"), [(finite, (P,)), (real, (0.3,))], ids=["finite", "real"])
def test_simulate_propose_and_assess_agree(program, args):
    tr = program.simulate(KEY, *args)
    logp, retval = program.assess(tr.choices, *args)
    assert jnp.allclose(logp, tr.logp)
    assert jnp.allclose(retval, tr.retval)
    choices, logp, retval = program.propose(KEY, *args)
    assert eqx.tree_equal((choices, logp, retval), (tr.choices, tr.logp, tr.retval))


CONSTRAINTS = [{"a": 1}, {"sub": {"b": 1}}, {"k": 2, "sub": {"b": 0}}, {}]


@pytest.mark.parametrize("given", CONSTRAINTS, ids=str)
def test_generate_weights_average_to_the_marginal_likelihood(given):
    known = tg.select(*[p for p in ("a", "k", "sub/b") if _get(given, p) is not None]) if given else None
    marginal = sum(np.exp(by_hand(c)) for c in SUPPORT if all(_get(c, p) == v for p, v in _flat(given).items()))
    assert agrees(lambda key: jnp.exp(finite.generate(key, given, P)[1]), marginal)
    tr, log_weight = finite.generate(KEY, given, P)
    assert all(int(_get(tr.choices, p)) == v for p, v in _flat(given).items())
    assert jnp.allclose(log_weight, finite.project(tr, known) if known else 0.0, atol=1e-6)


def _flat(choices):
    return {"/".join(k.key for k in path): v for path, v in jax.tree.leaves_with_path(choices)}


def _get(choices, path):
    for part in path.split("/"):
        if part not in choices:
            return None
        choices = choices[part]
    return choices


def test_generate_of_a_continuous_observation_averages_to_its_marginal_density():
    exact = np.exp(norm(1.5, 0.5, np.sqrt(5.0)))
    assert agrees(lambda key: jnp.exp(real.generate(key, {"x": 1.5}, 0.5)[1]), exact)


def test_generate_with_everything_given_is_assess():
    tr, log_weight = finite.generate(KEY, SUPPORT[5], P)
    assert jnp.allclose(log_weight, by_hand(SUPPORT[5]))
    assert jnp.allclose(tr.logp, log_weight)


# ---- update, regenerate, project ------------------------------------------------------------------------------------


def test_update_weighs_new_over_old_and_gives_back_what_was_replaced():
    tr = real.simulate(KEY, 0.3)
    new, log_weight, discarded = real.update(KEY, tr, {"z": 1.0}, -0.7)
    x = tr.choices["x"]
    assert jnp.allclose(new.logp, norm(1.0, -0.7, 2.0) + norm(x, 1.0, 1.0))
    assert jnp.allclose(log_weight, new.logp - tr.logp)
    assert discarded.keys() == {"z"}
    assert discarded["z"] == tr.choices["z"]
    assert new.choices["x"] == x
    assert new.args == (-0.7,)
    assert new.retval == 1.0


def test_update_changing_nothing_weighs_nothing():
    tr = finite.simulate(KEY, P)
    new, log_weight, discarded = finite.update(jax.random.key(9), tr, {}, P)
    assert discarded == {}
    assert jnp.allclose(log_weight, 0.0, atol=1e-6)
    assert eqx.tree_equal(new.choices, tr.choices)


@tg.gen
def open_ended(more):
    z = tg.sample("z", dist.Normal(0.0, 1.0))
    if more:
        tg.sample("extra", dist.Normal(z, 3.0))
    else:
        tg.sample("sub", inner(0, P))
    return z


def test_update_draws_new_addresses_without_weight_and_discards_gone_ones():
    tr = open_ended.simulate(KEY, False)
    new, log_weight, discarded = open_ended.update(jax.random.key(1), tr, {"z": 0.5}, True)
    fresh = norm(new.choices["extra"], 0.5, 3.0)
    assert new.choices.keys() == {"z", "extra"}
    assert jnp.allclose(log_weight, new.logp - fresh - tr.logp, rtol=1e-5)
    assert eqx.tree_equal(discarded, tr.choices)
    back, back_weight, gone = open_ended.update(
        KEY, new, tg.merge({"z": tr.choices["z"]}, {"sub": tr.choices["sub"]}), False
    )
    assert jnp.allclose(back_weight, tr.logp - new.logp, rtol=1e-5)
    assert gone.keys() == {"z", "extra"}
    assert eqx.tree_equal(back.choices, tr.choices)


def test_regenerate_weighs_what_the_kept_choices_gained():
    tr = real.simulate(KEY, 0.3)
    new, log_weight, discarded = real.regenerate(jax.random.key(4), tr, "z", 0.3)
    x = tr.choices["x"]
    assert new.choices["z"] != tr.choices["z"]
    assert jnp.allclose(log_weight, norm(x, new.choices["z"], 1.0) - norm(x, tr.choices["z"], 1.0), rtol=1e-5)
    assert eqx.tree_equal(discarded, {"z": tr.choices["z"]})
    other, log_weight, _ = real.regenerate(jax.random.key(4), tr, tg.select("x"), -1.0)
    z = tr.choices["z"]
    assert jnp.allclose(log_weight, norm(z, -1.0, 2.0) - norm(z, 0.3, 2.0), rtol=1e-5)
    assert other.choices["z"] == z


def test_metropolis_by_regenerate_keeps_the_posterior():
    """One step from exact posterior draws, N(1.2, 4/5) at x = 1.5, leaves their mean and square in place."""
    mean, variance = (0.0 / 4 + 1.5) / (1 / 4 + 1), 1 / (1 / 4 + 1)

    def step(key):
        start, move, accept = jax.random.split(key, 3)
        z = mean + jnp.sqrt(variance) * jax.random.normal(start)
        tr, _ = real.generate(start, {"z": z, "x": 1.5}, 0.0)
        new, log_weight, _ = real.regenerate(move, tr, "z", 0.0)
        return jnp.where(jnp.log(jax.random.uniform(accept)) < log_weight, new.choices["z"], z)

    assert agrees(step, mean)
    assert agrees(lambda key: step(key) ** 2, mean**2 + variance)


@pytest.mark.parametrize("selection", ["a", "sub", "*", ["a", "k"], tg.select("sub/*") | tg.select("k")], ids=str)
def test_project_partitions_the_log_density(selection):
    tr = finite.simulate(KEY, P)
    part = finite.project(tr, selection)
    selected = tg.select(*selection) if isinstance(selection, list) else selection
    selected = tg.select(selected) if isinstance(selected, str) else selected
    assert jnp.allclose(part + finite.project(tr, ~selected), tr.logp, rtol=1e-5)
    assert selection == "*" or not jnp.allclose(part, tr.logp)


# ---- calls ----------------------------------------------------------------------------------------------------------


def test_an_inlined_call_has_the_callers_addresses_and_the_nested_ones_density():
    @tg.gen
    def spliced(p):
        k = tg.sample("k", dist.Categorical(p["k"][0]))
        return inner.inline(k, p)

    tr = spliced.simulate(KEY, P)
    assert tr.choices.keys() == {"k", "b"}
    nested = tg.gen(lambda p: tg.sample("sub", inner(tg.sample("k", dist.Categorical(p["k"][0])), p)))
    assert jnp.allclose(nested.assess({"k": tr.choices["k"], "sub": {"b": tr.choices["b"]}}, P)[0], tr.logp)
    assert tr.retval == tr.choices["b"]


def test_keyword_arguments_and_any_pytree_in_and_out():
    @tg.gen
    def program(pair, *, options):
        z = tg.sample("z", dist.Normal(pair[0], options["scale"]))
        return {"z": (z, None), "again": [z, pair]}

    tr = program.simulate(KEY, (1.0, jnp.arange(3)), options={"scale": 0.1})
    assert tr.retval["z"] == (tr.choices["z"], None)
    assert jnp.array_equal(tr.retval["again"][1][1], jnp.arange(3))
    assert tr.kwargs == {"options": {"scale": 0.1}}
    assert jnp.allclose(tr.logp, norm(tr.choices["z"], 1.0, 0.1))
    assert program.project(tr, "z") == tr.logp
    outer = tg.gen(lambda: tg.sample("sub", program((1.0, 2.0), options={"scale": 0.1})))
    assert outer.simulate(KEY).choices["sub"]["z"].shape == ()


class Layer(eqx.Module):
    """An Equinox module with a static field, an activation among its leaves, and generative methods."""

    weight: jax.Array
    act: object
    size: int = eqx.field(static=True)

    @tg.gen
    def prior(self):
        return tg.sample("z", dist.Normal(jnp.zeros(self.size), 1.0).to_event(1))

    @tg.gen
    def model(self, scale):
        z = self.prior.inline()
        return tg.sample("x", dist.Normal(self.act(self.weight @ z), scale).to_event(1))


def test_methods_of_an_equinox_module():
    layer = Layer(jnp.ones((3, 2)), jax.nn.relu, 2)
    tr = layer.model.simulate(KEY, 0.5)
    assert {a: v.shape for a, v in tr.choices.items()} == {"z": (2,), "x": (3,)}
    x, z = tr.choices["x"], tr.choices["z"]
    assert jnp.allclose(tr.logp, norm(z).sum() + norm(x, jax.nn.relu(jnp.ones((3, 2)) @ z), 0.5).sum(), rtol=1e-5)
    nested = tg.gen(lambda layer: tg.sample("layer", layer.model(0.5)))
    assert nested.simulate(KEY, layer).choices["layer"].keys() == {"z", "x"}
    lanes = layer.model.vmap()
    assert lanes.simulate(KEY, jnp.ones(4)).choices["x"].shape == (4, 3)
    objective = tg.expectation(lambda key, layer: layer.model.simulate(key, 0.5).retval.sum())
    grads = eqx.filter_grad(lambda layer: objective(KEY, layer))(layer)
    assert grads.weight.shape == (3, 2)


# ---- traces are pytrees ---------------------------------------------------------------------------------------------


def test_a_trace_goes_through_jit_vmap_and_tree_map():
    eager, jitted = finite.simulate(KEY, P), jax.jit(finite.simulate)(KEY, P)
    assert eqx.tree_equal(eager.choices, jitted.choices)
    assert jnp.allclose(eager.logp, jitted.logp)
    assert type(eager.choices) is dict
    assert type(eager.choices["sub"]) is dict
    stacked = jax.vmap(lambda key: finite.simulate(key, P))(jax.random.split(KEY, 5))
    assert stacked.choices["sub"]["b"].shape == (5,)
    third = jax.tree.map(lambda x: x[2], stacked)
    assert jnp.allclose(finite.assess(third.choices, P)[0], third.logp)
    logps = jax.vmap(lambda tr: finite.project(tr, "*"))(stacked)
    assert jnp.allclose(logps, stacked.logp, rtol=1e-5)


def test_a_trace_of_a_function_of_modules_goes_through_vmap():
    program = tg.gen(lambda net: tg.sample("x", dist.Normal(net(jnp.ones(2)), 1.0).to_event(1)))
    net = eqx.nn.MLP(2, 2, 3, 1, key=KEY)
    stacked = jax.vmap(lambda key: program.simulate(key, net))(jax.random.split(KEY, 3))
    assert stacked.choices["x"].shape == (3, 2)
    assert stacked.args[0].activation is net.activation
    one = jax.tree.map(lambda x: x[1], stacked)
    assert jnp.allclose(program.project(one, "x"), one.logp, rtol=1e-5)
    assert jax.jit(lambda key: program.simulate(key, net))(KEY).args[0].activation is net.activation


# ---- addresses ------------------------------------------------------------------------------------------------------


def test_selections():
    s = tg.select("a", "steps/*", ("x", "y"))
    inside = {("a",), ("a", "deeper"), ("steps", "z"), ("steps", "z", "w"), ("x", "y")}
    outside = {("b",), ("steps",), ("x",), ("x", "z"), ("b", "a")}
    assert all(p in s for p in inside)
    assert not any(p in s for p in outside)
    assert all((p in ~s) == (p not in s) for p in inside | outside)
    assert ("p", "q", "z") in tg.select("**/z")
    assert ("z",) in tg.select("**/z")
    assert ("p", "q") not in tg.select("**/z")
    both, either = tg.select("*/z") & ~tg.select("p"), tg.select("p") | tg.select("q/z")
    assert [("p", "z") in both, ("q", "z") in both, ("q", "w") in both] == [False, True, False]
    assert [("p", "w") in either, ("q", "z") in either, ("q", "w") in either] == [True, True, False]
    assert "a" in s
    assert "x/y" in s


def test_choices_merge_at_every_depth():
    tr = finite.simulate(KEY, P)
    assert tg.merge({"a": 1}, {"sub": {"b": 0}}, {"k": 2, "sub": {"c": 1}}) == {"a": 1, "sub": {"b": 0, "c": 1}, "k": 2}
    assert eqx.tree_equal(tg.merge(tr.choices), tr.choices)
    assert isinstance(finite, tg.GenerativeFunction)
    assert isinstance(tr, tg.Trace)
