"""How each operation hands on what its operands depend on: a table by the name of the primitive.

A rule says for each axis of an operand which axis of the result it is, whatever the operand depends on. Where a rule is
unsure it says None, and an operation without a rule mixes everything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .._jax import param
from ._sources import Dependence, mixed, move, reshaped, union

ELEMENTWISE = set(
    """abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e bitcast_convert_type cbrt ceil
    clamp clz complex conj convert_element_type copy cos cosh digamma div eq erf erf_inv erfc exp exp2 expm1 floor
    ge gt igamma igamma_grad_a igammac imag integer_pow is_finite le le_to lgamma log log1p log2 logistic lt lt_to
    max min mul ne neg nextafter not one_minus_square or polygamma polynomial population_count pow real
    reduce_precision regularized_incomplete_beta rem round rsqrt select_n shift_left shift_right_arithmetic
    shift_right_logical sign sin sinh sqrt square stated stop_gradient sub tan tanh xor zeta""".split()
)
UNCHANGED = set(
    """device_put layout_constraint name optimization_barrier pvary reshard sharding_constraint
    with_memory_space_constraint""".split()
)
"""Operations whose results are their operands, one for one: they say where or how a value is kept."""

REDUCTIONS = {"reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "argmax", "argmin"}
CUMULATIVE = {"cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"}


def _unknown(eqn, inputs):
    return mixed(union(inputs))


def _shape(atom):
    return tuple(atom.aval.shape)


def _elementwise(eqn, inputs):
    rank = len(_shape(eqn.outvars[0]))
    return union(d if len(_shape(v)) == rank else mixed(d) for v, d in zip(eqn.invars, inputs, strict=True))


def _reduction(eqn, inputs):
    gone = set(param(eqn, "axes"))
    kept = [a for a in range(len(_shape(eqn.invars[0]))) if a not in gone]
    return move(union(inputs), lambda a: kept.index(a) if a in kept else None)


def _cumulative(eqn, inputs):
    axis = param(eqn, "axis")
    return move(inputs[0], lambda a: None if a == axis else a)


def _broadcast(eqn, inputs):
    dims, before, shape = param(eqn, "broadcast_dimensions"), _shape(eqn.invars[0]), param(eqn, "shape")
    return move(inputs[0], lambda a: dims[a] if before[a] == shape[dims[a]] else None)


def _reshape(eqn, inputs):
    if param(eqn, "dimensions") is not None:
        return mixed(inputs[0])
    return reshaped(inputs[0], _shape(eqn.invars[0]), _shape(eqn.outvars[0]))


def _transpose(eqn, inputs):
    order = list(param(eqn, "permutation"))
    return move(inputs[0], order.index)


def _squeeze(eqn, inputs):
    gone = set(param(eqn, "dimensions"))
    kept = [a for a in range(len(_shape(eqn.invars[0]))) if a not in gone]
    return move(inputs[0], lambda a: kept.index(a) if a in kept else None)


def _pad(eqn, inputs):
    untouched = [not any(config) for config in param(eqn, "padding_config")]
    return union([move(inputs[0], lambda a: a if untouched[a] else None), mixed(inputs[1])])


def _same_size(eqn, inputs):
    """Slices and concatenations: an axis whose size is unchanged is untouched."""
    now = _shape(eqn.outvars[0])

    def one(before, dependence):
        return move(dependence, lambda a: a if before[a] == now[a] else None)

    return union(one(_shape(v), d) for v, d in zip(eqn.invars, inputs, strict=True))


def _dynamic(eqn, inputs):
    before, now = _shape(eqn.invars[0]), _shape(eqn.outvars[0])
    return union([move(inputs[0], lambda a: a if before[a] == now[a] else None), *map(mixed, inputs[1:])])


def _rev(eqn, inputs):
    return move(inputs[0], lambda a: None if a in param(eqn, "dimensions") else a)


def _dot(eqn, inputs):
    (lhs_c, rhs_c), (lhs_b, rhs_b) = param(eqn, "dimension_numbers")
    lhs_rank, rhs_rank = len(_shape(eqn.invars[0])), len(_shape(eqn.invars[1]))
    lhs_free = [a for a in range(lhs_rank) if a not in (*lhs_c, *lhs_b)]
    rhs_free = [a for a in range(rhs_rank) if a not in (*rhs_c, *rhs_b)]
    lhs = {a: i for i, a in enumerate([*lhs_b, *lhs_free])}
    rhs = {a: i for i, a in enumerate(rhs_b)} | {a: len(lhs_b) + len(lhs_free) + i for i, a in enumerate(rhs_free)}
    return union([move(inputs[0], lhs.get), move(inputs[1], rhs.get)])


def _gather(eqn, inputs):
    numbers, sizes = param(eqn, "dimension_numbers"), param(eqn, "slice_sizes")
    shape, out_rank = _shape(eqn.invars[0]), len(_shape(eqn.outvars[0]))
    batch = [a for a in range(out_rank) if a not in numbers.offset_dims]
    indices = {a: batch[a] for a in range(len(_shape(eqn.invars[1])) - 1)}
    dims, index_dims = numbers.operand_batching_dims, numbers.start_indices_batching_dims
    operand = {a: batch[b] for a, b in zip(dims, index_dims, strict=True)}
    window = [a for a in range(len(shape)) if a not in (*numbers.collapsed_slice_dims, *dims)]
    operand |= {a: b for a, b in zip(window, numbers.offset_dims, strict=True) if sizes[a] == shape[a]}
    return union([move(inputs[0], operand.get), move(inputs[1], indices.get)])


def _scatter(eqn, inputs):
    numbers = param(eqn, "dimension_numbers")
    shape, updates = _shape(eqn.invars[0]), _shape(eqn.invars[2])
    dims, index_dims = numbers.operand_batching_dims, numbers.scatter_indices_batching_dims
    batch = [a for a in range(len(updates)) if a not in numbers.update_window_dims]
    window = [a for a in range(len(shape)) if a not in (*numbers.inserted_window_dims, *dims)]
    whole = {b: a for a, b in zip(window, numbers.update_window_dims, strict=True) if updates[b] == shape[a]}
    indices = dict(zip(index_dims, dims, strict=True))
    update = whole | {batch[b]: a for b, a in indices.items()}
    return union([inputs[0], move(inputs[1], indices.get), move(inputs[2], update.get)])


def _leading(eqn, inputs):
    """New axes come last; keys have no axes for their words."""
    return inputs[0]


def _stack(eqn, inputs):
    axis = param(eqn, "axis")
    return move(union(inputs), lambda a: a + (a >= axis))


def _unstack(eqn, inputs):
    axis = param(eqn, "axis")
    return [move(inputs[0], lambda a: None if a == axis else a - (a > axis))] * len(eqn.outvars)


def _split(eqn, inputs):
    axis = param(eqn, "axis")
    return [move(inputs[0], lambda a: None if a == axis else a)] * len(eqn.outvars)


def _sort(eqn, inputs):
    dimension = param(eqn, "dimension")
    return [move(union(inputs), lambda a: None if a == dimension else a)] * len(eqn.outvars)


def _update_slice(eqn, inputs):
    shape, update = _shape(eqn.invars[0]), _shape(eqn.invars[1])
    slices = move(inputs[1], lambda a: a if shape[a] == update[a] else None)
    return union([inputs[0], slices, *map(mixed, inputs[2:])])


def _convolution(eqn, inputs):
    numbers = param(eqn, "dimension_numbers")
    batch = {numbers.lhs_spec[0]: numbers.out_spec[0]} if param(eqn, "batch_group_count") == 1 else {}
    return union([move(inputs[0], batch.get), mixed(inputs[1])])


def _draw(eqn, inputs):
    """A draw depends on its operands lane by lane."""
    lanes, parts = list(reversed(param(eqn, "lanes"))), []
    for i, d in enumerate(inputs):
        mapped = [k for k, lane in enumerate(lanes) if lane.mapped[i]]
        parts.append(move(d, dict(enumerate(mapped)).get))
    return union(parts)


def _unchanged(eqn, inputs):
    return list(inputs)


RULES: dict[str, Callable] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(UNCHANGED, _unchanged),
    **dict.fromkeys(REDUCTIONS, _reduction),
    **dict.fromkeys(CUMULATIVE, _cumulative),
    **dict.fromkeys(["slice", "concatenate"], _same_size),
    "pad": _pad,
    "dynamic_slice": _dynamic,
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "transpose": _transpose,
    "squeeze": _squeeze,
    "rev": _rev,
    "dot_general": _dot,
    "gather": _gather,
    **dict.fromkeys(["scatter", "scatter-add", "scatter-mul", "scatter-min", "scatter-max"], _scatter),
    **dict.fromkeys(["random_split", "random_wrap", "random_unwrap", "random_bits"], _leading),
    "random_fold_in": _elementwise,
    "stack": _stack,
    "split": _split,
    "unstack": _unstack,
    "sort": _sort,
    "dynamic_update_slice": _update_slice,
    "conv_general_dilated": _convolution,
    "sample": _draw,
}


def operation(eqn: Any, given: Sequence[Dependence]) -> list[Dependence]:
    """What the results of an operation depend on, by its rule; without one, everything depends on everything."""
    out = RULES.get(eqn.primitive.name, _unknown)(eqn, given)
    return out if isinstance(out, list) else [out] * len(eqn.outvars)
