"""Logistic regression by minibatches."""

import arviz as az
import jax
import numpyro
import numpyro.distributions as dist
import optax
from numpyro.infer import SVI, Predictive, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal


def logistic(x, y=None, batch=None):
    w = numpyro.sample("w", dist.Normal(0.0, 1.0).expand([x.shape[-1]]).to_event(1))
    with numpyro.plate("rows", len(x), subsample_size=batch):
        some = numpyro.subsample(x, event_dim=1)
        seen = None if y is None else numpyro.subsample(y, event_dim=0)
        numpyro.sample("y", dist.Bernoulli(logits=some @ w), obs=seen)


def run(key, x, y, new, batch=500, steps=5000):
    fit, draw, later = jax.random.split(key, 3)
    guide = AutoNormal(logistic)
    svi = SVI(logistic, guide, optax.adam(optax.cosine_decay_schedule(0.02, steps)), Trace_ELBO())
    params = svi.run(fit, steps, x, y, batch, progress_bar=False).params
    draws = guide.sample_posterior(draw, params, sample_shape=(1000,))
    predicted = Predictive(logistic, draws)(later, new)
    return az.from_dict(posterior={"w": draws["w"][None]}), predicted["y"]
