"""The one file that touches JAX's extension API: primitives and their rules, jaxprs and their equations.

Everything that moves between JAX releases is here, behind names of our own; the rest of the package is written
against public JAX and this module. Tried on jax 0.10 (closed and open jaxprs are two classes, `scan` counts its
operands) and 0.12 (one class of jaxpr, `scan` groups them in a tree).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp
from jax.extend import core as jex_core
from jax.extend import source_info_util
from jax.interpreters import ad, batching, mlir
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from ._errors import NoRuleError

Literal = jex_core.Literal
DropVar = jex_core.DropVar
ShapedArray = jax.core.ShapedArray
Tracer = jax.core.Tracer


class Lane(NamedTuple):
    """One `vmap` around an equation: its size, and which operands it maps (along their leading axis)."""

    size: int
    mapped: tuple[bool, ...]


def vmapped(fn: Callable, lanes: Sequence[Lane], out_axes: Any = 0) -> Callable:
    """Apply the lanes of an equation, innermost first, to the function of one lane."""
    fn = on_mesh(fn)
    for lane in lanes:
        axes = tuple(0 if m else None for m in lane.mapped)
        fn = jax.vmap(fn, in_axes=axes, out_axes=out_axes, axis_size=lane.size)
    return fn


def lane_shape(lanes: Sequence[Lane]) -> tuple[int, ...]:
    """The shape of the lanes as leading dimensions of a result: outermost first."""
    return tuple(lane.size for lane in reversed(lanes))


def without_lanes(avals: Sequence[Any], lanes: Sequence[Lane]) -> list[jax.ShapeDtypeStruct]:
    """The shapes of the operands as one lane sees them."""
    depth = [sum(lane.mapped[i] for lane in lanes) for i in range(len(avals))]
    avals = [a if hasattr(a, "shape") else jax.typeof(a) for a in avals]
    return [jax.ShapeDtypeStruct(a.shape[d:], a.dtype) for a, d in zip(avals, depth, strict=True)]


# ---- primitives ---------------------------------------------------------------------------------------------------


class _Primitive(jex_core.Primitive):
    """A primitive that is pickled by its name: a copy would be without rules."""

    def __init__(self, name: str):
        super().__init__(name)
        _primitives[name] = self

    def __reduce__(self):
        return _primitive_of, (self.name,)


_primitives: dict[str, _Primitive] = {}


def _primitive_of(name: str) -> _Primitive:
    return _primitives[name]


def make_primitive(
    name: str,
    *,
    run: Callable,
    shapes: Callable,
    jvp: Callable,
    check_lane: Callable,
) -> Callable:
    """Make a primitive that stands for a function under lanes, and return its `bind(*operands, lanes=(), **params)`.

    run(*operands, lanes, **params) -> list of arrays: what it computes.
    shapes(avals, lanes, **params) -> list of (shape, dtype): what comes out.
    jvp(differentiable, tangents, rebuild, lanes, **params) -> (outs, out_tangents): see `_jvp` below.
    check_lane(mapped, **params): raises where a vmap must not map these operands so.
    """
    primitive = _Primitive(name)
    primitive.multiple_results = True
    primitive.def_impl(run)

    def abstract(*avals, lanes, **params):
        if any(map(_mesh_in_types, avals)):
            return [v.aval for v in trace(lambda *xs: run(*xs, lanes=lanes, **params), *avals).jaxpr.outvars]
        return _results(avals, shapes(avals, lanes, **params))

    primitive.def_abstract_eval(abstract)
    mlir.register_lowering(primitive, mlir.lower_fun(run, multiple_results=True))

    def batch(operands, dims, *, lanes, **params):
        mapped = tuple(d is not None for d in dims)
        check_lane(mapped, **params)
        operands = [jnp.moveaxis(x, d, 0) if m else x for x, d, m in zip(operands, dims, mapped, strict=True)]
        size = next(x.shape[0] for x, m in zip(operands, mapped, strict=True) if m)
        outs = primitive.bind(*operands, lanes=(*lanes, Lane(size, mapped)), **params)
        return outs, [0] * len(outs)

    batching.primitive_batchers[primitive] = batch

    def differentiate(primals, tangents, **params):
        varied = [i for i, t in enumerate(tangents) if not _is_zero(t)]
        if not varied:
            outs = primitive.bind(*primals, **params)
            return outs, [_zero_like(y) for y in outs]

        def at(*values):
            operands = list(primals)
            for i, v in zip(varied, values, strict=True):
                operands[i] = v
            return operands

        outs, out_tangents = jvp([primals[i] for i in varied], [tangents[i] for i in varied], at, **params)
        return outs, [
            _zero_like(y) if t is None or _is_float0(t) else t for y, t in zip(outs, out_tangents, strict=True)
        ]

    ad.primitive_jvps[primitive] = differentiate

    def bind(*operands, lanes=(), **params):
        return primitive.bind(*operands, lanes=lanes, **params)

    return bind


def _results(avals, shapes) -> list:
    """The avals of results: under `shard_map` they vary along every mesh axis that an operand varies along."""
    varying = [a for a in avals if _varying(a)]
    if not varying:
        return [ShapedArray(shape, dtype) for shape, dtype in shapes]
    along = frozenset().union(*(a.mat.varying for a in varying))
    mat = varying[0].mat.update(varying=along, unreduced=frozenset(), reduced=frozenset())
    mesh = varying[0].sharding.mesh

    def aval(shape, dtype):
        sharding = NamedSharding(mesh, PartitionSpec(*[None] * len(shape)))
        return ShapedArray(shape, dtype, sharding=sharding, manual_axis_type=mat)

    return [aval(shape, dtype) for shape, dtype in shapes]


def _mesh_in_types(aval) -> Any:
    """The mesh whose shardings are parts of types that an array lives on; None where there is none."""
    mesh = aval.sharding.mesh
    return mesh if AxisType.Explicit in mesh.axis_types else None


def on_mesh(fn: Callable) -> Callable:
    """The same function, traced on the mesh that its arguments live on where shardings are parts of types.

    JAX gives what is made from constants alone (a choice of two numbers, say) the mesh of the context, and a `vmap`
    whose axis is spread over a mesh that the type of such a value does not have is an error (seen in jax 0.10).
    """

    def run(*args):
        meshes = (_mesh_in_types(jax.typeof(x)) for x in args if hasattr(x, "dtype"))
        mesh = next((m for m in meshes if m is not None), None)
        if mesh is None or not jax.sharding.get_abstract_mesh().empty:
            return fn(*args)
        with jax.sharding.use_abstract_mesh(mesh):
            return jax.jit(fn)(*args)  # outside `jit` a mesh without devices cannot run one operation at a time

    return run


def varying_axes(*trees: Any) -> frozenset:
    """The mesh axes along which any array varies, inside `shard_map`; none outside of it."""
    return frozenset().union(*(_varying(jax.typeof(x)) for x in jax.tree.leaves(trees)))


def _varying(aval) -> frozenset:
    return aval.mat.varying


def is_typed_by_mesh(aval: Any) -> bool:
    """Whether the type of an array says how it lies on a mesh: by Explicit axes, or inside `shard_map`."""
    return bool(_varying(aval)) or _mesh_in_types(aval) is not None


def vary(tree: Any, axes: frozenset) -> Any:
    """The same arrays, varying along these mesh axes too, and on the mesh: carries and branches must agree in this."""
    mesh = jax.sharding.get_abstract_mesh()

    def one(x):
        aval = jax.typeof(x)
        if AxisType.Explicit in mesh.axis_types and aval.sharding.mesh.empty:
            x = jax.sharding.reshard(x, PartitionSpec(*[None] * aval.ndim))
        missing = axes - _varying(aval)
        return lax.pcast(x, tuple(sorted(missing)), to="varying") if missing else x

    return tree if not axes and mesh.empty else jax.tree.map(one, tree)


def _zero_like(primal):
    return ad.Zero(jax.typeof(primal).to_tangent_aval())


def _is_float0(tangent) -> bool:
    return getattr(tangent, "dtype", None) == jax.dtypes.float0


def _is_zero(tangent) -> bool:
    return isinstance(tangent, ad.Zero) or _is_float0(tangent)


def make_forward_only(name: str, refuse: Callable[[], Exception]) -> Callable:
    """An identity on one array that lets forward-mode derivatives through and refuses to be transposed."""
    primitive = _Primitive(name)
    primitive.def_impl(lambda x: x)
    primitive.def_abstract_eval(lambda x: x)
    mlir.register_lowering(primitive, mlir.lower_fun(lambda x: x, multiple_results=False))
    batching.primitive_batchers[primitive] = lambda xs, ds: (primitive.bind(*xs), ds[0])

    def jvp(primals, tangents):
        (x,), (t,) = primals, tangents
        return primitive.bind(x), t if isinstance(t, ad.Zero) else primitive.bind(t)

    def transpose(_, __):
        raise refuse()

    ad.primitive_jvps[primitive] = jvp
    ad.primitive_transposes[primitive] = transpose
    return primitive.bind


# ---- jaxprs -------------------------------------------------------------------------------------------------------


class Traced(NamedTuple):
    """A traced function: its jaxpr, the constants that it closed over, and the shape of what it returns."""

    jaxpr: Any
    consts: list
    out: Any


def trace(fn: Callable, *args) -> Traced:
    """Trace `fn` at `args` (arrays or their shapes) to a jaxpr."""
    closed, out = jax.make_jaxpr(lambda *xs: fn(*xs), return_shape=True)(*args)
    return Traced(open_jaxpr(closed), list(closed.consts), out)


def open_jaxpr(jaxpr: Any) -> Any:
    """The jaxpr inside a closed one (in newer JAX they are of one class)."""
    return jaxpr if isinstance(jaxpr, jex_core.Jaxpr) else jaxpr.jaxpr


def closed_consts(jaxpr: Any) -> list:
    """The constants that come with a jaxpr found in an equation's parameters."""
    return list(jaxpr.consts) if isinstance(jaxpr, jex_core.ClosedJaxpr) else []


def segment(jaxpr: Any, eqns: Sequence[Any], invars: Sequence[Any], outvars: Sequence[Any]) -> Any:
    """A jaxpr of some of the equations of another one."""
    return jex_core.Jaxpr(
        constvars=(),
        invars=list(invars),
        outvars=list(outvars),
        eqns=list(eqns),
        effects=jaxpr.effects,
        debug_info=jaxpr.debug_info.with_unknown_names(),
    )


fresh: Callable = jex_core.gensym()
"""A new variable of an aval."""


def is_inexact_aval(aval: Any) -> bool:
    """Whether an aval is one of floating or complex numbers."""
    return jnp.issubdtype(getattr(aval, "dtype", np.dtype(bool)), jnp.inexact)


def evaluate(jaxpr: Any, *args) -> list:
    """Run a jaxpr without constants."""
    return jax.core.eval_jaxpr(jaxpr, (), *args)


def evaluate_with(jaxpr: Any, operands: Sequence[Any]) -> list:
    """Run a traced program at its constants and arguments, given together."""
    n = len(jaxpr.constvars)
    return jax.core.eval_jaxpr(jaxpr, tuple(operands[:n]), *operands[n:])


def param(eqn: Any, name: str) -> Any:
    """A parameter of an operation of JAX. All that are read by their names go through here.

    Raises:
        NoRuleError: the operation has none of this name, as after a change in JAX.
    """
    if name not in eqn.params:
        raise NoRuleError(
            f"The JAX primitive '{eqn.primitive.name}' has no parameter '{name}' in jax {jax.__version__}, but "
            f"{', '.join(eqn.params) or 'none at all'}. tracegrad was written for a version that has it: install an "
            "older JAX, or a newer tracegrad."
        )
    return eqn.params[name]


def params_of(eqn: Any) -> dict[str, Any]:
    """All parameters of an operation, whatever their names are."""
    return eqn.params


def with_params(eqn: Any, **params) -> Any:
    """The same equation with some of its parameters changed."""
    return eqn.replace(params={**eqn.params, **params})


NAMED = {"jit", "composite"}
"""The calls that have a name."""


def name_of_call(eqn: Any) -> str | None:
    """The name of the function that a call calls; None where it has none, or is no call."""
    return param(eqn, "name") if eqn.primitive.name in NAMED else None


def source_of(jaxpr: Any) -> str:
    """Where a jaxpr was traced from: 'function at file:line'; empty where that is not known."""
    return jaxpr.debug_info.func_src_info or ""


def inner_jaxprs(eqn: Any) -> Iterator[Any]:
    """Every jaxpr among the parameters of an equation, opened; that of an `expectation` is in a tuple, its program."""
    for value in eqn.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, jex_core.Jaxpr | jex_core.ClosedJaxpr):
                yield open_jaxpr(item)


def source_line(eqn: Any) -> str:
    """Where the user wrote an equation: 'file:line:column (function)'; empty where it is not known."""
    line = source_info_util.summarize(eqn.source_info)
    return "" if line.startswith("<unknown>") else line


def frames_of(eqn: Any) -> list[tuple[str, str]]:
    """The files and functions in whose calls an equation was made, innermost first; none where they were not kept."""
    traceback = eqn.source_info.traceback
    return [] if traceback is None else [(frame.file_name, frame.function_name) for frame in traceback.frames]


def hide_frames(folder: str) -> None:
    """Leave the files of a folder out of source lines."""
    source_info_util.register_exclusion(folder)


def scopes_of(eqn: Any) -> str:
    """The name scopes that an equation was traced in, outermost first."""
    return str(eqn.source_info.name_stack)


def in_scopes_of(call: Any, eqn: Any) -> Any:
    """An equation of what a call calls, in the name scopes of the call too, as where the call stood."""
    if not scopes_of(call):
        return eqn
    stack = call.source_info.name_stack + eqn.source_info.name_stack
    return eqn.replace(source_info=eqn.source_info.replace(name_stack=stack))


def bits_of_key(key: jax.Array) -> jax.Array:
    """The words of a typed key, as integers along a trailing axis."""
    return jax.random.key_data(key)


def is_key(x: Any) -> bool:
    """Whether `x` is a typed random key (or an array of them)."""
    return isinstance(x, jax.Array) and is_key_aval(x)


def is_key_aval(aval: Any) -> bool:
    """Whether an aval is one of typed random keys."""
    return jax.dtypes.issubdtype(aval.dtype, jax.dtypes.prng_key)


def trace_state() -> Any:
    """A token for the JAX transformation that is being traced: equal at two points of one, different across them."""
    return jex_core.get_opaque_trace_state(convention="nnx")
