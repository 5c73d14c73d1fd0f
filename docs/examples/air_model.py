"""The model and the variational family of "attend, infer, repeat" (Eslami et al., NeurIPS 2016).

A scene is made in three steps. Each decides whether there is one more digit (pres; once there is none there is none
again), and if so where it is (where) and what it looks like (what). The family looks at the scene and decides the same.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from air_networks import HIDDEN, WHAT, WHERE, Painter, Recogniser, read, write

import tracegrad as tg
from tracegrad import dist

STEPS, NOISE = 3, 0.3
PRESENT = (0.05, 0.05**2.3, 0.05**5)
PLACE, SPREAD = (3.0, 0.0, 0.0), (0.2, 1.0, 1.0)
SCENE = (50, 50)

# ---- one step, and the steps in a loop: `scan` or Python's ----------------------------------------------------------


def normal(loc, scale, present):
    """Independent normals that count where there is a digit: without one they have no density."""
    return dist.Normal(loc, scale).to_event(1).mask(present)


class Making(eqx.Module):
    """How a scene is made."""

    painter: Painter

    @tg.gen
    def step(self, state, probability):
        canvas, before = state
        present = tg.sample("pres", dist.Bernoulli(probability * before)).astype(float)
        where = tg.sample("where", normal(jnp.asarray(PLACE), jnp.asarray(SPREAD), present > 0.0))
        what = tg.sample("what", normal(jnp.zeros(WHAT), jnp.ones(WHAT), present > 0.0))
        return (canvas + present * write(self.painter(what), where), present), None


class Looking(eqx.Module):
    """How a scene is looked at."""

    networks: Recogniser
    scene: jax.Array
    seen: jax.Array

    @tg.gen
    def step(self, state, _):
        memory, latents = state
        memory = self.networks.recurrence(self.seen, latents, memory)
        probability = bounded_sigmoid(self.networks.presence(memory[0])[0])
        present = tg.sample("pres", dist.Bernoulli(probability * latents[-1])).astype(float)
        shift, spread = jnp.split(self.networks.place(memory[0]), 2)
        where = tg.sample(
            "where", normal(jnp.asarray(PLACE) + shift, jnp.asarray(SPREAD) * positive(spread), present > 0.0)
        )
        loc, spread = jnp.split(self.networks.content(read(self.scene, where).reshape(-1)), 2)
        what = tg.sample("what", normal(loc, positive(spread), present > 0.0))
        return (memory, jnp.concatenate([where, what, present[None]])), None


def bounded_sigmoid(x, bound=10.0):
    """A probability that no image can drive to 0 or 1, where the log density and its derivative are infinite."""
    return jax.nn.sigmoid(bound * jnp.tanh(x / bound))


def positive(x):
    return jax.nn.softplus(x) + 1e-3


def repeated(step, state, xs, *, scanned):
    """The last state: the steps as one loop at the address "steps", or one by one at "step0", "step1", "step2"."""
    if scanned:
        return tg.sample("steps", step.scan(STEPS)(state, xs))[0]
    for t in range(STEPS):
        state, _ = tg.sample(f"step{t}", step(state, None if xs is None else xs[t]))
    return state


# ---- the model and the family ----------------------------------------------------------------------------------------


def air(*, scanned=False):
    """The model and the variational family, with the loop of your choice; all else is the same."""

    @tg.gen
    def model(painter):
        nothing_yet = jnp.zeros(SCENE), jnp.ones(())
        mean, _ = repeated(Making(painter).step, nothing_yet, jnp.asarray(PRESENT), scanned=scanned)
        tg.sample("scene", dist.Normal(mean, NOISE).to_event(2))
        return mean

    @tg.gen
    def guide(recogniser, scene):
        nothing_yet = jnp.zeros(WHERE + WHAT + 1).at[-1].set(1.0)
        memory = jnp.zeros(HIDDEN), jnp.zeros(HIDDEN)
        looking = Looking(recogniser, scene, recogniser.recurrence.see(scene))
        repeated(looking.step, (memory, nothing_yet), None, scanned=scanned)

    return model, guide


def present(choices):
    """Whether there is a digit, step by step: shape (3,), from the choices of a trace."""
    return choices["steps"]["pres"] if "steps" in choices else _stacked(choices, "pres")


def places(choices):
    """The windows (scale, row, column), step by step: shape (3, 3)."""
    return choices["steps"]["where"] if "steps" in choices else _stacked(choices, "where")


def _stacked(choices, address):
    return jnp.stack([choices[f"step{t}"][address] for t in range(STEPS)])
