"""Counts with gamma rates: empirical Bayes by three gradient estimators, and three divergences for one posterior.

Rates are Gamma(alpha, beta), counts Poisson: the evidence is negative binomial, the posterior a gamma again. So alpha
and beta, learnt together with the family by the bound, must end at the maximum of the evidence, whatever estimates the
gradient: the path, rejection sampling with the score of what it leaves, or the score. They differ in noise. For one
count and a log-logistic family, which cannot be right but whose tails keep all of them finite, the bound, the
forward and the chi divergence each choose another width, known by integration: the bound the narrowest, chi the widest.

Source: Naesseth et al., Reparameterization Gradients through Acceptance-Rejection Sampling Algorithms, 2017; Dieng et
al., Variational Inference via chi Upper Bound Minimization, 2017.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from scipy.optimize import minimize
from scipy.special import logsumexp
from scipy.stats import logistic

import tracegrad as tg
from tracegrad import dist

N, COUNT, ALPHA, BETA = 40, 7, 2.0, 0.5
KEY, START = jax.random.key(1), jnp.array([1.0, -1.0])
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
def log_logistic(loc, log_scale):
    log_rate = dist.Logistic(loc, jnp.exp(log_scale))
    tg.sample("rate", dist.TransformedDistribution(log_rate, dist.transforms.ExpTransform()))


def loss_of(estimator, x):
    bound = tg.elbo(model, guide.with_estimators({"rate": estimator}), {"x": x})
    return lambda key, w: -bound(key, tuple(jnp.exp(w["prior"])), (jnp.exp(w["shape"]), jnp.exp(w["rate"])))


def divergence(name):
    make, options = BOUNDS[name]
    sign = -1.0 if name == "elbo" else 1.0
    return lambda key, w: sign * make(one, log_logistic, {"x": COUNT}, **options)(key, (), tuple(w))


def train(losses, start, steps, rate):
    """Side by side, in one program: a loss and parameters for each name."""

    def total(key, w):
        return sum(losses[name](key, w[name]) for name in losses)

    w, adam = {name: start for name in losses}, optax.adam(optax.cosine_decay_schedule(rate, steps))
    return tg.fit(total, w, adam, key=jax.random.key(0), steps=steps, progress=False).params


def best_by_integration():
    """Location and log scale of the best log-logistic under each divergence, over t, the log of the rate."""
    t = np.linspace(-12.0, 8.0, 20001)
    logp = (ALPHA + COUNT) * t - (BETA + 1.0) * np.exp(t)
    p = np.exp(logp - logsumexp(logp))

    def logq(w):
        return logistic.logpdf(t, w[0], np.exp(w[1]))

    criteria = {
        "elbo": lambda w: np.sum(np.exp(logq(w)) * (logq(w) - logp)),
        "forward_kl": lambda w: -np.sum(p * logq(w)),
        "cubo": lambda w: logsumexp(2.0 * logp - logq(w)),
    }
    return {name: minimize(criteria[name], [1.7, -1.5], method="Nelder-Mead", tol=1e-8).x for name in criteria}


def main(*, quick: bool = False):
    rng, steps = np.random.default_rng(0), 800 if quick else 4000
    x = jnp.asarray(rng.poisson(rng.gamma(ALPHA, 1.0 / BETA, N)))

    fit = minimize(lambda w: -dist.GammaPoisson(*np.exp(w)).log_prob(x).sum(), np.zeros(2), method="Nelder-Mead")
    start, keys = {"prior": jnp.zeros(2), "shape": jnp.ones(N), "rate": jnp.zeros(N)}, jax.random.split(KEY, 500)
    losses = {name: loss_of(estimator, x) for name, estimator in ESTIMATORS.items()}
    gradients = {name: jax.jit(jax.vmap(jax.grad(losses[name], 1), (0, None)))(keys, start) for name in losses}
    noise = {name: float(gradient["shape"].var(0).mean()) for name, gradient in gradients.items()}
    alphas = {name: float(jnp.exp(w["prior"][0] - fit.x[0])) for name, w in train(losses, start, steps, 0.2).items()}
    best, found = best_by_integration(), train({name: divergence(name) for name in BOUNDS}, START, steps, 0.03)
    scales = {name: float(jnp.exp(found[name][1] - best[name][1])) for name in best}
    aim = 0.15 if quick else 0.05
    rows = [
        ("reparam: alpha over that of the MLE", alphas["reparam"], 1.0 - aim, 1.0 + aim),
        ("rsvi(1): alpha over that of the MLE", alphas["rsvi(1)"], 1.0 - aim, 1.0 + aim),
        ("reinforce: the same, kept away by its noise", alphas["reinforce"], 0.0, 1.0 - aim),
        ("noise of rsvi(1) over that of the path", noise["rsvi(1)"] / noise["reparam"], 1.0, 100.0),
        ("noise of reinforce over that of rsvi(1)", noise["reinforce"] / noise["rsvi(1)"], 3.0, np.inf),
    ]
    rows += [(f"{name}: width over the best, {np.exp(best[name][1]):.4f}", scales[name], 0.98, 1.02) for name in best]
    return rows, draw(noise, found, best)


def draw(noise, found, best):
    figure, axes = plt.subplots(1, 2, figsize=(7, 3), layout="constrained")
    axes[0].bar(list(noise), list(noise.values()))
    axes[0].set(yscale="log", title="variance of the gradient")
    for marker, points, label in (("o", best, "by integration"), ("x", found, "learnt")):
        axes[1].plot(list(best), [float(jnp.exp(points[name][1])) for name in best], marker, label=label)
    axes[1].set_title("width of the log-logistic")
    axes[1].legend(frameon=False)
    return figure


if __name__ == "__main__":
    from runner import run

    run(main, __file__)
