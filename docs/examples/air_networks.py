"""The networks of "attend, infer, repeat", and its spatial transformer: nothing here samples.

A window of 20 x 20 pixels is read from the scene, and written to it, by z_where = (scale, row, column): the point u of
the window is at (u - (row, column)) / scale in the scene, both squares being [-1, 1] x [-1, 1]. There is no rotation,
so bilinear interpolation is one matrix along the rows and one along the columns, and no pixel is gathered.
"""

import equinox as eqx
import jax
import jax.numpy as jnp

SCENE, WINDOW = 50, 20
WHERE, WHAT, HIDDEN = 3, 50, 256
SMALLEST_SCALE = 1.0  # a window as large as the scene

# ---- the spatial transformer -----------------------------------------------------------------------------------------


def centres(n):
    """The centres of n pixels that divide [-1, 1]."""
    return (2.0 * jnp.arange(float(n)) + 1.0) / n - 1.0


def interpolation(points, n):
    """The weight of each of n pixels in the value at each point of [-1, 1]; shape (points, n). Outside is zero."""
    position = 0.5 * (n * (points + 1.0) - 1.0)
    return jnp.maximum(0.0, 1.0 - jnp.abs(position[:, None] - jnp.arange(float(n))[None]))


def read(image, where):
    """The window of an image: (50, 50) to (20, 20)."""
    scale, row, column = jnp.maximum(where[0], SMALLEST_SCALE), where[1], where[2]
    rows, columns = (interpolation((centres(WINDOW) - at) / scale, image.shape[0]) for at in (row, column))
    return rows @ image @ columns.T


def write(window, where):
    """A window put into an empty image: (20, 20) to (50, 50)."""
    scale, row, column = jnp.maximum(where[0], SMALLEST_SCALE), where[1], where[2]
    rows, columns = (interpolation(scale * centres(SCENE) + at, window.shape[0]) for at in (row, column))
    return rows @ window @ columns.T


# ---- networks --------------------------------------------------------------------------------------------------------


class Recurrence(eqx.Module):
    """An LSTM cell of the scene and the latents of the step before.

    The scene is the same at every step, so what it adds to the gates is computed once, by `see`.
    """

    of_scene: jax.Array
    of_latents: jax.Array
    of_hidden: jax.Array
    bias: jax.Array

    def __init__(self, pixels, latents, *, key):
        cell = eqx.nn.LSTMCell(pixels + latents, HIDDEN, key=key)
        self.of_scene, self.of_latents = cell.weight_ih[:, :pixels], cell.weight_ih[:, pixels:]
        self.of_hidden, self.bias = cell.weight_hh, cell.bias

    def see(self, scene):
        return self.of_scene @ scene.reshape(-1) + self.bias

    def __call__(self, seen, latents, state):
        hidden, cell = state
        gates = seen + self.of_latents @ latents + self.of_hidden @ hidden
        enter, forget, candidate, leave = jnp.split(gates, 4)
        cell = jax.nn.sigmoid(forget) * cell + jax.nn.sigmoid(enter) * jnp.tanh(candidate)
        return jax.nn.sigmoid(leave) * jnp.tanh(cell), cell


class Recogniser(eqx.Module):
    """What the variational family computes: from scenes to the parameters of its choices."""

    recurrence: Recurrence
    presence: eqx.nn.Linear
    place: eqx.nn.Linear
    content: eqx.nn.MLP

    def __init__(self, key):
        k1, k2, k3, k4 = jax.random.split(key, 4)
        self.recurrence = Recurrence(SCENE**2, WHERE + WHAT + 1, key=k1)
        self.presence = eqx.nn.Linear(HIDDEN, 1, key=k2)
        self.place = eqx.nn.Linear(HIDDEN, 2 * WHERE, key=k3)
        self.content = eqx.nn.MLP(WINDOW**2, 2 * WHAT, 200, depth=1, key=k4)


class Painter(eqx.Module):
    """From z_what to a window of intensities between 0 and 1, dark at the start."""

    layers: eqx.nn.MLP

    def __init__(self, key):
        self.layers = eqx.nn.MLP(WHAT, WINDOW**2, 200, depth=1, key=key)

    def __call__(self, what):
        return jax.nn.sigmoid(self.layers(what) - 2.0).reshape(WINDOW, WINDOW)


def networks(key):
    """The networks of the model and of the family, at random: 3,071,163 weights."""
    k1, k2 = jax.random.split(key)
    return {"painter": Painter(k1), "recogniser": Recogniser(k2)}
