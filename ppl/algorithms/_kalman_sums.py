"""The recursions of Kalman, Rauch, Tung and Striebel: over the steps one after another, or as associative scans.

A filtered state is a mean (d,) and a covariance (d, d) given what was seen until then. Covariances are updated in
Joseph's form, a sum of two that are positive, so that rounding does not make them indefinite. What is missing is given
a row of zeros, a residual of zero and a variance of one, and taken out of the count of what was seen.

Source: Särkkä and García-Fernández, Temporal Parallelization of Bayesian Smoothers, 2021.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp
from jax.scipy.linalg import cho_solve, solve_triangular

from ._linear_chain import Steps


class State(NamedTuple):
    """A normal: stacked, or of one step."""

    mean: Any
    covariance: Any


def _symmetric(x):
    return 0.5 * (x + jnp.swapaxes(x, -1, -2))


def present(steps: Steps) -> Steps:
    """The steps, with what is missing as an observation that says nothing."""
    there, both = steps.there, steps.there[..., :, None] & steps.there[..., None, :]
    look, level = jnp.where(there[..., None], steps.look, 0.0), jnp.where(there, steps.level, 0.0)
    blur = jnp.where(both, steps.blur, jnp.eye(there.shape[-1], dtype=steps.blur.dtype))
    return steps._replace(look=look, level=level, blur=blur, seen=jnp.where(there, steps.seen, 0.0))


def predicted(state: State, step: Steps) -> State:
    """The state after one step, before what is seen there."""
    spread = step.move @ state.covariance @ step.move.T + step.noise
    return State(step.move @ state.mean + step.drift, _symmetric(spread))


def _gain(covariance, step):
    """The Cholesky factor of the residual's covariance, and the gain (d, k)."""
    crossed = step.look @ covariance
    lower = jnp.linalg.cholesky(_symmetric(crossed @ step.look.T + step.blur))
    return lower, cho_solve((lower, True), crossed).T


def updated(state: State, step: Steps) -> tuple[State, Any]:
    """A predicted state given what is seen, and the log density of that."""
    if not step.seen.shape[-1]:
        return state, jnp.zeros((), state.mean.dtype)
    lower, gain = _gain(state.covariance, step)
    residual = step.seen - step.look @ state.mean - step.level
    kept = jnp.eye(len(state.mean), dtype=gain.dtype) - gain @ step.look
    covariance = kept @ state.covariance @ kept.T + gain @ step.blur @ gain.T
    count = jnp.sum(step.there.astype(gain.dtype))
    logp = log_normal(solve_triangular(lower, residual, lower=True), lower, count)
    return State(state.mean + gain @ residual, _symmetric(covariance)), logp


def log_normal(white: Any, lower: Any, count: Any) -> Any:
    """The log density of a normal from its whitened residual, the factor of its covariance, and how much was seen."""
    scale = jnp.sum(jnp.log(jnp.diagonal(lower)))
    return -0.5 * jnp.sum(white**2) - scale - 0.5 * float(np.log(2.0 * np.pi)) * count


def _stack(first, later):
    return jax.tree.map(lambda x, xs: jnp.concatenate([x[None], xs]), first, later)


def one_by_one(start: Steps, later: Steps) -> tuple[State, Any]:
    """The filtered states, stacked, and the log density of all that is seen."""

    def body(state, step):
        state, logp = updated(predicted(state, step), step)
        return state, (state, logp)

    first, logp = updated(State(start.drift, start.noise), start)
    _, (states, logps) = lax.scan(body, first, later)
    return _stack(first, states), logp + jnp.sum(logps)


class Element(NamedTuple):
    """What some steps make of the state before them: it becomes normal(a x + b, c), its weight exp(x e - x j x / 2)."""

    a: Any
    b: Any
    c: Any
    e: Any
    j: Any


def _element(step):
    """That of one step."""
    eye = jnp.eye(step.noise.shape[-1], dtype=step.noise.dtype)
    if not step.seen.shape[-1]:
        return Element(step.move, step.drift, step.noise, jnp.zeros_like(step.drift), jnp.zeros_like(step.noise))
    lower, gain = _gain(step.noise, step)
    residual = step.seen - step.look @ step.drift - step.level
    kept = eye - gain @ step.look
    back = cho_solve((lower, True), step.look @ step.move).T
    covariance = kept @ step.noise @ kept.T + gain @ step.blur @ gain.T
    return Element(
        kept @ step.move, step.drift + gain @ residual, covariance, back @ residual, back @ step.look @ step.move
    )


def _joined(one, other):
    """That of one step and then another."""
    eye = jnp.eye(one.c.shape[-1], dtype=one.c.dtype)
    forwards = other.a @ jnp.linalg.inv(eye + one.c @ other.j)
    backwards = one.a.T @ jnp.linalg.inv(eye + other.j @ one.c)
    return Element(
        forwards @ one.a,
        forwards @ (one.b + one.c @ other.e) + other.b,
        _symmetric(forwards @ one.c @ other.a.T + other.c),
        backwards @ (other.e - other.j @ one.b) + one.e,
        _symmetric(backwards @ other.j @ one.a + one.j),
    )


def in_parallel(start: Steps, later: Steps) -> tuple[State, Any]:
    """The same, by an associative scan: a number of rounds that grows with the logarithm of the steps."""
    first, logp = updated(State(start.drift, start.noise), start)
    nothing = jnp.zeros_like(first.covariance)
    head = Element(nothing, first.mean, first.covariance, jnp.zeros_like(first.mean), nothing)
    joined = lax.associative_scan(jax.vmap(_joined), _stack(head, jax.vmap(_element)(later)))
    states = State(joined.b, joined.c)
    earlier = jax.tree.map(lambda x: x[:-1], states)
    logps = jax.vmap(lambda state, step: updated(predicted(state, step), step)[1])(earlier, later)
    return states, logp + jnp.sum(logps)


class Backward(NamedTuple):
    """How a state is drawn given the next one: gain x + drift + lower times noise; stacked."""

    gain: Any
    drift: Any
    lower: Any


def _backward(state, step):
    after = predicted(state, step)
    gain = cho_solve((jnp.linalg.cholesky(after.covariance), True), step.move @ state.covariance).T
    kept = jnp.eye(len(state.mean), dtype=gain.dtype) - gain @ step.move
    covariance = kept @ state.covariance @ kept.T + gain @ step.noise @ gain.T
    return Backward(gain, state.mean - gain @ after.mean, jnp.linalg.cholesky(_symmetric(covariance)))


def drawn(states: State, later: Steps | None, noise: Any, *, parallel: bool) -> tuple[Any, Any]:
    """Draw all states given all that was seen, from standard normal noise (t, d), the last one first.

    Returns:
        The states (t, d), and their log density.
    """
    last = jnp.linalg.cholesky(states.covariance[-1])
    end = states.mean[-1] + last @ noise[-1]
    if later is None:
        return end[None], log_normal(noise, last, noise.size)
    back = jax.vmap(_backward)(jax.tree.map(lambda x: x[:-1], states), later)
    drift = back.drift + jnp.einsum("tij,tj->ti", back.lower, noise[:-1])
    lowers = jnp.concatenate([back.lower, last[None]])
    logps = jax.vmap(lambda white, lower: log_normal(white, lower, float(white.size)))(noise, lowers)
    return (_affine_scan if parallel else _affine_loop)(back.gain, drift, end), jnp.sum(logps)


def _affine_loop(gains, drifts, end):
    def body(after, at):
        here = at[0] @ after + at[1]
        return here, here

    _, earlier = lax.scan(body, end, (gains, drifts), reverse=True)
    return jnp.concatenate([earlier, end[None]])


def _affine_scan(gains, drifts, end):
    gains = jnp.concatenate([gains, jnp.zeros_like(gains[:1])])
    drifts = jnp.concatenate([drifts, end[None]])

    def joined(after, before):
        return before[0] @ after[0], jnp.einsum("tij,tj->ti", before[0], after[1]) + before[1]

    return lax.associative_scan(joined, (gains, drifts), reverse=True)[1]
