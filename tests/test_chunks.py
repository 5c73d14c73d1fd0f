"""Plates some lanes at a time and loops whose steps are run again: the same programs, in less memory."""

import itertools

import jax
import numpy as np
import pytest
from exactly import exact_key
from jax import numpy as jnp
from unbiased_programs import precisely

import tracegrad as tg
from tracegrad import dist

KEY = jax.random.key(7)
N = 7
XS = np.linspace(-1.0, 1.0, N)
SLOW = pytest.mark.slow
CHUNKS = [3, *(pytest.param(k, marks=SLOW) for k in (1, 7, 100))]  # 3 leaves a lane over


@tg.gen
def lane(w, x):
    a = tg.sample("a", dist.Normal(w * x, 1.0))
    b = tg.sample("b", dist.Bernoulli(logits=a))
    tg.sample("y", dist.Normal(a * b.astype(float), 0.5))
    return a + x


def plate(chunk, f=lane, in_axes=(None, 0)):
    return f.vmap(in_axes, chunk=chunk)


def operations(chunk, key, w, xs):
    """What every operation of the interface gives."""
    f = plate(chunk)
    trace = f.simulate(key, w, xs)
    held = {"y": 0.1 * xs, "a": trace.choices["a"] + 1.0}
    other = jax.random.fold_in(key, 1)
    changed, *of_change = f.update(other, trace, held, w + 1.0, xs)
    return {
        "simulate": (trace.choices, trace.logp, trace.retval),
        "assess": f.assess(trace.choices, w, xs),
        "generate": jax.tree.leaves(f.generate(other, {"y": 0.1 * xs}, w, xs)),
        "update": (changed.choices, of_change),
        "regenerate": jax.tree.leaves(f.regenerate(other, trace, tg.select("a"), w, xs)),
        "project": f.project(trace, tg.select("a", "y")),
        "logps": f.logps(trace.choices, w, xs),
        "propose": f.propose(other, w, xs),
    }


@pytest.fixture(scope="module")
def at_once():
    return jax.jit(lambda *args: operations(None, *args))(KEY, 0.3, jnp.asarray(XS))


@pytest.mark.parametrize("chunk", CHUNKS)
def test_no_operation_changes(chunk, at_once):
    found = jax.jit(lambda *args: operations(chunk, *args))(KEY, 0.3, jnp.asarray(XS))
    np.testing.assert_array_equal(found["simulate"][0]["a"], at_once["simulate"][0]["a"])
    np.testing.assert_array_equal(found["simulate"][0]["b"], at_once["simulate"][0]["b"])
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-5), found, at_once)


@pytest.mark.parametrize("chunk", [1, pytest.param(5, marks=SLOW)])
def test_no_lanes_and_one_lane(chunk):
    for n in (0, 1):
        some, whole = (plate(c).simulate(KEY, 0.3, jnp.ones(n)) for c in (chunk, None))
        assert some.choices["y"].shape == (n,)
        np.testing.assert_array_equal(some.choices["y"], whole.choices["y"])
        np.testing.assert_allclose(some.logp, whole.logp, rtol=1e-6)


def test_axes_and_structures_of_arguments_are_those_of_vmap():
    f = tg.gen(lambda p, m, c: tg.sample("z", dist.Normal(p["a"] + m.sum() * c, p["b"])))
    args = ({"a": jnp.arange(5.0), "b": 2.0}, jnp.ones((3, 5)), 0.1)
    some, whole = (f.vmap(({"a": 0, "b": None}, 1, None), chunk=c).simulate(KEY, *args) for c in (2, None))
    np.testing.assert_array_equal(some.choices["z"], whole.choices["z"])
    alike = ({"a": 1.0, "b": 2.0}, jnp.ones(2), 0.1)
    copies = [f.vmap(None, axis_size=5, chunk=c).simulate(KEY, *alike) for c in (2, None)]
    np.testing.assert_array_equal(*(trace.choices["z"] for trace in copies))


@SLOW
def test_inside_a_plate_and_a_loop_and_with_them_inside():
    def program(chunk):
        step = tg.gen(lambda c, x: (c + tg.sample("lanes", plate(chunk)(c, XS + x)).sum(), None))
        walk = tg.gen(lambda w, x: tg.sample("walk", step.scan()(w, jnp.arange(2.0) * x))[0])
        return plate(chunk, walk)

    some, whole = (jax.jit(program(c).simulate)(KEY, 0.3, jnp.arange(3.0)) for c in (2, None))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4), some.choices, whole.choices)


# ---- gradients ------------------------------------------------------------------------------------------------------


def bound(chunk, estimator, n):
    """An ELBO over lanes of one latent each."""
    flips = estimator is not None

    @tg.gen
    def model(w, x):
        z = tg.sample("z", dist.Bernoulli(0.4) if flips else dist.Normal(0.0, 1.0))
        tg.sample("y", dist.Normal(jnp.sin(z.astype(float) * w + x), 1.0))

    @tg.gen
    def guide(w, x):
        tg.sample("z", dist.Bernoulli(w) if flips else dist.Normal(w * x, 0.5), estimator=estimator)

    xs = jnp.linspace(0.0, 1.0, n)
    objective = tg.elbo(plate(chunk, model), plate(chunk, guide), {"y": xs})
    return lambda key, w: objective(key, (w, xs), (w, xs))


def by_sums(w, n):
    """The same bound, summed over outcomes: lanes are independent."""
    xs = jnp.linspace(0.0, 1.0, n)

    def term(z, q, p):
        return q * (jnp.log(p / q) + dist.Normal(jnp.sin(z * w + xs), 1.0).log_prob(xs))

    return jnp.sum(term(1.0, w, 0.4) + term(0.0, 1.0 - w, 0.6))


@pytest.mark.parametrize("chunk", [2, *(pytest.param(k, marks=SLOW) for k in (1, 3, 4))])
def test_gradients_do_not_change(chunk):
    some, whole = (jax.jit(jax.value_and_grad(bound(c, None, 5), argnums=1))(KEY, 0.3) for c in (chunk, None))
    np.testing.assert_allclose(some, whole, rtol=1e-5)


@pytest.mark.parametrize("chunk", [3, pytest.param(2, marks=SLOW)])
def test_credit_is_kept_lane_by_lane(chunk):
    """A score term multiplies its own lane in chunks, too, so that the estimate of every key is the same."""
    keys = jax.random.split(KEY, 3)
    some, whole = (
        jax.jit(jax.vmap(jax.grad(bound(c, tg.reinforce(), 6), argnums=1), (0, None)))(keys, 0.3) for c in (chunk, None)
    )
    np.testing.assert_allclose(some, whole, rtol=1e-4)


ESTIMATORS = {"reinforce": tg.reinforce(), "mvd": tg.mvd(), "local": tg.local_expectation()}


@pytest.mark.parametrize("chunk", [2, pytest.param(3, marks=SLOW)])
@pytest.mark.parametrize("name", ["reinforce", *(pytest.param(n, marks=SLOW) for n in ("mvd", "local"))])
def test_estimates_are_unbiased(name, chunk):
    """Four lanes in two chunks, or in a chunk and a lane that is left: the mean over all outcomes is the exact sum."""
    with precisely():
        found = tg.exact_expectation(jax.value_and_grad(bound(chunk, ESTIMATORS[name], 4), argnums=1), cells=4)(
            exact_key(), 0.25
        )
        np.testing.assert_allclose(found, jax.value_and_grad(by_sums)(0.25, 4), rtol=1e-9)


def test_a_joint_sum_over_lanes_is_refused_as_without_chunks():
    with pytest.raises(tg.EstimatorError, match="local_expectation"):
        jax.grad(bound(2, tg.enum(), 4), argnums=1)(KEY, 0.25)


@pytest.mark.parametrize("value", [0, -1, True, 2.5, "a", jnp.ones(2)])
def test_a_chunk_is_a_number_of_lanes(value):
    with pytest.raises(tg.ChoiceError, match="vmap: chunk must be a positive int, and is"):
        lane.vmap(chunk=value)
    with pytest.raises(tg.ChoiceError, match="scan: checkpoint must be a positive int, and is"):
        lane.scan(checkpoint=value)


def test_a_traced_chunk_is_refused():
    with pytest.raises(tg.ChoiceError, match="vmap: chunk must be a positive int"):
        jax.jit(lambda k: lane.vmap(chunk=k).simulate(KEY, 0.3, XS).logp)(2)


# ---- loops whose steps are run again --------------------------------------------------------------------------------


@tg.gen
def walk(c, x):
    state, w = c
    z = tg.sample("z", dist.Normal(w * state + x, 0.5))
    flip = tg.sample("flip", dist.Bernoulli(logits=z), estimator=tg.reinforce())
    return (jnp.tanh(z) + flip.astype(float), w), z * state


def along_a_walk(steps, checkpoint, *, reverse=False):
    """An objective that depends on every step, with its choices, and its derivative."""
    loop = walk.scan(checkpoint=checkpoint, reverse=reverse)
    xs = jnp.linspace(-1.0, 1.0, steps)

    def run(key, w):
        trace = loop.simulate(key, (0.1, w), xs)
        logp, (last, _) = loop.assess(trace.choices, (0.2, w), xs)
        return logp - trace.logp + last[0] * trace.retval[1].sum(), trace.choices

    return jax.jit(jax.value_and_grad(tg.expectation(run, has_aux=True), argnums=1, has_aux=True))(KEY, 0.7)


@pytest.mark.parametrize(
    ("checkpoint", "reverse"),
    [(3, False), *(pytest.param(k, r, marks=SLOW) for k in (1, 4, 50) for r in (False, True))],
)
def test_steps_that_are_run_again_change_nothing(checkpoint, reverse):
    (value, choices), slope = along_a_walk(6, checkpoint, reverse=reverse)
    (wanted, all_choices), of_all = along_a_walk(6, None, reverse=reverse)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), choices, all_choices)  # fused otherwise
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    np.testing.assert_allclose(slope, of_all, rtol=1e-4)


@SLOW
@pytest.mark.parametrize("reverse", [True, False])
def test_steps_that_are_left_over(reverse):
    some, whole = (along_a_walk(5, k, reverse=reverse)[0] for k in (3, None))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), some, whole)


@SLOW
def test_a_loop_with_steps_left_over_is_unbiased():
    """Three flips in a block of two and one more, each of which the next depends on: the mean by all eight outcomes."""

    @tg.gen
    def flips(p, _):
        z = tg.sample("z", dist.Bernoulli(p), estimator=tg.reinforce()).astype(float)
        return 0.25 + 0.5 * z * p, z

    def objective(key, p):
        zs = flips.scan(3, checkpoint=2).simulate(key, p, None).retval[1]
        return zs @ jnp.arange(1.0, 4.0) * zs.sum()

    def by_sums(p):
        total = 0.0
        for outcome in itertools.product([0.0, 1.0], repeat=3):
            weight, q, zs = 1.0, p, jnp.asarray(outcome)
            for z in outcome:
                weight, q = weight * (q if z else 1.0 - q), 0.25 + 0.5 * z * q
            total += weight * (zs @ jnp.arange(1.0, 4.0) * zs.sum())
        return total

    with precisely():
        found = tg.exact_expectation(jax.grad(tg.expectation(objective), argnums=1), cells=2)(exact_key(), 0.5)
        np.testing.assert_allclose(found, jax.grad(by_sums)(0.5), rtol=1e-9)


def test_no_steps():
    trace = walk.scan(checkpoint=3).simulate(KEY, (0.1, 0.7), jnp.zeros(0))
    assert (trace.choices["z"].shape, float(trace.logp), float(trace.retval[0][0])) == (
        (0,),
        0.0,
        float(jnp.float32(0.1)),
    )


# ---- memory ---------------------------------------------------------------------------------------------------------


def temporary(fn, *args):
    """How many bytes a compiled program needs besides what is put in and what comes out."""
    return jax.jit(fn).lower(*args).compile().memory_analysis().temp_size_in_bytes


WIDTH = 64


@tg.gen
def wide(w, x):
    z = tg.sample("z", dist.Normal(x, 1.0))
    h = jnp.tanh(z * w * jnp.arange(1.0, 1.0 + WIDTH))
    tg.sample("y", dist.Normal(jnp.sin(h).sum(), 1.0))


def gradient_over(n, chunk):
    model, guide = plate(chunk, wide), plate(chunk, tg.gen(lambda w, x: tg.sample("z", dist.Normal(w * x, 0.5))))
    objective = tg.elbo(model, guide, {"y": jnp.zeros(n)})
    return jax.grad(lambda key, w, xs: objective(key, (w, xs), (w, xs)), argnums=1)


def test_what_lanes_compute_is_that_of_one_chunk():
    """A hundred thousand lanes of 64 numbers in 25.6 MB at once; in chunks some numbers a lane, and no more."""
    n, shapes = 100_000, (KEY, 0.3, jax.ShapeDtypeStruct((100_000,), float))
    assert temporary(gradient_over(n, None), *shapes) > 4 * n * WIDTH
    assert temporary(gradient_over(n, 1000), *shapes) < 4 * n * 16


def test_a_loop_keeps_its_carries_block_by_block():
    """Ten thousand steps of 64 numbers, in blocks of a hundred."""

    @tg.gen
    def step(c, _):
        h = jnp.tanh((tg.sample("z", dist.Normal(c, 1.0)) + c) * jnp.arange(1.0, 1.0 + WIDTH))
        return jnp.sin(h).sum() / WIDTH, None

    def slope(checkpoint):
        loop = step.scan(10_000, checkpoint=checkpoint)
        return jax.grad(tg.expectation(lambda key, w: loop.simulate(key, w, None).retval[0]), argnums=1)

    assert temporary(slope(None), KEY, 0.3) > 4 * 10_000 * WIDTH
    assert temporary(slope(100), KEY, 0.3) < 4 * 10_000 * 16
