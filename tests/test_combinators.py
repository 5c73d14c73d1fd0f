"""Loops, plates, branches and masks: their densities against programs written out, their draws under jit and vmap."""

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


@tg.gen
def point(m, s):
    z = tg.sample("z", dist.Normal(m, s))
    return tg.sample("x", dist.Normal(z, 1.0))


def points_by_hand(choices, m, s):
    return (norm(choices["z"], m, s) + norm(choices["x"], choices["z"], 1.0)).sum()


@tg.gen
def flip(state, x):
    z = tg.sample("z", dist.Bernoulli(jnp.where(state, 0.9, 0.2)))
    return z, (z, x)


CONSISTENT = {
    "vmap": (point.vmap(), (jnp.arange(3.0), jnp.full(3, 2.0))),
    "vmap of None": (point.vmap(in_axes=(0, None)), (jnp.arange(3.0), 2.0)),
    "vmap of vmap": (point.vmap(in_axes=(1, None)).vmap(in_axes=(0, None)), (jnp.ones((2, 1, 3)), jnp.ones(1))),
    "scan": (flip.scan(), (jnp.array(0), jnp.arange(3))),
    "reversed scan": (flip.scan(reverse=True, unroll=2), (jnp.array(0), jnp.arange(3))),
    "scan of a given length": (flip.scan(4), (False,)),
    "scan of scan": (
        tg.gen(lambda c, x: tg.sample("in", flip.scan(3)(c))).scan(2),
        (jnp.array(0),),
    ),
    "scan of vmap": (
        tg.gen(lambda c, x: (tg.sample("in", point.vmap(in_axes=(0, None))(c, 1.0)), None)).scan(2),
        (jnp.zeros(3),),
    ),
    "vmap of scan": (flip.scan(3).vmap(), (jnp.array([0, 1]), jnp.zeros((2, 3)))),
    "repeat": (point.repeat(3), (0.0, 1.0)),
    "repeat of repeat": (point.repeat(3).repeat(2), (0.0, 1.0)),
    "mask": (point.mask(), (True, 0.0, 1.0)),
    "vmap of mask": (point.mask().vmap(in_axes=(0, None, None)), (jnp.array([True, False]), 0.0, 1.0)),
    "cond": (tg.cond(True, point, point), (0.0, 1.0)),
    "switch": (tg.switch(2, point, point, tg.gen(lambda m, s: point.inline(m + 1.0, 3.0 * s))), (0.0, 1.0)),
    "vmap of cond": (
        tg.gen(
            lambda p: tg.sample("c", tg.cond(p, point, point.with_estimators({"z": tg.reinforce()}))(0.0, 1.0))
        ).vmap(),
        (jnp.array([True, False]),),
    ),
    "no lanes": (point.repeat(0), (0.0, 1.0)),
    "no steps": (flip.scan(0), (jnp.array(0),)),
}


@pytest.mark.table
@pytest.mark.parametrize("name", CONSISTENT)
def test_operations_agree_on_every_combinator(name):
    program, args = CONSISTENT[name]

    @jax.jit
    def run(key):
        one, two = jax.random.split(key)
        tr = program.simulate(one, *args)
        logp, retval = program.assess(tr.choices, *args)
        full, weight = program.generate(two, tr.choices, *args)
        free, nothing = program.generate(two, {}, *args)
        same, change, discarded = program.update(two, tr, {}, *args)
        again, kept, _ = program.regenerate(two, tr, "**/z", *args)
        parts = program.project(tr, "**/z") + program.project(tr, ~tg.select("**/z"))
        gained = program.project(again, ~tg.select("**/z")) - program.project(tr, ~tg.select("**/z"))
        close = [(logp, tr.logp), (weight, tr.logp), (nothing, 0.0), (change, 0.0), (kept, gained), (parts, tr.logp)]
        same_values = [
            (retval, tr.retval),
            (full.choices, tr.choices),
            (same.choices, tr.choices),
            (full.logp, same.logp),
        ]
        return close, same_values, discarded, (tr.logp, program.assess(free.choices, *args)[0] - free.logp)

    close, same_values, discarded, (logp, difference) = run(KEY)
    for a, b in close:
        assert jnp.allclose(a, b, rtol=1e-5, atol=1e-5)
    for a, b in same_values:
        assert eqx.tree_equal(a, b, rtol=1e-5, atol=1e-6)
    assert discarded == {}
    assert logp.shape == ()
    assert jnp.allclose(difference, 0.0, atol=1e-5)


# Every combinator, and every pair of them nested, once.
@pytest.mark.table
@pytest.mark.parametrize(
    "name", ["scan of scan", "scan of vmap", "vmap of scan", "vmap of mask", "vmap of cond", "repeat"]
)
def test_jit_vmap_over_keys_and_eager_agree_to_the_same_draws(name):
    program, args = CONSISTENT[name]
    keys = jax.random.split(KEY, 2)
    eager = program.simulate(keys[1], *args).choices
    jitted = jax.jit(lambda key: program.simulate(key, *args).choices)(keys[1])
    lanes = jax.jit(jax.vmap(lambda key: program.simulate(key, *args).choices))(keys)
    _, steps = jax.lax.scan(lambda c, key: (c, program.simulate(key, *args).choices), None, keys)
    for other in (jitted, *(jax.tree.map(lambda x: x[1], stacked) for stacked in (lanes, steps))):
        assert eqx.tree_equal(eager, other, rtol=1e-6, atol=1e-6)


# ---- plates ---------------------------------------------------------------------------------------------------------


def test_vmap_is_the_sum_over_its_lanes():
    m, s = jnp.array([0.0, 5.0, -5.0]), jnp.array([1.0, 2.0, 0.1])
    tr = point.vmap().simulate(KEY, m, s)
    assert tr.choices["z"].shape == (3,)
    assert jnp.allclose(tr.logp, points_by_hand(tr.choices, m, s), rtol=1e-5)
    assert jnp.array_equal(tr.retval, tr.choices["x"])


@pytest.mark.parametrize(
    ("in_axes", "args"),
    [
        ((0, {"a": 0, "b": None}), (jnp.arange(3.0), {"a": jnp.ones(3), "b": jnp.ones(())})),
        ([None, {"a": None, "b": 1}], (jnp.array(1.0), {"a": jnp.ones(()), "b": jnp.ones((1, 3))})),
        (({"b": None, "a": 0}, None), ({"a": jnp.ones((3, 2)), "b": jnp.ones((7, 2))}, jnp.array(1.0))),
        (-1, (jnp.ones((2, 3)), jnp.ones(3))),
        (np.int64(0), (jnp.ones((3, 2)), jnp.ones(3))),
    ],
    ids=["dict", "list", "None inside", "negative", "numpy"],
)
def test_vmap_takes_the_axes_that_jax_does(in_axes, args):
    leaf = lambda x: sum(leaf(v) for v in x.values()) if isinstance(x, dict) else jnp.sum(x)  # noqa: E731
    program = tg.gen(lambda a, b: tg.sample("z", dist.Normal(leaf(a), leaf(b)))).vmap(in_axes=in_axes)
    tr = jax.jit(program.simulate)(KEY, *args)
    assert tr.choices["z"].shape == (3,)
    assert jnp.allclose(program.project(tr, "z"), tr.logp, rtol=1e-5)


def test_axis_size_stands_where_no_argument_is_mapped():
    program = point.vmap(in_axes=None, axis_size=4)
    tr = program.simulate(KEY, 0.0, 1.0)
    assert tr.choices["z"].shape == (4,)
    assert len(np.unique(tr.choices["z"])) == 4


def test_given_lists_are_stacked_choices():
    logp, _ = point.repeat(2).assess({"z": [0.0, 1.0], "x": [0.5, 0.5]}, 0.0, 1.0)
    assert jnp.allclose(logp, points_by_hand({"z": jnp.array([0.0, 1.0]), "x": 0.5}, 0.0, 1.0))


def test_update_of_one_lane_weighs_that_lane():
    m = jnp.zeros(3)
    program = point.vmap(in_axes=(0, None))
    tr = program.simulate(KEY, m, 1.0)
    x = tr.choices["x"].at[1].set(4.0)
    _, log_weight, discarded = program.update(KEY, tr, {"x": x}, m, 1.0)
    z = tr.choices["z"]
    assert jnp.allclose(log_weight, norm(4.0, z[1], 1.0) - norm(tr.choices["x"][1], z[1], 1.0), rtol=1e-4)
    assert jnp.array_equal(discarded["x"], tr.choices["x"])


# ---- loops ----------------------------------------------------------------------------------------------------------


def test_scan_chains_its_steps_and_promotes_the_carry():
    program = flip.scan()
    total = 0.0
    for zs in itertools.product(range(2), repeat=3):
        logp, (carry, (out, xs)) = program.assess({"z": jnp.array(zs)}, jnp.array(False), jnp.arange(3))
        p = np.where(np.array([0, *zs[:-1]]), 0.9, 0.2)
        assert jnp.allclose(logp, np.log(np.where(zs, p, 1 - p)).sum(), rtol=1e-5)
        assert int(carry) == zs[-1]
        assert out.tolist() == list(zs)
        assert xs.tolist() == [0, 1, 2]
        total += float(jnp.exp(logp))
    assert np.isclose(total, 1.0)


def test_a_reversed_scan_starts_at_the_end():
    given = {"z": jnp.array([1, 0, 0])}
    logp, (carry, (zs, _)) = flip.scan(reverse=True).assess(given, False, jnp.arange(3))
    assert jnp.allclose(logp, np.log(0.8 * 0.8 * 0.2), rtol=1e-5)
    assert int(carry) == 1
    assert zs.tolist() == [1, 0, 0]
    forwards, (carry, _) = flip.scan().assess(given, False, jnp.arange(3))
    assert jnp.allclose(forwards, np.log(0.2 * 0.1 * 0.8), rtol=1e-5)
    assert int(carry) == 0


def test_a_scan_of_an_unrolled_program_has_its_density_and_posterior():
    """A hidden chain observed at every step: generate's weights average to the marginal likelihood."""
    step = tg.gen(lambda c, x: (flip.inline(c, x)[0], tg.sample("y", dist.Normal(0.0, 1.0))))

    @tg.gen
    def emit(c, x):
        z = tg.sample("z", dist.Bernoulli(jnp.where(c, 0.9, 0.2)))
        return z, tg.sample("y", dist.Normal(jnp.where(z, 1.0, -1.0), 1.0))

    assert step.scan(2).simulate(KEY, False).choices.keys() == {"z", "y"}
    program, y = emit.scan(), jnp.array([0.5, 1.0, -2.0])
    joint = [
        jnp.exp(program.assess({"z": jnp.array(zs), "y": y}, False, jnp.zeros(3))[0])
        for zs in itertools.product(range(2), repeat=3)
    ]
    weights = jax.jit(jax.vmap(lambda key: jnp.exp(program.generate(key, {"y": y}, False, jnp.zeros(3))[1])))(
        jax.random.split(KEY, 10**5)
    )
    assert abs(float(weights.mean() - sum(joint))) < 4.5 * float(weights.std()) / np.sqrt(10**5)


# ---- branches -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("index", "taken"), [(0, 0), (1, 1), (2, 2), (-3, 0), (7, 2)])
def test_switch_visits_the_branch_of_its_index(index, taken):
    means = (-5.0, 0.0, 5.0)
    branches = [tg.gen(lambda s, m=m, a=a: tg.sample(a, dist.Normal(m, s))) for m, a in zip(means, "aba", strict=True)]
    # Traced, so that an index out of range is clamped; one that is known is refused.
    tr = jax.jit(lambda i: tg.switch(i, *branches).simulate(KEY, 2.0))(index)
    assert tr.choices.keys() == {"a", "b"}
    address = "aba"[taken]
    assert jnp.allclose(tr.logp, norm(tr.choices[address], means[taken], 2.0))
    assert tr.choices["b" if address == "a" else "a"] == 0.0
    assert tr.retval == tr.choices[address]
    log_weight = jax.jit(lambda i: tg.switch(i, *branches).generate(KEY, {"a": 1.0}, 2.0)[1])(index)
    assert jnp.allclose(log_weight, norm(1.0, means[taken], 2.0) if address == "a" else 0.0)


def test_a_branch_by_a_sampled_index_integrates_to_one():
    @tg.gen
    def program():
        i = tg.sample("i", dist.Bernoulli(0.3))
        return tg.sample(
            "s",
            tg.cond(
                i == 1,
                tg.gen(lambda: tg.sample("k", dist.Categorical(jnp.array([0.2, 0.8])))),
                tg.gen(lambda: tg.sample("k", dist.Categorical(jnp.array([0.5, 0.5])))),
            )(),
        )

    logp = {(i, k): program.assess({"i": i, "s": {"k": k}})[0] for i in (0, 1) for k in (0, 1)}
    assert jnp.allclose(jnp.exp(logp[1, 0]), 0.3 * 0.2)
    assert jnp.allclose(sum(map(jnp.exp, logp.values())), 1.0)


def test_update_moves_to_another_branch_of_the_same_addresses():
    wide, narrow = (tg.gen(lambda s=s: tg.sample("x", dist.Normal(0.0, s))) for s in (9.0, 1.0))
    program = tg.gen(lambda p: tg.sample("c", tg.cond(p, wide, narrow)()))
    tr = program.simulate(KEY, True)
    x = tr.choices["c"]["x"]
    new, log_weight, discarded = program.update(KEY, tr, {}, False)
    assert jnp.allclose(log_weight, norm(x, 0.0, 1.0) - norm(x, 0.0, 9.0), rtol=1e-5)
    assert new.choices["c"]["x"] == x
    assert discarded == {}


@pytest.mark.parametrize("flag", [True, False])
def test_mask_counts_only_where_the_flag_is_true(flag):
    program = point.mask()
    tr = program.simulate(KEY, jnp.array(flag), 0.0, 1.0)
    assert jnp.allclose(tr.logp, points_by_hand(tr.choices, 0.0, 1.0) if flag else 0.0)
    _, log_weight = program.generate(KEY, {"x": 1.0}, jnp.array(flag), 0.0, 1.0)
    assert (log_weight == 0.0) != flag
    _, log_weight, _ = program.update(KEY, tr, {}, jnp.array(not flag), 0.0, 1.0)
    on = points_by_hand(tr.choices, 0.0, 1.0)
    assert jnp.allclose(log_weight, -on if flag else on, rtol=1e-5)
    assert program.simulate(KEY, flag, 0.0, 1.0).choices.keys() == {"z", "x"}


# ---- arguments that are modules -------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["vmap", "cond", "mask"])
def test_modules_with_functions_inside_pass_through_combinators(how):
    net = eqx.nn.MLP("scalar", "scalar", 3, 1, key=KEY)
    body = tg.gen(lambda net, x: tg.sample("x", dist.Normal(net(x), 1.0)))
    program, args = {
        "vmap": (body.vmap(in_axes=(None, 0)), (net, jnp.arange(3.0))),
        "cond": (tg.cond(True, body, body), (net, jnp.array(1.0))),
        "mask": (body.mask(), (True, net, jnp.array(1.0))),
    }[how]
    x = program.simulate(KEY, *args).choices["x"]
    assert jnp.allclose(
        program.assess({"x": x}, *args)[0],
        norm(x, jax.vmap(net)(jnp.arange(3.0)) if how == "vmap" else net(jnp.array(1.0))).sum(),
        rtol=1e-5,
    )
