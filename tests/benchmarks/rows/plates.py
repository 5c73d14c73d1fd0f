"""Rows of plates: normal draws in bulk, logistic regression, groups."""

import math

import jax
import numpyro
from jax import numpy as jnp
from numpyro.infer import Trace_ELBO

import tracegrad as tg
from tracegrad import dist

from .. import noise, vae
from ..measure import Case, Row

ROWS_OF_DATA, FEATURES, BATCH = 100_000, 100, 256
GROUPS, IN_GROUP = 1000, 10


def _plates(shape):
    shape = (shape,) if isinstance(shape, int) else tuple(map(int, shape.split("x")))
    runs = noise.plates(shape)
    args = jax.random.key(0), jnp.full(shape, 0.7)
    return Case(args, {"": runs["ours"]}, runs["hand"], runs["NumPyro"])


def _normal(x, loc, scale):
    return -0.5 * ((x - loc) / scale) ** 2 - jnp.log(scale) - 0.5 * math.log(2.0 * math.pi)


def _logistic(rows):
    """Weights of 100 features, a normal family for each, `rows` rows of 100,000."""
    scale = ROWS_OF_DATA / rows
    x = jax.random.normal(jax.random.key(1), (rows, FEATURES))
    y = jax.random.bernoulli(jax.random.key(2), jax.nn.sigmoid(x[:, 0])).astype(float)
    start = {"loc": jnp.zeros(FEATURES), "log_scale": jnp.full(FEATURES, -2.0)}

    @tg.gen
    def model(x):
        w = tg.sample("w", dist.Normal(jnp.zeros(FEATURES), 1.0).to_event(1))
        tg.sample("y", dist.Bernoulli(logits=x @ w).to_event(1))

    @tg.gen
    def family(p):
        tg.sample("w", dist.Normal(p["loc"], jnp.exp(p["log_scale"])).to_event(1))

    def ours(key, p, x, y):
        return tg.elbo(model, family, {"y": y}, scale={"y": scale})(key, (x,), (p,))

    def hand(key, p, x, y):
        noise = jax.random.normal(key, (FEATURES,))
        deviation = jnp.exp(p["log_scale"])
        w = p["loc"] + deviation * noise
        likelihood = vae.bernoulli_log_probability(y, x @ w).sum()
        return scale * likelihood + (_normal(w, 0.0, 1.0) - _normal(w, p["loc"], deviation)).sum()

    def their_model(x, y):
        w = numpyro.sample("w", dist.Normal(jnp.zeros(FEATURES), 1.0).to_event(1))
        with numpyro.plate("rows", ROWS_OF_DATA, subsample_size=rows):
            numpyro.sample("y", dist.Bernoulli(logits=x @ w), obs=y)

    def their_family(x, y):
        loc, log_scale = numpyro.param("loc"), numpyro.param("log_scale")
        numpyro.sample("w", dist.Normal(loc, jnp.exp(log_scale)).to_event(1))

    def theirs(key, p, x, y):
        return Trace_ELBO().loss(key, p, their_model, their_family, x, y)

    runs = (jax.value_and_grad(run, argnums=1) for run in (ours, hand, theirs))
    args = jax.random.key(0), start, x, y
    return _case(args, *runs)


def _case(args, ours, hand, theirs):
    return Case(args, {"": ours}, hand, theirs)


def _groups(n):
    """Means of groups around one mean, with the spread of them unknown; ten observations of each."""
    y = jax.random.normal(jax.random.key(1), (n, IN_GROUP))
    start = {name: jnp.zeros(2) for name in ("of_mu", "of_tau")} | {"loc": jnp.zeros(n), "log_scale": jnp.zeros(n)}

    def group_of(own):
        @tg.gen
        def group(mu, tau):
            theta = tg.sample("theta", dist.Normal(mu, tau))
            tg.sample("y", dist.Normal(theta, 1.0).expand([IN_GROUP]).to_event(1))

        own_group = tg.gen(lambda loc, scale: tg.sample("theta", dist.Normal(loc, scale)))
        return own_group.vmap() if own else group.repeat(n)

    @tg.gen
    def model():
        mu = tg.sample("mu", dist.Normal(0.0, 5.0))
        tau = tg.sample("tau", dist.LogNormal(0.0, 1.0))
        tg.sample("groups", group_of(own=False)(mu, tau))

    @tg.gen
    def family(p):
        tg.sample("mu", dist.Normal(p["of_mu"][0], jnp.exp(p["of_mu"][1])))
        tg.sample("tau", dist.LogNormal(p["of_tau"][0], jnp.exp(p["of_tau"][1])))
        tg.sample("groups", group_of(own=True)(p["loc"], jnp.exp(p["log_scale"])))

    def ours(key, p, y):
        return tg.elbo(model, family, {"groups": {"y": y}})(key, (), (p,))

    def hand(key, p, y):
        noise = jax.random.normal(key, (n + 2,))
        mu, log_tau = (
            p[name][0] + jnp.exp(p[name][1]) * e for name, e in zip(("of_mu", "of_tau"), noise[:2], strict=True)
        )
        tau, scale = jnp.exp(log_tau), jnp.exp(p["log_scale"])
        theta = p["loc"] + scale * noise[2:]
        logp = _normal(mu, 0.0, 5.0) + _normal(log_tau, 0.0, 1.0) + _normal(theta, mu, tau).sum()
        logp += _normal(y, theta[:, None], 1.0).sum()
        logq = _normal(mu, p["of_mu"][0], jnp.exp(p["of_mu"][1])) + _normal(
            log_tau, p["of_tau"][0], jnp.exp(p["of_tau"][1])
        )
        return logp - logq - _normal(theta, p["loc"], scale).sum()

    def their_model(y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = numpyro.sample("tau", dist.LogNormal(0.0, 1.0))
        with numpyro.plate("groups", n):
            theta = numpyro.sample("theta", dist.Normal(mu, tau))
            numpyro.sample("y", dist.Normal(theta[:, None], 1.0).expand([n, IN_GROUP]).to_event(1), obs=y)

    def their_family(y):
        mu, tau = numpyro.param("of_mu"), numpyro.param("of_tau")
        numpyro.sample("mu", dist.Normal(mu[0], jnp.exp(mu[1])))
        numpyro.sample("tau", dist.LogNormal(tau[0], jnp.exp(tau[1])))
        with numpyro.plate("groups", n):
            numpyro.sample("theta", dist.Normal(numpyro.param("loc"), jnp.exp(numpyro.param("log_scale"))))

    def theirs(key, p, y):
        return Trace_ELBO().loss(key, p, their_model, their_family, y)

    return _case((jax.random.key(0), start, y), *(jax.value_and_grad(run, argnums=1) for run in (ours, hand, theirs)))


ROWS = {
    "plate of normals": Row(_plates, (100_000, 1_000_000)),
    "nested plates of normals": Row(_plates, ("100x100",)),
    "logistic regression, 100,000 rows": Row(_logistic, (ROWS_OF_DATA,)),
    "logistic regression, minibatch": Row(_logistic, (BATCH,)),
    "hierarchical plate": Row(_groups, (GROUPS,)),
}
