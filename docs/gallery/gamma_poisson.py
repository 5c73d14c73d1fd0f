"""Counts with gamma rates: empirical Bayes by three gradient estimators, and three divergences for one posterior.

Rates are Gamma(alpha, beta), counts Poisson: the evidence is negative binomial, the posterior a gamma again. So alpha
and beta, learnt together with the family by the bound, must end at the maximum of the evidence, whatever estimates the
gradient: the path, rejection sampling with the score of what it leaves, or the score. They differ in noise. For one
count and a log-normal family, which cannot be right, the bound, the forward and the chi divergence each choose another
width, known by integration: the narrowest, that of the posterior's own log, and the widest.

Source: Naesseth et al., Reparameterization Gradients through Acceptance-Rejection Sampling Algorithms, 2017; Dieng et
al., Variational Inference via chi Upper Bound Minimization, 2017.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from scipy.optimize import minimize
from scipy.special import digamma, polygamma

import tracegrad as tg
from tracegrad import dist

N, COUNT, ALPHA, BETA = 40, 7, 2.0, 0.5
KEY, START = jax.random.key(1), jnp.array([1.0, 0.0])
ESTIMATORS = {"reparam": tg.reparam(), "rsvi(1)": tg.rsvi(1), "reinforce": tg.reinforce()}
BOUNDS = {
    "elbo": (tg.elbo, {"draws": 20}),
    "forward_kl": (tg.forward_kl, {"n": 200}),
    "cubo": (tg.cubo, {"n": 200}),
}


@tg.gen
def model(alpha, beta):
    rate = tg.sample("rate", dist.Gamma(alpha, beta).expand([N]).to_event(1))
    tg.sample("x", dist.Poisson(rate).to_event(1))


@tg.gen
def guide(shape, rate):
    tg.sample("rate", dist.Gamma(shape, rate).to_event(1))


@tg.gen
def one():
    tg.sample("x", dist.Poisson(tg.sample("rate", dist.Gamma(ALPHA, BETA))))


@tg.gen
def log_normal(loc, log_scale):
    tg.sample("rate", dist.LogNormal(loc, jnp.exp(log_scale)))


def loss_of(estimator, x):
    bound = tg.elbo(model, guide.with_estimators({"rate": estimator}), {"x": x})
    return lambda key, w: -bound(key, tuple(jnp.exp(w["prior"])), (jnp.exp(w["shape"]), jnp.exp(w["rate"])))


def divergence(name):
    make, options = BOUNDS[name]
    sign = -1.0 if name == "elbo" else 1.0
    return lambda key, w: sign * make(one, log_normal, {"x": COUNT}, **options)(key, (), tuple(w))


def train(losses, start, steps, rate):
    """Side by side, in one program: a loss and parameters for each name."""

    def total(key, w):
        return sum(losses[name](key, w[name]) for name in losses)

    w, adam = {name: start for name in losses}, optax.adam(optax.cosine_decay_schedule(rate, steps))
    return tg.fit(total, w, adam, key=jax.random.key(0), steps=steps, progress=False).params


def best_by_integration():
    """Location and scale of the best log-normal under each divergence; the posterior is Gamma(9, 1.5)."""
    shape, rate = ALPHA + COUNT, BETA + 1.0
    t = np.linspace(-3.0, 5.0, 4001)
    logp = shape * t - rate * np.exp(t)

    def chi(w):
        logq = -0.5 * ((t - w[0]) / np.exp(w[1])) ** 2 - w[1]
        return np.log(np.sum(np.exp(2.0 * logp - logq - 20.0)))

    forward = digamma(shape) - np.log(rate), 0.5 * np.log(polygamma(1, shape))
    found = minimize(chi, forward, method="Nelder-Mead").x
    return {"elbo": (np.log(shape / rate) - 0.5 / shape, -0.5 * np.log(shape)), "forward_kl": forward, "cubo": found}


def main(*, quick: bool = False):
    rng, steps = np.random.default_rng(0), 600 if quick else 2000
    x = jnp.asarray(rng.poisson(rng.gamma(ALPHA, 1.0 / BETA, N)))

    fit = minimize(lambda w: -dist.GammaPoisson(*np.exp(w)).log_prob(x).sum(), np.zeros(2), method="Nelder-Mead")
    start, keys = {"prior": jnp.zeros(2), "shape": jnp.ones(N), "rate": jnp.zeros(N)}, jax.random.split(KEY, 500)
    losses = {name: loss_of(estimator, x) for name, estimator in ESTIMATORS.items()}
    gradients = {name: jax.jit(jax.vmap(jax.grad(losses[name], 1), (0, None)))(keys, start) for name in losses}
    noise = {name: float(gradient["shape"].var(0).mean()) for name, gradient in gradients.items()}
    alphas = {name: float(jnp.exp(w["prior"][0] - fit.x[0])) for name, w in train(losses, start, steps, 0.1).items()}
    best, found = best_by_integration(), train({name: divergence(name) for name in BOUNDS}, START, steps, 0.03)
    scales = {name: float(jnp.exp(found[name][1] - best[name][1])) for name in best}
    aims = {"reparam": 0.05, "rsvi(1)": 0.1, "reinforce": 0.25}
    rows = [(f"{name}: alpha over that of the MLE", alphas[name], 1.0 - aims[name], 1.0 + aims[name]) for name in aims]
    rows += [
        ("noise of rsvi(1) over that of the path", noise["rsvi(1)"] / noise["reparam"], 1.0, 100.0),
        ("noise of reinforce over that of rsvi(1)", noise["reinforce"] / noise["rsvi(1)"], 3.0, np.inf),
    ]
    rows += [(f"{name}: width over the best, {np.exp(best[name][1]):.4f}", scales[name], 0.985, 1.015) for name in best]
    return rows, draw(noise, found, best)


def draw(noise, found, best):
    figure, axes = plt.subplots(1, 2, figsize=(7, 3), layout="constrained")
    axes[0].bar(list(noise), list(noise.values()))
    axes[0].set(yscale="log", title="variance of the gradient")
    for marker, points, label in (("o", best, "by integration"), ("x", found, "learnt")):
        axes[1].plot(list(best), [float(jnp.exp(points[name][1])) for name in best], marker, label=label)
    axes[1].set_title("width of the log-normal")
    axes[1].legend(frameon=False)
    return figure


if __name__ == "__main__":
    from runner import run

    run(main, __file__)
