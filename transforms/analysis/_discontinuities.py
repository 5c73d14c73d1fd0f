"""Where reparameterised draws meet discontinuities, read off the jaxpr.

A path derivative misses the jumps of what follows a draw, and is biased by them: d/dtheta E[1(x > 0)] is not zero. So
is that of a control variate on a relaxed draw by the jumps of the control variate.
The analysis says for each value on which reparameterised draws it depends continuously, and which jumps it carries: a
jump is born where such a value, moved by a parameter, reaches an operation that is not known to be continuous
(`_continuity`), and counts where it reaches an output.

What is known to be continuous does not count: comparisons into a select whose branches meet (maximum, leaky ReLU),
library functions known by name or by where they are installed, densities and samplers, whatever `stop_gradient` holds,
tests for equality and finiteness of what is surely finite and takes no value twice, quotients whose denominator is of
one sign (`_signs`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax import numpy as jnp

from .._estimator import Path
from .._jax import inner_jaxprs, is_inexact_aval, open_jaxpr, param, source_line, trace, without_lanes
from .._per_jaxpr import once_per_jaxpr
from .._samples_in import samples_in
from ..program._flow import Domain
from ..program._plan import Inlined, inline
from ..program.control import control_of
from ._continuity import BODIES, CONTINUOUS, FOLDS, POLES, continuous_outputs, is_inside_known, is_opaque, is_theirs
from ._continuous_selects import BOUNDING, COMPARISONS, TESTS, Branches, State, cliffs_in, union
from ._discontinuity_warning import Jump, relaxes, warn
from ._signs import APART, POSITIVE, WEAK, Signs, analytic
from ._sources import bits

FLAT = set("floor ceil round sign argmax argmin rem bitcast_convert_type".split())
"""Steps through which no path goes on."""

WRITES = {"swap", "addupdate"}
"""Operations that write into a mutable array, beyond which nothing is followed."""

NOTHING: State = (0, 0)


# ---- is there anything to look at? ----------------------------------------------------------------------------------


@once_per_jaxpr
def _look(jaxpr) -> tuple[bool, bool]:
    """Whether a jaxpr holds a reparameterised draw, and whether it holds an operation that is not continuous."""
    path = steps = False
    for eqn in jaxpr.eqns:
        kind = _path_of(eqn)
        path = path or kind is not None
        # What a control variate does is not in the jaxpr.
        steps = steps or _may_jump(eqn) or (kind is not None and relaxes(kind))
        if not is_opaque(eqn):
            for inner in inner_jaxprs(eqn):
                below = _look(inner)
                path, steps = path or below[0], steps or below[1]
    return path, steps


def _may_jump(eqn) -> bool:
    """Whether an equation may be one at which a jump is born: what holds others is looked into."""
    name = eqn.primitive.name
    if name in POLES or name in COMPARISONS or name in TESTS or name in WRITES:
        return True
    if name in FOLDS or name in ("sample", "expectation", "stop_gradient"):
        return False
    if not is_opaque(eqn) and (name in BODIES or control_of(eqn) is not None):
        return False
    return any(is_inexact_aval(v.aval) for v in eqn.invars) and not all(continuous_outputs(eqn))


def _path_of(eqn) -> Path | None:
    """The estimator of a draw that takes derivatives along a path, and is not vouched for."""
    if eqn.primitive.name != "sample":
        return None
    kind = param(eqn, "site").prototype()
    return kind if isinstance(kind, Path) and not kind.continuous else None


def _relaxation(eqn) -> Any:
    """The jaxpr of a draw's control variate: from the operands of one lane and a relaxed draw."""
    site, lanes = param(eqn, "site"), param(eqn, "lanes")
    avals = without_lanes([v.aval for v in eqn.invars], lanes)[1:]

    def relaxed_shape(*arrays):
        distribution, estimator = site.restore(arrays)
        return jnp.zeros_like(estimator.relaxation(distribution)[1])

    def run(z, *arrays):
        distribution, estimator = site.restore(arrays)
        return estimator.relaxation(distribution)[0](z)

    return trace(run, jax.eval_shape(relaxed_shape, *avals), *avals).jaxpr


def _is_test(eqn) -> bool:
    """Whether an equation compares for equality, as a cast to a truth value does with zero."""
    name = eqn.primitive.name
    return name in TESTS or name == "convert_element_type" and eqn.outvars[0].aval.dtype == bool


def _meets_pole(eqn, states, signs, branches) -> bool:
    """Whether draws may move an operand through the place where an operation jumps."""
    name, last = eqn.primitive.name, len(eqn.invars) - 1
    if name == "atan2":
        y, x = map(signs, eqn.invars)
        return (y < APART or branches.root(eqn.invars[0]) == 0.0) and x not in (WEAK, POSITIVE)
    positive_power = name == "integer_pow" and param(eqn, "y") > 0
    return states[last][0] > 1 and not positive_power and (name == "tan" or signs(eqn.invars[last]) < APART)


# ---- the analysis ---------------------------------------------------------------------------------------------------


class _Analysis(Domain[State]):
    """Walks a jaxpr, calls inlined; draws and jumps are numbered as they are met."""

    nothing = NOTHING

    def __init__(self):
        self.draws: dict[int, int] = {}
        self.paths: list[tuple[Any, Any]] = [(None, None)]
        self.relaxed: dict[int, Any] = {}
        self.always = 0
        self.jumps: dict[Any, tuple[int, int, str, str]] = {}
        self.flats: dict[int, tuple[Any, Inlined, dict]] = {}
        self.callers: dict[int, tuple] = {}
        self.within: Any = None
        self.here: Any = None

    def join(self, a, b):
        """Both the draws and the jumps of either."""
        return union([a, b])

    def choose(self, which, ways, axes=0):
        """A choice has no path, but the jumps of what it is made by."""
        return union([(0, which[1]), *ways])

    def through(self, jaxpr, states):
        """With what its equations are to each other at hand, so that what meets is seen; constants may be left out."""
        flat, made = self._inlined(open_jaxpr(jaxpr))
        env = dict(zip(reversed(flat.inputs), reversed(states), strict=False))
        signs = Signs(made, lambda v: env.get(v, NOTHING)[0] > 1)
        before, self.here = self.here, (Branches(made, lambda atoms: self.look(env, atoms), self._of), signs)
        self.follow(env, flat.eqns)
        self.here = before
        return self.look(env, flat.outputs)

    def _inlined(self, jaxpr) -> tuple[Inlined, dict]:
        """A jaxpr with its calls inlined, and the equation that makes each variable."""
        if id(jaxpr) not in self.flats:
            flat = inline(jaxpr, opaque=CONTINUOUS)
            outside = () if self.within is None else (self.within, *self.callers[id(self.within)])
            self.callers.update((key, (*around, *outside)) for key, around in flat.callers.items())
            self.flats[id(jaxpr)] = (jaxpr, flat, {v: eqn for eqn in flat.eqns for v in eqn.outvars})
        return self.flats[id(jaxpr)][1:]

    def after(self, eqn, states):
        """Functions that are known are not looked into; what is a whole number has no path."""
        if not any(map(any, states)) and not samples_in(eqn):
            return [NOTHING] * len(eqn.outvars)
        before, self.within = self.within, eqn
        found = self.operation(eqn, states) if is_opaque(eqn) else super().after(eqn, states)
        self.within = before
        outs = zip(eqn.outvars, found, strict=True)
        return [(path if is_inexact_aval(v.aval) else 0, jump) for v, (path, jump) in outs]

    def operation(self, eqn, states):
        """A jump is born at what is not known to be continuous."""
        (branches, signs), name, n = self.here, eqn.primitive.name, len(eqn.outvars)
        if name == "sample":
            return self._sample(eqn, states)
        if name in ("select_n", "mul"):
            return [union(branches.states(eqn, states))]
        path, jump = union(states)
        if name in BOUNDING or is_opaque(eqn):
            jump |= cliffs_in(jump)
        if name in COMPARISONS or _is_test(eqn) and not all(analytic(branches.made, a) for a in eqn.invars):
            return [(0, jump | self._born(path, eqn, branches.key(eqn)))]
        if name in POLES and _meets_pole(eqn, states, signs, branches):
            return [(path, jump | self._born(path, eqn, id(eqn)))]
        if name in ("stop_gradient", "is_finite"):
            return [NOTHING] * n
        if _is_test(eqn):
            return [(path, jump)]
        if name in BODIES and not is_opaque(eqn):
            return self.through(next(inner_jaxprs(eqn)), states)
        if name in FOLDS:
            return self._fold(eqn, (path, jump))
        if name in WRITES:
            self.always |= jump | self._born(path, eqn, id(eqn))
        known = continuous_outputs(eqn)
        born = 0 if all(known) else self._born(path, eqn, id(eqn))
        return [(path, jump) if k else (0 if name in FLAT else path, jump | born) for k in known]

    def _fold(self, eqn, state: State) -> list[State]:
        """What comes of a function that is applied to the operands, and to what came of it."""
        inner = next(inner_jaxprs(eqn), None)
        while inner is not None:
            inputs = [(state[0] if is_inexact_aval(v.aval) else 0, state[1]) for v in inner.invars]
            wider = union([state, *self.through(inner, inputs)])
            if wider == state:
                break
            state = wider
        return [state] * len(eqn.outvars)

    def _of(self, key) -> int:
        """The jump of a comparison, as a bit."""
        return self.jumps[key][0] if key in self.jumps else 0

    def _born(self, path: int, eqn, key) -> int:
        """The jump of an operation on a value that depends on draws, if parameters move it."""
        if not path & 1 or path == 1:
            return 0
        if key not in self.jumps:
            line = next(filter(None, map(source_line, (eqn, *self.callers[id(eqn)]))), "")
            known = is_theirs(line) or is_inside_known(eqn)
            self.jumps[key] = (0 if known else 1 << 2 * len(self.jumps), 0, eqn.primitive.name, line)
        bit, before, name, line = self.jumps[key]
        self.jumps[key] = (bit, before | path, name, line)
        return bit

    def carried(self, jumps: int) -> tuple[Jump, ...]:
        """Some of the jumps, one for each draw, operation and line."""
        draws: dict[tuple[str, str], int] = {}
        for bit, path, name, line in self.jumps.values():
            if bit & jumps:
                draws[name, line] = draws.get((name, line), 0) | path & ~1
        pairs = sorted((i, where) for where, path in draws.items() for i in bits(path))
        found = (Jump(self.paths[i][0], *where, self.paths[i][1]) for i, where in pairs)
        return tuple({jump[:-1]: jump for jump in found}.values())  # one for all estimators of a label

    # ---- draws ----

    def _sample(self, eqn, states):
        """A path goes through a pathwise draw and through noise; a score or a fork sees only the parameters' jumps."""
        path, jump = union(states)
        site, kind = param(eqn, "site"), _path_of(eqn)
        if kind is not None:
            if id(eqn) not in self.draws:
                self.draws[id(eqn)] = len(self.paths)
                self.paths.append((site.label, kind))
            path |= 1 << self.draws[id(eqn)]
            if relaxes(kind):
                self._control(eqn, path, states)
                path = 0
        elif site.estimator is not None:
            path = 0
        return [(path, jump)] * len(eqn.outvars)

    def _control(self, eqn, path, states):
        """The jumps of a control variate on a relaxed draw, which are a part of every objective."""
        if id(eqn) not in self.relaxed:
            self.relaxed[id(eqn)] = _relaxation(eqn)
        self.always |= union(self.through(self.relaxed[id(eqn)], [(path, 0), *states[1:]]))[1]


# ---- what is found --------------------------------------------------------------------------------------------------


@once_per_jaxpr
def jumps_of(jaxpr: Any, varied: tuple[bool, ...], outputs: int) -> tuple[Jump, ...]:
    """The jumps that reparameterised draws put into the first outputs of a program.

    Args:
        jaxpr: the program, sampling.
        varied: for each of its inputs, constants first, whether a derivative is taken in it.
        outputs: how many of its outputs count.
    """
    if _look(jaxpr) != (True, True):
        return ()
    analysis = _Analysis()
    outs = analysis.through(jaxpr, [(int(v), 0) for v in varied])
    return analysis.carried(union(outs[:outputs])[1] | analysis.always)


def warn_of_jumps(jaxpr: Any, varied: Sequence[bool], outputs: int) -> None:
    """Warn of each site whose path derivative misses a jump, once."""
    warn(jumps_of(jaxpr, tuple(varied), outputs))
