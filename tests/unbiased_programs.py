"""Small programs of every shape, each written twice: in the language, and as plain sums over outcomes.

The programs share two parameters, `W`, at which every probability is a quarter or a half, so that `exact_expectation`
with four cells (twelve where a category is drawn again) is exact. A `Site` says what is drawn at every address; what it
draws has a mean that depends on `u`, and a `flag` that is 0 or 1 where it is discrete.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import numpyro.distributions as dist
from exactly import exact_key
from jax import numpy as jnp

import tracegrad as tg

KEY = exact_key()
W = np.array([0.5, 0.25])
SPREAD = 0.1


class Family(NamedTuple):
    """One distribution of all sites: its numpyro form, its outcomes for the reference, and cells for the estimator."""

    distribution: Callable
    outcomes: int
    outcome: Callable
    flag: Callable
    cells: int = 4
    nodes: int = 10


NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(12)


def _pick(probabilities, code):
    return jnp.stack(probabilities)[code]


def _normal_outcome(u, code):
    value = u + SPREAD * jnp.asarray(NODES)[code]
    logp = -0.5 * jnp.asarray(NODES)[code] ** 2 - np.log(SPREAD * np.sqrt(2 * np.pi))
    return value, logp, jnp.asarray(WEIGHTS / WEIGHTS.sum())[code]


def _bernoulli_outcome(u, code):
    p = _pick([1.0 - u, u], code)
    return code.astype(float), jnp.log(p), p


def _categorical_outcome(u, code):
    p = _pick([u, 0.75 - u, jnp.full_like(u, 0.25)], code)
    return code.astype(float), jnp.log(p), p


def _categorical(u):
    return dist.Categorical(probs=jnp.stack([u, 0.75 - u, jnp.full_like(u, 0.25)], axis=-1))


BERNOULLI = Family(dist.Bernoulli, 2, _bernoulli_outcome, lambda x: x)
CATEGORICAL = Family(_categorical, 3, _categorical_outcome, lambda x: jnp.minimum(x, 1.0))
REDRAWN = CATEGORICAL._replace(
    distribution=lambda u: dist.Categorical(logits=jnp.log(jnp.stack([u, 0.75 - u, jnp.full_like(u, 0.25)], axis=-1))),
    cells=12,
)
NORMAL = Family(lambda u: dist.Normal(u, SPREAD), 12, _normal_outcome, lambda x: x)


class Site(NamedTuple):
    """A family with a gradient estimator: `site(address, u)` samples in the language, and gives value and flag."""

    family: Family
    estimator: Any

    def __call__(self, address, u):
        """Sample."""
        value = tg.sample(address, self.family.distribution(u), estimator=self.estimator).astype(float)
        return value, self.family.flag(value)


class Sums:
    """The same for the reference: draws in order, by codes of their outcomes; keeps probability and log density."""

    def __init__(self, families, codes):
        self.families, self.codes, self.weight, self.logp, self.used = families, codes, 1.0, 0.0, 0

    def __call__(self, u):
        """Draw."""
        family = self.families[self.used]
        value, logp, weight = family.outcome(jnp.asarray(u), self.codes[self.used])
        self.used, self.weight, self.logp = self.used + 1, self.weight * weight, self.logp + logp
        return value, family.flag(value)


def first(w):
    """A quarter at `W`."""
    return w[0] ** 2


def later(w, flag):
    """A quarter or a half at `W`."""
    return w[0] ** 2 + w[1] * flag


# ---- programs: language and reference -------------------------------------------------------------------------------


def straight(site):
    @tg.gen
    def program(w):
        x, _ = site("x", first(w))
        y, _ = site("y", w[1])
        return x + 2.0 * w[1] * y

    return program


def straight_sums(draw, w):
    x, _ = draw(first(w))
    y, _ = draw(w[1])
    return x + 2.0 * w[1] * y


def dependent(site):
    @tg.gen
    def program(w):
        x, flag = site("x", first(w))
        y, _ = site("y", later(w, flag))
        return x - y + w[0] * x * y

    return program


def dependent_sums(draw, w):
    x, flag = draw(first(w))
    y, _ = draw(later(w, flag))
    return x - y + w[0] * x * y


def nested(site):
    @tg.gen
    def inner(u):
        return site("x", u)

    @tg.gen
    def program(w):
        x, flag = tg.sample("inner", inner(first(w)))
        y, _ = inner.inline(later(w, flag))
        return x + 3.0 * y * w[1]

    return program


def nested_sums(draw, w):
    x, flag = draw(first(w))
    y, _ = draw(later(w, flag))
    return x + 3.0 * y * w[1]


def _one(site):
    @tg.gen
    def one(w):
        x, _ = site("x", first(w))
        return x * (1.0 + w[1])

    return one


def _two(site):
    @tg.gen
    def two(w):
        x, flag = site("a", w[1])
        y, _ = site("b", later(w, flag))
        return x + 2.0 * y

    return two


def _none(site):
    return tg.gen(lambda w: w[0] + w[1])


def _one_sums(draw, w):
    return draw(first(w))[0] * (1.0 + w[1])


def _two_sums(draw, w):
    x, flag = draw(w[1])
    y, _ = draw(later(w, flag))
    return x + 2.0 * y


def cond(site):
    @tg.gen
    def program(w):
        x = tg.sample("left", tg.cond(w[0] > 0.0, _one(site), _none(site))(w))
        return x + 3.0 * tg.sample("right", tg.cond(w[0] < 0.0, _one(site), _two(site))(w))

    return program


def cond_sums(draw, w):
    return _one_sums(draw, w) + 3.0 * _two_sums(draw, w)


def switch(site):
    @tg.gen
    def program(w):
        n = jnp.where(w[0] > 0.0, 1, 0)
        x = tg.sample("left", tg.switch(n - 1, _none(site), _one(site))(w))
        y = tg.sample("right", tg.switch(n + 1, _none(site), _one(site), _two(site))(w))
        return x + y + 2.0 * x * y

    return program


def switch_sums(draw, w):
    x, y = w[0] + w[1], _two_sums(draw, w)
    return x + y + 2.0 * x * y


def _step(site):
    @tg.gen
    def step(carry, x):
        w, flag, total = carry
        value, flag = site("x", later(w, flag))
        total = total + x * value * (1.0 + w[1] * total)
        return (w, flag, total), total

    return step


def _start(w):
    return w, jnp.zeros(()), jnp.zeros(())


def _step_sums(draw, w, flag, total, x):
    value, flag = draw(later(w, flag))
    return flag, total + x * value * (1.0 + w[1] * total)


def scan(site):
    @tg.gen
    def program(w):
        (_, _, total), ys = tg.sample("steps", _step(site).scan()(_start(w), jnp.array([1.0, 2.0])))
        return total + w[1] * ys[0]

    return program


def scan_sums(draw, w):
    flag, first_total = _step_sums(draw, w, 0.0, 0.0, 1.0)
    _, total = _step_sums(draw, w, flag, first_total, 2.0)
    return total + w[1] * first_total


def nested_scan(site):
    @tg.gen
    def outer(carry, x):
        return tg.sample("inner", _step(site).scan()(carry, x * jnp.array([1.0, 2.0])))

    @tg.gen
    def program(w):
        return tg.sample("outer", outer.scan()(_start(w), jnp.array([1.0, 0.5])))[0][2]

    return program


def nested_scan_sums(draw, w):
    flag, total = 0.0, 0.0
    for x in (1.0, 2.0, 0.5, 1.0):
        flag, total = _step_sums(draw, w, flag, total, x)
    return total


def vmap(site):
    @tg.gen
    def lane(w, x):
        y, _ = site("y", x * w[0] ** 2)
        return x * y * (1.0 + w[1])

    @tg.gen
    def program(w):
        ys = tg.sample("lanes", lane.vmap(in_axes=(None, 0))(w, jnp.array([1.0, 2.0])))
        return ys.sum() + ys[0] * ys[1]

    return program


def vmap_sums(draw, w):
    a = draw(w[0] ** 2)[0] * (1.0 + w[1])
    b = 2.0 * draw(2.0 * w[0] ** 2)[0] * (1.0 + w[1])
    return a + b + a * b


def vmap_of_scan(site):
    @tg.gen
    def lane(w, x):
        return tg.sample("steps", _step(site).scan()(_start(w), x * jnp.array([1.0, 2.0])))[0][2]

    @tg.gen
    def program(w):
        ys = tg.sample("lanes", lane.vmap(in_axes=(None, 0))(w, jnp.array([1.0, 0.5])))
        return ys[0] - ys[1] + ys[0] * ys[1]

    return program


def vmap_of_scan_sums(draw, w):
    ys = []
    for x in (1.0, 0.5):
        flag, total = _step_sums(draw, w, 0.0, 0.0, x)
        ys.append(_step_sums(draw, w, flag, total, 2.0 * x)[1])
    return ys[0] - ys[1] + ys[0] * ys[1]


def scan_of_vmap(site):
    @tg.gen
    def lane(w, flag, x):
        value, flag = site("y", later(w, flag))
        return x * value, flag

    @tg.gen
    def step(carry, xs):
        w, flags, total = carry
        ys, flags = tg.sample("lanes", lane.vmap(in_axes=(None, 0, 0))(w, flags, xs))
        return (w, flags[::-1], total + ys.sum() + w[1] * total * ys[0]), None

    @tg.gen
    def program(w):
        xs = jnp.array([[1.0, 0.5], [2.0, 1.0]])
        return tg.sample("steps", step.scan()((w, jnp.zeros(2), jnp.zeros(())), xs))[0][2]

    return program


def scan_of_vmap_sums(draw, w):
    flags, total = [0.0, 0.0], 0.0
    for xs in ((1.0, 0.5), (2.0, 1.0)):
        draws = [draw(later(w, flag)) for flag in flags]
        a, b = (x * y for x, (y, _) in zip(xs, draws, strict=True))
        flags, total = [draws[1][1], draws[0][1]], total + a + b + w[1] * total * a
    return total


def choosing(site):
    """A discrete choice of a continuous branch; a continuous site is in the branches, and the choice is a coin."""
    normal = site if site.family is NORMAL else Site(NORMAL, tg.reparam())
    coin = site if site.family is not NORMAL else Site(BERNOULLI, tg.reinforce())

    @tg.gen
    def left(w):
        return normal("y", w[1])[0] * (1.0 + w[1])

    @tg.gen
    def right(w):
        return normal("y", -w[0])[0] + w[0]

    @tg.gen
    def program(w):
        z, flag = coin("z", first(w))
        return tg.sample("branch", tg.cond(flag > 0.5, left, right)(w)) + w[1] * z

    return program


def choosing_sums(draw, w):
    z, flag = draw(first(w))
    y, _ = draw(jnp.where(flag > 0.5, w[1], -w[0]))
    return jnp.where(flag > 0.5, y * (1.0 + w[1]), y + w[0]) + w[1] * z


class Program(NamedTuple):
    """A program in the language, its sums, and what the reference draws from: None for the site's own family."""

    language: Callable
    sums: Callable
    draws: tuple
    top: bool = False


PROGRAMS = {
    "straight": Program(straight, straight_sums, (None,) * 2, top=True),
    "dependent": Program(dependent, dependent_sums, (None,) * 2, top=True),
    "nested": Program(nested, nested_sums, (None,) * 2, top=True),
    "cond": Program(cond, cond_sums, (None,) * 3),
    "switch": Program(switch, switch_sums, (None,) * 2),
    "scan": Program(scan, scan_sums, (None,) * 2),
    "nested scan": Program(nested_scan, nested_scan_sums, (None,) * 4),
    "vmap": Program(vmap, vmap_sums, (None,) * 2),
    "vmap of scan": Program(vmap_of_scan, vmap_of_scan_sums, (None,) * 4),
    "scan of vmap": Program(scan_of_vmap, scan_of_vmap_sums, (None,) * 4),
    "choosing": Program(choosing, choosing_sums, (None, NORMAL), top=True),
}


# ---- objectives -----------------------------------------------------------------------------------------------------


def objectives(r, logp, w):
    """Linear, quadratic, log-sum-exp, and one with the density in it, as in an ELBO."""
    return r * (1.0 + w[0]), (r - w[1]) ** 2, jnp.logaddexp(r, w[0]), r - 0.5 * logp * w[1]


def estimate(program):
    """The objectives of a generative function as one expectation."""

    @tg.expectation
    def g(key, w):
        trace = program.simulate(key, w)
        return objectives(trace.retval, trace.logp, w)

    return g


def mean_over(run: Callable, draws: list) -> Callable:
    """The exact mean of `run(draw, w)`, a tuple of outputs that draws from these families in this order."""
    sizes = [np.arange(f.outcomes) for f in draws]
    codes = np.stack(np.meshgrid(*sizes, indexing="ij"), -1).reshape(-1, len(draws))

    def mean(w):
        def one(code):
            draw = Sums(draws, code)
            ys = run(draw, w)
            assert draw.used == len(draws)
            return [y * draw.weight for y in ys]

        return tuple(y.sum() for y in jax.vmap(one)(jnp.asarray(codes)))

    return mean


def reference(name: str, family: Family) -> Callable:
    """The exact objectives as a function of the parameters, by sums over outcomes."""
    program = PROGRAMS[name]
    draws = [f or family for f in program.draws]
    if name == "choosing" and family is NORMAL:
        draws[0] = BERNOULLI

    def run(draw, w):
        r = program.sums(draw, w)
        return objectives(r, draw.logp, w)

    return mean_over(run, draws)


def derivatives(f, order):
    """The value and the first `order` derivatives of a function of w, by forward mode, in one run of it."""
    if not order:
        return lambda w: (f(w),)
    lower = derivatives(f, order - 1)

    def twice(w):
        ys = lower(w)
        return ys[-1], ys

    def run(w):
        dy, ys = jax.jacfwd(twice, has_aux=True)(w)
        return (*ys, dy)

    return run


@functools.lru_cache(maxsize=256)
def truth(name: str, family: Family):
    """Value, gradient and Hessian of each objective at `W`."""
    return jax.jit(derivatives(reference(name, family), 2))(jnp.asarray(W))


@contextlib.contextmanager
def precisely():
    """Double precision."""
    with jax.enable_x64(True):
        yield


def assert_exact(g: Callable, mean: Callable, w: Any = W, *, hessian: bool = False, **options) -> None:
    """The exact mean of `g(key, w)` and of its derivative (in reverse mode) are those of `mean(w)`, a tuple."""
    w = jnp.asarray(w)
    exact = tg.exact_expectation(g, **options)

    def twice(w):
        y = exact(KEY, w)
        return y, y

    gradient, value = jax.jacrev(twice, has_aux=True)(w)
    found, expected = [value, gradient], jax.jit(derivatives(mean, 1 + hessian))(w)
    if hessian:
        found.append(jax.jacfwd(jax.jacfwd(lambda w: exact(KEY, w)))(w))
    for order, (a, b) in enumerate(zip(found, expected, strict=True)):
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-9, err_msg=f"derivative of order {order}")


def z_score(draws, exact):
    """How many standard errors the mean of draws (along the leading axis) is from the exact mean: the worst entry."""
    draws, exact = np.asarray(draws, dtype=float), np.asarray(exact, dtype=float)
    error = draws.std(axis=0, ddof=1) / np.sqrt(len(draws))
    off = np.abs(draws.mean(axis=0) - exact)
    return float(np.max(np.where(off < 1e-12, 0.0, off / np.maximum(error, 1e-300))))


def assert_mean(draw: Callable, exact: Any, n: int = 100_000) -> None:
    """A two-stage test that `draw(key)`, a vector, has this mean: 4 standard errors, else a fresh key and 5 at 16 n.

    A right estimator fails once in 1e8 runs; a bias of 5 standard deviations / sqrt(n) is seen nine times of ten.
    """
    batch = jax.jit(lambda key: jax.vmap(draw)(jax.random.split(key, n)))
    if z_score(batch(jax.random.key(1)), exact) > 4.0:
        keys = jax.random.split(jax.random.key(2), 16)
        assert z_score(np.concatenate([batch(key) for key in keys]), exact) < 5.0
