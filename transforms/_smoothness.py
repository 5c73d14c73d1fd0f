"""Where reparameterised draws meet discontinuities, read off the jaxpr.

A path derivative misses the jumps of what follows a draw, and is biased by them: d/dtheta E[1(x > 0)] is not zero.
The analysis says for each value on which reparameterised draws it depends continuously, and which jumps it carries: a
jump is born where such a value, moved by a parameter, reaches an operation that is not continuous, and counts where it
reaches an output.

What is continuous does not count: comparisons into a select whose branches meet (maximum, leaky ReLU), library
functions known by name, densities and samplers, functions with a derivative of their own, whatever `stop_gradient`
holds, tests for equality (which have probability zero). A doubt is decided for silence: a false alarm costs more
than a miss.
"""

from __future__ import annotations

import math
import warnings
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

from ._errors import DiscontinuityWarning, name_of
from ._jax import Literal, inner_jaxprs, is_inexact_aval, open_jaxpr, scan_parts, source_line
from ._plan import Inlined, Step, inline

COMPARISONS = {"gt", "ge", "lt", "le"}
STEPS = {"floor", "ceil", "round", "sign", "argmax", "argmin", "rem"}
CONTINUOUS = set(
    """site_log_density site_draw relu relu6 leaky_relu elu selu celu softplus log_sigmoid hard_tanh hard_sigmoid
    hard_silu hard_swish squareplus sparse_plus sparse_sigmoid gelu silu mish clip abs logaddexp logaddexp2 logsumexp
    softmax log_softmax norm sinc xlogy xlog1py entr kl_div rel_entr nan_to_num _interp _std _var quantile median
    percentile ndtr ndtri log_ndtr erfinv erf_inv i0 i0e i1 i1e expi expn betainc zeta polygamma gammaincc gammainc
    tril triu _cholesky cholesky _solve solve inv det slogdet expm power hypot""".split()
)
"""Names of traced functions that are continuous, though not all of their steps are."""

State = tuple[int, int]
"""Of a value: the draws it depends on continuously (bit 0: parameters), and the jumps it carries, as bits."""
NOTHING: State = (0, 0)


class Jump(NamedTuple):
    """A discontinuity that a reparameterised draw reaches: the draw's label, the operation, and its source line."""

    label: Any
    operation: str
    line: str

    def __str__(self):
        return f"{self.operation} at {self.line}" if self.line else self.operation


# ---- is there anything to look at? ----------------------------------------------------------------------------------

_looks: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def _look(jaxpr) -> tuple[bool, bool]:
    """Whether a jaxpr holds a reparameterised draw, and whether it holds an operation that is not continuous."""
    if jaxpr not in _looks:
        path = steps = False
        for eqn in jaxpr.eqns:
            path = path or _pathwise(eqn)
            steps = steps or eqn.primitive.name in COMPARISONS or _is_step(eqn)
            if not _opaque(eqn):
                for inner in _inside(eqn):
                    below = _look(inner)
                    path, steps = path or below[0], steps or below[1]
        _looks[jaxpr] = (path, steps)
    return _looks[jaxpr]


def _inside(eqn):
    if eqn.primitive.name == "expectation":
        return [eqn.params["program"].jaxpr]
    return inner_jaxprs(eqn)


def _opaque(eqn) -> bool:
    return eqn.params.get("name") in CONTINUOUS or eqn.primitive.name.startswith("custom_")


def _pathwise(eqn) -> bool:
    if eqn.primitive.name != "sample":
        return False
    kind = eqn.params["site"].prototype()
    return kind is not None and kind.pathwise and not kind.continuous


def _is_step(eqn) -> bool:
    name = eqn.primitive.name
    if name in ("sort", "top_k"):
        return len(eqn.outvars) > 1
    if name != "convert_element_type":
        return name in STEPS
    kind = eqn.outvars[0].aval.dtype.kind
    return kind in "iu" and is_inexact_aval(eqn.invars[0].aval)


# ---- the analysis ---------------------------------------------------------------------------------------------------


def union(states: Sequence[State]) -> State:
    """What any of the values depends on and carries."""
    paths = jumps = 0
    for path, jump in states:
        paths, jumps = paths | path, jumps | jump
    return paths, jumps


class _Analysis:
    """Walks a jaxpr, calls inlined; draws and jumps are numbered as they are met."""

    def __init__(self):
        self.draws: dict[int, tuple[int, Any]] = {}
        self.jumps: dict[tuple[int, int], tuple[int, Jump]] = {}
        self.flats: dict[int, tuple[Any, Inlined, dict]] = {}
        self.callers: dict[int, tuple] = {}

    def run(self, jaxpr: Any, inputs: Sequence[State], within: Any = None) -> list[State]:
        """The states of the outputs from those of the inputs; constants may be left out. `within` is its equation."""
        jaxpr = open_jaxpr(jaxpr)
        if id(jaxpr) not in self.flats:
            flat = inline(jaxpr, opaque=CONTINUOUS)
            eqns = [item.eqn if isinstance(item, Step) else item for item in flat.items]
            made = {v: eqn for eqn in eqns for v in eqn.outvars}
            self.flats[id(jaxpr)] = (jaxpr, flat, made)
            outside = () if within is None else (within, *self.callers[id(within)])
            self.callers.update((key, (*around, *outside)) for key, around in flat.callers.items())
        _, flat, made = self.flats[id(jaxpr)]
        env = dict(zip(reversed(flat.inputs), reversed(inputs), strict=False))

        def look(atoms):
            return [NOTHING if isinstance(a, Literal) else env.get(a, NOTHING) for a in atoms]

        for item in flat.items:
            eqn = item.eqn if isinstance(item, Step) else item
            states = look(eqn.invars)
            if not any(map(any, states)) and eqn.primitive.name not in ("sample", "scan", "while", "cond"):
                continue
            for v, (path, jump) in zip(eqn.outvars, self._after(eqn, states, _Branches(made, look)), strict=True):
                env[v] = (path if is_inexact_aval(v.aval) else 0, jump)
        return look(flat.outputs)

    def _after(self, eqn, states, branches) -> list[State]:
        name, n = eqn.primitive.name, len(eqn.outvars)
        if name in RULES:
            return RULES[name](self, eqn, states)
        if name in ("select_n", "mul"):
            return [union(branches.states(eqn, states))]
        if name in COMPARISONS or _is_step(eqn):
            return self._step(eqn, states)
        if name in ("remat2", "checkpoint", "remat"):
            return self.run(eqn.params["jaxpr"], states, eqn)
        if name in ("stop_gradient", "is_finite"):
            return [NOTHING] * n
        return [union(states)] * n

    def _step(self, eqn, states) -> list[State]:
        path, jump = union(states)
        born = self._born(path, eqn)
        if eqn.primitive.name not in ("sort", "top_k"):
            return [(0, jump | born)]
        kept = eqn.params.get("num_keys", 1)
        return [(path, jump)] * kept + [(path, jump | born)] * (len(eqn.outvars) - kept)

    def _born(self, path: int, eqn) -> int:
        """The jumps of an operation on a value: one for each draw it depends on, if parameters move it."""
        if not path & 1 or path == 1:
            return 0
        line = next(filter(None, map(source_line, (eqn, *self.callers[id(eqn)]))), "")
        if "site-packages" in line or "dist-packages" in line:
            return 0
        out = 0
        for bit, label in self.draws.values():
            if path & bit:
                jump = Jump(label, eqn.primitive.name, line)
                out |= self.jumps.setdefault((bit, id(eqn)), (1 << len(self.jumps), jump))[0]
        return out

    # ---- rules ----

    def _sample(self, eqn, states):
        """A path goes through a pathwise draw and through noise; a score or a fork sees only the parameters' jumps."""
        path, jump = union(states)
        kind = eqn.params["site"].prototype()
        if _pathwise(eqn):
            path |= self.draws.setdefault(id(eqn), (2 << len(self.draws), eqn.params["site"].label))[0]
        elif kind is not None:
            path = 0
        return [(path, jump)] * len(eqn.outvars)

    def _scan(self, eqn, states):
        scan = scan_parts(eqn)
        n, m = scan.num_consts, scan.num_carry
        carry = list(states[n : n + m])
        while True:
            outs = self.run(scan.body, [*states[:n], *carry, *states[n + m :]], eqn)
            wider = [union(pair) for pair in zip(carry, outs[:m], strict=True)]
            if wider == carry:
                return [*carry, *outs[m:]]
            carry = wider

    def _while(self, eqn, states):
        params = eqn.params
        n, m = params["cond_nconsts"], params["body_nconsts"]
        carry = list(states[n + m :])
        while True:
            ends = self.run(params["cond_jaxpr"], [*states[:n], *carry], eqn)[0][1]
            outs = self.run(params["body_jaxpr"], [*states[n : n + m], *carry], eqn)
            wider = [union([c, o, (0, ends)]) for c, o in zip(carry, outs, strict=True)]
            if wider == carry:
                return carry
            carry = wider

    def _cond(self, eqn, states):
        outs = [self.run(branch, states[1:], eqn) for branch in eqn.params["branches"]]
        return [union([(0, states[0][1]), *ways]) for ways in zip(*outs, strict=True)]


RULES = {"sample": _Analysis._sample, "scan": _Analysis._scan, "while": _Analysis._while, "cond": _Analysis._cond}


# ---- branches that meet ---------------------------------------------------------------------------------------------

SAME = {"convert_element_type", "broadcast_in_dim", "reshape", "squeeze", "copy"}
ODD = {"neg", "abs", "sqrt", "square", "integer_pow", "sin", "tan", "tanh", "expm1", "log1p", "erf", "reduce_sum"}


class _Branches:
    """Whether the branches of a comparison meet where it turns."""

    def __init__(self, made: dict, look: Any):
        self.made, self.look = made, look

    def states(self, eqn, states) -> list[State]:
        """The states of the operands of a select or a product, without comparisons that do not make it jump."""
        states = list(states)
        for i, atom in enumerate(eqn.invars if eqn.primitive.name == "mul" else eqn.invars[:1]):
            compared = self.made.get(self.root(atom)) if states[i][1] else None
            if compared is None or compared.primitive.name not in COMPARISONS:
                continue
            others = [self.root(a) for k, a in enumerate(eqn.invars) if k != i]
            if self._meet(compared, others, product=eqn.primitive.name == "mul"):
                states[i] = (0, union(self.look(compared.invars))[1])
        return states

    def _meet(self, compared, others, *, product) -> bool:
        sides = [self.root(a) for a in compared.invars]
        if not product and all(o in sides for o in others):
            return True
        if not product and any(isinstance(o, float) and not math.isfinite(o) for o in others):
            return True
        return any(
            sides[1 - k] == 0.0 and all(self.vanishes(o, sides[k], 6) for o in others)
            for k in (0, 1)
            if not isinstance(sides[k], float)
        )

    def root(self, atom):
        """A variable or a number, casts and broadcasts taken off."""
        while not isinstance(atom, Literal):
            eqn = self.made.get(atom)
            if eqn is None or eqn.primitive.name not in SAME:
                return atom
            atom = eqn.invars[0]
        return float(atom.val) if getattr(atom.val, "ndim", 0) == 0 else id(atom)

    def vanishes(self, value, at, depth: int) -> bool:
        """Whether a value is surely zero where another one is."""
        if isinstance(value, float | int) or value == at:
            return value == at or value == 0.0
        eqn = self.made.get(value)
        if eqn is None or depth == 0:
            return False
        name = eqn.primitive.name
        parts = [self.root(a) for a in (eqn.invars[1:] if name == "select_n" else eqn.invars)]
        if name in ODD:
            return eqn.params.get("y", 1) > 0 and self.vanishes(parts[0], at, depth - 1)
        if name == "div":
            return self.vanishes(parts[0], at, depth - 1)
        if name == "mul":
            return any(self.vanishes(p, at, depth - 1) for p in parts)
        return name in ("add", "sub", "select_n", "max", "min") and all(self.vanishes(p, at, depth - 1) for p in parts)


# ---- what is found --------------------------------------------------------------------------------------------------

_found: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def jumps_of(jaxpr: Any, varied: Sequence[bool], outputs: int) -> tuple[Jump, ...]:
    """The jumps that reparameterised draws put into the first outputs of a program.

    Args:
        jaxpr: the program, sampling.
        varied: for each of its inputs, constants first, whether a derivative is taken in it.
        outputs: how many of its outputs count.
    """
    if _look(jaxpr) != (True, True):
        return ()
    known = _found.setdefault(jaxpr, {})
    asked = (tuple(varied), outputs)
    if asked not in known:
        analysis = _Analysis()
        carried = union(analysis.run(jaxpr, [(int(v), 0) for v in varied])[:outputs])[1]
        found = [jump for bit, jump in analysis.jumps.values() if bit & carried]
        known[asked] = tuple(dict.fromkeys(found))
    return known[asked]


_registry: dict = {}


def warn_of_jumps(jaxpr: Any, varied: Sequence[bool], outputs: int) -> None:
    """Warn of each site whose path derivative misses a jump; at the line of the jump, once under default filters."""
    seen = set()
    for jump in jumps_of(jaxpr, varied, outputs):
        if jump.label in seen:
            continue
        seen.add(jump.label)
        file, _, rest = jump.line.partition(":")
        number = rest.partition(":")[0]
        warnings.warn_explicit(
            f"The reparameterised sample at {name_of(jump.label)} reaches a discontinuity: {jump}. A path derivative "
            "misses jumps, so the gradient may be biased. Write `estimator=reinforce()` at that site, or "
            "`reparam(continuous=True)` if you know that the objective is continuous in its value.",
            DiscontinuityWarning,
            file or "tracegrad",
            int(number) if number.isdigit() else 1,
            registry=_registry,
        )
