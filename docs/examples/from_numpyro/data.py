"""The data of the pairs, made by fixed seeds: `small` for the tests, else of the sizes that the table of times has."""

import numpy as np


def _made(seed):
    return np.random.default_rng(seed)


def regression(*, small=False):
    rng, n = _made(0), 40 if small else 1000
    x = rng.uniform(-1.0, 1.0, n)
    return {"x": x, "y": 0.5 + 1.5 * x + 0.4 * rng.normal(size=n), "new": np.array([-2.0, 2.0])}


def eight_schools(*, small=False):
    sigma = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
    return {"sigma": sigma, "y": np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])}


def varying_intercepts(*, small=False):
    rng, (n, many) = _made(1), (5, 60) if small else (85, 919)
    group, x = rng.integers(0, n, many), rng.normal(size=many)
    intercept = 1.0 + 0.8 * rng.normal(size=n)
    return {"group": group, "x": x, "y": intercept[group] - 0.7 * x + 0.7 * rng.normal(size=many), "n": n}


def mixture(*, small=False):
    rng, n = _made(2), 60 if small else 1000
    return {"x": np.where(rng.random(n) < 0.3, -2.0, 2.0) + 0.8 * rng.normal(size=n)}


def hmm(*, small=False):
    rng, n = _made(3), 30 if small else 500
    states = np.cumsum(rng.random(n) < 0.15) % 2
    return {"y": np.where(states == 0, -1.5, 1.5) + rng.normal(size=n)}


def logistic(*, small=False):
    rng, (n, features) = _made(4), (2000, 3) if small else (100_000, 20)
    x, w = rng.normal(size=(n, features)), np.linspace(-1.0, 1.0, features)
    return {"x": x, "y": (rng.random(n) < 1.0 / (1.0 + np.exp(-x @ w))).astype(int), "new": np.eye(features)}


def horseshoe(*, small=False):
    rng, (n, features) = _made(5), (40, 5) if small else (100, 50)
    x, beta = rng.normal(size=(n, features)), np.zeros(features)
    beta[:2] = 2.0, -1.5
    return {"x": x, "y": x @ beta + 0.5 * rng.normal(size=n)}


def vae(*, small=False):
    """Strokes: rows of an image that are lit, or columns."""
    rng, (n, side) = _made(6), (256, 4) if small else (5000, 28)
    rows, lit = rng.random((n, 1, 1)) < 0.5, rng.random((n, side)) < 0.3
    images = np.where(rows, lit[:, :, None], lit[:, None, :]).reshape(n, -1)
    images = (images ^ (rng.random(images.shape) < 0.02)).astype(float)
    return {"images": images[1:], "new": images[0]}


def gaussian_process(*, small=False):
    rng, n = _made(7), 12 if small else 60
    x = np.linspace(-1.0, 1.0, n)
    return {"x": x, "y": np.sin(3.0 * x) + 0.2 * rng.normal(size=n), "new": np.array([-0.5, 1.2])}


def local_level(*, small=False):
    rng, n = _made(8), 12 if small else 100
    return {"y": np.cumsum(0.5 * rng.normal(size=n)) + 0.5 * rng.normal(size=n), "ahead": 3}
