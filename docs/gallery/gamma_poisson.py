"""Counts with gamma rates: empirical Bayes by three gradient estimators, and three divergences for one posterior.

Each rate is Gamma(alpha, beta), each count Poisson: the evidence is negative binomial, the posterior a gamma again. So
alpha and beta, learnt together with the family by the bound, must end at the maximum of the evidence, whatever estimates
the gradient: the path, rejection sampling with the score of what it leaves, or the score. They differ in noise. For one
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
ESTIMATORS = {"reparam": tg.reparam(), "rsvi(1)": tg.rsvi(1), "reinforce": tg.reinforce()}
DIVERGENCES = {
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


def bounds(x):
    """Of each estimator the bound, of parameters on the logarithmic scale."""

    def of(estimator):
        bound = tg.elbo(model, guide.with_estimators({"rate": estimator}), {"x": x})
        return lambda key, w: bound(key, tuple(jnp.exp(w["prior"])), (jnp.exp(w["shape"]), jnp.exp(w["rate"])))

    return {name: of(estimator) for name, estimator in ESTIMATORS.items()}


def loss(name):
    make, options = DIVERGENCES[name]
    sign = -1.0 if name == "elbo" else 1.0
    return lambda key, w: sign * make(one, log_normal, {"x": COUNT}, **options)(key, (), tuple(w))


def train(losses, start, steps, rate):
    """Side by side, in one program: a loss and parameters for each name."""
    adam, key = optax.adam(optax.cosine_decay_schedule(rate, steps)), jax.random.key(0)
    w = {name: start for name in losses}
    return tg.fit(
        lambda key, w: sum(losses[name](key, w[name]) for name in losses), w, adam, key=key, steps=steps, progress=False
    ).params


def best_by_integration():
    """Location and scale of the best log-normal under each divergence; the posterior is Gamma(9, 1.5)."""
    shape, rate = ALPHA + COUNT, BETA + 1.0
    t = np.linspace(-3.0, 5.0, 4001)
    logp = shape * t - rate * np.exp(t)

    def chi(w):
        logq = -0.5 * ((t - w[0]) / np.exp(w[1])) ** 2 - w[1]
        return np.log(np.sum(np.exp(2.0 * logp - logq - 20.0)))

    loc, log_scale = minimize(chi, [1.7, -1.0], method="Nelder-Mead").x
    moments = digamma(shape) - np.log(rate), np.sqrt(polygamma(1, shape))
    return {
        "elbo": (np.log(shape / rate) - 0.5 / shape, shape**-0.5),
        "forward_kl": moments,
        "cubo": (loc, np.exp(log_scale)),
    }


def main(*, quick: bool = False):
    rng, steps = np.random.default_rng(0), 600 if quick else 2000
    x = jnp.asarray(rng.poisson(rng.gamma(ALPHA, 1.0 / BETA, N)))

    def evidence(w):
        return -dist.GammaPoisson(*np.exp(w)).log_prob(x).sum()

    mle = np.exp(minimize(evidence, np.zeros(2), method="Nelder-Mead").x)
    start = {"prior": jnp.zeros(2), "shape": jnp.ones(N), "rate": jnp.zeros(N)}
    objectives = bounds(x)
    keys = jax.random.split(jax.random.key(1), 500)
    noise = {}
    for name, bound in objectives.items():
        gradients = jax.jit(jax.vmap(jax.grad(bound, 1), (0, None)))(keys, start)["shape"]
        noise[name] = float(gradients.var(0).mean())
    losses = {name: (lambda key, w, bound=bound: -bound(key, w)) for name, bound in objectives.items()}
    found = {name: np.exp(w["prior"]) for name, w in train(losses, start, steps, 0.1).items()}
    chosen = train({name: loss(name) for name in DIVERGENCES}, jnp.array([1.0, 0.0]), steps, 0.03)
    best = best_by_integration()
    aims = {"reparam": 0.05, "rsvi(1)": 0.1, "reinforce": 0.25}
    rows = [
        (
            f"{name}: alpha over that of the MLE, {mle[0]:.2f}",
            found[name][0] / mle[0],
            1.0 - aims[name],
            1.0 + aims[name],
        )
        for name in found
    ]
    rows += [
        ("noise of rsvi(1) over that of the path", noise["rsvi(1)"] / noise["reparam"], 1.0, 100.0),
        ("noise of reinforce over that of rsvi(1)", noise["reinforce"] / noise["rsvi(1)"], 3.0, np.inf),
    ]
    rows += [
        (
            f"{name}: scale over the best, {best[name][1]:.4f}",
            float(jnp.exp(chosen[name][1])) / best[name][1],
            0.99,
            1.01,
        )
        for name in best
    ]
    return rows, draw(noise, chosen, best)


def draw(noise, chosen, best):
    figure, axes = plt.subplots(1, 2, figsize=(7, 3), layout="constrained")
    axes[0].bar(list(noise), list(noise.values()))
    axes[0].set(yscale="log", title="variance of the gradient")
    axes[1].plot(list(best), [scale for _, scale in best.values()], "o", label="by integration")
    axes[1].plot(list(best), [float(jnp.exp(chosen[name][1])) for name in best], "x", label="learnt")
    axes[1].set_title("scale of the log-normal")
    axes[1].legend(frameon=False)
    return figure


if __name__ == "__main__":
    from runner import run

    run(main, __file__)
