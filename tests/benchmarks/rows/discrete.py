"""Rows of discrete choices: a Gaussian mixture by five ways, and a sigmoid belief network by every estimator."""

import math

import jax
import numpyro
from jax import numpy as jnp
from numpyro.infer import Trace_ELBO, TraceGraph_ELBO

import tracegrad as tg
from tracegrad import dist

from .. import vae
from ..measure import Case, Row

POINTS, LABELS = 1000, 5
WIDE, DEEP, IMAGES, SITES_FORKED = 784, 200, 4, 8
CRITICAL = 0.5


def _gradients(runs):
    return {name: jax.value_and_grad(run, argnums=1) for name, run in runs.items()}


# ---- a Gaussian mixture ---------------------------------------------------------------------------------------------


def _points(n):
    labels = jnp.arange(n) % LABELS
    return 4.0 * labels - 8.0 + jax.random.normal(jax.random.key(1), (n,))


def _normal(x, loc, scale):
    return -0.5 * ((x - loc) / scale) ** 2 - math.log(scale) - 0.5 * math.log(2.0 * math.pi)


def _start(n):
    return {"of_means": jnp.linspace(-6.0, 6.0, LABELS), "labels": jnp.zeros((n, LABELS))}


def _mean_of(p):
    return dist.Normal(p["of_means"], 0.3).to_event(1)


PRIOR = dist.Normal(jnp.zeros(LABELS), 5.0).to_event(1)


@tg.gen
def _point(means):
    z = tg.sample("z", dist.Categorical(logits=jnp.zeros(LABELS)))
    tg.sample("x", dist.Normal(means[z], 1.0))


def _densities(x, means):
    """Of each point under each label, with the label's own."""
    return _normal(x[:, None], means, 1.0) - math.log(LABELS)


def _terms_by_hand(key, p):
    noise = jax.random.normal(key, (LABELS,))
    means = p["of_means"] + 0.3 * noise
    return means, (_normal(means, 0.0, 5.0) - _normal(means, p["of_means"], 0.3)).sum()


def _summed_out(n):
    """The labels are summed out of the density."""

    @tg.gen
    def model():
        means = tg.sample("means", PRIOR)
        tg.sample("points", tg.marginal(_point, "x", tg.exact()).repeat(n)(means))

    family = tg.gen(lambda p: tg.sample("means", _mean_of(p)))

    def ours(key, p, x):
        return tg.elbo(model, family, {"points": {"x": x}})(key, (), (p,))

    def hand(key, p, x):
        means, rest = _terms_by_hand(key, p)
        return rest + jax.nn.logsumexp(_densities(x, means), axis=1).sum()

    def their_model(x):
        means = numpyro.sample("means", PRIOR)
        mixture = dist.MixtureSameFamily(dist.Categorical(logits=jnp.zeros(LABELS)), dist.Normal(means, 1.0))
        with numpyro.plate("points", n):
            numpyro.sample("x", mixture, obs=x)

    def their_family(x):
        numpyro.sample("means", dist.Normal(numpyro.param("of_means"), 0.3).to_event(1))

    def theirs(key, p, x):
        return Trace_ELBO().loss(key, p, their_model, their_family, x)

    runs = _gradients({"ours": ours, "hand": hand, "theirs": theirs})
    args = jax.random.key(0), {"of_means": _start(n)["of_means"]}, _points(n)
    return Case(args, {"": runs["ours"]}, runs["hand"], runs["theirs"])


def _with_labels(n):
    """The labels have a family of their own; by hand its mean is written out."""

    @tg.gen
    def model():
        tg.sample("points", _point.repeat(n)(tg.sample("means", PRIOR)))

    label = tg.gen(lambda logits: tg.sample("z", dist.Categorical(logits=logits)))

    @tg.gen
    def family(p):
        tg.sample("means", _mean_of(p))
        tg.sample("points", label.vmap()(p["labels"]))

    def by(estimator):
        guide = family.with_estimators({"points/z": estimator})
        return lambda key, p, x: tg.elbo(model, guide, {"points": {"x": x}})(key, (), (p,))

    def hand(key, p, x):
        means, rest = _terms_by_hand(key, p)
        logq = jax.nn.log_softmax(p["labels"])
        return rest + (jnp.exp(logq) * (_densities(x, means) - logq)).sum()

    def their_model(x):
        means = numpyro.sample("means", PRIOR)
        with numpyro.plate("points", n):
            z = numpyro.sample("z", dist.Categorical(logits=jnp.zeros(LABELS)))
            numpyro.sample("x", dist.Normal(means[z], 1.0), obs=x)

    def their_family(x):
        numpyro.sample("means", dist.Normal(numpyro.param("of_means"), 0.3).to_event(1))
        with numpyro.plate("points", n):
            numpyro.sample("z", dist.Categorical(logits=numpyro.param("labels")))

    def theirs(key, p, x):
        return TraceGraph_ELBO().loss(key, p, their_model, their_family, x)

    @tg.expectation
    def of_point(key, logits, means, x):
        q = label.with_estimators({"z": tg.enum()}).simulate(key, logits)
        return _point.assess(q.choices | {"x": x}, means)[0] - q.logp

    def enumerated(key, p, x):
        """Labels of a plate are enumerated together, which no machine can: so each point is an expectation."""
        of_means, of_labels = jax.random.split(key)
        means, rest = _terms_by_hand(of_means, p)
        keys = jax.random.split(of_labels, n)
        return rest + jax.vmap(of_point, (0, 0, None, 0))(keys, p["labels"], means, x).sum()

    ways = {"local expectation": tg.local_expectation(), "mvd": tg.mvd(), "reinforce": tg.reinforce()}
    ours = _gradients({"enumerated": enumerated} | {name: by(estimator) for name, estimator in ways.items()})
    others = _gradients({"hand": hand, "theirs": theirs})
    return Case((jax.random.key(0), _start(n), _points(n)), ours, others["hand"], others["theirs"], spread=True)


# ---- a sigmoid belief network: 784 pixels, two layers of 200 coins ---------------------------------------------------


def _network(key):
    keys = jax.random.split(key, 4)
    sizes = {"to_h1": (WIDE, DEEP), "to_h2": (DEEP, DEEP), "from_h2": (DEEP, DEEP), "from_h1": (DEEP, WIDE)}
    return {name: vae.layer(key, *size) for key, (name, size) in zip(keys, sizes.items(), strict=True)}


def _coins(logits):
    return dist.Bernoulli(logits=logits).to_event(1)


@tg.gen
def _belief_network(p):
    h2 = tg.sample("h2", _coins(jnp.zeros(DEEP))).astype(float)
    h1 = tg.sample("h1", _coins(vae.linear(p["from_h2"], h2))).astype(float)
    tg.sample("x", _coins(vae.linear(p["from_h1"], h1)))


@tg.gen
def _recogniser(p, x):
    h1 = tg.sample("h1", _coins(vae.linear(p["to_h1"], x))).astype(float)
    tg.sample("h2", _coins(vae.linear(p["to_h2"], h1)))


def _score(x, logits):
    return vae.bernoulli_log_probability(x, logits).sum(-1)


def _belief_by_hand(key, p, images):
    """The score function, each layer credited with what it changes."""
    u1, u2 = jax.random.uniform(key, (2, len(images), DEEP))
    to_h1 = vae.linear(p["to_h1"], images)
    h1 = (u1 < jax.nn.sigmoid(to_h1)).astype(float)
    to_h2 = vae.linear(p["to_h2"], h1)
    h2 = (u2 < jax.nn.sigmoid(to_h2)).astype(float)
    prior, middle = _score(h2, jnp.zeros(DEEP)), _score(h1, vae.linear(p["from_h2"], h2))
    q1, q2 = _score(h1, to_h1), _score(h2, to_h2)
    below = prior + middle - q2
    total = below + _score(images, vae.linear(p["from_h1"], h1)) - q1
    scores = q1 * jax.lax.stop_gradient(total) + q2 * jax.lax.stop_gradient(below)
    # The scores themselves have mean zero, so what of them is in `total` is left as it is.
    return (total + scores - jax.lax.stop_gradient(scores)).mean()


def _their_network(p, images):
    with numpyro.plate("images", len(images)):
        h2 = numpyro.sample("h2", dist.Bernoulli(logits=jnp.zeros((len(images), DEEP))).to_event(1)).astype(float)
        h1 = numpyro.sample("h1", _coins(vae.linear(numpyro.param("from_h2"), h2))).astype(float)
        numpyro.sample("x", _coins(vae.linear(numpyro.param("from_h1"), h1)), obs=images)


def _their_recogniser(p, images):
    with numpyro.plate("images", len(images)):
        h1 = numpyro.sample("h1", _coins(vae.linear(numpyro.param("to_h1"), images))).astype(float)
        numpyro.sample("h2", _coins(vae.linear(numpyro.param("to_h2"), h1)))


def _belief(n):
    def by(estimator, forks):
        guide = _recogniser.with_estimators({"*": estimator})

        def bound(key, p, x):
            given = tg.elbo(_belief_network, guide, {"x": x})
            given = given if forks is None else tg.with_estimators(given, {}, forks=forks)
            return given(key, (p,), (p, x))

        return lambda key, p, images: jax.vmap(bound, (0, None, 0))(
            jax.random.split(key, len(images)), p, images
        ).mean()

    def theirs(key, p, images):
        return TraceGraph_ELBO().loss(key, p, _their_network, _their_recogniser, p, images) / len(images)

    def critic(h):
        return CRITICAL * h.sum()

    ways = {
        "reinforce": (tg.reinforce(), None),
        "mvd": (tg.mvd(), None),
        "mvd, 8 forks": (tg.mvd(), SITES_FORKED),
        "local expectation": (tg.local_expectation(), None),
        "local expectation, 8 forks": (tg.local_expectation(), SITES_FORKED),
        "sum_and_sample, 8 forks": (tg.sum_and_sample(), SITES_FORKED),
        "unordered_set": (tg.unordered_set(2), None),
        "arm": (tg.arm(), None),
        "disarm": (tg.disarm(), None),
        "rebar": (tg.rebar(), None),
        "relax": (tg.relax(critic), None),
    }
    ours = _gradients({name: by(*way) for name, way in ways.items()})
    others = _gradients({"hand": _belief_by_hand, "theirs": theirs})
    args = jax.random.key(0), _network(jax.random.key(1)), vae.images(jax.random.key(2), n)
    return Case(args, ours, others["hand"], others["theirs"], spread=True)


ROWS = {
    "Gaussian mixture, exact marginal": Row(_summed_out, (POINTS,)),
    "Gaussian mixture with labels": Row(_with_labels, (POINTS,)),
    "sigmoid belief network 784-200-200": Row(_belief, (IMAGES,)),
}
