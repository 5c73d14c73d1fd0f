"""Posteriors whose moments are known, written once: the models of posteriordb and inference-gym.

Each is a function from the data, as its JSON file holds them, to a `Target`, and one from latent choices to the vector
of quantities that its reference lists. A flat prior is a normal (or half-normal) of scale 1e4, under which moments
differ by less than 1e-5 of a standard deviation.

Sources: Magnusson et al., posteriordb, 2024 (the Stan program of that name); Sountsov et al., inference-gym, 2020.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp

import tracegrad as tg
from tracegrad import dist

FLAT = 1e4


class Posterior(NamedTuple):
    """A posterior of the reference: the name of its data, and how to make its target and its quantities.

    `coordinates` are those that help a fit, chosen from outside.
    """

    data: str
    target: Callable[[Mapping], tg.Target]
    quantities: Callable[[Mapping], jax.Array]
    coordinates: Mapping = {}

    def fittable(self, data: Mapping) -> tg.Target:
        """The target in the coordinates that help a fit."""
        target = self.target(data)
        function = target.function.with_coordinates(self.coordinates) if self.coordinates else target.function
        return tg.Target(function, target.args, target.observed)


def quantities_at(*names: str) -> Callable[[Mapping], jax.Array]:
    """The choices at these addresses, one after the other."""
    return lambda z: jnp.concatenate([jnp.ravel(z[name]) for name in names])


def floats(values: Any) -> jax.Array:
    """Data as floating-point numbers."""
    return jnp.asarray(np.asarray(values, float), float)


# ---- linear regressions ---------------------------------------------------------------------------------------------


def regression(design: Callable[[Any], list], sigma: dist.Distribution, beta: float = FLAT) -> Callable:
    """y ~ N(X beta, sigma), with `design(data)` the columns of X and, last, y."""

    def target(data):
        *columns, y = design(data)
        x = floats(np.stack(columns, axis=-1))

        @tg.gen
        def model():
            weights = tg.sample("beta", dist.Normal(0.0, beta).expand([x.shape[1]]))
            tg.sample("y", dist.Normal(x @ weights, tg.sample("sigma", sigma)))

        return tg.Target(model, (), {"y": floats(y)})

    return target


def columns_of(data: Mapping) -> dict[str, np.ndarray]:
    return {name: np.asarray(values, float) for name, values in data.items() if isinstance(values, list)}


def kidiq(data):
    d = columns_of(data)
    return [np.ones(len(d["mom_iq"])), d["mom_hs"], d["mom_iq"], d["kid_score"]]


def kidiq_interaction(data):
    *columns, y = kidiq(data)
    return [*columns, columns[1] * columns[2], y]


def earnings(data):
    d = columns_of(data)
    z = (d["height"] - d["height"].mean()) / d["height"].std(ddof=1)
    return [np.ones(len(z)), z, d["male"], z * d["male"], np.log(d["earn"])]


def mesquite(data):
    d = columns_of(data)
    logs = [np.log(d[k]) for k in ("diam1", "diam2", "canopy_height", "total_height", "density")]
    return [np.ones(len(logs[0])), *logs, d["group"], np.log(d["weight"])]


def nes(data):
    d = columns_of(data)
    ages = [(d["age_discrete"] == k).astype(float) for k in (2, 3, 4)]
    rest = [d["educ1"], d["gender"], d["income"], d["partyid7"]]
    return [np.ones(len(ages[0])), d["real_ideo"], d["race_adj"], *ages, *rest]


def blr(data):
    return [*np.asarray(data["X"]).T, data["y"]]


def ar5(data):
    y, k = np.asarray(data["y"], float), data["K"]
    return [np.ones(len(y) - k), *[y[k - i : len(y) - i] for i in range(1, k + 1)], y[k:]]


def kilpisjarvi(data):
    x = floats(data["x"])

    @tg.gen
    def model():
        alpha = tg.sample("alpha", dist.Normal(data["pmualpha"], data["psalpha"]))
        beta = tg.sample("beta", dist.Normal(data["pmubeta"], data["psbeta"]))
        tg.sample("y", dist.Normal(alpha + beta * x, tg.sample("sigma", dist.HalfNormal(FLAT))))

    return tg.Target(model, (), {"y": floats(data["y"])})


def diamonds(data):
    x = np.asarray(data["X"], float)[:, 1:]
    x = floats(x - x.mean(0))

    @tg.gen
    def model():
        b = tg.sample("b", dist.Normal(0.0, 1.0).expand([x.shape[1]]))
        intercept = tg.sample("Intercept", dist.StudentT(3.0, 8.0, 10.0))
        sigma = tg.sample("sigma", dist.FoldedDistribution(dist.StudentT(3.0, 0.0, 10.0)))
        tg.sample("y", dist.Normal(intercept + x @ b, sigma))

    return tg.Target(model, (), {"y": floats(data["Y"])})


# ---- generalised linear models --------------------------------------------------------------------------------------


def wells(data):
    distance = floats(data["dist"]) / 100.0

    @tg.gen
    def model():
        alpha, beta = tg.sample("alpha", dist.Normal(0.0, FLAT)), tg.sample("beta", dist.Normal(0.0, FLAT))
        tg.sample("y", dist.Bernoulli(logits=alpha + beta * distance))

    return tg.Target(model, (), {"y": jnp.asarray(data["switched"])})


def powers(year, *coefficients):
    return sum(c * floats(year) ** i for i, c in enumerate(coefficients))


def glm_binomial(data):
    @tg.gen
    def model():
        weights = [tg.sample(name, dist.Normal(0.0, 100.0)) for name in ("alpha", "beta1", "beta2")]
        tg.sample("C", dist.Binomial(jnp.asarray(data["N"]), logits=powers(data["year"], *weights)))

    return tg.Target(model, (), {"C": jnp.asarray(data["C"])})


def glm_poisson(data):
    @tg.gen
    def model():
        weights = [tg.sample("alpha", dist.Uniform(-20.0, 20.0))]
        weights += [tg.sample(name, dist.Uniform(-10.0, 10.0)) for name in ("beta1", "beta2", "beta3")]
        tg.sample("C", dist.Poisson(jnp.exp(powers(data["year"], *weights))))

    return tg.Target(model, (), {"C": jnp.asarray(data["C"])})


# ---- hierarchies ----------------------------------------------------------------------------------------------------


def eight_schools(data):
    sigma = floats(data["sigma"])

    @tg.gen
    def model():
        mu, tau = tg.sample("mu", dist.Normal(0.0, 5.0)), tg.sample("tau", dist.HalfCauchy(5.0))
        raw = tg.sample("theta_trans", dist.Normal(0.0, 1.0).expand([8]))
        tg.sample("y", dist.Normal(mu + tau * raw, sigma))

    return tg.Target(model, (), {"y": floats(data["y"])})


def eight_schools_quantities(z):
    return jnp.concatenate([z["mu"] + z["tau"] * z["theta_trans"], z["mu"][None], z["tau"][None]])


def eight_schools_centered(data):
    """That of inference-gym, with its own priors."""
    sigma = floats(data["sigma"])

    @tg.gen
    def model():
        mu, log_tau = tg.sample("avg_effect", dist.Normal(0.0, 10.0)), tg.sample("log_stddev", dist.Normal(5.0, 1.0))
        theta = tg.sample("school_effects", dist.Normal(mu, jnp.exp(log_tau)).expand([8]))
        tg.sample("y", dist.Normal(theta, sigma))

    return tg.Target(model, (), {"y": floats(data["y"])})


def radon(*, floor: bool) -> Callable:
    """Homes in counties, y ~ N(alpha[county] + beta floor, sigma_y); beta only `floor`."""

    def target(data):
        county, measured = jnp.asarray(data["county_idx"]) - 1, floats(data["floor_measure"])

        @tg.gen
        def model():
            mu = tg.sample("mu_alpha", dist.Normal(0.0, 10.0))
            scale, noise = tg.sample("sigma_alpha", dist.HalfNormal(1.0)), tg.sample("sigma_y", dist.HalfNormal(1.0))
            alpha = tg.sample("alpha", dist.Normal(mu, scale).expand([data["J"]]))
            slope = tg.sample("beta", dist.Normal(0.0, 10.0)) if floor else 0.0
            tg.sample("y", dist.Normal(alpha[county] + slope * measured, noise))

        return tg.Target(model, (), {"y": floats(data["log_radon"])})

    return target


def funnel(_):
    """Neal's funnel in ten dimensions."""

    @tg.gen
    def model():
        v = tg.sample("v", dist.Normal(0.0, 3.0))
        tg.sample("x", dist.Normal(0.0, jnp.exp(v / 2.0)).expand([9]))

    return tg.Target(model)


def banana(_):
    @tg.gen
    def model():
        x = tg.sample("x", dist.Normal(0.0, 10.0))
        tg.sample("y", dist.Normal(0.03 * (x**2 - 100.0), 1.0))

    return tg.Target(model)


SMALL = {
    "eight_schools-eight_schools_noncentered": Posterior("eight_schools", eight_schools, eight_schools_quantities),
    "eight_schools (exact": Posterior("eight_schools", eight_schools, eight_schools_quantities),
    "inference_gym/EightSchools": Posterior(
        "eight_schools",
        eight_schools_centered,
        quantities_at("avg_effect", "log_stddev", "school_effects"),
        {"school_effects": tg.noncentred()},
    ),
    "inference_gym/NealsFunnel": Posterior("", funnel, quantities_at("v", "x"), {"x": tg.noncentred()}),
    "inference_gym/Banana": Posterior("", banana, quantities_at("x", "y"), {"y": tg.noncentred()}),
    "GLM_Poisson_Data-GLM_Poisson_model": Posterior(
        "GLM_Poisson_Data", glm_poisson, quantities_at("alpha", "beta1", "beta2", "beta3")
    ),
    "GLM_Binomial_data-GLM_Binomial_model": Posterior(
        "GLM_Binomial_data", glm_binomial, quantities_at("alpha", "beta1", "beta2")
    ),
    "kilpisjarvi_mod-kilpisjarvi": Posterior("kilpisjarvi_mod", kilpisjarvi, quantities_at("alpha", "beta", "sigma")),
}

_LINEAR = {
    "kidiq-kidscore_momhsiq": (kidiq, dist.HalfCauchy(2.5), FLAT),
    "kidiq-kidscore_interaction": (kidiq_interaction, dist.HalfCauchy(2.5), FLAT),
    "earnings-logearn_interaction_z": (earnings, dist.HalfNormal(FLAT), FLAT),
    "mesquite-logmesquite": (mesquite, dist.HalfNormal(FLAT), FLAT),
    "nes1996-nes": (nes, dist.HalfNormal(FLAT), FLAT),
    "sblri-blr": (blr, dist.HalfNormal(10.0), 10.0),
    "sblrc-blr": (blr, dist.HalfNormal(10.0), 10.0),
    "arK-arK": (ar5, dist.HalfCauchy(2.5), 10.0),
}

POSTERIORS = SMALL | {
    name: Posterior(name.partition("-")[0], regression(*what), quantities_at("beta", "sigma"))
    for name, what in _LINEAR.items()
}
POSTERIORS |= {
    "diamonds-diamonds": Posterior("diamonds", diamonds, quantities_at("b", "Intercept", "sigma")),
    "wells_data-wells_dist100_model": Posterior("wells_data", wells, quantities_at("alpha", "beta")),
    "radon_mn-radon_partially_pooled": Posterior(
        "radon_mn",
        radon(floor=False),
        quantities_at("alpha", "mu_alpha", "sigma_alpha", "sigma_y"),
        {"alpha": tg.noncentred()},
    ),
    "radon_mn-radon_variable_intercept": Posterior(
        "radon_mn", radon(floor=True), quantities_at("alpha", "mu_alpha", "beta", "sigma_alpha", "sigma_y")
    ),
}
