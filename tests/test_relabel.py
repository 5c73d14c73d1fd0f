"""One distribution told in two ways: densities, bounds and gradients against sums and formulas written out by hand."""

import itertools

import jax
import numpy as np
import pytest
from exactly import exact_key
from jax import numpy as jnp
from scipy import stats

import tracegrad as tg
from tracegrad import dist

KEY = jax.random.key(0)

# ---- an annealed path: the guide tells it forwards, the model backwards ----------------------------------------------

STEPS = 2


@tg.gen
def forwards(state, w):
    z = tg.sample("z", dist.Bernoulli(logits=w * state - 0.2))
    return z.astype(float), None


@tg.gen
def path(w):
    first = tg.sample("first", dist.Bernoulli(0.4))
    tg.sample("steps", forwards.scan(STEPS)(first.astype(float), w * jnp.ones(STEPS)))


@tg.gen
def backwards(state, _):
    z = tg.sample("z", dist.Bernoulli(0.3 + 0.3 * state))
    return z.astype(float), None


@tg.gen
def annealed():
    z = tg.sample("z", dist.Bernoulli(0.7))
    tg.sample("back", backwards.scan(STEPS)(z.astype(float)))
    tg.sample("x", dist.Normal(z.astype(float), 1.0))


def told_backwards(choices):
    whole = jnp.concatenate([choices["first"][None], choices["steps"]["z"]])
    return {"z": whole[-1], "back": {"z": whole[:-1][::-1]}}


X = {"x": 0.8}


def log_weights(w):
    """Log q and log p of the paths 000 to 111, told forwards, written out."""
    logq, logp = [], []
    for a, b, c in itertools.product([0.0, 1.0], repeat=3):
        q = [0.4, jax.nn.sigmoid(-0.2 + w * a), jax.nn.sigmoid(-0.2 + w * b)]
        p = [0.7, 0.3 + 0.3 * c, 0.3 + 0.3 * b]
        logq.append(sum(jnp.log(x if z else 1.0 - x) for x, z in zip(q, (a, b, c), strict=True)))
        logp.append(sum(jnp.log(x if z else 1.0 - x) for x, z in zip(p, (c, b, a), strict=True)))
        logp[-1] += -0.5 * (0.8 - c) ** 2 - 0.5 * np.log(2.0 * np.pi)
    return jnp.stack(logq), jnp.stack(logp)


def elbo_by_hand(w):
    logq, logp = log_weights(w)
    return jnp.sum(jnp.exp(logq) * (logp - logq))


def iwelbo_by_hand(w):
    logq, logp = log_weights(w)
    ratio = logp - logq
    pairs = jnp.logaddexp(ratio[:, None], ratio[None]) - jnp.log(2.0)
    return jnp.sum(jnp.exp(logq[:, None] + logq[None]) * pairs)


def spread_by_hand(w, at):
    """Half the variance of log w under q at parameters of its own, which `log_variance` holds."""
    (logq, logp), q = log_weights(w), jnp.exp(log_weights(at)[0])
    gap = logq - logp
    return 0.5 * (jnp.sum(q * gap**2) - jnp.sum(q * gap) ** 2)


@pytest.mark.table
@pytest.mark.parametrize("which", ["guide", "model"])
@pytest.mark.parametrize(("objective", "by_hand"), [(tg.elbo, elbo_by_hand), (tg.iwelbo, iwelbo_by_hand)])
def test_a_path_told_in_both_directions_has_the_bound_that_is_written_out(which, objective, by_hand):
    """The guide as the model tells it, or the model as the guide does."""
    n = {"n": 2} if objective is tg.iwelbo else {}
    if which == "guide":
        bound = objective(annealed, tg.relabel(path, told_backwards), X, **n)
    else:
        bound = objective(tg.relabel(annealed, told_forwards), path, X, **n)
    with jax.enable_x64(True):
        exact = tg.exact_expectation(lambda key, w: bound(key, (), (w,)))
        value, slope = jax.value_and_grad(exact, argnums=1)(exact_key(), 0.5)
        np.testing.assert_allclose(value, by_hand(0.5), rtol=1e-9)
        np.testing.assert_allclose(slope, jax.grad(by_hand)(0.5), rtol=1e-9)


def told_forwards(choices):
    whole = jnp.concatenate([choices["back"]["z"][::-1], choices["z"][None]])
    return {"x": choices["x"], "first": whole[0], "steps": {"z": whole[1:]}}


def test_the_log_variance_of_a_path_told_in_both_directions():
    loss = tg.log_variance(annealed, tg.relabel(path, told_backwards), X, n=2)
    with jax.enable_x64(True):
        exact = tg.exact_expectation(lambda key, w: loss(key, (), (w,)))
        value, slope = jax.value_and_grad(exact, argnums=1)(exact_key(), 0.5)
        by_hand = jax.value_and_grad(spread_by_hand)(0.5, 0.5)
        np.testing.assert_allclose((value, slope), by_hand, rtol=1e-9)


# ---- of continuous paths, whose draws carry derivatives --------------------------------------------------------------


@tg.gen
def drift(state, w):
    z = tg.sample("z", dist.Normal(w * state, 0.5))
    return z, None


@tg.gen
def diffusion(w):
    first = tg.sample("first", dist.Normal(0.0, 1.0))
    tg.sample("steps", drift.scan(3)(first, w * jnp.ones(3)))


@tg.gen
def reverse(state, _):
    z = tg.sample("z", dist.Normal(0.8 * state, 0.6))
    return z, None


@tg.gen
def diffused():
    z = tg.sample("z", dist.Normal(0.0, 2.0))
    tg.sample("back", reverse.scan(3)(z))
    tg.sample("x", dist.Normal(z, 1.0))


def log_ratio(w, noise):
    """Log p - log q of the path that noise makes, its path derivative alone in q's parameters too."""
    z = [noise[0]]
    for e in noise[1:]:
        z.append(w * z[-1] + 0.5 * e)
    normal = jax.scipy.stats.norm.logpdf
    logq = normal(noise[0]) + sum(normal(e) - jnp.log(0.5) for e in noise[1:])
    logp = normal(z[3], 0.0, 2.0) + normal(0.8, z[3], 1.0)
    return logp + sum(normal(z[k], 0.8 * z[k + 1], 0.6) for k in range(3)) - logq


@pytest.mark.slow
def test_reparameterised_paths_keep_their_derivatives():
    guide = tg.relabel(diffusion, told_backwards)
    propose = [jax.random.split(key)[0] for key in jax.random.split(KEY, 4)]
    drawn = [guide.simulate(key, 0.7).choices for key in propose]
    told = [np.array([*d["back"]["z"][::-1], d["z"]]) for d in drawn]
    noise = jnp.array([[z[0], *((z[1:] - 0.7 * z[:-1]) / 0.5)] for z in told])

    def bound(w):
        return jax.nn.logsumexp(jax.vmap(log_ratio, (None, 0))(w, noise)) - jnp.log(4.0)

    objective = tg.iwelbo(diffused, guide, X, n=4)
    value, slope = jax.jit(jax.value_and_grad(objective, argnums=2))(KEY, (), (0.7,))
    np.testing.assert_allclose(value, bound(0.7), rtol=1e-5)
    np.testing.assert_allclose(slope[0], jax.grad(bound)(0.7), rtol=1e-4)


def test_doubly_reparameterised_paths():
    """Of `dreg` at one sample, which is sticking the landing, the expectation is that of the plain gradient."""
    guide = tg.relabel(diffusion, told_backwards)
    keys = jax.random.split(KEY, 4000)

    def slopes(objective):
        return np.asarray(jax.jit(jax.vmap(lambda k: jax.grad(objective, argnums=2)(k, (), (0.7,))[0]))(keys))

    difference = slopes(tg.dreg(diffused, guide, X, n=2)) - slopes(tg.iwelbo(diffused, guide, X, n=2))
    assert abs(difference.mean()) < 4.0 * difference.std() / np.sqrt(len(keys))


@pytest.mark.slow
def test_a_step_of_a_filter_is_told_otherwise():
    """A proposal that says "w" for what the model's step calls "z"."""

    @tg.gen
    def step(carry, _):
        z = tg.sample("z", dist.Bernoulli(0.2 + 0.5 * carry))
        tg.sample("y", dist.Normal(z.astype(float), 1.0))
        return z.astype(float), None

    def proposal(address):
        return tg.gen(lambda observed, carry, x, w: tg.sample(address, dist.Bernoulli(logits=w * carry)))

    y = {"y": jnp.array([0.3, 1.2])}
    with jax.enable_x64(True):
        found = []
        for guide in (proposal("z"), tg.relabel(proposal("w"), {"w": "z"})):
            bound = tg.smc_bound(step.scan(2), guide, y, n=2)
            exact = tg.exact_expectation(lambda key, w, bound=bound: bound(key, (0.0,), (w,)))
            found.append(jax.value_and_grad(exact, argnums=1)(exact_key(), 0.5))
        np.testing.assert_allclose(found[0], found[1], rtol=1e-12)


# ---- operations ------------------------------------------------------------------------------------------------------


@tg.gen
def pair():
    a = tg.sample("a", dist.Normal(0.0, 1.0))
    b = tg.sample("b", dist.Normal(a, 2.0))
    tg.deterministic("sum", a + b)
    return a + b


RENAMED = tg.relabel(pair, {"a": "start", "b": "in/end"})


def test_a_renamed_program_is_the_same_under_other_names():
    trace = RENAMED.simulate(KEY)
    a, b = trace.choices["start"], trace.choices["in"]["end"]
    assert trace.choices == {"start": pair.simulate(KEY).choices["a"], "in": {"end": pair.simulate(KEY).choices["b"]}}
    assert float(trace.retval) == float(a + b)
    assert float(trace.logp) == float(pair.assess({"a": a, "b": b})[0])
    assert float(RENAMED.project(trace, "in")) == pytest.approx(stats.norm.logpdf(b, a, 2.0), rel=1e-5)
    logps = RENAMED.logps(trace.choices)
    assert sorted(logps) == ["in", "start"]
    assert float(logps["start"]) == pytest.approx(stats.norm.logpdf(a), rel=1e-5)
    found, weight = RENAMED.generate(KEY, {"in": {"end": 3.0}})
    assert float(weight) == pytest.approx(stats.norm.logpdf(3.0, found.choices["start"], 2.0), rel=1e-5)
    later, weight, discarded = RENAMED.update(KEY, trace, {"start": 1.0})
    assert discarded == {"start": a}
    assert float(later.choices["in"]["end"]) == float(b)
    assert float(weight) == pytest.approx(float(later.logp - trace.logp), rel=1e-4)
    again, _, discarded = RENAMED.regenerate(jax.random.key(1), trace, "in/end")
    assert (float(again.choices["start"]), float(discarded["in"]["end"])) == (float(a), float(b))
    assert sorted(tg.predictive(RENAMED, key=KEY, n=2)) == ["in", "retval", "start", "sum"]


def test_what_is_chosen_by_address_goes_by_the_new_names():
    scaled = RENAMED.with_scale({"in/end": 3.0})
    assert float(scaled.assess({"start": 0.0, "in": {"end": 1.0}})[0]) == pytest.approx(
        stats.norm.logpdf(0.0) + 3.0 * stats.norm.logpdf(1.0, 0.0, 2.0), rel=1e-5
    )
    coin = tg.relabel(tg.gen(lambda w: tg.sample("b", dist.Bernoulli(logits=w))), {"b": "heads"})
    mean = tg.expectation(
        lambda key, w: coin.with_estimators({"heads": tg.enum()}).simulate(key, w).retval.astype(float)
    )
    assert float(jax.grad(mean, argnums=1)(KEY, 0.0)) == pytest.approx(0.25)
    with pytest.raises(tg.AddressError, match="'b' matches no sample"):
        coin.with_estimators({"b": tg.enum()}).simulate(KEY, 0.0)
    noncentred = tg.relabel(pair, {"b": "end"}).with_coordinates({"end": tg.noncentred()})
    space = tg.to_unconstrained(tg.Target(noncentred))
    np.testing.assert_allclose(space.constrain(jnp.array([1.0, 0.5]))["end"], 2.0, rtol=1e-6)


def test_names_go_through_lanes_loops_and_one_another():
    twice = tg.relabel(RENAMED, {"in/end": "start", "start": "in/end"})
    point = {"start": 3.0, "in": {"end": 1.0}}
    assert float(twice.assess(point)[0]) == float(pair.assess({"a": 1.0, "b": 3.0})[0])
    lanes = RENAMED.vmap(axis_size=3)
    trace = lanes.simulate(KEY)
    assert trace.choices["in"]["end"].shape == (3,)
    assert float(lanes.assess(trace.choices)[0]) == pytest.approx(float(trace.logp), rel=1e-5)


def test_posteriors_go_by_the_new_names():
    target = tg.Target(tg.relabel(pair, {"b": "y"}), (), {"y": 2.0})
    chains = tg.nuts(target, key=KEY, draws=10, warmup=10, chains=1, progress=False)
    assert sorted(chains.sample(KEY, 5)) == ["a", "sum"]
    assert sorted(tg.importance_sampling(target, key=KEY, n=10).choices) == ["a"]


def stacked(choices):
    return {"both": jnp.stack([choices["b"], choices["a"]])}


def test_what_was_drawn_apart_and_is_told_together_is_given_together():
    told = tg.relabel(pair, stacked)
    point = jnp.array([2.0, 1.0])
    assert float(told.assess({"both": point})[0]) == float(pair.assess({"a": 1.0, "b": 2.0})[0])
    trace, weight = told.generate(KEY, {"both": point})
    assert float(weight) == float(trace.logp)
    later, _, discarded = told.update(KEY, trace, {"both": point + 1.0})
    np.testing.assert_array_equal(discarded["both"], point)
    np.testing.assert_array_equal(later.choices["both"], point + 1.0)


def test_a_value_told_in_parts_is_selected_and_given_whole():
    vector = tg.gen(lambda: tg.sample("v", dist.Normal(jnp.zeros(3), 1.0).to_event(1)))
    told = tg.relabel(vector, lambda c: {"head": c["v"][0], "tail": c["v"][1:]})
    trace = told.simulate(KEY)
    assert float(told.project(trace, "**")) == pytest.approx(float(trace.logp), rel=1e-6)
    with pytest.raises(tg.DensityError, match="'head' and not at 'tail'"):
        told.generate(KEY, {"head": 1.0})
    with pytest.raises(tg.DensityError, match="at 'head' and at 'tail' here"):
        told.project(trace, "head")
    with pytest.raises(tg.DensityError, match="at 'head' and at 'tail' here"):
        told.with_scale({"head": 2.0}).assess(trace.choices)
    with pytest.raises(tg.DensityError, match="'v' stand in another order"):
        told.logps(trace.choices)
    with pytest.raises(tg.ChoiceError, match="'tail' has the wrong shape: expected \\[2\\], got \\[3\\]"):
        told.assess({"head": 0.0, "tail": jnp.zeros(3)})
    with pytest.raises(tg.AddressError, match="no sample at 'tale'"):
        told.assess({**trace.choices, "tale": 0.0})


def test_a_telling_under_jit_vmap_and_grad():
    told = tg.relabel(pair, stacked)
    points = jnp.array([[2.0, 1.0], [0.5, -1.0]])
    expected = stats.norm.logpdf(points[:, 1]) + stats.norm.logpdf(points[:, 0], points[:, 1], 2.0)
    found = jax.jit(jax.vmap(lambda x: told.assess({"both": x})[0]))(points)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    slope = jax.jit(jax.grad(lambda x: told.assess({"both": x})[0]))(points[0])
    np.testing.assert_allclose(slope, [-0.25, -0.75], rtol=1e-5)


# ---- bijections of values --------------------------------------------------------------------------------------------


def test_a_bijection_of_values_has_the_determinant_of_its_jacobian():
    """Log-normal from normal, and a rotation with a shear, against scipy."""
    told = tg.relabel(
        pair,
        lambda c: {"u": jnp.exp(c["a"]), "v": c["b"] + 3.0 * c["a"]},
        inverse=lambda c: {"a": jnp.log(c["u"]), "b": c["v"] - 3.0 * jnp.log(c["u"])},
    )
    point = {"u": 2.0, "v": 1.5}
    expected = stats.lognorm.logpdf(2.0, 1.0) + stats.norm.logpdf(1.5, 4.0 * np.log(2.0), 2.0)
    assert float(told.assess(point)[0]) == pytest.approx(expected, rel=1e-5)
    trace = told.simulate(KEY)
    assert float(told.assess(trace.choices)[0]) == pytest.approx(float(trace.logp), rel=1e-4)
    with pytest.raises(tg.DensityError, match="give all"):
        told.generate(KEY, {"u": 1.0})


def test_the_gradient_of_a_bijection_of_values():
    """E[log p - log q] of a log-normal that a normal guide tells: KL of two normals."""
    model = tg.gen(lambda: tg.sample("x", dist.LogNormal(1.0, 0.5)))
    normal = tg.gen(lambda m: tg.sample("u", dist.Normal(m, 0.5)))
    guide = tg.relabel(normal, lambda c: {"x": jnp.exp(c["u"])}, inverse=lambda c: {"u": jnp.log(c["x"])})
    with jax.enable_x64(True):
        bound = tg.exact_expectation(lambda key, m: tg.elbo(model, guide, {})(key, (), (m,)))
        value, slope = jax.value_and_grad(bound, argnums=1)(exact_key(), 0.2)
    assert float(value) == pytest.approx(-0.5 * (0.8 / 0.5) ** 2, rel=1e-6)
    assert float(slope) == pytest.approx(0.8 / 0.25, rel=1e-6)


# ---- refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "error", "words"),
    [
        (lambda c: {"a": c["a"]}, tg.DensityError, "returned 1 entries"),
        (lambda c: {"a": c["a"], "b": c["a"]}, tg.DensityError, "no rearrangement"),
        (lambda c: {"a": c["a"], "b": -c["b"]}, tg.DensityError, "inverse=..."),
        (lambda c: {"a": c["a"], "b": 2.5 * c["b"]}, tg.DensityError, "no rearrangement"),
        (lambda c: {"ab": jnp.sort(jnp.stack([c["a"], c["b"]]))}, tg.DensityError, "no rearrangement"),
        (lambda c: c["a"], tg.ChoiceError, "returned ArrayImpl"),
        (lambda c: {"a": c["A"]}, tg.AddressError, "asked for 'A', and the choices that it is given are at 'a', 'b'"),
        ({"c": "d"}, tg.AddressError, "'c' matches no sample"),
        ({"a": "b"}, tg.AddressError, "would both be at 'b'"),
        ({"a": "b/c"}, tg.AddressError, "would both be at"),
        ({"a": ""}, tg.AddressError, "address pattern"),
    ],
)
def test_what_is_no_rearrangement_is_refused(told, error, words):
    with pytest.raises(error, match=words):
        tg.relabel(pair, told).simulate(KEY)


def test_values_of_different_types_do_not_stand_in_one():
    mixed = tg.gen(lambda: (tg.sample("n", dist.Poisson(2.0)), tg.sample("z", dist.Normal(0.0, 1.0))))
    with pytest.raises(tg.ChoiceError, match="'both' is made of values of different types, 'n'"):
        tg.relabel(mixed, lambda c: {"both": jnp.stack([c["n"], c["z"]])}).simulate(KEY)


@pytest.mark.parametrize(
    ("told", "inverse", "words"),
    [
        (lambda c: {"u": 2.0 * c["a"], "b": c["b"]}, lambda c: {"a": c["u"], "b": c["b"]}, "there and back leads at"),
        (lambda c: {"u": c["a"], "b": c["b"]}, lambda c: {"a": c["u"]}, "leads from 'a', 'b' to 'a'"),
        ({"a": "b"}, lambda c: c, "leave `inverse` out"),
    ],
)
def test_a_wrong_inverse_is_refused(told, inverse, words):
    with pytest.raises(tg.DensityError, match=words):
        tg.relabel(pair, told, inverse=inverse).simulate(KEY)


def test_other_misuse_is_named():
    with pytest.raises(tg.ArgumentError, match="relabel takes a generative function"):
        tg.relabel(lambda: 0, {"a": "b"})
    with pytest.raises(tg.AddressError, match="relabel takes as `told`"):
        tg.relabel(pair, 3)
    with pytest.raises(tg.AddressError, match="relabel\\(pair.do"):
        RENAMED.do({"start": 1.0}).simulate(KEY)
    with pytest.raises(tg.AddressError, match="takes a trace of relabel"):
        RENAMED.project(tg.relabel(pair, {"a": "begin"}).simulate(KEY), "begin")
    filtered = tg.marginal(tg.relabel(drift.scan(2), {"z": "w"}), "w", tg.smc(2))
    with pytest.raises(tg.DensityError, match="relabel\\(drift.scan\\)"):
        filtered.assess({"w": jnp.zeros(2)}, 0.0, jnp.ones(2), key=KEY)


def test_a_program_of_no_choices_and_of_empty_ones():
    nothing = tg.relabel(tg.gen(lambda: 1.0), lambda choices: choices)
    assert nothing.simulate(KEY).choices == {}
    none = tg.gen(lambda: tg.sample("v", dist.Normal(jnp.zeros(0), 1.0)))
    assert tg.relabel(none, {"v": "w"}).simulate(KEY).choices["w"].shape == (0,)
