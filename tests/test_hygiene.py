"""Nothing leaks, nothing is shared: tracers, keys, threads, traces of compiled steps, frames after an exception."""

import concurrent.futures
import contextvars
import threading

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest

import tracegrad as tg
from tracegrad import dist

KEY = jax.random.key(0)


@tg.gen
def step(c, x):
    z = tg.sample("z", dist.Bernoulli(logits=c), estimator=tg.mvd())
    return c + x * z.astype(float), z


@tg.gen
def point(m):
    return tg.sample("x", dist.Normal(m, 1.0))


@tg.gen
def program(w):
    k = tg.sample("k", dist.Categorical(logits=jnp.stack([w, -w])), estimator=tg.enum())
    b = tg.sample("b", dist.Bernoulli(logits=w))
    c, _ = tg.sample("steps", step.scan()(w, jnp.ones(3)))
    xs = tg.sample("plate", point.vmap()(w * jnp.ones(2)))
    y = tg.sample("branch", tg.cond(b == 1, point, point.with_estimators({"x": tg.reinforce()}))(c))
    g = tg.sample("gamma", dist.Gamma(jnp.exp(w), 1.0))
    return k.astype(float) * y + jnp.sum(xs) + g


@tg.gen
def small(w):
    b = tg.sample("b", dist.Bernoulli(logits=w))
    _, zs = tg.sample("steps", step.scan()(w, jnp.ones(2)))
    return tg.sample("y", dist.Normal(w, 1.0)) * (b + jnp.sum(zs)).astype(float)


def make_objective(model):
    def objective(key, w):
        tr = model.simulate(key, w)
        return tr.retval + 0.1 * model.assess(tr.choices, w)[0]

    return objective


def make_run(model):
    """A new function, so that nothing is cached, of every operation and of an objective with its gradient."""

    def run(key, w):
        one, two, three, four = jax.random.split(key, 4)
        tr = model.simulate(one, w)
        logp, _ = model.assess(tr.choices, w)
        free, weight = model.generate(two, {"b": 1}, w)
        new, change, _ = model.update(three, tr, {"b": 0}, w)
        value, grad = jax.value_and_grad(tg.expectation(make_objective(model)), argnums=1)(four, w)
        return logp, weight, free.choices, new.choices, change, value, grad

    return run


# ---- tracers and keys -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["eager", "jit", "vmap"])
def test_no_tracer_leaks(how):
    with jax.checking_leaks():
        match how:
            case "eager":
                make_run(small)(KEY, jnp.array(0.3))
            case "jit":
                jax.jit(make_run(program)).lower(KEY, jnp.array(0.3))
            case "vmap":
                lanes = jax.vmap(make_run(program))
                jax.jit(lanes).lower(jax.random.split(KEY, 2), jnp.array([0.3, 0.4]))


def test_the_check_for_leaks_finds_one():
    kept = []
    with jax.checking_leaks(), pytest.raises(Exception, match="[Ll]eak"):
        jax.jit(lambda x: kept.append(x) or x)(1.0)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["eager", "jit"])
def test_no_key_is_used_twice(how):
    with jax.debug_key_reuse(True):
        run = jax.jit(make_run(program)) if how == "jit" else make_run(small)
        run(jax.random.key(1), jnp.array(0.3))


def test_the_check_for_reuse_finds_one():
    with jax.debug_key_reuse(True), pytest.raises(jax.errors.KeyReuseError):
        jax.jit(lambda key: jax.random.normal(key) + jax.random.normal(key))(jax.random.key(2))


# ---- threads --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_eight_threads_tracing_at_once_agree_with_serial():
    """Each thread traces programs of its own, so that visits, frames and overrides of all of them interleave.

    What is compared is the code that comes out: the compiler's input, text for text.
    """

    def work(i):
        def body(w):
            tg.sample(f"a{i}", dist.Normal(w, 1.0))
            tg.sample("b", dist.Bernoulli(logits=w))
            return tg.sample("sub", small(w))

        mine = tg.gen(body).with_estimators({"b": tg.mvd(), f"a{i}": tg.reinforce()})

        def cost(key, w):
            one, two = jax.random.split(key)
            return mine.simulate(one, w).logp + mine.simulate(two, w).retval

        f = tg.expectation(cost)
        run = jax.jit(lambda key, w: (mine.simulate(key, w).choices, jax.value_and_grad(f, argnums=1)(key, w)))
        return run.lower(jax.random.key(i), 0.1 * i).as_text()

    serial = [work(i) for i in range(8)]
    barrier = threading.Barrier(8)

    def together(i):
        barrier.wait()
        return work(i)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        threaded = list(pool.map(together, range(8)))
    assert threaded == serial
    assert len(set(serial)) == 8


def test_a_thread_inherits_no_frame():
    """A body that starts a thread does not lend it its frame; in a copied context the sample is the body's own."""
    seen = []

    def body():
        def outside():
            try:
                tg.sample("x", dist.Normal(0.0, 1.0))
            except tg.AddressError as error:
                seen.append(str(error))

        thread = threading.Thread(target=outside)
        thread.start()
        thread.join()
        contextvars.copy_context().run(tg.sample, "y", dist.Normal(0.0, 1.0))

    choices = tg.gen(body).simulate(KEY).choices
    # Newer Pythons can be built so that threads inherit the context; then the sample is the body's.
    assert seen or "x" in choices
    assert "y" in choices


# ---- tracing once ---------------------------------------------------------------------------------------------------


def test_a_gradient_step_is_traced_once():
    chex.clear_trace_counter()
    optimizer = optax.sgd(0.01)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def update(key, w, state):
        grad = jax.grad(tg.expectation(make_objective(program)), argnums=1)(key, w)
        change, state = optimizer.update(grad, state)
        return optax.apply_updates(w, change), state

    w = jnp.array(0.3, jnp.float32)
    state = optimizer.init(w)
    for key in jax.random.split(KEY, 5):
        w, state = update(key, w, state)
    assert jnp.isfinite(w)
    assert w != 0.3


def test_a_jitted_operation_is_traced_once_for_traces_of_one_kind():
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def move(key, tr):
        new, log_weight, _ = program.update(key, tr, {"b": 1}, 0.3)
        return new, log_weight

    tr = jax.jit(program.simulate)(KEY, 0.3)
    for key in jax.random.split(KEY, 3):
        again, log_weight = move(key, tr)
    assert again.choices["b"] == 1
    assert jnp.isfinite(log_weight)


# ---- exceptions -----------------------------------------------------------------------------------------------------


class OwnError(Exception):
    """A user's."""


@tg.gen
def fails(bad):
    tg.sample("z", dist.Normal(0.0, 1.0))
    if bad:
        raise OwnError


WAYS = {
    "a body": fails,
    "a call": tg.gen(lambda bad: tg.sample("sub", fails(bad))),
    "an inlined call": tg.gen(lambda bad: fails.inline(bad)),
    "a plate": tg.gen(lambda bad: tg.sample("p", tg.gen(lambda: fails.inline(bad)).repeat(2)())),
    "a loop": tg.gen(lambda bad: tg.sample("s", tg.gen(lambda c, x: (c, fails.inline(bad))).scan(2)(0.0))),
    "a branch": tg.gen(lambda bad: tg.sample("b", tg.cond(True, fails, fails)(bad))),
    "other estimators": fails.with_estimators({"z": tg.reinforce()}),
}


class Flag:
    """A static argument, for bodies in branches, whose arguments JAX would trace."""

    def __init__(self, value):
        self.value = value

    def __bool__(self):
        return self.value


@pytest.mark.parametrize("way", WAYS)
def test_an_exception_leaves_nothing_behind(way):
    good, bad = Flag(False), Flag(True)
    before = WAYS[way].simulate(KEY, good).choices
    with pytest.raises(OwnError):
        WAYS[way].simulate(KEY, bad)
    with pytest.raises(tg.AddressError, match="outside a generative function"):
        tg.sample("z", dist.Normal(0.0, 1.0))
    assert eqx.tree_equal(WAYS[way].simulate(KEY, good).choices, before)
    # No estimator stays in force either: this program has no 'z' that a pattern could miss.
    assert program.simulate(KEY, 0.3).choices.keys() == {"k", "b", "steps", "plate", "branch", "gamma"}


def test_a_body_may_catch_what_a_call_raises_and_go_on():
    @tg.gen
    def careful():
        try:
            tg.sample("sub", fails(True))
        except OwnError:
            pass
        return tg.sample("z", dist.Normal(0.0, 1.0))

    assert careful.simulate(KEY).choices.keys() == {"z"}


def test_a_program_run_inside_a_body_is_its_own():
    @tg.gen
    def outer():
        inside = point.simulate(jax.random.key(7), 0.0)
        return inside.retval + tg.sample("x", dist.Normal(0.0, 1.0))

    tr = outer.simulate(KEY)
    assert tr.choices.keys() == {"x"}
    assert jnp.allclose(tr.retval, tr.choices["x"] + point.simulate(jax.random.key(7), 0.0).retval)
