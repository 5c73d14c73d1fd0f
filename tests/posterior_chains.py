"""Posteriors of time series, mixtures, Gaussian processes and differential equations; see posterior_models."""

from collections.abc import Callable

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp
from posterior_models import FLAT, Posterior, floats, quantities_at

import tracegrad as tg
from tracegrad import dist

# ---- mixtures and hidden Markov models ------------------------------------------------------------------------------


class OrderedNormals(dist.Distribution):
    """Increasing (and positive) numbers with the density of independent normals, up to its integral."""

    arg_constraints = {"loc": dist.constraints.real_vector, "scale": dist.constraints.positive}
    pytree_data_fields = ("loc", "scale")
    pytree_aux_fields = ("positive",)

    def __init__(self, loc, scale, *, positive, validate_args=None):
        self.loc, self.scale, self.positive = jnp.asarray(loc), jnp.asarray(scale), positive
        super().__init__((), jnp.shape(loc), validate_args=validate_args)

    @property
    def support(self):
        return dist.constraints.positive_ordered_vector if self.positive else dist.constraints.ordered_vector

    def sample(self, key, sample_shape=()):
        draws = self.loc + self.scale * jax.random.normal(key, (*sample_shape, *self.event_shape))
        return jnp.sort(jnp.abs(draws) if self.positive else draws, axis=-1)

    def log_prob(self, value):
        return dist.Normal(self.loc, self.scale).log_prob(value).sum(-1)


def mixture(data):
    @tg.gen
    def model():
        mu = tg.sample("mu", OrderedNormals(jnp.zeros(2), 2.0, positive=False))
        sigma = tg.sample("sigma", dist.HalfNormal(2.0).expand([2]))
        theta = tg.sample("theta", dist.Beta(5.0, 5.0))
        weights = dist.Categorical(probs=jnp.stack([theta, 1.0 - theta]))
        tg.sample("y", dist.MixtureSameFamily(weights, dist.Normal(mu, sigma)).expand([data["N"]]))

    return tg.Target(model, (), {"y": floats(data["y"])})


def hidden_markov(emit: Callable) -> tg.GenerativeFunction:
    """A chain of two states, all the same at first; a step's carry is the state and the parameters."""

    @tg.gen
    def step(carry, first):
        state, theta, parameters = carry
        z = tg.sample("z", dist.Categorical(probs=jnp.where(first, 0.5, theta[state])))
        emit(z, parameters)
        return (z, theta, parameters), None

    return step.scan()


def hmm_example(data):
    first = jnp.arange(data["N"]) == 0
    chain = hidden_markov(lambda z, mu: tg.sample("y", dist.Normal(mu[z], 1.0)))

    @tg.gen
    def model():
        theta = jnp.stack([tg.sample(f"theta{k}", dist.Dirichlet(jnp.ones(2))) for k in (1, 2)])
        mu = tg.sample("mu", OrderedNormals(jnp.array([3.0, 10.0]), 1.0, positive=True))
        tg.sample("chain", tg.marginal(chain, "y", tg.forward_filter())((0, theta, mu), first))

    return tg.Target(model, (), {"chain": {"y": floats(data["y"])}})


def drive(data):
    first = jnp.arange(data["N"]) == 0
    alpha = floats(data["alpha"])

    def emit(z, rates):
        tg.sample("u", dist.Exponential(rates[0][z]))
        tg.sample("v", dist.Exponential(rates[1][z]))

    chain = tg.marginal(hidden_markov(emit), ("u", "v"), tg.forward_filter())

    @tg.gen
    def model():
        theta = jnp.stack([tg.sample(f"theta{k + 1}", dist.Dirichlet(alpha[k])) for k in (0, 1)])
        prior = OrderedNormals(jnp.array([0.0, 3.0]), 1.0, positive=True)
        rates = (tg.sample("phi", prior), tg.sample("lambda", prior))
        tg.sample("chain", chain((0, theta, rates), first))

    return tg.Target(model, (), {"chain": {"u": floats(data["u"]), "v": floats(data["v"])}})


# ---- time series ----------------------------------------------------------------------------------------------------


def garch(data):
    y = floats(data["y"])

    @tg.gen
    def model():
        mu, alpha0 = tg.sample("mu", dist.Normal(0.0, FLAT)), tg.sample("alpha0", dist.HalfNormal(FLAT))
        alpha1 = tg.sample("alpha1", dist.Uniform(0.0, 1.0))
        # Flat over the triangle alpha1 + beta1 < 1: the length of beta1's interval is given back.
        share = tg.sample("share", dist.Beta(1.0, 1.0))
        beta1 = share * (1.0 - alpha1)

        def after(variance, last):
            variance = alpha0 + alpha1 * (last - mu) ** 2 + beta1 * variance
            return variance, variance

        start = floats(data["sigma1"]) ** 2
        variances = jnp.concatenate([start[None], lax.scan(after, start, y[:-1])[1]])
        tg.sample("y", Tilted(dist.Normal(mu, jnp.sqrt(variances)).to_event(1), jnp.log1p(-alpha1)))

    return tg.Target(model, (), {"y": y})


class Tilted(dist.Distribution):
    """A distribution of one event whose log density has a constant added: a factor of the target."""

    pytree_data_fields = ("base", "log_factor")

    def __init__(self, base, log_factor, *, validate_args=None):
        self.base, self.log_factor = base, log_factor
        super().__init__((), base.event_shape, validate_args=validate_args)

    @property
    def support(self):
        return self.base.support

    def sample(self, key, sample_shape=()):
        return self.base.sample(key, sample_shape)

    def log_prob(self, value):
        return self.base.log_prob(value) + self.log_factor


def arma(data):
    y = floats(data["y"])

    @tg.gen
    def model():
        mu, phi = tg.sample("mu", dist.Normal(0.0, 10.0)), tg.sample("phi", dist.Normal(0.0, 2.0))
        theta, sigma = tg.sample("theta", dist.Normal(0.0, 2.0)), tg.sample("sigma", dist.HalfCauchy(2.5))

        def after(error, pair):
            predicted = mu + phi * pair[0] + theta * error
            return pair[1] - predicted, predicted

        start = mu + phi * mu
        later = lax.scan(after, y[0] - start, (y[:-1], y[1:]))[1]
        tg.sample("y", dist.Normal(jnp.concatenate([start[None], later]), sigma))

    return tg.Target(model, (), {"y": y})


# ---- Gaussian processes ---------------------------------------------------------------------------------------------


def kernel(x, alpha, rho):
    return alpha**2 * jnp.exp(-0.5 * ((x[:, None] - x[None, :]) / rho) ** 2)


def hyperparameters():
    return tg.sample("rho", dist.Gamma(25.0, 4.0)), tg.sample("alpha", dist.HalfNormal(2.0))


def gp_regression(data):
    x = floats(data["x"])

    @tg.gen
    def model():
        rho, alpha = hyperparameters()
        covariance = kernel(x, alpha, rho) + tg.sample("sigma", dist.HalfNormal(1.0)) * jnp.eye(len(x))
        tg.sample("y", dist.MultivariateNormal(jnp.zeros(len(x)), covariance))

    return tg.Target(model, (), {"y": floats(data["y"])})


def latent_field(z, x):
    return jnp.linalg.cholesky(kernel(x, z["alpha"], z["rho"]) + 1e-10 * jnp.eye(len(x))) @ z["f_tilde"]


XS = np.arange(-10.0, 11.0, 2.0)


def gp_poisson(data):
    x = floats(data["x"])

    @tg.gen
    def model():
        rho, alpha = hyperparameters()
        white = tg.sample("f_tilde", dist.Normal(0.0, 1.0).expand([len(x)]))
        tg.sample("k", dist.Poisson(jnp.exp(latent_field({"rho": rho, "alpha": alpha, "f_tilde": white}, x))))

    return tg.Target(model, (), {"k": jnp.asarray(data["k"])})


def gp_quantities(z):
    return jnp.concatenate([z["rho"][None], z["alpha"][None], latent_field(z, floats(XS))])


# ---- differential equations -----------------------------------------------------------------------------------------


def integrate(field: Callable, start: jax.Array, times: jax.Array, substeps: int) -> jax.Array:
    """The solution at times after 0, by the Runge-Kutta method of order 4."""

    def between(carry, end):
        begin, state = carry
        h = (end - begin) / substeps

        def step(i, s):
            t = begin + i * h
            a = field(t, s)
            b = field(t + h / 2.0, s + h / 2.0 * a)
            c = field(t + h / 2.0, s + h / 2.0 * b)
            return s + h / 6.0 * (a + 2.0 * b + 2.0 * c + field(t + h, s + h * c))

        state, _ = lax.scan(lambda s, i: (step(i, s), None), state, jnp.arange(substeps, dtype=h.dtype))
        return (end, state), state

    return lax.scan(between, (jnp.zeros_like(times[0]), start), times)[1]


def lotka_volterra(data):
    times = floats(data["ts"])

    @tg.gen
    def model():
        means, sds = jnp.array([1.0, 0.05, 1.0, 0.05]), jnp.array([0.5, 0.05, 0.5, 0.05])
        theta = tg.sample("theta", dist.TruncatedNormal(means, sds, low=0.0))
        start = tg.sample("z_init", dist.LogNormal(np.log(10.0), 1.0).expand([2]))
        sigma = tg.sample("sigma", dist.LogNormal(-1.0, 1.0).expand([2]))
        a, b, c, d = theta

        def field(t, z):
            return jnp.stack([(a - b * z[1]) * z[0], (d * z[0] - c) * z[1]])

        z = integrate(field, start, times, 20)
        tg.sample("y_init", dist.LogNormal(jnp.log(start), sigma))
        tg.sample("y", dist.LogNormal(jnp.log(z), jnp.broadcast_to(sigma, z.shape)))

    return tg.Target(model, (), {"y_init": floats(data["y_init"]), "y": floats(data["y"])})


def elimination(data):
    times, dose, volume = floats(data["times"]), data["D"], data["V"]

    @tg.gen
    def model():
        k_a, k_m, v_m, sigma = (tg.sample(n, dist.HalfCauchy(1.0)) for n in ("k_a", "K_m", "V_m", "sigma"))

        log_k_m = jnp.log(k_m)

        def field(t, c):
            # By the absolute value it has no pole, where a step of the integration were to overshoot.
            return jnp.exp(-k_a * t) * dose * k_a / volume - v_m / volume * c / (jnp.exp(log_k_m) + jnp.abs(c))

        tg.sample("C_hat", dist.LogNormal(jnp.log(integrate(field, jnp.zeros_like(k_a), times, 20)), sigma))

    return tg.Target(model, (), {"C_hat": floats(data["C_hat"])})


def cholera(data):
    times, start = floats(data["t"]), floats(data["y0"])

    @tg.gen
    def model():
        scales = {"beta": 2.5, "gamma": 1.0, "xi": 25.0, "delta": 1.0}
        beta, gamma, xi, delta = (tg.sample(name, dist.HalfCauchy(s)) for name, s in scales.items())

        def field(t, y):
            infected = beta * y[3] / (jnp.abs(y[3]) + 1e6) * y[0]
            return jnp.stack([-infected, infected - gamma * y[1], gamma * y[1], xi * y[1] - delta * y[3]])

        y = integrate(field, start, times, 40)
        susceptible = jnp.concatenate([start[:1], y[:, 0]])
        tg.sample("stoi_hat", dist.Poisson(susceptible[:-1] - susceptible[1:]))
        tg.sample("B_hat", dist.LogNormal(jnp.log(y[:, 3]), 0.15))

    return tg.Target(model, (), {"stoi_hat": jnp.asarray(data["stoi_hat"]), "B_hat": floats(data["B_hat"])})


def garch_quantities(z):
    beta1 = z["share"] * (1.0 - z["alpha1"])
    return jnp.stack([z["mu"], z["alpha0"], z["alpha1"], beta1])


CHAINS = {
    "low_dim_gauss_mix-low_dim_gauss_mix": Posterior(
        "low_dim_gauss_mix", mixture, quantities_at("mu", "sigma", "theta")
    ),
    "hmm_example-hmm_example": Posterior("hmm_example", hmm_example, quantities_at("theta1", "theta2", "mu")),
    "bball_drive_event_0-hmm_drive_0": Posterior(
        "bball_drive_event_0", drive, quantities_at("theta1", "theta2", "phi", "lambda")
    ),
    "hudson_lynx_hare-lotka_volterra": Posterior(
        "hudson_lynx_hare", lotka_volterra, quantities_at("theta", "z_init", "sigma")
    ),
    "one_comp_mm_elim_abs-one_comp_mm_elim_abs": Posterior(
        "one_comp_mm_elim_abs", elimination, quantities_at("k_a", "K_m", "V_m", "sigma")
    ),
    "garch-garch11": Posterior("garch", garch, garch_quantities),
    "arma-arma11": Posterior("arma", arma, quantities_at("mu", "phi", "theta", "sigma")),
    "gp_pois_regr-gp_pois_regr": Posterior("gp_pois_regr", gp_poisson, gp_quantities),
    "gp_pois_regr-gp_regr": Posterior("gp_pois_regr", gp_regression, quantities_at("rho", "alpha", "sigma")),
    "sir-sir": Posterior("sir", cholera, quantities_at("beta", "gamma", "xi", "delta")),
}
