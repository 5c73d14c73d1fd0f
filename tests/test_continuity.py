"""A path derivative trusts what is known to be continuous; anything else that a path goes through is a jump."""

import jax
import numpy as np
import pytest
from jax import lax
from jax import numpy as jnp
from jax.scipy import linalg, signal, special

import tracegrad as tg
from tracegrad import dist
from tracegrad.transforms import describe_sites, expectation, sample

KEY = jax.random.key(5)
V = jnp.asarray([0.3, 0.6, 0.9])
M = jnp.asarray([[1.0, 0.2], [0.2, 0.8]])
MIXTURE = dist.MixtureSameFamily(dist.Categorical(probs=jnp.ones(3) / 3.0), dist.Normal(V, 1.0))


def of(f, estimator=None):
    """E[sum of the real parts of f(x)], x ~ N(m, 1)."""

    def objective(key, m):
        leaves = jax.tree.leaves(f(sample(key, dist.Normal(m, 1.0), label="x", estimator=estimator)))
        return sum(jnp.sum(jnp.real(leaf)).astype(float) for leaf in leaves)

    return expectation(objective)


def jumps(f, estimator=None):
    (row,) = describe_sites(of(f, estimator), KEY, 0.3)
    return [jump.partition(" at ")[0] for jump in row.jumps]


def derive(f, estimator=None):
    objective = of(f, estimator)
    return jax.make_jaxpr(lambda m: jax.jvp(lambda m: objective(KEY, m), (m,), (m,)))(0.3)


def host(x):
    return jax.pure_callback(np.round, jax.ShapeDtypeStruct((), jnp.float32), x)


@jax.custom_jvp
def foreign(x):
    return host(x)


foreign.defjvp(lambda xs, ts: (foreign(*xs), ts[0]))


def told(x):
    return jax.experimental.io_callback(np.round, jax.ShapeDtypeStruct((), jnp.float32), x)


@jax.jit
def clip(x):
    """Not the function of that name that is known."""
    return jnp.floor(x)


@jax.custom_batching.custom_vmap
def batched(x):
    return jnp.floor(x)


batched.def_vmap(lambda _, mapped, x: (jnp.floor(x), mapped[0]))


def scaled(x):
    a = 2.0 + jnp.floor(x)
    return lax.custom_linear_solve(lambda y: a * y, x, lambda _, b: b / a, symmetric=True)


def written(x):
    array = jax.new_ref(jnp.zeros(()))
    array[...] = x
    return array[...]


def sharded(f):
    mesh = jax.make_mesh((1,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec()
    return jax.shard_map(f, mesh=mesh, in_specs=spec, out_specs=spec)


JUMPS = {
    "callback": (host, "pure_callback"),
    "callback with a derivative": (foreign, "pure_callback"),
    "callback with effects": (told, "io_callback"),
    "foreign function": (lambda x: jax.ffi.ffi_call("f", jax.ShapeDtypeStruct((), jnp.float32))(x), "ffi_call"),
    "bounds of noise": (lambda x: lax.rng_uniform(x, jnp.float32(1.0), (3,)), "rng_uniform"),
    "mantissa": (lambda x: jnp.frexp(x)[0], "bitcast_convert_type"),
    "exponent": (lambda x: jnp.frexp(x)[1], "bitcast_convert_type"),
    "truth": (lambda x: jnp.maximum(x, 0.0).astype(bool), "convert_element_type"),
    "small integer": (lambda x: x.astype(jnp.int4).astype(float), "convert_element_type"),
    "sign of eigenvectors": (lambda x: jnp.linalg.eigh(x * M + M @ M)[1], "eigh"),
    "sign of singular vectors": (lambda x: jnp.linalg.svd(x * M + M @ M)[0], "svd"),
    "orthogonal factor": (lambda x: jnp.linalg.qr(M + x)[0], "qr"),
    "order of eigenvalues": (lambda x: jnp.linalg.eigvals(M + x)[0], "eig"),
    "pivots": (lambda x: linalg.lu_factor(M + x)[0], "lu"),
    "index of the largest": (lambda x: lax.approx_max_k(x * V, 2)[1], "approx_top_k"),
    "branch cut of a logarithm": (lambda x: jnp.log(lax.complex(jnp.float32(-1.0), x)).imag, "log"),
    "branch cut of a root": (lambda x: jnp.sqrt(lax.complex(jnp.float32(-1.0), x)).imag, "sqrt"),
    "angle of a number": (jnp.angle, "atan2"),
    "pole of the digamma function": (lambda x: jnp.arctan(special.digamma(x)), "digamma"),
    "a name that is known": (clip, "floor"),
    "batched by hand": (batched, "floor"),
    "a reduction by hand": (lambda x: lax.reduce(x * V, 0.0, lambda a, b: a + jnp.floor(b), (0,)), "floor"),
    "an update by hand": (lambda x: (x * V).at[0].apply(jnp.floor), "floor"),
    "a linear system": (scaled, "floor"),
    "a mutable array": (written, "swap"),
    "inside a mesh": (lambda x: sharded(lambda y: jnp.floor(y))(x), "floor"),
}


@pytest.mark.parametrize("name", JUMPS)
def test_what_is_not_known_to_be_continuous_is_a_jump_for_which_a_site_can_vouch(name):
    f, operation = JUMPS[name]
    assert operation in jumps(f)
    assert jumps(f, tg.reparam(continuous=True)) == []
    assert jumps(f, tg.reinforce()) == []
    assert jumps(lambda x: f(lax.stop_gradient(x))) == []


def test_taking_the_derivative_warns_of_an_unknown_operation_and_not_where_it_is_vouched_for():
    with pytest.warns(tg.DiscontinuityWarning, match="at 'x' reaches a discontinuity: pure_callback at .*test_con"):
        derive(foreign)
    derive(foreign, tg.reparam(continuous=True))


def test_the_signs_of_eigenvectors_turn_where_the_matrix_is_continuous():
    """The first eigenvector of [[x, 1], [1, 0]] turns as x goes through zero."""
    at = [np.linalg.eigh(np.asarray([[x, 1.0], [1.0, 0.0]], np.float32)) for x in (-0.01, 0.01)]
    np.testing.assert_allclose(at[0].eigenvalues, at[1].eigenvalues, atol=0.02)
    np.testing.assert_allclose(np.abs(at[0].eigenvectors), np.abs(at[1].eigenvectors), atol=0.02)
    turned = jnp.stack([jnp.linalg.eigh(jnp.asarray([[x, 1.0], [1.0, 0.0]]))[1][0, 0] for x in (-0.01, 0.01)])
    assert turned[0] * turned[1] < 0.0


UNARY = {
    jnp: """abs arcsinh arctan cbrt cos cosh cumprod cumsum deg2rad exp exp2 expm1 flip log log1p log10 log2 max mean
    min nan_to_num negative prod ptp ravel sin sinc sinh sort sqrt square std sum tanh var""",
    jnp.fft: "fft ifft rfft",
    special: """dawsn entr erf erfc erfinv expi expit gammaln i0 i0e i1 i1e log_ndtr log_softmax logit logsumexp
    softmax""",
    jax.nn: """celu elu gelu hard_sigmoid hard_swish leaky_relu log_sigmoid mish relu relu6 selu sigmoid silu soft_sign
    softplus sparse_plus squareplus standardize""",
}


def of_vector(f):
    return lambda x: f(x * V)


CONTINUOUS = {
    f"{module.__name__}.{name}": of_vector(getattr(module, name))
    for module, names in UNARY.items()
    for name in names.split()
} | {
    "logaddexp": lambda x: jnp.logaddexp(x, 0.3),
    "hypot": lambda x: jnp.hypot(x, 0.3),
    "fmax": lambda x: jnp.fmax(x, 0.3),
    "xlogy": lambda x: special.xlogy(x, 0.3),
    "gammainc": lambda x: special.gammainc(2.0, jnp.exp(x)),
    "betainc": lambda x: special.betainc(2.0, 3.0, jax.nn.sigmoid(x)),
    "cholesky": lambda x: jnp.linalg.cholesky(jnp.exp(x) * M),
    "solve": lambda x: jnp.linalg.solve(x * M, V[:2]),
    "determinant": lambda x: (jnp.linalg.det(x * M), jnp.linalg.slogdet(x * M)[1], jnp.linalg.inv(x * M)),
    "least squares": lambda x: (jnp.linalg.pinv(x * M), jnp.linalg.lstsq(x + M, V[:2])[0]),
    "eigenvalues": lambda x: (jnp.linalg.eigvalsh(x * M), jnp.linalg.svd(x * M, compute_uv=False)),
    "exponential": lambda x: linalg.expm(x * M),
    "triangular solve": lambda x: linalg.solve_triangular(M + jnp.exp(x), V[:2], lower=True),
    "products": lambda x: (jnp.einsum("ij,jk->ik", x * M, M), jnp.convolve(x * V, V), signal.fftconvolve(x * V, V)),
    "indexed": lambda x: ((x * V)[jnp.asarray([2, 0])], (x * V)[1:], lax.dynamic_slice(x * V, (1,), (1,))),
    "updated": lambda x: (V.at[0].set(x), V.at[1].add(x), V.at[2].mul(x), (x * V).at[0].apply(jnp.sin)),
    "pooled": lambda x: lax.reduce_window(x * V, -jnp.inf, lax.max, (2,), (1,), "VALID"),
    "reduced by hand": lambda x: lax.reduce(x * V, 1.0, lambda a, b: a + b + a * b, (0,)),
    "arranged": lambda x: (jnp.pad(x * V, 1), jnp.stack([x, x]), jnp.tile(x * V, 2), jnp.outer(x * V, V)),
    "largest": lambda x: (lax.top_k(x * V, 2)[0], lax.approx_max_k(x * V, 2)[0], lax.cummax(x * V)),
    "complex": lambda x: jnp.abs(jnp.exp(lax.complex(x, x))),
    "barrier": lax.optimization_barrier,
    "checkpointed": jax.checkpoint(jnp.sin),
    "linear": lambda x: lax.custom_linear_solve(lambda y: 2.0 * y, x, lambda _, b: b / 2.0, symmetric=True),
    "conjugate gradients": lambda x: jax.scipy.sparse.linalg.cg(lambda y: M @ y, x * V[:2])[0],
    "a root": lambda x: lax.custom_root(lambda y: y**3 + y - x, x, lambda f, y: x / 2.0, lambda g, y: y / g(1.0)),
    "mesh": lambda x: sharded(lambda y: lax.psum(jnp.sin(y), "i"))(x),
    "nested": lambda x: tg.gen(lambda: tg.sample("y", dist.Normal(0.0, 1.0))).assess({"y": x})[0],
    "mixture": lambda x: tg.gen(lambda: tg.sample("y", MIXTURE)).assess({"y": x})[0],  # it looks for infinite densities
}


@pytest.mark.parametrize("name", CONTINUOUS)
def test_what_is_known_to_be_continuous_is_silent(name):
    assert jumps(CONTINUOUS[name]) == []


def test_the_states_of_a_chain_are_summed_out_and_only_jumps_of_the_program_count():
    """The sum guards against infinities, and has two ways to one number: none of that is a jump."""

    @tg.gen
    def step(k, _):
        k = tg.sample("k", dist.Bernoulli(probs=jnp.where(k == 1, 0.9, 0.2)))
        tg.sample("x", dist.Normal(2.0 * k.astype(float), 1.0))
        return k, None

    chain = tg.marginal(step.scan(length=3), "x", tg.forward_filter())

    def log_density(x):
        return chain.assess({"x": x + jnp.arange(3.0)}, 0, None)[0]

    assert jumps(log_density) == []
    assert jumps(lambda x: log_density(jnp.where(x > 0.5, x, -x))) == ["gt"]
