"""Which draws a value depends on, read off the jaxpr: the analysis under causal credit.

A source is an array of score terms, one per lane or element of a draw, with a number of its own. The dependence of a
value says for each source whether the value depends on it and, axis by axis of the source, along which axis of the
value it does so index by index: an entry of the value at i along that axis depends only on the source's terms at i
along its own. None in place of an axis means that every entry may depend on every term along it.

Where a rule is unsure it says None, and where there is no rule a result depends on all operands: more dependence than
there is costs variance, never bias.

Sources of one shape that a value depends on in one way are kept together, as the bits of an integer, so that long
programs cost little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .._jax import Literal, inner_jaxprs
from .._pytree import size
from ..program._flow import Domain
from ..program.control import control_of

Axes = tuple[int | None, ...]
Dependence = dict[tuple[tuple[int, ...], Axes], int]
NOTHING: Dependence = {}


def source(number: int, shape: tuple[int, ...], axes: Axes | None = None) -> Dependence:
    """Dependence on one source, by default index by index along the leading axes."""
    return {(shape, tuple(range(len(shape))) if axes is None else axes): 1 << number}


def union(parts: Iterable[Dependence]) -> Dependence:
    """Dependence on whatever any of the parts depends on; axes on which they differ are given up."""
    out: Dependence = {}
    for part in parts:
        if not out:
            out = part
            continue
        for key, mask in part.items():
            if out.get(key, 0) & mask != mask:
                out = _add(dict(out), key, mask)
    return out


def _add(out, key, mask):
    shape, axes = key
    for other_key, other in list(out.items()):
        both = other & mask
        if not both or other_key == key:
            continue
        out[other_key] = other & ~both
        if not out[other_key]:
            del out[other_key]
        met = (shape, tuple(a if a == b else None for a, b in zip(axes, other_key[1], strict=True)))
        out[met] = out.get(met, 0) | both
        mask &= ~both
    if mask:
        out[key] = out.get(key, 0) | mask
    return out


def move(dependence: Dependence, axis_of: Callable[[int], int | None]) -> Dependence:
    """Dependence of a result whose axis `axis_of(a)` is the operand's axis a (None: gone or mixed)."""
    out: Dependence = {}
    for (shape, axes), mask in dependence.items():
        key = (shape, tuple(None if a is None else axis_of(a) for a in axes))
        out[key] = out.get(key, 0) | mask
    return out


def mixed(dependence: Dependence) -> Dependence:
    """Dependence of something that mixes all axes."""
    return move(dependence, lambda a: None)


def mask_of(dependence: Dependence) -> int:
    """The numbers of all sources depended on, as bits."""
    out = 0
    for mask in dependence.values():
        out |= mask
    return out


def bits(mask: int) -> list[int]:
    """The numbers in a mask."""
    out = []
    while mask:
        low = mask & -mask
        out.append(low.bit_length() - 1)
        mask ^= low
    return out


def apart(dependence: Dependence) -> int:
    """How many axes of sources are kept apart, counting sources."""
    return sum(mask.bit_count() * sum(a is not None for a in axes) for (_, axes), mask in dependence.items())


def has_axes(dependence: Dependence) -> bool:
    """Whether some axis is kept apart."""
    return any(a is not None for _, axes in dependence for a in axes)


# ---- rules ----------------------------------------------------------------------------------------------------------

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


class _Dependences(Domain[Dependence]):
    """Which draws a value depends on."""

    nothing = NOTHING

    def join(self, a, b):
        """On what either depends on."""
        return union([a, b])

    def choose(self, which, ways, axes=0):
        """Entries depend on the choice that is made for them."""
        return union([move(which, lambda a: a if a < axes else None), *ways])

    def one_step(self, state):
        """Entries along the leading axis are told apart no more."""
        return move(state, lambda a: a - 1 if a else None)

    def all_steps(self, state):
        """One axis more in front."""
        return move(state, lambda a: a + 1)

    def operation(self, eqn, states):
        """By its rule; without one, everything depends on everything."""
        out = RULES.get(eqn.primitive.name, _unknown)(eqn, states)
        return out if isinstance(out, list) else [out] * len(eqn.outvars)

    def after(self, eqn, states):
        """Calls are looked into only where there are axes to be kept apart."""
        if not any(states):
            return [NOTHING] * len(eqn.outvars)
        control = control_of(eqn)
        if control is not None and control.plain and not any(map(has_axes, states)):
            return [mixed(union(states))] * len(eqn.outvars)
        return super().after(eqn, states)


def after(eqn: Any, inputs: Sequence[Dependence]) -> list[Dependence]:
    """The dependence of each output of an equation without samples."""
    return _DEPENDENCES.after(eqn, inputs)


def inside(eqn: Any, inputs: Sequence[Dependence], outputs: Sequence[Dependence]) -> list[tuple[Any, list[Dependence]]]:
    """The jaxprs inside an equation, each with what its inputs depend on, constants left out."""
    control = control_of(eqn)
    if control is None:
        return [(inner, list(inputs)) for inner in inner_jaxprs(eqn)]
    return control.inside(eqn, inputs, outputs, _DEPENDENCES)


def through(jaxpr: Any, inputs: Sequence[Dependence]) -> list[Dependence]:
    """The dependence of the outputs of a jaxpr without samples, closed or open, constants left out."""
    return _DEPENDENCES.through(jaxpr, inputs)


def look(env: dict, atoms: Sequence[Any]) -> list[Dependence]:
    """The dependences of variables; literals have none."""
    return [NOTHING if isinstance(a, Literal) else env.get(a, NOTHING) for a in atoms]


def _unknown(eqn, inputs):
    return mixed(union(inputs))


def _shape(atom):
    return tuple(atom.aval.shape)


def _elementwise(eqn, inputs):
    rank = len(_shape(eqn.outvars[0]))
    return union(d if len(_shape(v)) == rank else mixed(d) for v, d in zip(eqn.invars, inputs, strict=True))


def _reduction(eqn, inputs):
    gone = set(eqn.params["axes"])
    kept = [a for a in range(len(_shape(eqn.invars[0]))) if a not in gone]
    return move(union(inputs), lambda a: kept.index(a) if a in kept else None)


def _cumulative(eqn, inputs):
    axis = eqn.params["axis"]
    return move(inputs[0], lambda a: None if a == axis else a)


def _broadcast(eqn, inputs):
    dims, before, shape = eqn.params["broadcast_dimensions"], _shape(eqn.invars[0]), eqn.params["shape"]
    return move(inputs[0], lambda a: dims[a] if before[a] == shape[dims[a]] else None)


def _reshape(eqn, inputs):
    if eqn.params.get("dimensions") is not None:
        return mixed(inputs[0])
    before, now = _shape(eqn.invars[0]), _shape(eqn.outvars[0])

    def axis_of(a):
        place = (size(before[:a]), before[a])
        return next((b for b in range(len(now)) if (size(now[:b]), now[b]) == place), None)

    return move(inputs[0], axis_of)


def _transpose(eqn, inputs):
    order = list(eqn.params["permutation"])
    return move(inputs[0], order.index)


def _squeeze(eqn, inputs):
    gone = set(eqn.params["dimensions"])
    kept = [a for a in range(len(_shape(eqn.invars[0]))) if a not in gone]
    return move(inputs[0], lambda a: kept.index(a) if a in kept else None)


def _pad(eqn, inputs):
    untouched = [not any(config) for config in eqn.params["padding_config"]]
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
    return move(inputs[0], lambda a: None if a in eqn.params["dimensions"] else a)


def _dot(eqn, inputs):
    (lhs_c, rhs_c), (lhs_b, rhs_b) = eqn.params["dimension_numbers"]
    lhs_rank, rhs_rank = len(_shape(eqn.invars[0])), len(_shape(eqn.invars[1]))
    lhs_free = [a for a in range(lhs_rank) if a not in (*lhs_c, *lhs_b)]
    rhs_free = [a for a in range(rhs_rank) if a not in (*rhs_c, *rhs_b)]
    lhs = {a: i for i, a in enumerate([*lhs_b, *lhs_free])}
    rhs = {a: i for i, a in enumerate(rhs_b)} | {a: len(lhs_b) + len(lhs_free) + i for i, a in enumerate(rhs_free)}
    return union([move(inputs[0], lhs.get), move(inputs[1], rhs.get)])


def _gather(eqn, inputs):
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    shape, out_rank = _shape(eqn.invars[0]), len(_shape(eqn.outvars[0]))
    batch = [a for a in range(out_rank) if a not in numbers.offset_dims]
    indices = {a: batch[a] for a in range(len(_shape(eqn.invars[1])) - 1)}
    dims, index_dims = numbers.operand_batching_dims, numbers.start_indices_batching_dims
    operand = {a: batch[b] for a, b in zip(dims, index_dims, strict=True)}
    window = [a for a in range(len(shape)) if a not in (*numbers.collapsed_slice_dims, *dims)]
    operand |= {a: b for a, b in zip(window, numbers.offset_dims, strict=True) if sizes[a] == shape[a]}
    return union([move(inputs[0], operand.get), move(inputs[1], indices.get)])


def _scatter(eqn, inputs):
    numbers = eqn.params["dimension_numbers"]
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
    axis = eqn.params["axis"]
    return move(union(inputs), lambda a: a + (a >= axis))


def _unstack(eqn, inputs):
    axis = eqn.params["axis"]
    return [move(inputs[0], lambda a: None if a == axis else a - (a > axis))] * len(eqn.outvars)


def _split(eqn, inputs):
    axis = eqn.params["axis"]
    return [move(inputs[0], lambda a: None if a == axis else a)] * len(eqn.outvars)


def _sort(eqn, inputs):
    dimension = eqn.params["dimension"]
    return [move(union(inputs), lambda a: None if a == dimension else a)] * len(eqn.outvars)


def _update_slice(eqn, inputs):
    shape, update = _shape(eqn.invars[0]), _shape(eqn.invars[1])
    slices = move(inputs[1], lambda a: a if shape[a] == update[a] else None)
    return union([inputs[0], slices, *map(mixed, inputs[2:])])


def _convolution(eqn, inputs):
    numbers = eqn.params["dimension_numbers"]
    batch = {numbers.lhs_spec[0]: numbers.out_spec[0]} if eqn.params["batch_group_count"] == 1 else {}
    return union([move(inputs[0], batch.get), mixed(inputs[1])])


def _draw(eqn, inputs):
    """A draw depends on its operands lane by lane."""
    lanes, parts = list(reversed(eqn.params["lanes"])), []
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

_DEPENDENCES = _Dependences()
