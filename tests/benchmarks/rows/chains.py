"""Rows of loops and of programs that are written out: state spaces, binary chains, hidden Markov models, many sites."""

from functools import partial

import jax
from jax import lax
from jax import numpy as jnp

import tracegrad as tg
from tracegrad import dist

from .. import hmm, loops, noise
from ..measure import Case, Row

LONG, FORKS = 400, 8


def _start(n):
    return jax.random.key(0), jnp.full(n, 0.5)


def _state_space(n):
    law, estimator, draw = loops.CHAINS["normal, reparam"]
    ours, hand, numpyro = loops.ours(n, law, estimator), loops.by_hand(n, law, draw), loops.numpyros(n, law)
    return Case(_start(n), {"": ours}, hand, numpyro)


def _binary_by_hand(n):
    _, _, draw = loops.CHAINS["binary, reinforce"]
    return loops.by_hand(n, loops.binary_law, draw)


def _binary(n, estimator, hand):
    """NumPyro's gradient is biased here, and counts for its cost alone."""
    ours = loops.ours(n, loops.binary_law, estimator)
    return Case(_start(n), {"": ours}, hand(n), loops.numpyros(n, loops.binary_law))


def _forked_by_hand(n):
    """Each state turned over in a lane of its own, the noise after it shared."""
    ys, law = loops.data(n), loops.binary_law

    def value(w, xs):
        before = jnp.concatenate([jnp.zeros(1), xs[:-1]])
        gains = law(before, 0.9).log_prob(xs) + dist.Normal(xs, 0.5).log_prob(ys) - law(before, w).log_prob(xs)
        return gains.sum()

    def states(w, noise, turned=-1):
        def step(c, at):
            u, w, i = at
            x = (u < jax.nn.sigmoid(w + c)).astype(float)
            x = jnp.where(i == turned, 1.0 - x, x)
            return x, x

        return lax.scan(step, jnp.zeros(()), (noise, w, jnp.arange(n)))[1]

    def elbo(key, w):
        noise = jax.random.uniform(key, (n,))
        xs = states(w, noise)
        others = jax.vmap(lambda i: value(w, states(w, noise, i)))(jnp.arange(n))
        found = value(w, xs)
        gains = lax.stop_gradient((found - others) * (2.0 * xs - 1.0))
        chances = jax.nn.sigmoid(w + jnp.concatenate([jnp.zeros(1), xs[:-1]]))
        forked = (chances * gains).sum()
        return found + forked - lax.stop_gradient(forked)

    return jax.value_and_grad(elbo, argnums=1)


def _many_coins(n):
    def forked(estimator, forks=None):
        bound = tg.elbo(*loops.programs(n, loops.binary_law, estimator))
        bound = bound if forks is None else tg.with_estimators(bound, {}, forks=forks)
        return jax.value_and_grad(lambda key, w: bound(key, (), (w,)), argnums=1)

    ours = {"mvd, 8 forks": forked(tg.mvd(), FORKS), "mvd, all": forked(tg.mvd()), "reinforce": forked(tg.reinforce())}
    return Case(_start(n), ours, _binary_by_hand(n), None, spread=True)


def _hidden_markov(n):
    args = None, hmm.parameters(), 2.0 * jax.random.normal(jax.random.key(1), (n,))

    def of(run):
        return jax.value_and_grad(lambda _, w, ys: run(w, ys), argnums=1)

    try:
        import funsor  # noqa: F401
    except ImportError:  # NumPyro's enumeration needs it
        return Case(args, {"": of(hmm.ours)}, of(hmm.scaled))
    return Case(args, {"": of(hmm.ours)}, of(hmm.scaled), of(hmm.numpyros))


def _unrolled(n):
    """NumPyro's at 100 sites takes XLA three minutes."""
    by_hand = noise.unrolled_by_hand(n, lambda key, n: jax.random.normal(key, (n,)))
    args = jax.random.key(0), jnp.full(n, 0.7)
    return Case(args, {"": noise.unrolled(n)}, by_hand, noise.unrolled_in_numpyro(n) if n < 100 else None)


ROWS = {
    "state space in scan": Row(_state_space, loops.LENGTHS),
    "binary chain in scan, reinforce": Row(
        partial(_binary, estimator=tg.reinforce(), hand=_binary_by_hand), (300, 1000)
    ),
    "binary chain in scan, mvd, all forks": Row(
        partial(_binary, estimator=tg.mvd(), hand=_forked_by_hand), (300, 1000)
    ),
    "400 binary sites": Row(_many_coins, (LONG,)),
    "hidden Markov model, forward_filter": Row(_hidden_markov, hmm.STEPS),
    "unrolled normal sites, 64 lanes": Row(_unrolled, (10, *noise.SITES)),
}
