"""Posteriors of many latents, one a step or a cell: random walks, volatilities, a chaotic system, a field of counts.

As in inference-gym (Sountsov et al., 2020); see posterior_models. A path is told by its innovations, which other
coordinates can be chosen for from outside.
"""

import numpy as np
from jax import lax
from jax import numpy as jnp
from posterior_models import Posterior, floats

import tracegrad as tg
from tracegrad import dist

SEEN = np.r_[0:10, 20:30]
"""The steps of the walk and of the Lorenz system at which there are observations."""


def brownian_motion(data):
    @tg.gen
    def model():
        scale = tg.sample("innovation_noise_scale", dist.LogNormal(0.0, 2.0))
        noise = tg.sample("observation_noise_scale", dist.LogNormal(0.0, 2.0))
        innovations = tg.sample("innovations", dist.Normal(0.0, scale).expand([30]))
        tg.sample("y", dist.Normal(jnp.cumsum(innovations)[SEEN], noise))

    return tg.Target(model, (), {"y": floats(data["y"])})


def brownian_quantities(z):
    locs = jnp.cumsum(z["innovations"])
    return jnp.concatenate([z["innovation_noise_scale"][None], locs, z["observation_noise_scale"][None]])


# ---- stochastic volatility ------------------------------------------------------------------------------------------


def log_volatility(persistence, innovations):
    return lax.scan(lambda h, e: (persistence * h + e,) * 2, jnp.zeros_like(persistence), innovations)[1]


def stochastic_volatility(data):
    y = floats(data["y"])
    later = jnp.arange(len(y)) > 0

    @tg.gen
    def model():
        persistence = 2.0 * tg.sample("half_persistence", dist.Beta(20.0, 1.5)) - 1.0
        mean = tg.sample("mean_log_volatility", dist.Cauchy(0.0, 5.0))
        shock = tg.sample("white_noise_shock_scale", dist.HalfCauchy(2.0))
        scales = shock * jnp.where(later, 1.0, (1.0 - persistence**2) ** -0.5)
        innovations = tg.sample("innovations", dist.Normal(0.0, scales))
        tg.sample("y", dist.Normal(0.0, jnp.exp(0.5 * (mean + log_volatility(persistence, innovations)))))

    return tg.Target(model, (), {"y": y})


def volatility_quantities(z):
    persistence, mean = 2.0 * z["half_persistence"] - 1.0, z["mean_log_volatility"]
    log_volatilities = mean + log_volatility(persistence, z["innovations"])
    return jnp.concatenate([jnp.stack([persistence, mean, z["white_noise_shock_scale"]]), log_volatilities])


# ---- the Lorenz system ----------------------------------------------------------------------------------------------

STEP = 0.02


@tg.gen
def lorenz_step(state, scale):
    x, y, z = state
    velocity = jnp.stack([10.0 * (y - x), x * (28.0 - z) - y, x * y - 8.0 / 3.0 * z])
    state = tg.sample("state", dist.Normal(state + STEP * velocity, STEP**0.5 * scale).to_event(1))
    return state, state


def lorenz_bridge(data):
    steps = lorenz_step.scan()

    @tg.gen
    def model():
        scale = tg.sample("innovation_scale", dist.LogNormal(-1.0, 1.0))
        noise = tg.sample("observation_scale", dist.LogNormal(-1.0, 1.0))
        start = tg.sample("start", dist.Normal(0.0, 1.0).expand([3]))
        _, path = tg.sample("path", steps(start, jnp.broadcast_to(scale, (29,))))
        x = jnp.concatenate([start[None], path])[:, 0]
        tg.sample("y", dist.Normal(x[SEEN], noise))

    return tg.Target(model, (), {"y": floats(data["y"])})


def lorenz_quantities(z):
    states = [z["start"], jnp.ravel(z["path"]["state"])]
    return jnp.concatenate([z["innovation_scale"][None], *states, z["observation_scale"][None]])


# ---- a log-Gaussian Cox process -------------------------------------------------------------------------------------


def distances() -> np.ndarray:
    """Between the cells of a grid of 10 times 10."""
    places = np.stack(np.meshgrid(np.arange(10.0), np.arange(10.0)), -1).reshape(-1, 2)
    return np.linalg.norm(places[:, None] - places[None, :], axis=-1)


def cox_process(data):
    counts = jnp.asarray(data["counts"])
    apart, mean = floats(distances()), floats(np.mean(np.log(data["counts"])))

    @tg.gen
    def model():
        amplitude = tg.sample("amplitude", dist.LogNormal(-1.0, 0.5))
        length = tg.sample("length_scale", dist.LogNormal(-1.0, 1.0))
        far = jnp.sqrt(3.0) * apart / (length + 0.001)
        covariance = (amplitude + 0.001) ** 2 * (1.0 + far) * jnp.exp(-far) + 1e-6 * jnp.eye(len(counts))
        intensity = tg.sample("log_intensity", dist.MultivariateNormal(jnp.full(len(counts), mean), covariance))
        tg.sample("counts", dist.Poisson(jnp.exp(intensity)))

    return tg.Target(model, (), {"counts": counts})


def cox_quantities(z):
    return jnp.concatenate([z["amplitude"][None], z["length_scale"][None], z["log_intensity"]])


STATES = {
    "inference_gym/BrownianMotionUnknownScalesMissingMiddleObservations": Posterior(
        "brownian_motion", brownian_motion, brownian_quantities, {"innovations": tg.noncentred()}
    ),
    "inference_gym/VectorizedStochasticVolatilityLogSP500Small": Posterior(
        "sp500_small", stochastic_volatility, volatility_quantities, {"innovations": tg.noncentred()}
    ),
    "inference_gym/ConvectionLorenzBridgeUnknownScales": Posterior(
        "lorenz_bridge", lorenz_bridge, lorenz_quantities, {"path/state": tg.noncentred()}
    ),
    "inference_gym/SyntheticLogGaussianCoxProcess": Posterior("cox_process", cox_process, cox_quantities),
}
