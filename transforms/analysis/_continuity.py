"""What is known to be continuous: primitives, functions by their names, the code of libraries. All else may jump."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path as File

import jax

from .._jax import frames_of, inner_jaxprs, is_inexact_aval, name_of_call, param, source_of

ELEMENTWISE = set(
    """abs acos acosh add add_any asin asinh atan atanh bessel_i0e bessel_i1e cbrt clamp complex conj
    convert_element_type copy cos cosh erf erf_inv erfc exp exp2 expm1 igamma igamma_grad_a igammac imag lgamma log
    log1p log2 logistic max min mul neg nextafter one_minus_square polynomial pow random_gamma real reduce_precision
    regularized_incomplete_beta select_n sin sinh sqrt square sub tanh zeta""".split()
)
STRUCTURAL = set(
    """broadcast_in_dim concatenate device_put dynamic_slice dynamic_update_slice gather layout_constraint name
    optimization_barrier pad reshape rev sharding_constraint slice split squeeze stack tile transpose unstack
    with_memory_space_constraint""".split()
)
REDUCTIONS = set(
    """cumlogsumexp cummax cummin cumprod cumsum reduce_max reduce_min reduce_prod reduce_sum reduce_window_max
    reduce_window_min reduce_window_sum""".split()
)
LINEAR_ALGEBRA = set(
    """cholesky cholesky_update conv_general_dilated dot_general fft householder_product ormqr ragged_dot_general
    scaled_dot scaled_matmul symmetric_product triangular_solve tridiagonal_solve""".split()
)
MESH = set(
    """all_gather all_gather_invariant all_gather_reduced all_to_all pbroadcast pmax pmin ppermute psum psum_invariant
    pvary ragged_all_to_all reduce_scatter reduced_vary_cast reduced_vary_cast_p reshard unreduced_psum
    vary_unreduced_cast vary_unreduced_cast_p""".split()
)
OWN = {"stated", "share", "once", "fork_sum", "forward_only"}
POLES = set("div atan2 integer_pow rsqrt tan digamma polygamma".split())
"""Operations that jump where an operand goes through zero; atan2 to the left of zero, the tangent where it likes."""

SMOOTH = ELEMENTWISE | STRUCTURAL | REDUCTIONS | LINEAR_ALGEBRA | MESH | OWN | POLES
"""Primitives whose results of floating point are continuous in their operands, away from poles."""

CUT = set("acos acosh asin asinh atan atanh cbrt log log1p log2 pow rsqrt sqrt".split())
"""Operations that jump across a ray of the complex plane."""

SOME = {"sort": slice(0, 1), "top_k": slice(0, 1), "approx_top_k": slice(0, 1), "svd": slice(0, 1), "eigh": slice(1, 2)}
"""Which results of an operation are continuous. Eigenvectors are not: their signs turn as a matrix moves."""

FOLDS = set("reduce reduce_window scatter scatter-add scatter-sub scatter-mul scatter-min scatter-max".split()) | {
    "custom_linear_solve"
}
"""Operations as continuous as the function that they apply: the first one among their parameters, if there is any."""

BODIES = set(
    "jit closed_call remat2 shard_map composite linear_call custom_jvp_call custom_vjp_call custom_vmap_call".split()
)
"""Operations that run the first jaxpr among their parameters on their operands."""

CONTINUOUS = set(
    """site_log_density site_draw relu relu6 leaky_relu elu selu celu softplus log_sigmoid hard_tanh hard_sigmoid
    hard_silu hard_swish squareplus sparse_plus sparse_sigmoid gelu silu mish clip abs logaddexp logaddexp2 logsumexp
    softmax log_softmax norm sinc xlogy xlog1py entr kl_div rel_entr nan_to_num _interp _std _var quantile median
    percentile ndtr ndtri log_ndtr erfinv erf_inv i0 i0e i1 i1e expi expn betainc zeta polygamma gammaincc gammainc
    tril triu _cholesky cholesky _solve solve inv det slogdet expm power hypot fmax fmin nanmedian nanquantile
    nanpercentile corrcoef _geomspace _lstsq _sqrtm polar poly known_continuous""".split()
)
"""Names of traced functions that are continuous, though not all of their steps are."""

LIBRARIES = set(
    """jax numpyro equinox optax flowjax paramax diffrax lineax optimistix tinygp blackjax tensorflow_probability
    distrax distreqx quadax interpax""".split()
)
"""Installed packages whose own code is not looked at."""

SPECIAL = re.compile(r"[/\\]scipy[/\\]special")
"""The files of JAX's special functions, which are traced into their callers."""

DISTRIBUTIONS = re.compile(r"[/\\]scipy[/\\]stats[/\\](?!bernoulli|betabinom|binom|geom|multinomial|nbinom|poisson)")
"""The files of JAX's continuous distributions."""

PROBABILITIES = set("cdf sf logcdf logsf ppf isf".split())
"""What is continuous of a continuous distribution, though it is told case by case. Its density may not be."""

JUMPING = {"_frexp"}
"""Functions of these libraries with a derivative of their own that jump all the same."""

JAX = re.compile(r"(?:site|dist)-packages[/\\]jax(?:lib)?[/\\]")
HERE = str(File(__file__).parents[1])


def continuous(function: Callable) -> Callable:
    """A function of arrays that is continuous, though not all of its steps are: they are not looked at.

    For sums that guard against infinities, or that choose between two ways to the same number.
    """

    def known_continuous(*args):
        return function(*args)

    return jax.jit(known_continuous)


def is_theirs(line: str) -> bool:
    """Whether a line is in the code of a library that is known to keep to continuous functions."""
    package = re.search(r"(?:site|dist)-packages[/\\](\w+)", line)
    return package is not None and package[1] in LIBRARIES


def is_inside_known(eqn) -> bool:
    """Whether an equation was made inside a function of JAX that is known to be continuous, and that is no call."""
    for file, function in frames_of(eqn):
        if not JAX.search(file):
            return False
        name = function.rpartition(".")[2]
        if (
            name.lstrip("_") in CONTINUOUS
            and SPECIAL.search(file)
            or name in PROBABILITIES
            and DISTRIBUTIONS.search(file)
        ):
            return True
    return False


def is_opaque(eqn) -> bool:
    """Whether an equation calls a function that is known to be continuous, or a library's with its own derivative."""
    if eqn.primitive.name not in BODIES:
        return False
    named = name_of_call(eqn) in CONTINUOUS
    if not named and not eqn.primitive.name.startswith("custom_"):
        return False
    name, _, line = source_of(next(inner_jaxprs(eqn))).partition(" at ")
    return name not in JUMPING and (line == "" or is_theirs(line) or named and line.startswith(HERE))


def continuous_outputs(eqn) -> list[bool]:
    """For each result of an equation whether it is known to be continuous in the operands, away from poles."""
    name, outs = eqn.primitive.name, eqn.outvars
    cut = name in CUT and eqn.invars[0].aval.dtype.kind == "c"
    known = [name in SMOOTH and not cut or is_opaque(eqn)] * len(outs)
    if name in SOME:
        kept = SOME[name] if name != "sort" else slice(0, param(eqn, "num_keys"))
        known[kept] = [True] * len(known[kept])
    return [k and is_inexact_aval(v.aval) for k, v in zip(known, outs, strict=True)]
