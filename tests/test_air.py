"""The example "attend, infer, repeat": its scenes, its spatial transformer, its numerics, and its gradients."""

import functools
import sys

import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp
from jax.scipy.ndimage import map_coordinates
from source_tree import ROOT

sys.path.insert(0, str(ROOT / "docs" / "examples"))

import air  # noqa: E402  (found beside the other examples)
import air_model  # noqa: E402
import air_networks  # noqa: E402
import air_plots  # noqa: E402
import air_scenes  # noqa: E402
import equinox as eqx  # noqa: E402
from air_objectives import METHODS, UNROLLED_ONLY, elbo, parameters  # noqa: E402

import tracegrad as tg  # noqa: E402

# ---- scenes ----------------------------------------------------------------------------------------------------------

SQUARES = np.full((3, 28, 28), 255, np.uint8)


def test_scenes_have_none_one_or_two_digits_alike():
    counts = air_scenes.make_scenes(SQUARES, 3000, 0).counts
    share = np.bincount(counts, minlength=3) / 3000
    np.testing.assert_allclose(share, 1 / 3, atol=5 * np.sqrt(2 / 9 / 3000))


def test_digits_do_not_overlap_and_boxes_hold_them():
    """Of full squares the boxes hold all the ink and nothing else, so that they overlap nowhere."""
    images, counts, boxes = air_scenes.make_scenes(SQUARES, 500, 1)
    heights, widths = boxes[..., 1] - boxes[..., 0], boxes[..., 3] - boxes[..., 2]
    np.testing.assert_array_equal(heights, widths)
    np.testing.assert_array_equal(np.sum(heights > 0, axis=1), counts)
    np.testing.assert_array_equal(np.sum(heights * widths, axis=1), np.sum(images > 0, axis=(1, 2)))
    np.testing.assert_array_equal(images[images > 0], 255)
    for image, scene_boxes in zip(images, boxes, strict=True):
        for top, bottom, left, right in scene_boxes:
            assert np.all(image[top:bottom, left:right] == 255)
    sizes = heights[heights > 0]
    assert np.mean(sizes) == pytest.approx(28 / 1.3, abs=0.5)  # E[28 / N(1.3, 0.1)] = 21.67
    assert sizes.min() >= 17 and sizes.max() <= 28  # noqa: PT018


def test_scenes_come_from_their_seed():
    one, same, other = (air_scenes.make_scenes(SQUARES, 50, seed) for seed in (2, 2, 3))
    assert all(np.array_equal(x, y) for x, y in zip(one, same, strict=True))
    assert not np.array_equal(one.images, other.images)


def test_held_out_scenes_have_digits_of_their_own():
    training, held_out = air_scenes.digits(), air_scenes.digits(held_out=True)
    assert (training.shape, held_out.shape) == ((4000, 28, 28), (1000, 28, 28))
    assert {x.tobytes() for x in training}.isdisjoint(x.tobytes() for x in held_out)
    half = air_scenes._resize(training[:200], 14)
    means = training[:200].reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4))
    assert np.corrcoef(half.ravel(), means.ravel())[0, 1] > 0.95


# ---- the spatial transformer and the networks ------------------------------------------------------------------------

WHERE = [(3.0, 0.0, 0.0), (2.5, 0.7, -0.4), (3.3, -2.4, 2.1), (1.0, 0.1, 0.2)]


def gathered(source, points):
    """Bilinear interpolation of a square image at points of [-1, 1] x [-1, 1], by gathering, zero outside."""
    n = source.shape[0]
    pixels = 0.5 * (n * (jnp.stack(points) + 1.0) - 1.0)
    return map_coordinates(source, list(pixels), order=1, mode="constant", cval=0.0)


@pytest.mark.parametrize("where", WHERE)
def test_windows_are_interpolated_bilinearly(where):
    scale, row, column = where
    image = jax.random.uniform(jax.random.key(0), (50, 50))
    window = jax.random.uniform(jax.random.key(1), (20, 20))
    small = jnp.meshgrid(air_networks.centres(20), air_networks.centres(20), indexing="ij")
    large = jnp.meshgrid(air_networks.centres(50), air_networks.centres(50), indexing="ij")
    seen = gathered(image, [(small[0] - row) / scale, (small[1] - column) / scale])
    written = gathered(window, [scale * large[0] + row, scale * large[1] + column])
    where = jnp.array(where)
    np.testing.assert_allclose(air_networks.read(image, where), seen, atol=2e-5)
    np.testing.assert_allclose(air_networks.write(window, where), written, atol=2e-5)


def test_a_window_is_where_its_box_is_drawn():
    where = np.array([2.5, 0.7, -0.4])
    ink = np.asarray(air_networks.write(jnp.ones((20, 20)), jnp.asarray(where))) > 0.5
    top, left, side = air_plots.window(where)
    rows, columns = np.nonzero(ink.any(axis=1))[0], np.nonzero(ink.any(axis=0))[0]
    np.testing.assert_allclose([rows[0], columns[0]], [top + 0.5, left + 0.5], atol=1.0)
    np.testing.assert_allclose([len(rows), len(columns)], side, atol=1.0)


def test_the_recurrence_is_an_lstm_of_scene_and_latents():
    recurrence = air_networks.Recurrence(2500, 54, key=jax.random.key(0))
    cell = eqx.nn.LSTMCell(2554, 256, key=jax.random.key(1))
    weights = jnp.concatenate([recurrence.of_scene, recurrence.of_latents], axis=1)
    cell = eqx.tree_at(
        lambda c: (c.weight_ih, c.weight_hh, c.bias), cell, (weights, recurrence.of_hidden, recurrence.bias)
    )
    k1, k2, k3, k4 = jax.random.split(jax.random.key(2), 4)
    scene, latents = jax.random.uniform(k1, (50, 50)), jax.random.normal(k2, (54,))
    state = jax.random.normal(k3, (256,)), jax.random.normal(k4, (256,))
    ours = recurrence(recurrence.see(scene), latents, state)
    theirs = cell(jnp.concatenate([scene.reshape(-1), latents]), state)
    for x, y in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)


def test_the_networks_have_the_sizes_of_the_literature():
    arrays = eqx.filter(air_networks.networks(jax.random.key(0)), eqx.is_array)
    assert sum(x.size for x in jax.tree.leaves(arrays)) == 3_071_163


# ---- the model, the family and their numerics ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def params():
    return parameters(jax.random.key(0))


@pytest.fixture(scope="module")
def image():
    return jnp.asarray(air_scenes.make_scenes(SQUARES, 20, 4).images[-1:])


@pytest.mark.slow
def test_scan_and_loop_are_one_model_and_one_family(params, image):
    scene = image[0].astype(float) / 255.0
    model, guide = air_model.air()
    scanned_model, scanned_guide = air_model.air(scanned=True)
    choices = jax.jit(lambda k: guide.simulate(k, params["recogniser"], scene).choices)(jax.random.key(3))
    stacked = {"steps": jax.tree.map(lambda *xs: jnp.stack(xs), *[choices[f"step{t}"] for t in range(3)])}

    @jax.jit
    def densities():
        looped = (
            guide.assess(choices, params["recogniser"], scene)[0],
            model.assess(choices | {"scene": scene}, params["painter"]),
        )
        scanned = (
            scanned_guide.assess(stacked, params["recogniser"], scene)[0],
            scanned_model.assess(stacked | {"scene": scene}, params["painter"]),
        )
        return looped, scanned

    for x, y in zip(*map(jax.tree.leaves, densities()), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
    for look in (air_model.present, air_model.places):
        np.testing.assert_array_equal(look(choices), look(stacked))


def test_what_is_absent_has_no_density_and_is_not_painted(params):
    model, _ = air_model.air()
    choices = {
        f"step{t}": {"pres": jnp.asarray(p), "where": jnp.array([3.0, 0.1, 0.2]), "what": jnp.ones(50)}
        for t, p in enumerate((1, 0, 0))
    }
    other = {**choices, "step1": {"pres": jnp.asarray(0), "where": jnp.array([9.0, 5.0, 5.0]), "what": jnp.zeros(50)}}
    scene = jnp.zeros((50, 50))
    logp, mean = model.assess(choices | {"scene": scene}, params["painter"])
    other_logp, other_mean = model.assess(other | {"scene": scene}, params["painter"])
    assert logp == other_logp
    np.testing.assert_array_equal(mean, other_mean)
    pres = jnp.log(0.05) + jnp.log1p(-(0.05**2.3))  # and once absent, certainly absent
    where = -0.5 * (0.01 + 0.04) - jnp.log(0.2) - 1.5 * jnp.log(2 * jnp.pi)
    what = -25.0 - 25.0 * jnp.log(2 * jnp.pi)
    pixels = -0.5 * jnp.sum((mean / 0.3) ** 2) - 2500 * (jnp.log(0.3) + 0.5 * jnp.log(2 * jnp.pi))
    np.testing.assert_allclose(logp, pres + where + what + pixels, rtol=1e-5)


@pytest.mark.slow
def test_no_image_gives_nan(params):
    """Blank, full and random scenes, with networks as they start, far too large, and after steps far too long."""
    images = jnp.stack([jnp.zeros((50, 50)), jnp.ones((50, 50)), jax.random.uniform(jax.random.key(0), (50, 50))])
    objective, adam = elbo({"**/pres": tg.reinforce()})(scanned=True), optax.adam(0.03)
    arrays, static = eqx.partition(params, eqx.is_inexact_array)

    @jax.jit
    def step(arrays, state, key):
        loss, grads = jax.value_and_grad(lambda a: -objective(key, eqx.combine(a, static), images))(arrays)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes types of its own
            updates, state = adam.update(grads, state)
        return optax.apply_updates(arrays, updates), state, loss

    for scale in (1.0, 0.0, -100.0, 100.0):
        now, state = jax.tree.map(lambda x, c=scale: c * x, arrays), adam.init(arrays)
        for key in jax.random.split(jax.random.key(1), 8):
            now, state, loss = step(now, state, key)
        assert jnp.isfinite(loss)
        assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves((now, state)))


# ---- gradients -------------------------------------------------------------------------------------------------------

ELBOS = ("enum", "mvd", "reinforce", "hybrid", "local-expectation", "reinforce-average", "reinforce-critic")
BOUNDS = {"elbo": ELBOS, "iwelbo": ("iwelbo-mvd", "iwelbo-reinforce", "iwelbo-vimco")}


def presence_gradients(name, params, image, keys, *, scanned=False):
    """The gradient in the bias of the presence, and along one direction of its weights: shape (keys, 2)."""
    objective = METHODS[name].objective(scanned=scanned)
    direction = jax.random.normal(jax.random.key(9), params["recogniser"].presence.weight.shape)

    def value(xs, key):
        head = params["recogniser"].presence
        head = eqx.tree_at(lambda h: (h.bias, h.weight), head, (head.bias + xs[0], head.weight + xs[1] * direction))
        filled = eqx.tree_at(lambda p: p["recogniser"].presence, params, head)
        if METHODS[name].state is None:
            return objective(key, filled, image)
        return objective(key, filled, image, METHODS[name].state.update(jnp.asarray(400.0)))[0]

    run = jax.jit(lambda keys: jax.lax.map(lambda k: jax.grad(value)(jnp.zeros(2), k), keys, batch_size=250))
    return np.asarray(run(keys), np.float64)


@pytest.fixture(scope="module")
def gradients(params, image):
    """`(name, seed, n, scanned)` to gradients at so many keys; what several are compared with is computed once."""

    @functools.cache
    def of(name, seed, n, scanned):
        return presence_gradients(name, params, image, jax.random.split(jax.random.key(seed), n), scanned=scanned)

    return of


def assert_agree(one, other, gradients, *, scanned=False):
    """Means over 1,000 keys agree to |z| < 4, or else over 16 times as many fresh ones to |z| < 5."""
    for n, most, seed in ((1000, 4.0, 5), (16000, 5.0, 6)):
        a, b = gradients(one, seed, n, False), gradients(other, seed + 10, n, scanned)  # noqa: FBT003
        z = (a.mean(0) - b.mean(0)) / np.sqrt((a.var(0) + b.var(0)) / n)
        if np.all(np.abs(z) < most):
            assert np.all(np.abs(a.mean(0)) > 5 * a.std(0) / np.sqrt(n))  # not for want of power
            return
    pytest.fail(f"{one} {a.mean(0)}, {other} {b.mean(0)}: z = {z}")


@pytest.mark.slow
def test_the_weak_derivative_agrees_with_the_exact_sum(gradients):
    assert_agree("enum", "mvd", gradients, scanned=True)


@pytest.mark.slow
@pytest.mark.parametrize(("bound", "name"), [(b, name) for b, names in BOUNDS.items() for name in names[1:]])
def test_all_estimators_agree(bound, name, gradients):
    assert_agree(BOUNDS[bound][0], name, gradients)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in METHODS if n not in (*UNROLLED_ONLY, "wake-sleep")])
def test_they_agree_through_scan_too(name, gradients):
    assert_agree("iwelbo-mvd" if name.startswith("iwelbo") else "enum", name, gradients, scanned=True)


# ---- training and the command ----------------------------------------------------------------------------------------


def test_accuracy_is_the_share_of_scenes_counted_right(params):
    scenes = air_scenes.make_scenes(SQUARES, 60, 5)
    for bias, count in ((-1e3, 0), (1e3, 3)):
        certain = eqx.tree_at(lambda p: p["recogniser"].presence.bias, params, jnp.full((1,), bias))
        accuracy, _ = air.evaluate(certain, scenes, jax.random.key(0))
        assert accuracy == pytest.approx(np.mean(scenes.counts == count), abs=1e-6)


@pytest.mark.slow
def test_the_command_leaves_its_files(tmp_path, capsys):
    air.run(air.parse(["--quick", "--scanned", "--methods", "mvd", "--output", str(tmp_path / "new")]))
    lines = (tmp_path / "new" / "air.csv").read_text().splitlines()
    assert lines[0].split(",") == list(air.Report._fields)
    assert [line.split(",")[:3] for line in lines[1:]] == [["mvd", "0.03125", "2"], ["mvd", "0.0625", "4"]]
    for picture in ("curves.png", "scenes.png"):
        assert (tmp_path / "new" / picture).stat().st_size > 5000
    restored = eqx.tree_deserialise_leaves(tmp_path / "new" / "mvd.eqx", parameters(jax.random.key(1)))
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(eqx.filter(restored, eqx.is_array)))
    assert "accuracy" in capsys.readouterr().out
