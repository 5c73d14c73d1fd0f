"""Logistic regression by minibatches."""

import jax
import optax

import tracegrad as tg
from tracegrad import dist


@tg.gen
def logistic(x):
    w = tg.sample("w", dist.Normal(0.0, 1.0).expand([x.shape[-1]]).to_event(1))
    tg.sample("y", dist.Bernoulli(logits=x @ w))


def run(key, x, y, new, batch=500, steps=5000):
    fit, later, rest = jax.random.split(key, 3)
    family = tg.auto.mean_field(tg.Target(logistic, x, {"y": y}))

    def bound(key, params, data, scale):
        return tg.elbo(logistic, family.guide, {"y": data["y"]}, scale={"y": scale})(key, data["x"], params)

    data, adam = {"x": x, "y": y}, optax.adam(optax.cosine_decay_schedule(0.02, steps))
    done = tg.fit(
        bound, family.init(fit), adam, key=fit, steps=steps, data=data, batch_size=batch, maximize=True, progress=False
    )
    posterior = family.posterior(done.params)
    predicted = tg.predictive(logistic, new, draws=posterior, key=later)
    return tg.to_arviz(posterior, key=rest, groups=()), predicted["y"]
