"""Numbers that are not finite in a run: where they come from, what becomes of the run, and what is kept of it."""

import re
import warnings

import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp

import tracegrad as tg
from tracegrad import dist

KEY = jax.random.key(0)
DATA = jnp.array([1.0, 2.0, jnp.nan, 4.0, 5.0])


def square(key, w, x):
    return jnp.mean((w - x) ** 2)


def run(objective=square, params=0.0, optimizer=None, **options):
    optimizer = optax.adam(0.1) if optimizer is None else optimizer
    given = {"key": KEY, "steps": 20, "progress": False}
    return tg.fit(objective, params, optimizer, **(given | options))


def same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


# ---- what becomes of the run ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good():
    """The objectives of a run over the data, one a step; that of the third example is not finite."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return run(data=DATA, batch_size=1, on_nonfinite="skip")


def first_bad(good):
    return int(np.argmin(np.isfinite(good.history)))


def test_an_error_has_the_last_good_fit(good):
    n = first_bad(good)
    with pytest.raises(tg.FitError, match=f"the objective is nan at step {n}, first in") as caught:
        run(data=DATA, batch_size=1)
    same(caught.value.fit, run(data=DATA, batch_size=1, steps=n) if n else caught.value.fit)
    assert len(caught.value.fit.history) == n


def test_a_run_may_stop_there(good):
    n = first_bad(good)
    with pytest.warns(UserWarning, match=f"the run stops. the objective is nan at step {n}"):
        found = run(data=DATA, batch_size=1, on_nonfinite="stop")
    assert len(found.history) == n
    assert np.isfinite(found.params)


def test_steps_may_be_skipped_and_are_counted(good):
    """Adam by hand, over the examples in the order of the run, without those that are not finite."""
    with pytest.warns(UserWarning, match="4 of 20 steps were skipped"):
        found = run(data=DATA, batch_size=1, on_nonfinite="skip")
    assert int(found.skipped) == 4
    assert int(np.isnan(found.history).sum()) == 4
    seen = run(lambda key, w, x, indices, state: (0.0 * w, (state[0].at[state[1]].set(indices[0]), state[1] + 1)),
               state=(jnp.zeros(20, int), 0), data=DATA, batch_size=1).state[0]  # fmt: skip
    w, adam = jnp.asarray(0.0), optax.adam(0.1)
    state = adam.init(w)
    for i in seen:
        if i != 2:
            with jax.numpy_dtype_promotion("standard"):
                updates, state = adam.update(2.0 * (w - DATA[i]), state, w)
            w = optax.apply_updates(w, updates)
    np.testing.assert_allclose(found.params, w, rtol=1e-5)
    assert int(found.opt_state[0].count) == 16


def test_a_count_of_skipped_steps_goes_on_with_the_run():
    options = {"data": DATA, "batch_size": 1, "on_nonfinite": "skip"}
    with pytest.warns(UserWarning, match="steps were skipped"):
        half = run(steps=10, **options)
    with pytest.warns(UserWarning, match="4 of 20 steps were skipped"):
        found = run(params=half, steps=10, **options)
    assert (int(half.skipped), int(found.skipped)) == (2, 4)


@pytest.mark.parametrize("policy", ["raise", "skip", "stop"])
def test_a_run_that_stays_finite_is_the_same_under_every_policy(policy):
    found = run(data=DATA[:2], batch_size=1, on_nonfinite=policy)
    np.testing.assert_allclose(found.params, run(data=DATA[:2], batch_size=1).params, rtol=1e-6)
    assert int(found.skipped) == 0


@pytest.mark.parametrize("given", ["ignore", None, True, 1])
def test_another_policy_is_refused(given):
    with pytest.raises(tg.FitError, match="on_nonfinite is 'raise' or 'skip' or 'stop', and got"):
        run(data=DATA, on_nonfinite=given)


def counting(bad_from):
    """An optimiser whose state goes bad at a step, though its updates never do."""

    def update(updates, state, params=None):
        count = state["count"] + 1
        norm = jnp.where(count > bad_from, jnp.nan, 1.0)
        return jax.tree.map(lambda g: -0.1 * g, updates), {"count": count, "norm": norm, "bound": state["bound"]}

    # What is not finite from the start may stay so.
    return optax.GradientTransformation(
        lambda params: {"count": jnp.zeros((), int), "norm": jnp.ones(()), "bound": jnp.full((), jnp.inf)}, update
    )


@pytest.mark.parametrize("step", [0, 7, 19])
def test_a_state_of_the_optimiser_that_goes_bad_alone_is_found(step):
    with pytest.raises(
        tg.FitError, match=rf"the optimiser's state, opt_state\['norm'\], is not finite at step {step}"
    ) as caught:
        run(lambda key, w: w**2, 1.0, counting(step))
    assert len(caught.value.fit.history) == step
    assert np.isfinite(caught.value.fit.opt_state["norm"])


def test_it_does_not_matter_how_the_steps_are_grouped():
    found = []
    for every in (1, 3, 20):
        with pytest.raises(tg.FitError) as caught:
            run(lambda key, w: w**2, 1.0, counting(7), callback=lambda _: None, every=every)
        found.append((str(caught.value), float(caught.value.fit.params)))
    assert found[0] == found[1] == found[2]


# ---- where it comes from --------------------------------------------------------------------------------------------


class Kinked(dist.Normal):
    """A density whose value is finite, and whose derivative is not where its scale is one."""

    def log_prob(self, value):
        return super().log_prob(value) + 0.0 * jnp.sqrt(jnp.abs(self.scale - 1.0))


def normal(w):
    return tg.sample("bad", dist.Normal(0.0, w), estimator=tg.reparam())


def drawn(w):
    return tg.sample("bad", dist.Gamma(w, 1.0))


def scored(w):
    return tg.sample("bad", Kinked(w, w), estimator=tg.reinforce())


def forked(w):
    return tg.sample("bad", dist.Bernoulli(logits=w), estimator=tg.mvd()).astype(float)


def local(w):
    logits = jnp.stack([w, 2.0 * w])
    return tg.sample("bad", dist.Categorical(logits=logits), estimator=tg.local_expectation()).astype(float)


PLACES = {
    "density": (normal, "logp", jnp.nan),
    "sample": (drawn, "retval", jnp.nan),
    "score": (scored, "retval", 0.0),
    "mvd": (forked, "retval", jnp.nan),
    "local expectation": (local, "retval", jnp.nan),
}


def other(w):
    return 0.0 * w


WAYS = {
    "straight": tg.gen,
    "scan": lambda f: tg.gen(lambda w: tg.sample("steps", tg.gen(lambda c, x: (c, f(c))).scan(2)(w, None))[1].sum()),
    "vmap": lambda f: tg.gen(lambda w: tg.sample("plate", tg.gen(f).vmap()(w * jnp.ones(2))).sum()),
    "cond": lambda f: tg.gen(lambda w: tg.sample("branch", tg.cond(w != 7.0, tg.gen(f), tg.gen(other))(w))),
}
SITES = {"straight": "bad", "scan": "steps/bad", "vmap": "plate/bad", "cond": "branch/bad"}


@pytest.mark.table
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("place", PLACES)
def test_the_step_and_the_site_are_named(place, way):
    """At the fourth step the site is given what it cannot bear."""
    body, what, bad = PLACES[place]
    model = WAYS[way](body)

    @tg.expectation
    def objective(key, w, step):
        trace = model.simulate(key, w + jnp.where(step == 3, bad, 1.0))
        return (trace.logp if what == "logp" else trace.retval) + w

    with pytest.raises(tg.FitError, match=f"at step 3, first in .*the site '{SITES[way]}'"):
        run(lambda key, w, state: (objective(key, w, state), state + 1), 1.0, optax.sgd(0.0), state=0, steps=5)


FAMILY_PLACES = {
    "density": lambda z, bad: tg.sample("x", dist.Normal(z, 1.0 + bad)),
    "argument": lambda z, bad: tg.sample("x", dist.Normal(z + bad, 1.0)),
    "nested": lambda z, bad: tg.sample("in", tg.gen(lambda: tg.sample("x", dist.Normal(z, jnp.exp(bad))))()),
    "scan": lambda z, bad: tg.sample(
        "in", tg.gen(lambda c, _: (c, tg.sample("x", dist.Normal(c, 1.0 + bad)))).scan(1)(z, None)
    ),
    "vmap": lambda z, bad: tg.sample("in", tg.gen(lambda c: tg.sample("x", dist.Normal(c, 1.0 + bad))).vmap()(z[None])),
}


@pytest.mark.parametrize("place", FAMILY_PLACES)
def test_inside_an_automatic_family_the_site_of_the_model_is_named(place):
    @tg.gen
    def model(bad):
        FAMILY_PLACES[place](tg.sample("z", dist.Normal(0.0, 1.0)), bad)

    site = "in/x" if place in ("nested", "scan", "vmap") else "x"
    value = {"scan": jnp.ones(1), "vmap": jnp.ones(1)}.get(place, 1.0)
    observed = {"x": value} if site == "x" else {"in": {"x": value}}
    family = tg.auto.mean_field(tg.Target(model, (0.0,), observed))
    bound = tg.elbo(model, family.guide, observed)

    def objective(key, params, state):
        return bound(key, (jnp.where(state == 3, jnp.nan, 0.0),), (params,)), state + 1

    with pytest.raises(tg.FitError, match=f"at step 3, first in .*the site '{site}'"):
        run(objective, family.init(KEY), optax.sgd(0.0), state=0, steps=5)


# ---- the objective's own state --------------------------------------------------------------------------------------


def remembers(key, w, state):
    """Its parameters stay as they are; at the fourth step one number that it carries goes bad, and its bound stays."""
    step, seen = state["step"], state["seen"]
    bad = jnp.where(step == 3, -1.0, 1.0)
    return w**2, {"step": step + 1, "seen": {"log": seen["log"] + jnp.log(bad)}, "bound": state["bound"]}


STATE = {"step": 0, "seen": {"log": jnp.zeros(2)}, "bound": jnp.inf}


def test_a_state_of_the_objective_that_goes_bad_alone_is_found_by_its_path():
    words = r"the objective's next state, state\['seen'\]\['log'\], is not finite at step 3, first in `log` .*:\d+"
    with pytest.raises(tg.FitError, match=words) as caught:
        run(remembers, 1.0, state=STATE)
    assert len(caught.value.fit.history) == 3
    assert int(caught.value.fit.state["step"]) == 3
    with pytest.warns(UserWarning, match="the objective's next state"):
        same(run(remembers, 1.0, state=STATE, on_nonfinite="stop"), caught.value.fit)


def test_a_step_whose_state_goes_bad_is_skipped_with_it():
    with pytest.warns(UserWarning, match="17 of 20 steps were skipped"):  # it stays at the step that goes bad
        found = run(remembers, 1.0, state=STATE, on_nonfinite="skip")
    good = run(remembers, 1.0, state=STATE, steps=3)
    np.testing.assert_allclose(found.params, good.params, rtol=1e-6)
    same(found.state, good.state)
    assert np.isinf(found.state["bound"])


# ---- of automatic families ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: p | {"loc": p["loc"].at[2].set(jnp.nan)}, r"; params\['loc'\]\[2\] was not finite before it"),
        (lambda p: p | {"log_scale": p["log_scale"] + 1e3}, "first in `exp`"),
    ],
)
def test_parameters_of_a_family_are_told_by_the_latents_that_they_are_of(change, words):
    """Of the point at 'unconstrained', which is no site of the user's, each latent and its places."""

    @tg.gen
    def model():
        mu = tg.sample("mu", dist.Normal(0.0, 1.0))
        tau = tg.sample("tau", dist.HalfNormal(1.0).expand([2]))
        tg.sample("x", dist.Normal(mu, tau))

    family = tg.auto.mean_field(tg.Target(model, (), {"x": jnp.ones(2)}))
    bound = tg.elbo(model, family.guide, {"x": jnp.ones(2)})
    params = change(family.init(KEY))
    with pytest.raises(tg.FitError, match="at step 0.*'unconstrained, the coordinates of mu at 0, tau at 1 to 2'") as e:
        run(lambda key, p: bound(key, (), p), params, maximize=True, steps=2)
    assert re.search(words, str(e.value))
    (row,) = tg.describe_estimators(bound, KEY, (), params)
    assert row.label == ("unconstrained",)
