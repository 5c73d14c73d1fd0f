"""Path derivatives miss jumps: where a reparameterised draw reaches one, it is said, and only there."""

import warnings

import jax
import numpy as np
import pytest
from jax import lax
from jax import numpy as jnp
from jax.scipy import special, stats
from jax.scipy.ndimage import map_coordinates

import tracegrad as tg
from tracegrad import dist
from tracegrad.transforms import describe_sites, expectation, sample

KEY = jax.random.key(5)
LOOP = jnp.arange(3.0)


def of(f, estimator=None):
    """E[f(x)], x ~ N(m, 1)."""
    return expectation(lambda key, m: f(sample(key, dist.Normal(m, 1.0), label="x", estimator=estimator)))


def derive(objective, *args):
    """Trace a derivative, in forward mode so that loops of unknown length are allowed."""
    return jax.make_jaxpr(lambda key, *xs: jax.jvp(lambda *ys: objective(key, *ys), xs, xs))(KEY, *args)


def branch(x):
    return lax.cond(x > 0.3, lambda: x, lambda: x + 1.0)


def loop(x):
    return lax.while_loop(lambda s: s < 1.0, lambda s: s + 0.5, x)


def steps(x):
    def step(s, c):
        return jnp.where(s > c, s, s + 1.0), s

    return lax.scan(step, x, LOOP)[0]


def counted(x):
    """The jump is carried for two steps before it reaches the result."""

    def step(carry, _):
        a, b, c = carry
        return (jnp.round(a), a, b), None

    return lax.scan(step, (x, x, x), None, length=4)[0][2]


def bilinear(x):
    return map_coordinates(jnp.asarray([0.0, 1.0, 4.0]), [x[None]], 1)[0]


def index(x):
    return jnp.asarray([0.0, 1.0, 4.0])[jnp.clip(x, 0.0, 2.0).astype(int)]


@jax.custom_jvp
def straight_through(x):
    return jnp.floor(x)


straight_through.defjvp(lambda xs, ts: (straight_through(*xs), ts[0]))


def words(x):
    return (lax.bitcast_convert_type(x, jnp.int32) >> 31).astype(float)


JUMPS = {
    "searchsorted": (lambda x: LOOP[jnp.searchsorted(LOOP, x)], "le_to"),
    "digitize": (lambda x: LOOP[jnp.digitize(x, LOOP[:2])], "lt_to"),
    "sign bit": (lambda x: jnp.signbit(x).astype(float), "bitcast_convert_type"),
    "copied sign": (lambda x: jnp.copysign(1.0, x), "bitcast_convert_type"),
    "bit cast": (words, "bitcast_convert_type"),
    "finite logarithm": (lambda x: jnp.isfinite(jnp.log(x)).astype(float), "is_finite"),
    "root that is nan": (lambda x: jnp.isnan(jnp.sqrt(x)).astype(float), "ne"),
    "equality on a plateau": (lambda x: (jnp.maximum(x, 0.0) == 0.0).astype(float), "eq"),
    "quotient by a modulus": (lambda x: x / jnp.abs(x), "div"),
    "quotient of a root": (lambda x: jnp.sqrt(x**2) / x, "div"),
    "pole": (lambda x: jnp.arctan(1.0 / x), "div"),
    "negative power": (lambda x: jnp.arctan(x**-1), "integer_pow"),
    "reciprocal root": (lambda x: x * lax.rsqrt(x * x), "rsqrt"),
    "tangent": (lambda x: jnp.arctan(jnp.tan(x)), "tan"),
    "branch cut": (lambda x: jnp.arctan2(x, -1.0), "atan2"),
    "angle": (lambda x: jnp.arctan2(x - 1.0, x), "atan2"),
    "straight through": (straight_through, "floor"),
    "indicator": (lambda x: x * (x > 0.5).astype(float), "gt"),
    "select": (lambda x: jnp.where(x > 0.5, x, 0.0), "gt"),
    "two jumps of which one meets": (lambda x: jnp.where(x > 0.0, x * jnp.floor(x), 0.0), "floor"),
    "guards that differ": (lambda x: jnp.where(x > 0.0, jnp.where(x > 0.1, x, 1.0), 0.0), "gt"),
    "guards of which none meets": (lambda x: jnp.where(x > 0.0, jnp.where(x > 0.0, x, 1.0) + 1.0, 0.0), "gt"),
    "floor": (jnp.floor, "floor"),
    "ceil": (jnp.ceil, "ceil"),
    "round": (jnp.round, "round"),
    "sign": (jnp.sign, "sign"),
    "remainder": (lambda x: jnp.mod(x, 1.0), "rem"),
    "index": (index, "convert_element_type"),
    "argmax": (lambda x: LOOP[jnp.argmax(jnp.stack([x, x * 2.0, x * 0.0]))], "argmax"),
    "argsort": (lambda x: LOOP[jnp.argsort(jnp.stack([x, x * 2.0, x * 0.0]))][0], "sort"),
    "cond": (branch, "gt"),
    "while": (loop, "lt"),
    "scan": (steps, "gt"),
    "carried": (counted, "round"),
    "density with an edge": (lambda x: jnp.exp(jnp.where(x > 0.0, -x, -jnp.inf)), "gt"),
    "density of a library with an edge": (stats.expon.pdf, "lt"),
    "sum of densities with an edge": (lambda x: jnp.logaddexp(jnp.where(x > 0.0, -x, -jnp.inf), 0.0), "gt"),
    "infinity that is replaced": (lambda x: jnp.maximum(jnp.where(x < 1.0, x, -jnp.inf), -5.0), "lt"),
    "infinity that is tested": (lambda x: jnp.isfinite(jnp.where(x > 0.0, x, jnp.inf)).astype(float), "is_finite"),
    "cumulative of counts": (lambda x: stats.poisson.cdf(x, 2.0), "floor"),
    "jit": (jax.jit(lambda x: jax.vmap(jnp.floor)(x[None])[0]), "floor"),
    "checkpoint": (jax.checkpoint(jnp.floor), "floor"),
    "bilinear": (bilinear, "floor"),
}


@pytest.mark.parametrize("name", JUMPS)
def test_a_jump_is_named_with_its_line(name):
    f, operation = JUMPS[name]
    with pytest.warns(
        tg.DiscontinuityWarning, match=f"sample at 'x' reaches a discontinuity: {operation} at .*test_sm"
    ):
        derive(of(f), 0.3)
    (row,) = describe_sites(of(f), KEY, 0.3)
    assert row.jumps[0].startswith(f"{operation} at ")
    assert "test_smoothness.py:" in row.jumps[0]
    (row,) = describe_sites(of(f, tg.reinforce()), KEY, 0.3)
    assert row.jumps == ()


@jax.custom_jvp
def softened(x):
    return jnp.where(x > 0.0, x, 0.0)


softened.defjvp(lambda xs, ts: (softened(*xs), jax.nn.sigmoid(xs[0]) * ts[0]))
PAIR = jnp.asarray([1.0, 2.0])

CONTINUOUS = {
    "quotient by a scale": lambda x: x / jnp.exp(x),
    "quotient by a constant": lambda x: x / LOOP[1],
    "quotient by a softplus": lambda x: x / (jax.nn.softplus(x) + 1e-3),
    "quotient by one and a square": lambda x: x / (1.0 + x**2),
    "quotient by a logistic": lambda x: jax.nn.sigmoid(x) / (1.0 - jax.nn.sigmoid(x)),
    "quotient by a sum": lambda x: (jnp.exp(x * PAIR) / jnp.exp(x * PAIR).sum()).sum(),
    "quotient by a length": lambda x: (PAIR * x + 1.0).sum() / jnp.sqrt(jnp.sum((PAIR * x + 1.0) ** 2)),
    "quotient by a norm": lambda x: (PAIR * x).sum() / jnp.linalg.norm(PAIR * x + 1.0),
    "standardised": lambda x: ((PAIR * x) / jnp.std(PAIR * x)).sum(),
    "power of a scale": lambda x: jnp.exp(x) ** -2 + lax.rsqrt(x * x + 1e-3),
    "angle on the right": lambda x: jnp.arctan2(x, 1.0) + jnp.arctan2(x, jnp.exp(x)) + jnp.arctan2(1.0, x),
    "a derivative of its own": softened,
    "not a number": lambda x: jnp.where(jnp.isnan(x), 0.0, x) + jnp.nan_to_num(x),
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "leaky_relu by hand": lambda x: jnp.where(x > 0, x, 0.01 * x),
    "relu by hand": lambda x: x * (x > 0).astype(float),
    "maximum by hand": lambda x: jnp.where(x > 0.5, x, 0.5),
    "two guards": lambda x: jnp.where(x > 0.0, jnp.sqrt(jnp.where(x > 0.0, x, 1.0)), 0.0),
    "abs by hand": lambda x: jnp.where(0.0 > x, -x, x),
    "elu": jax.nn.elu,
    "selu": jax.nn.selu,
    "softplus": jax.nn.softplus,
    "gelu": jax.nn.gelu,
    "clip": lambda x: jnp.clip(x, -1.0, 1.0),
    "lax clamp": lambda x: lax.clamp(-1.0, x, 1.0),
    "maximum": lambda x: jnp.maximum(x, 0.5),
    "abs": jnp.abs,
    "logsumexp": lambda x: jax.nn.logsumexp(jnp.stack([x, 0.5 * x])),
    "logaddexp": lambda x: jnp.logaddexp(x, 0.5),
    "finite guard": lambda x: jnp.where(jnp.isfinite(x), x, 0.0),
    "support": lambda x: jnp.where(x > 0.0, jnp.log1p(x), -jnp.inf),
    "logarithm of what vanishes": lambda x: jnp.exp(jnp.where(x > 0.0, jnp.log(jnp.where(x > 0.0, x, 1.0)), -jnp.inf)),
    "logarithm of what vanishes, and more": lambda x: jnp.exp(
        jnp.where(x > 0.0, jnp.log(jnp.where(x > 0.0, x, 1.0)) - x, -jnp.inf)
    ),
    "cumulative": lambda x: stats.norm.cdf(x) + stats.norm.sf(x) + stats.laplace.cdf(x) + special.ndtr(x),
    "cumulative in lanes": lambda x: jax.jit(jax.vmap(stats.norm.cdf))(x[None])[0],
    "quantile": lambda x: stats.norm.ppf(jax.nn.sigmoid(x)) + special.ndtri(jax.nn.sigmoid(x)),
    "error function": lambda x: special.erf(x) + special.erfc(x) + special.log_ndtr(x),
    "sort": lambda x: jnp.sort(jnp.stack([x, 0.5 * x]))[0],
    "median": lambda x: jnp.median(jnp.stack([x, 0.5 * x, 2.0 * x])),
    "held": lambda x: x * jnp.floor(lax.stop_gradient(x)),
    "held after": lambda x: x * lax.stop_gradient(jnp.floor(x)),
    "unused": lambda x: (jnp.floor(x), x)[1],
    "equality": lambda x: jnp.where(x == 0.0, 1.0, x),
    "of something else": lambda x: jnp.where(jnp.floor(LOOP) > 1.0, x, 0.0).sum(),
    "the code of a library": lambda x: dist.AsymmetricLaplace(0.0, 1.0, 0.5).log_prob(x),
    "density": lambda x: tg.gen(lambda: tg.sample("y", dist.Gamma(2.0, 1.0))).assess({"y": jnp.exp(x)})[0],
}


@pytest.mark.parametrize("name", CONTINUOUS)
def test_continuous_functions_do_not_warn(name):
    """Warnings are errors here."""
    derive(of(CONTINUOUS[name]), 0.3)
    assert describe_sites(of(CONTINUOUS[name]), KEY, 0.3)[0].jumps == ()


def test_an_evidence_bound_of_many_families_does_not_warn():
    """Densities and samplers are full of guards; a decoder of ReLUs is continuous."""
    families = {
        "normal": lambda m: dist.Normal(m, jnp.exp(m)),
        "gamma": lambda m: dist.Gamma(jnp.exp(m), 1.0),
        "beta": lambda m: dist.Beta(jnp.exp(m), 2.0),
        "t": lambda m: dist.StudentT(3.0, m, 1.0),
        "uniform": lambda m: dist.Uniform(0.0, jnp.exp(m)),
        "log normal": lambda m: dist.LogNormal(m, 1.0),
        "dirichlet": lambda m: dist.Dirichlet(jnp.exp(m) * jnp.ones(3)),
        "vector": lambda m: dist.MultivariateNormal(m * jnp.ones(2), jnp.eye(2)),
    }

    @tg.gen
    def guide(m):
        for name, family in families.items():
            tg.sample(name, family(m))

    @tg.gen
    def model():
        zs = [jnp.ravel(tg.sample(name, family(jnp.asarray(0.2)))) for name, family in families.items()]
        hidden = jax.nn.relu(jnp.outer(LOOP, jnp.concatenate(zs)))
        tg.sample("x", dist.Bernoulli(logits=jax.nn.leaky_relu(hidden).sum(1)).to_event(1))

    bound = tg.elbo(model, guide, {"x": jnp.asarray([0, 1, 1])})
    jax.make_jaxpr(jax.grad(lambda m: bound(KEY, (), (m,))))(jnp.asarray(0.1))


@pytest.mark.parametrize("family", [dist.Gamma, dist.LogNormal, dist.Beta, dist.HalfNormal], ids=lambda f: f.__name__)
def test_one_may_divide_by_what_is_drawn_positive(family):
    count = 1 + (family is not dist.HalfNormal)
    f = expectation(lambda key, a: 1.0 / sample(key, family(*[a] * count), label="x"))
    derive(f, 1.5)


@pytest.mark.parametrize(("package", "counts"), [("jax", 0), ("numpyro", 0), ("someones_model", 1)])
def test_code_that_is_installed_is_looked_at_unless_it_is_a_known_library(tmp_path, package, counts):
    path = tmp_path / "site-packages" / package / "model.py"
    names: dict = {"jnp": jnp}
    exec(compile("def jump(x):\n    return jnp.where(x > 0.5, x, 0.0)\n", str(path), "exec"), names)
    assert len(describe_sites(of(names["jump"]), KEY, 0.3)[0].jumps) == counts


@pytest.mark.parametrize("name", ["bilinear", "floor", "scan"])
def test_a_site_can_vouch_for_what_follows(name):
    derive(of(JUMPS[name][0], tg.reparam(continuous=True)), 0.3)
    assert str(tg.reparam(continuous=True)) == "reparam(continuous=True)"
    assert str(tg.reparam()) == "reparam()"


def test_the_jump_of_the_issue_is_biased_where_it_warns_and_not_where_it_does_not():
    """d/dm E[x 1(x > 0.5)] = Phi(m - 0.5) + 0.5 phi(0.5 - m); the path misses the second term."""
    kinked = JUMPS["indicator"][0]
    m, z = 0.3, 0.2
    density = np.exp(-0.5 * z**2) / np.sqrt(2.0 * np.pi)
    tail = float(jax.scipy.stats.norm.sf(z))
    exact = (float(density + m * tail), (float(tail + 0.5 * density),))
    with pytest.warns(tg.DiscontinuityWarning):
        report = tg.check_unbiased(of(kinked), m, key=KEY, draws=20_000, exact=exact)
    assert not report.passed
    estimate, reference = report.rows[1][1:3]
    np.testing.assert_allclose(estimate, tail, atol=0.01)
    np.testing.assert_allclose(reference, tail + 0.5 * density, rtol=1e-6)
    assert tg.check_unbiased(of(kinked, tg.reinforce()), m, key=KEY, draws=20_000, exact=exact).passed


def test_only_what_a_parameter_moves_counts():
    """Noise without parameters may be compared with anything that is not differentiated."""

    def f(key, m, p):
        u = sample(key, dist.Uniform(0.0, 1.0), label="u")
        return m * (u < p).astype(float)

    jax.make_jaxpr(jax.grad(expectation(f), argnums=1))(KEY, 0.3, 0.5)
    with pytest.warns(tg.DiscontinuityWarning, match="at 'u'"):
        jax.make_jaxpr(jax.grad(expectation(f), argnums=2))(KEY, 0.3, 0.5)


def test_auxiliary_outputs_may_jump():
    def f(key, m):
        x = sample(key, dist.Normal(m, 1.0))
        return x, jnp.floor(x)

    jax.make_jaxpr(jax.grad(expectation(f, has_aux=True), argnums=1, has_aux=True))(KEY, 0.3)


def test_each_site_is_named_once_and_draws_in_between_pass_on_what_they_should():
    """A path through a reparameterised draw goes on, a scored draw ends it, a jump in its parameters goes through."""

    @tg.gen
    def program(m, names):
        a = tg.sample("a", dist.Normal(m, 1.0))
        b = tg.sample("b", dist.Normal(a, 1.0), estimator=names["b"])
        c = tg.sample("c", dist.Bernoulli(logits=jnp.floor(m * b) if "c" in names else b))
        return jnp.floor(b) + jnp.floor(b) + c.astype(float)

    def found(**names):
        f = tg.expectation(lambda key, m: program.simulate(key, m, names).retval)
        return {row.label[0]: len(row.jumps) for row in tg.describe_estimators(f, KEY, 0.3)}

    with jax.numpy_dtype_promotion("standard"):
        assert found(b=tg.reparam()) == {"a": 2, "b": 2, "c": 0}
        assert found(b=tg.reinforce()) == {"a": 0, "b": 0, "c": 0}
        assert found(b=tg.reparam(continuous=True)) == {"a": 0, "b": 0, "c": 0}
        assert found(b=tg.reparam(), c=True) == {"a": 3, "b": 3, "c": 0}
    f = tg.expectation(lambda key, m: program.simulate(key, m, {"b": tg.reparam()}).retval)
    assert str(tg.describe_estimators(f, KEY, 0.3)).splitlines()[-1].startswith("b: its path derivative misses")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        derive(f, 0.3)
    assert [str(w.message).split("'")[1] for w in seen] == ["a", "b"]
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        for _ in range(2):
            derive(f, 0.3)
    assert len(seen) == 2
    assert all(w.filename == __file__ for w in seen)


def test_sites_inside_loops_and_lanes_are_found():
    @tg.gen
    def step(x, _):
        x = tg.sample("x", dist.Normal(x, 1.0))
        return jnp.where(x > 1.0, 0.0, x), x

    @tg.expectation
    def walk(key, m):
        return tg.gen(lambda: tg.sample("steps", step.scan()(m, LOOP))).simulate(key).retval[0]

    def batch(m):
        return jax.vmap(lambda k: walk(k, m))(jax.random.split(KEY, 3)).mean()

    with pytest.warns(tg.DiscontinuityWarning, match="at 'steps/x'.* gt at "):
        jax.make_jaxpr(jax.grad(batch))(0.3)


# ---- other paths ----------------------------------------------------------------------------------------------------


def gamma_of(f, estimator):
    return expectation(lambda key, a: f(sample(key, dist.Gamma(a, 1.0), label="x", estimator=estimator)))


@pytest.mark.slow
def test_the_path_through_accepted_noise_is_looked_at_too():
    jump = lambda x: x * (x > 1.5).astype(float)  # noqa: E731
    with pytest.warns(
        tg.DiscontinuityWarning, match=r"at 'x' reaches a discontinuity: gt.*`rsvi\(..., continuous=True"
    ):
        derive(gamma_of(jump, tg.rsvi(2)), 2.0)
    (row,) = describe_sites(gamma_of(jump, tg.rsvi(2)), KEY, 2.0)
    assert row.jumps[0].startswith("gt at ")
    derive(gamma_of(jump, tg.rsvi(2, continuous=True)), 2.0)
    derive(gamma_of(lambda x: jnp.maximum(x, 1.5), tg.rsvi(2)), 2.0)
    assert (str(tg.rsvi(2)), str(tg.rsvi(2, continuous=True))) == ("rsvi(2)", "rsvi(2, continuous=True)")
    with pytest.warns(tg.DiscontinuityWarning):
        report = tg.check_unbiased(gamma_of(jump, tg.rsvi(2)), 2.0, key=KEY, draws=4_000)
    assert not report.passed


def flip(estimator, f=lambda b: b):
    return expectation(
        lambda k, w: f(sample(k, dist.Bernoulli(logits=w), label="b", estimator=estimator).astype(float))
    )


def step_of(z):
    return 2.0 * (z > 0.7).astype(float)


CONTROLS = {
    "relax": (tg.relax, lambda e, **o: e(step_of, **o), "relax(...)"),
    "rebar": (tg.rebar, lambda e, **o: e(step_of, temperature=1.0, **o), "rebar(..., temperature=1.0, scale=1.0)"),
}


@pytest.mark.table
@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_variate_must_be_continuous_in_the_relaxed_draw(name):
    estimator, make, text = CONTROLS[name]
    with pytest.warns(
        tg.DiscontinuityWarning,
        match=rf"control variate at 'b' has a discontinuity: gt at .*test_sm.*`{name}\(..., continuous=True\)`",
    ):
        report = tg.check_unbiased(flip(make(estimator)), 0.3, key=KEY, draws=20_000)
    assert not report.passed
    (row,) = describe_sites(flip(make(estimator)), KEY, 0.3)
    assert row.jumps[0].startswith("gt at ")
    derive(flip(make(estimator, continuous=True)), 0.3)
    assert str(make(estimator)) == text
    assert str(make(estimator, continuous=True)).endswith(", continuous=True)")


def test_the_objective_of_a_control_variate_may_jump():
    """The drawn value has a score; only the control variate has a path."""
    derive(flip(tg.relax(jax.nn.relu), lambda b: jnp.where(b > 0.5, 1.0, 3.0)), 0.3)
    many = expectation(lambda k, w: sample(k, dist.Categorical(logits=w), estimator=tg.relax(jnp.max)).astype(float))
    derive(many, jnp.zeros(3))


def test_a_jump_in_a_trained_control_variate_in_a_loop_is_found():
    def f(key, w, slope):
        def body(total, k):
            control = jax.tree_util.Partial(lambda s, z: s * jnp.floor(z), slope)
            return total + sample(k, dist.Bernoulli(logits=w), label="b", estimator=tg.relax(control)), None

        return lax.scan(body, 0, jax.random.split(key, 2))[0].astype(float)

    with pytest.warns(tg.DiscontinuityWarning, match="control variate at 'b' has a discontinuity: floor"):
        derive(expectation(f), 0.3, 2.0)


def test_doubly_reparameterised_bounds_are_looked_at():
    guide = tg.gen(lambda m: tg.sample("z", dist.Normal(m, 1.0)))
    model = tg.gen(lambda: tg.sample("x", dist.Normal(jnp.floor(tg.sample("z", dist.Normal(0.0, 1.0))), 1.0)))
    bound = tg.dreg(model, guide, {"x": jnp.asarray(0.2)}, n=2)
    with pytest.warns(tg.DiscontinuityWarning, match="at 'z' reaches a discontinuity: floor"):
        jax.make_jaxpr(jax.grad(lambda m: bound(KEY, (), (m,))))(jnp.asarray(0.1))


@pytest.mark.table
@pytest.mark.parametrize(("threshold", "warned"), [(0.7, 1), (None, 0)])
def test_a_threshold_on_weights_of_reparameterised_particles_warns(threshold, warned):
    """It is the library's own comparison; the line that is named is the user's."""

    @tg.gen
    def step(z, x):
        z = tg.sample("z", dist.Normal(0.9 * z, 1.0))
        tg.sample("y", dist.Normal(z, 1.0))
        return z, None

    @tg.gen
    def proposal(observed, carry, x, w):
        tg.sample("z", dist.Normal(w * carry + 0.1 * observed["y"], 1.0))

    @tg.expectation
    def bound(key, w):
        walk = tg.marginal(step.scan(length=3), "y", tg.smc(4, proposal, (w,), ess_threshold=threshold))
        return walk.assess({"y": jnp.arange(3.0)}, 0.0, key=key)[0]

    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        jax.grad(bound, argnums=1)(jax.random.key(0), 0.5)
    assert [w.category for w in found] == [tg.DiscontinuityWarning] * warned
    assert all("at 'z'" in str(w.message) and "test_smoothness.py" in str(w.message) for w in found)
